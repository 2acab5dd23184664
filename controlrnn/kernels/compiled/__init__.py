"""Loops and linear algebra compiled by numba."""
