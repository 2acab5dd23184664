"""Rows of studies: what they depend on, how they are computed, stored and printed."""
