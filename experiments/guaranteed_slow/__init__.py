"""Trial of a guarantee whose errors are calibrated for slow inputs; see `experiments.guaranteed_slow.study`."""
