"""Initial states of a record: estimated by least squares, or encoded from the past."""
