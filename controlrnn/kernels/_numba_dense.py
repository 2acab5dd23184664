# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Dense linear algebra for matrices of some hundred rows, by the thread that calls it.

Numbers are float64 throughout; arrays that are read may have any strides, arrays that are written are C-contiguous.
Sums have a fixed order. The symmetric eigenproblem is Householder's reduction and the implicit QL method (Bowdler,
Martin, Reinsch, Wilkinson, Numer. Math. 11, 1968); the rest is in Golub & Van Loan, "Matrix computations".
"""

from __future__ import annotations

import numpy as np
from numba import types

from controlrnn.kernels import _numba_simd as simd
from controlrnn.kernels._numba_scan import _entry_of, _part

_SWEEPS = 60  # QL steps an eigenvalue; 2 are common
_READ = {n: types.Array(types.float64, n, "A", readonly=True) for n in (1, 2, 3)}
_WRITE = {n: types.Array(types.float64, n, "C") for n in (1, 2, 3)}


@_part
def _lines_of(B, P, width):
    """Copy B (k, n) to P, flat, in rows of ``width`` numbers: whole lines, the rest of which stays as it is."""
    n, line = B.shape[1], simd.line_of(P)
    whole = n - n % line if B.strides[1] == 8 else 0
    for k in range(len(B)):
        for j in range(0, whole, line):
            simd.copy_line(B, k * (B.strides[0] // 8) + j, B, 0, P, k * width + j)
        for j in range(whole, n):
            P[k * width + j] = B[k, j]


@_entry_of(types.float64(_READ[1], _READ[1]))
def dot(a, b):
    """Sum of the products."""
    n = len(a)
    whole = n - n % 4
    s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
    for i in range(0, whole, 4):
        s0 += a[i] * b[i]
        s1 += a[i + 1] * b[i + 1]
        s2 += a[i + 2] * b[i + 2]
        s3 += a[i + 3] * b[i + 3]
    for i in range(whole, n):
        s0 += a[i] * b[i]
    return (s0 + s1) + (s2 + s3)


@_entry_of(types.void(_READ[2], _READ[1], _WRITE[1]))
def matrix_vector(A, b, out):
    """A (m, n) times b (n,), four rows at a time: their sums do not wait for each other."""
    m, n = A.shape
    whole = m - m % 4
    for i in range(0, whole, 4):
        s0, s1, s2, s3 = 0.0, 0.0, 0.0, 0.0
        for k in range(n):
            x = b[k]
            s0 += A[i, k] * x
            s1 += A[i + 1, k] * x
            s2 += A[i + 2, k] * x
            s3 += A[i + 3, k] * x
        out[i], out[i + 1], out[i + 2], out[i + 3] = s0, s1, s2, s3
    for i in range(whole, m):
        total = 0.0
        for k in range(n):
            total += A[i, k] * b[k]
        out[i] = total


@_entry_of(types.void(_READ[1], _READ[2], _WRITE[1]))
def vector_matrix(a, B, out):
    """A (k,) times B (k, n), four rows at a time."""
    k, n = B.shape
    whole = k - k % 4
    out[:] = 0.0
    for i in range(0, whole, 4):
        x0, x1, x2, x3 = a[i], a[i + 1], a[i + 2], a[i + 3]
        for j in range(n):
            out[j] += (x0 * B[i, j] + x1 * B[i + 1, j]) + (x2 * B[i + 2, j] + x3 * B[i + 3, j])
    for i in range(whole, k):
        for j in range(n):
            out[j] += a[i] * B[i, j]


@_part
def _rows_by_lines(S, m, si, sk, V, width, out, o, n, k):
    """``out[o + i n + j] = sum_k S[i si + k sk] V[k width + j]`` for i < m, j < n; V and out are flat."""
    line = simd.line_of(V)
    block = np.empty(8 * line)
    for start in range(0, m, 8):
        rows = min(8, m - start)
        for first in range(0, width, line):
            if rows == 8:
                simd.product8(S, start * si, si, sk, V, first, width, block, 0, k)
            else:
                for i in range(rows):
                    simd.product1(S, (start + i) * si, si, sk, V, first, width, block, i * line, k)
            if first + line <= n:
                for i in range(rows):
                    simd.copy_line(block, i * line, block, 0, out, o + (start + i) * n + first)
            else:
                for i in range(rows):
                    for j in range(first, n):
                        out[o + (start + i) * n + j] = block[i * line + j - first]


@_entry_of(types.void(_READ[3], _READ[3], _WRITE[3]))
def multiply(A, B, out):
    """``out[t] = A[t] B[t]``; a stack of one matrix serves for all."""
    m, k = A.shape[1:]
    n = B.shape[2]
    line = simd.line_of(out)
    width = -(-n // line) * line
    P, flat = np.zeros(k * width), out.reshape(-1)
    for t in range(len(out)):
        a, b = A[t if len(A) > 1 else 0], B[t if len(B) > 1 else 0]
        if t == 0 or len(B) > 1:
            _lines_of(b, P, width)
        _rows_by_lines(a, m, a.strides[0] // 8, a.strides[1] // 8, P, width, flat, t * m * n, n, k)


@_entry_of(types.void(_READ[2], _READ[1], _WRITE[2]))
def weighted_squares(X, weights, out):
    """``out = X' diag(weights) X``, exactly symmetric."""
    k, n = X.shape
    line = simd.line_of(out)
    width = -(-n // line) * line
    V, S = np.zeros(k * width), np.zeros(k * width)
    _lines_of(X, V, width)
    for i in range(k):
        for j in range(n):
            S[i * width + j] = weights[i] * V[i * width + j]
    block = np.empty(8 * line)
    for start in range(0, n, 8):
        rows = min(8, n - start)
        for first in range(start // line * line, width, line):
            if rows == 8:
                simd.product8(S, start, 1, width, V, first, width, block, 0, k)
            else:
                for i in range(rows):
                    simd.product1(S, start + i, 1, width, V, first, width, block, i * line, k)
            for i in range(rows):
                for j in range(max(first, start + i), min(first + line, n)):
                    out[start + i, j] = out[j, start + i] = block[i * line + j - first]


@_entry_of(types.boolean(_READ[2], _READ[2], _WRITE[2]))
def solve(A, B, X):
    """X with A X = B by Gaussian elimination with row exchanges; False where A is singular."""
    n, columns = B.shape
    L = np.empty((n, n))
    for i in range(n):
        for j in range(n):
            L[i, j] = A[i, j]
        for j in range(columns):
            X[i, j] = B[i, j]
    for k in range(n):
        pivot = k
        for i in range(k + 1, n):
            if abs(L[i, k]) > abs(L[pivot, k]):
                pivot = i
        if L[pivot, k] == 0.0:
            return False
        if pivot != k:
            for j in range(n):
                L[k, j], L[pivot, j] = L[pivot, j], L[k, j]
            for j in range(columns):
                X[k, j], X[pivot, j] = X[pivot, j], X[k, j]
        for i in range(k + 1, n):
            factor = L[i, k] / L[k, k]
            if factor != 0.0:
                for j in range(k + 1, n):
                    L[i, j] -= factor * L[k, j]
                for j in range(columns):
                    X[i, j] -= factor * X[k, j]
    for k in range(n - 1, -1, -1):
        for i in range(k + 1, n):
            factor = L[k, i]
            for j in range(columns):
                X[k, j] -= factor * X[i, j]
        for j in range(columns):
            X[k, j] /= L[k, k]
    return True


@_part
def _upper_factor(A, U):
    """U with U'U = A, by rows; False unless A, of which the upper half is read, is positive definite."""
    n = len(A)
    for i in range(n):
        for j in range(i, n):
            U[i, j] = A[i, j]
    for k in range(n):
        if not 0.0 < U[k, k] < np.inf:
            return False
        root = np.sqrt(U[k, k])
        for j in range(k, n):
            U[k, j] /= root
        for i in range(k + 1, n):
            factor = U[k, i]
            for j in range(i, n):
                U[i, j] -= factor * U[k, j]
    return True


@_entry_of(types.boolean(_READ[2]))
def positive_definite(A):
    """Whether A has a Cholesky factor in floating point."""
    return _upper_factor(A, np.empty((len(A), len(A))))


@_entry_of(types.boolean(_READ[2], _READ[1], _WRITE[1]))
def cholesky_solve(A, b, x):
    """X with A x = b; False unless A is positive definite."""
    n = len(A)
    U = np.empty((n, n))
    if not _upper_factor(A, U):
        return False
    for i in range(n):
        x[i] = b[i]
    for k in range(n):
        x[k] /= U[k, k]
        for j in range(k + 1, n):
            x[j] -= U[k, j] * x[k]
    for k in range(n - 1, -1, -1):
        total = x[k]
        for j in range(k + 1, n):
            total -= U[k, j] * x[j]
        x[k] = total / U[k, k]
    return True


@_part
def _tridiagonal(V, d, e):
    """Reduce V to tridiagonal form, diagonal d and subdiagonal e[1:], in place; V becomes the transformation."""
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
    """Eigenvalues d of the tridiagonal matrix (d, e) and, in the *rows* of W, the vectors; False: no convergence."""
    n = len(d)
    for i in range(1, n):
        e[i - 1] = e[i]
    e[n - 1] = 0.0
    f, largest = 0.0, 0.0
    for low in range(n):
        largest = max(largest, abs(d[low]) + abs(e[low]))
        m = low
        while m < n - 1 and abs(e[m]) > 2.0**-52 * largest:
            m += 1
        turns = 0
        while m > low and abs(e[low]) > 2.0**-52 * largest:
            turns += 1
            if turns > _SWEEPS:
                return False
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


@_entry_of(types.boolean(_READ[2], _WRITE[1], _WRITE[2]))
def eigen(A, values, rows):
    """Eigenvalues of a symmetric A, rising, and their vectors as rows; False where A is not finite."""
    n = len(A)
    V, e = np.empty((n, n)), np.empty(n)
    for i in range(n):
        for j in range(n):
            V[i, j] = A[max(i, j), min(i, j)]
            if not np.isfinite(V[i, j]):
                return False
    d = np.empty(n)
    _tridiagonal(V, d, e)
    W = V.T.copy()
    if not _implicit_ql(W, d, e):
        return False
    order = np.argsort(d)
    for i in range(n):
        values[i] = d[order[i]]
        for k in range(n):
            rows[i, k] = W[order[i], k]
    return True
