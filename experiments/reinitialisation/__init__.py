"""State estimators of a recurrent model before it predicts: their errors, and their cost to the controller."""
