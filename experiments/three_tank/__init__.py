"""Three tanks, from the first experiment to an MPC that keeps its limits: the whole road in one study."""
