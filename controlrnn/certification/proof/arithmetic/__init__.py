"""Arithmetic with rigorous rounding: enclosures, their double-double fallback, definiteness."""
