"""Soundness and cost of `verify`: forged certificates, honest ones in all units, and the time of a proof."""
