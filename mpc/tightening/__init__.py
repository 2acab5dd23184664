"""Constraint tightening, terminal sets, and limits that learn from measurements."""
