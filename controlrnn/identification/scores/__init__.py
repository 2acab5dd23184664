"""How good a model is: free-run and prediction scores, tests of residuals."""
