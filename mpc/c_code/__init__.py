"""Export of controllers as C code."""
