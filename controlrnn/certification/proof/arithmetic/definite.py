"""Proof that symmetric matrices are positive definite, by a Cholesky factor that need not be trusted.

Let L be any matrix, A scaled by powers of two, and R = A - L L'. Since L L' is positive semidefinite, the smallest
eigenvalue of A is at least that of R, and by Gershgorin at least min_i (R_ii - sum_j |R_ij|) (the idea of Rump,
"Verification of positive definiteness", BIT 46, 2006, a posteriori). With R enclosed and the radii of A subtracted row
by row, every matrix within the enclosure is positive definite if what is left is positive. L comes from LAPACK, for A
less a small multiple of the identity; a wrong factor, or one of NaN, makes the residual large and the proof fail.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification.proof.arithmetic.enclosure import UNIT, Array, Enclosure, gamma, sum_up


def definite_margins(matrices: Enclosure, *, room: float = 1.0) -> Array:
    """Prove that all symmetric matrices in the enclosures are positive definite.

    Args:
        matrices: Shape (K, n, n).
        room: By how much more than their radii and the proof's own rounding the matrices must allow for: an issuer
            asks for more than a verifier, who computes in another order.

    Returns:
        Shape (K,): the smallest squared pivot, > 0, relative to a diagonal of order one; minus infinity where the
        proof fails, which proves nothing.
    """
    mid, rad = matrices.mid, matrices.rad
    count, n = mid.shape[:2]
    if not n:
        return np.full(count, np.inf)
    index = np.arange(n)
    diagonal: Array = mid[:, index, index]
    known = np.isfinite(mid.reshape(count, -1).sum(axis=1) + rad.reshape(count, -1).sum(axis=1))
    usable: NDArray[np.bool_] = known & (diagonal.min(axis=1) > 0)
    # The true matrices are symmetric: they lie around the mean of both triangles. Powers of two then give a diagonal of
    # order one, and round nothing but what underflows, far below the rounding that is counted for the diagonal.
    exponent = -np.round(0.5 * np.log2(np.where(usable[:, None], diagonal, 1.0)))
    half, unit = np.exp2(exponent - 1)[:, :, None], np.exp2(exponent)[:, None, :]
    scaled, spread = mid + mid.swapaxes(1, 2), rad + rad.swapaxes(1, 2)
    for part in (scaled, spread):  # in place, here and below: matrices in memory are what this costs
        part *= half
        part *= unit
    size = np.abs(scaled)
    size *= 4 * UNIT
    spread += size
    scaled[~usable], spread[~usable] = np.eye(n), 0.0
    loss = sum_up(spread, axis=2)
    root = np.sqrt(scaled[:, index, index])
    shift = room * (1.01 * loss + 3 * (n + 3) * UNIT * root.sum(axis=1)[:, None] * root)
    shifted = scaled.copy()
    shifted[:, index, index] -= shift
    # Shifted by what the proof may lose, so that a positive residual is left on the diagonal.
    factor = factors(shifted)
    # R = A - L L', entry by entry: what is left on the diagonal has to exceed the sum of all else.
    product = factor @ factor.swapaxes(1, 2)
    rest = scaled
    rest -= product
    left, across = rest[:, index, index], np.abs(rest)
    across[:, index, index] = 0.0
    # The products err by gamma(n) of |L| |L'|, which is at most the product of the norms of its rows.
    norms = np.sqrt(product[:, index, index])
    error = gamma(n) * norms * norms.sum(axis=1)[:, None]
    # One factor for what all of these round relatively: n operations in ``error``, fewer than 16 in all else.
    convicted = left > (sum_up(across, axis=2) + error + loss) * (1 + 4 * (n + 16) * UNIT)
    pivots = factor[:, index, index].min(axis=1) ** 2
    return np.where(usable & convicted.all(axis=1) & (pivots > 0), pivots, -np.inf)


def definite_margin(matrix: Enclosure, *, room: float = 1.0) -> float:
    """Prove that all symmetric matrices in one enclosure (n, n) are positive definite; see `definite_margins`."""
    return float(definite_margins(Enclosure(matrix.mid[None], matrix.rad[None]), room=room)[0])


def factors(matrices: Array) -> Array:
    """Compute lower Cholesky factors of matrices (K, n, n); zeros where LAPACK finds none."""
    try:
        return np.asarray(np.linalg.cholesky(matrices))
    except np.linalg.LinAlgError:
        if len(matrices) == 1:
            return np.zeros_like(matrices)
    # One matrix that fails stops the whole batch: split it until the others have their factors.
    return np.concatenate([factors(part) for part in np.array_split(matrices, min(len(matrices), 8))])
