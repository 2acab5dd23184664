"""Calibration on records: residuals, bounds on the model error, operating regions, plausibility of readings."""
