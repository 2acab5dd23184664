"""How fast, and how good, each solver of the same tracking problem is in the same closed loop."""
