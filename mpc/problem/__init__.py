"""The optimal control problem of one sample: cost, limits and steady states, independent of the solver."""
