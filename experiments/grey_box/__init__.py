"""Grey boxes beside black ones: see `experiments.grey_box.__main__`."""
