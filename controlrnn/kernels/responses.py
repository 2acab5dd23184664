# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Derivatives of the states of a run by all its inputs, forwards in time, as one compiled loop over BLAS products.

    x part of Z_{k+1} = Z_k [A_k B_k]'   where row i of Z_k = d(x_k, u_k) / d(input i)

(Bock & Plitt, IFAC 1984, section 3: the recursion of condensing.)
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels._numba_scan import _entry


def propagate(Z: Array, jacobians: Array) -> None:
    """Fill in the derivatives of the states, in place.

    Args:
        Z: Shape (N + 1, M nu, nx + nu), C-contiguous, for M <= N inputs of which the last is held. The u parts are
            given; so is the x part of Z_0. Rows of inputs that come later than a sample stay as they are.
        jacobians: [A B] at each sample, shape (at least N, nx, nx + nu), C-contiguous.
    """
    _propagate(Z, jacobians, Z.shape[2] - jacobians.shape[1])


@_entry
def _propagate(Z, jacobians, nu):
    N = Z.shape[0] - 1
    nx = jacobians.shape[1]
    moved = np.empty((Z.shape[1], nx))
    for k in range(N):
        n = min((k + 1) * nu, Z.shape[1])
        np.dot(Z[k, :n], jacobians[k].T, moved[:n])
        Z[k + 1, :n, :nx] = moved[:n]
