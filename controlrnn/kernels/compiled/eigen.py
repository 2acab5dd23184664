# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Eigenvalues and eigenvectors of symmetric matrices, in the calling thread: Householder's reduction, implicit QL.

(Bowdler, Martin, Reinsch, Wilkinson, "The QR and QL algorithms for symmetric matrices", Numer. Math. 11, 1968; in the
form of EISPACK's tred2 and tql2.)
"""

from __future__ import annotations

import math

import numpy as np
from numba import types

from controlrnn.kernels.compiled.dense import READ, WRITE
from controlrnn.kernels.compiled.scan import _entry_of, _part

_SWEEPS = 60  # most QL steps for one eigenvalue; 2 are common


@_part
def _tridiagonal(V, d, e):
    """Reduce V in place to a tridiagonal matrix with diagonal d and subdiagonal e[1:]; V becomes the transformation."""
    n = len(d)
    d[:] = V[n - 1]
    for i in range(n - 1, 0, -1):
        scale, h = 0.0, 0.0
        for k in range(i):
            scale += abs(d[k])
        if scale == 0.0:
            e[i] = d[i - 1]
            for j in range(i):
                d[j] = V[i - 1, j]
                V[i, j] = V[j, i] = 0.0
        else:
            for k in range(i):
                d[k] /= scale
                h += d[k] * d[k]
            f = d[i - 1]
            g = -np.sqrt(h) if f > 0.0 else np.sqrt(h)
            e[i] = scale * g
            h -= f * g
            d[i - 1] = f - g
            e[:i] = 0.0
            for j in range(i):
                f = d[j]
                V[j, i] = f
                g = e[j] + V[j, j] * f
                for k in range(j + 1, i):
                    g += V[k, j] * d[k]
                    e[k] += V[k, j] * f
                e[j] = g
            f = 0.0
            for j in range(i):
                e[j] /= h
                f += e[j] * d[j]
            for j in range(i):
                e[j] -= f / (h + h) * d[j]
            for j in range(i):
                f, g = d[j], e[j]
                for k in range(j, i):
                    V[k, j] -= f * e[k] + g * d[k]
                d[j] = V[i - 1, j]
                V[i, j] = 0.0
        d[i] = h
    for i in range(n - 1):
        V[n - 1, i] = V[i, i]
        V[i, i] = 1.0
        h = d[i + 1]
        if h != 0.0:
            for k in range(i + 1):
                d[k] = V[k, i + 1] / h
            for j in range(i + 1):
                g = 0.0
                for k in range(i + 1):
                    g += V[k, i + 1] * V[k, j]
                for k in range(i + 1):
                    V[k, j] -= g * d[k]
        V[: i + 1, i + 1] = 0.0
    d[:] = V[n - 1]
    V[n - 1] = 0.0
    V[n - 1, n - 1] = 1.0
    e[0] = 0.0


@_part
def _implicit_ql(W, d, e):
    """Replace d by the eigenvalues of the tridiagonal (d, e), the *rows* of W by the vectors; False if it fails."""
    n = len(d)
    for i in range(1, n):
        e[i - 1] = e[i]
    e[n - 1] = 0.0
    f, largest = 0.0, 0.0
    for low in range(n):
        largest = max(largest, abs(d[low]) + abs(e[low]))
        # Rows low to m are a block that does not couple to the rest.
        m = low
        while m < n - 1 and abs(e[m]) > 2.0**-52 * largest:
            m += 1
        turns = 0
        while m > low and abs(e[low]) > 2.0**-52 * largest:
            turns += 1
            if turns > _SWEEPS:
                return False
            # The shift h is an eigenvalue of the block's first 2 x 2 matrix.
            g = d[low]
            p = (d[low + 1] - g) / (2.0 * e[low])
            r = np.hypot(p, 1.0)
            if p < 0.0:
                r = -r
            d[low] = e[low] / (p + r)
            d[low + 1] = e[low] * (p + r)
            next_d, h = d[low + 1], g - d[low]
            for i in range(low + 2, n):
                d[i] -= h
            f += h
            p = d[m]
            c, c2, c3, s, s2, next_e = 1.0, 1.0, 1.0, 0.0, 0.0, e[low + 1]
            for i in range(m - 1, low - 1, -1):
                c3, c2, s2 = c2, c, s
                g, h = c * e[i], c * p
                r = np.hypot(p, e[i])
                e[i + 1] = s * r
                s, c = e[i] / r, p / r
                p = c * d[i] - s * g
                d[i + 1] = h + s * (c * g + s * d[i])
                for k in range(n):
                    h = W[i + 1, k]
                    W[i + 1, k] = s * W[i, k] + c * h
                    W[i, k] = c * W[i, k] - s * h
            p = -s * s2 * c3 * next_e * e[low] / next_d
            e[low] = s * p
            d[low] = c * p
        d[low] += f
        e[low] = 0.0
    return True


@_entry_of(types.boolean(READ[2], WRITE[1], WRITE[2]))
def eigen(A, values, rows):
    """Compute the eigenvalues of a symmetric A, rising, and their vectors as rows; False where A is not finite."""
    n = len(A)
    V, e, largest = np.empty((n, n)), np.empty(n), 0.0
    for i in range(n):
        for j in range(n):
            V[i, j] = A[max(i, j), min(i, j)]
            if not np.isfinite(V[i, j]):
                return False
            largest = max(largest, abs(V[i, j]))
    # By a power of two, which rounds nothing: squares of very large or small numbers would not fit.
    unit = math.ldexp(1.0, math.frexp(largest)[1] - 1) if largest > 0.0 else 1.0
    for i in range(n):
        for j in range(n):
            V[i, j] /= unit
    d = np.empty(n)
    _tridiagonal(V, d, e)
    W = V.T.copy()
    if not _implicit_ql(W, d, e):
        return False
    order = np.argsort(d)
    for i in range(n):
        values[i] = d[order[i]] * unit
        for k in range(n):
            rows[i, k] = W[order[i], k]
    return True
