"""Linear identification, as baseline and starting point: ARX, subspace methods, orders and delays."""
