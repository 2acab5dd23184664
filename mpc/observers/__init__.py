"""Estimates of the model's state, each with a certified or calibrated error."""
