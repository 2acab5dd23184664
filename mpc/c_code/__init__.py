"""The controller as C code."""
