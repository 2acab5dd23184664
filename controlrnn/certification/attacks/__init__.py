"""Gradient attacks on certificates: lower bounds that show how tight a certified upper bound is."""
