"""Closed-loop simulation: runs, faults, Monte Carlo, animation, and calibration in closed loop."""
