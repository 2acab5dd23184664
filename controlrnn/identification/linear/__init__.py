"""Linear baselines: ARX, subspace identification, orders and delays."""
