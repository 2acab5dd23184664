"""Second-order optimisers: L-BFGS and Levenberg-Marquardt."""
