"""Probabilities and premises of guarantees, and checks that stored guarantees follow from their sources."""
