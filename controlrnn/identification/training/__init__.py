"""Training: the loop, its settings, checkpoints, restarts, and the result."""
