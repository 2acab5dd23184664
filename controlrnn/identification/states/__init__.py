"""Initial states of a record: estimated, or encoded from its past."""
