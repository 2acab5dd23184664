"""The optimal control problem of one step, its prices and its steady states, before any solver."""
