"""Closed loops in C: the controller's code and the plant's, compiled once, with noise and faults drawn before."""
