"""Handling of failures: monitoring of premises, fallback inputs, recovery from violated limits."""
