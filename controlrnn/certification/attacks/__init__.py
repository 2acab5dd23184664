"""Gradient attacks: lower bounds that say how tight a certified upper bound is."""
