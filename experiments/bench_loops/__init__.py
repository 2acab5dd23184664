"""Guaranteed closed loops a second, in Python and compiled; see `experiments.bench_loops.study`."""
