"""Hostile calls of all public names: each must end in one of our errors or in a right result."""
