"""Proof of positive semidefiniteness in floating point.

Rump, "Verification of positive definiteness", BIT 46 (2006), 433-452: if the Cholesky factorisation of A - c I runs to
completion in rounding to nearest, with c >= gamma_{n+1} / (1 - gamma_{n+1}) tr(A) plus an underflow term, then A is
positive definite. Eigenvalues from a library are no proof: they carry an error of their own.
"""

from __future__ import annotations

import numpy as np
from scipy.linalg import lapack

from controlrnn.checks import Array

UNIT = 2.0**-53  # rounding to nearest, float64
_TINY = 1e-290  # covers the underflow terms for every size that fits in memory


def proven_margin(matrix: Array, error: Array) -> float:
    """Prove that every symmetric M with ``|M - matrix| <= error`` entrywise is positive semidefinite.

    The matrix is first scaled to a diagonal of order one by powers of two, which rounds nothing, so that blocks of
    very different size (storage against multipliers) do not hide each other.

    Args:
        matrix: Shape (n, n), symmetric; the lower triangle is read.
        error: Shape (n, n), entrywise bound on how far the true matrix is from ``matrix``.

    Returns:
        The smallest squared pivot of the factorisation, > 0, relative to the scaled diagonal; minus infinity where the
        proof fails. (A failure proves nothing: the matrix may still be semidefinite.)
    """
    n = len(matrix)
    diagonal = matrix.diagonal()
    if not n:
        return np.inf
    if not (diagonal > 0).all() or not np.isfinite(matrix).all():
        return -np.inf
    scale = np.exp2(-np.round(0.5 * np.log2(diagonal)))
    scaled = scale[:, None] * matrix * scale
    gamma = (n + 1) * UNIT / (1 - (n + 1) * UNIT)
    spread = float((scale[:, None] * error * scale).sum(axis=1).max())
    # 1.01 and the extra gammas cover the rounding of this very bound and of the subtraction below.
    shift = 1.01 * (spread + 2 * gamma * float(scaled.trace())) + _TINY
    scaled[np.diag_indices(n)] -= shift
    factor, info = lapack.dpotrf(scaled, lower=1)
    return float(np.min(factor.diagonal())) ** 2 if info == 0 else -np.inf


def proven_margins(matrices: Array, errors: Array) -> Array:
    """`proven_margin` of many matrices of one size at once; shapes (K, n, n), the result (K,)."""
    count, n = matrices.shape[:2]
    diagonal = np.diagonal(matrices, axis1=1, axis2=2)
    if not (count and n):
        return np.full(count, np.inf)
    if not (diagonal > 0).all() or not np.isfinite(matrices).all():
        return np.array([proven_margin(m, e) for m, e in zip(matrices, errors, strict=True)])
    scale = np.exp2(-np.round(0.5 * np.log2(diagonal)))
    scaled = scale[:, :, None] * matrices * scale[:, None, :]
    gamma = (n + 1) * UNIT / (1 - (n + 1) * UNIT)
    spread = (scale[:, :, None] * errors * scale[:, None, :]).sum(axis=2).max(axis=1)
    shift = 1.01 * (spread + 2 * gamma * np.trace(scaled, axis1=1, axis2=2)) + _TINY
    index = np.arange(n)
    scaled[:, index, index] -= shift[:, None]
    try:
        factors = np.linalg.cholesky(scaled)
    except np.linalg.LinAlgError:
        return np.array([proven_margin(m, e) for m, e in zip(matrices, errors, strict=True)])
    return np.asarray(np.diagonal(factors, axis1=1, axis2=2).min(axis=1) ** 2)
