"""Choice of a model without options: baselines, structure, candidates, blocked cross-validation, budget, result."""
