"""Checks of records before any model: excitation, faulty readings, dynamics, and the advice that follows."""
