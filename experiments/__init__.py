"""Studies, each runnable as `python -m experiments.NAME [--quick] [--seed N] [--out DIR]`."""
