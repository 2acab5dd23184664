"""Which controllers of the three tanks no other beats; see `experiments.tune_tanks.study`."""
