"""Scores of models: free-run and prediction errors, tests of residuals."""
