"""Closed loops in simulation: faults, statistics, pictures, and calibration in closed loop."""
