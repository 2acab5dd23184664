"""Solvers of the optimal control problem: our condensed SQP, fatrop and do-mpc."""
