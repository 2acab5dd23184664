"""State observers with a certified or calibrated error."""
