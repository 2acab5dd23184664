"""From bounds to tightened limits, terminal sets and limits that learn."""
