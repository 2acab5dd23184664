"""Hostile calls of everything public: each one ends in an error of ours or in a right result."""
