"""What has to be believed of a certificate: small, numpy only; imports nothing from searches, solvers or files.

`enclosure` holds all analysis of rounding; `definite` proves matrices positive definite; the others state what follows.
"""
