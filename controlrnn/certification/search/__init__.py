"""Searches for the multipliers and metrics of a certificate; nothing here has to be trusted."""
