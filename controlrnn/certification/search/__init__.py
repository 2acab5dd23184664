"""Searches for the multipliers and metrics of certificates; nothing here has to be trusted."""
