"""Losses of training: simulation errors, noise bounds, regularisers."""
