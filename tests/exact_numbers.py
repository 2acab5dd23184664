"""Matrices of rational numbers: the oracle for proofs in floating point."""

from fractions import Fraction

import numpy as np


def exact(array):
    """Float64 numbers as an object array of fractions."""
    array = np.asarray(array, dtype=float)
    return np.array([Fraction(float(v)) for v in array.ravel()], dtype=object).reshape(array.shape)


def holds(value, true):
    """Whether an enclosure holds the ``true`` fractions; what is not finite promises nothing."""
    mid, rad, true = np.ravel(value.mid), np.ravel(value.rad), np.ravel(true)
    assert mid.shape == rad.shape == true.shape
    known = np.isfinite(mid) & np.isfinite(rad)
    return all(
        abs(t - Fraction(float(m))) <= Fraction(float(r)) for t, m, r, k in zip(true, mid, rad, known, strict=True) if k
    )


def definite(matrix):
    """Whether a symmetric matrix of fractions is positive definite (rational elimination)."""
    rows = [list(row) for row in matrix]
    while rows:
        pivot, *rest = rows[0]
        if pivot <= 0:
            return False
        rows = [[a - row[0] / pivot * b for a, b in zip(row[1:], rest, strict=True)] for row in rows[1:]]
    return True


def sector(form, multipliers):
    """S(lambda) of an `IncrementalForm`, neuron by neuron as 2 lambda (dw - alpha dv)(beta dv - dw)."""
    N, W = exact(form.N), exact(form.W)
    total = np.zeros((form.nz, form.nz), dtype=object)
    for n, w, a, b, lam in zip(N, W, exact(form.alpha), exact(form.beta), exact(multipliers), strict=True):
        lower, upper = w - a * n, b * n - w
        total = total + lam * (np.outer(lower, upper) + np.outer(upper, lower))
    return total
