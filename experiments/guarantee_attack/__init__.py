"""The enemy of the guarantee: closed loops on random systems, in which every claim is held to the simulated truth."""
