"""Solvers of the optimal control problem: the condensed SQP of ours, Fatrop and do-mpc."""
