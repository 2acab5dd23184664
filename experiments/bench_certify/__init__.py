"""Benchmark of certificates: our search against the semidefinite program, bounds against attacks, cost of proofs."""
