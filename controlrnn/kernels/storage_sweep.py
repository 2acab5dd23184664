# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Backward recursion of storage matrices over a horizon, and its gradient, compiled.

The mathematics are in `controlrnn.certification.search.riccati`.

A sweep over a horizon is some dozens of small matrix operations per stage. From Python each costs more than its
arithmetic; compiled, a stage of a network with 16 neurons takes some 50 microseconds instead of 250.
"""

from __future__ import annotations

import math

import numpy as np

from controlrnn.kernels.compiled.scan import _entry, _part


@_part
def _cholesky(A):
    """Replace the lower triangle of A by its Cholesky factor; False where A is not positive definite (or is NaN)."""
    n = A.shape[0]
    for j in range(n):
        for i in range(j, n):
            total = A[i, j]
            for k in range(j):
                total -= A[i, k] * A[j, k]
            if i == j:
                if not total > 0.0:
                    return False
                A[j, j] = math.sqrt(total)
            else:
                A[i, j] = total / A[j, j]
    return True


@_part
def _solve(L, B):
    """Replace B by (L L')^-1 B, by row operations only."""
    n, m = B.shape
    for i in range(n):
        for k in range(i):
            factor = L[i, k]
            for c in range(m):
                B[i, c] -= factor * B[k, c]
        for c in range(m):
            B[i, c] /= L[i, i]
    for i in range(n - 1, -1, -1):
        for k in range(i + 1, n):
            factor = L[k, i]
            for c in range(m):
                B[i, c] -= factor * B[k, c]
        for c in range(m):
            B[i, c] /= L[i, i]


@_part
def _stage(G, rho, n, nu, P, Z):
    """Write storage P_j to P (n, n), its maximiser to Z (nz, n), from G = demand + S(lambda); False if none exists."""
    nz = G.shape[0]
    inner = np.empty((nz - n, nz - n))
    gain = np.empty((nz - n, n))
    for i in range(nz - n):
        for k in range(nz - n):
            inner[i, k] = -G[n + i, n + k]
        for k in range(n):
            gain[i, k] = G[n + i, k]
    for c in range(nu):
        inner[c, c] += rho[c]
    if not _cholesky(inner):
        return False
    _solve(inner, gain)
    # The maximiser of the stage's quadratic form over the inner variables, as a linear map of the state: [I; gain].
    for i in range(nz):
        for k in range(n):
            Z[i, k] = gain[i - n, k] if i >= n else 1.0 if i == k else 0.0
    # P is the Schur complement, made exactly symmetric.
    for i in range(n):
        for k in range(n):
            P[i, k] = G[i, k]
        for c in range(nz - n):
            factor = G[i, n + c]
            for k in range(n):
                P[i, k] += factor * gain[c, k]
    for i in range(n):
        for k in range(i):
            value = 0.5 * (P[i, k] + P[k, i])
            P[i, k] = value
            P[k, i] = value
    return True


@_entry
def forward(T, lower, upper, terminal, theta, values, scales, P, Z, through, floor):
    """Compute the storages of all stages from multipliers relative to the stage before; returns how many exist.

    Args:
        T: Shape (nx, nz).
        lower: Shape (1, nv, nz), or (K, nv, nz) where every stage has its own.
        upper: Likewise.
        terminal: Shape (nz, nz).
        theta: Shape (K, nv + nu).
        values: Out, multipliers and rho, shape (K, nv + nu).
        scales: Out, the scale of each stage's multipliers, shape (K,).
        P: Out, storages, shape (K, nx, nx).
        Z: Out, maximisers, shape (K, nz, nx).
        through: Out, T Z, shape (K, nx, nx).
        floor: Least size of a storage.
    """
    K, n, nv = theta.shape[0], T.shape[0], lower.shape[1]
    nu = theta.shape[1] - nv
    last = lower.shape[0] - 1
    lower_t, T_t = np.ascontiguousarray(lower.transpose(0, 2, 1)), np.ascontiguousarray(T.T)
    weighted = np.empty_like(upper[0])
    G = np.empty_like(terminal)
    demand = terminal
    for j in range(K):
        scale = 1.0
        if j:
            scale = 0.0
            for i in range(n):
                scale += P[j - 1, i, i]
            scale = max(scale, floor)
            demand = np.dot(T_t, np.dot(P[j - 1], T))
        scales[j] = scale
        for i in range(nv + nu):
            values[j, i] = scale * math.exp(theta[j, i])
        for i in range(nv):
            for k in range(upper.shape[2]):
                weighted[i, k] = values[j, i] * upper[min(j, last), i, k]
        half = np.dot(lower_t[min(j, last)], weighted)
        for i in range(G.shape[0]):
            for k in range(G.shape[0]):
                G[i, k] = demand[i, k] + half[i, k] + half[k, i]
        if not _stage(G, values[j, nv:], n, nu, P[j], Z[j]):
            return j
        through[j] = np.dot(T, Z[j])
    return K


@_entry
def backward(lower, upper, values, scales, Z, through, d_P, d_rho, gradient):
    """Compute the gradient by theta from the derivatives of the objective by each storage and rho.

    Args:
        lower: Shape (1, nv, nz), or (K, nv, nz) where every stage has its own.
        upper: Likewise.
        values: Multipliers and rho from `forward`.
        scales: Scales from `forward`.
        Z: Maximisers from `forward`.
        through: T Z from `forward`.
        d_P: Shape (K, nx, nx), symmetric.
        d_rho: Shape (K, nu).
        gradient: Out, shape (K, nv + nu).
    """
    K, n, nv, nu, last = values.shape[0], d_P.shape[1], lower.shape[1], d_rho.shape[1], lower.shape[0] - 1
    Pi = np.zeros((n, n))  # derivative of the objective by the storage of the present stage
    for j in range(K - 1, -1, -1):
        Pi = Pi + d_P[j]
        ZPi = np.dot(Z[j], Pi)
        left, right = np.dot(lower[min(j, last)], ZPi), np.dot(upper[min(j, last)], Z[j])
        total = 0.0
        for i in range(nv):
            part = 0.0
            for k in range(n):
                part += left[i, k] * right[i, k]
            gradient[j, i] = 2.0 * part * values[j, i]
            total += gradient[j, i]
        for c in range(nu):
            part = d_rho[j, c]
            for k in range(n):
                part -= ZPi[n + c, k] * Z[j, n + c, k]
            gradient[j, nv + c] = part * values[j, nv + c]
            total += gradient[j, nv + c]
        Pi = np.dot(through[j], np.dot(Pi, np.ascontiguousarray(through[j].T)))
        if j:  # the storage before scales this stage
            for i in range(n):
                Pi[i, i] += total / scales[j]
