"""Certification: our search against the semidefinite program, bounds against attacks, and what a proof costs."""
