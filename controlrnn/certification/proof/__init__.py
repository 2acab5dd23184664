"""The trusted part of certification: theorems, their proofs in float64 and the bounds on rounding.

`enclosure` holds all analysis of rounding; `definite` proves matrices positive definite; the others state what follows.
"""
