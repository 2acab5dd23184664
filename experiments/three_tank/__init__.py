"""The three-tank demo: from the first experiment to an MPC that keeps its limits, in one study."""
