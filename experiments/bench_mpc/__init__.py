"""Speed and quality of several solvers of one tracking problem in the same closed loop."""
