# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Dense linear algebra for matrices of some hundred rows, computed in the calling thread.

Numbers are float64 throughout; arrays that are read may have any strides, arrays that are written are C-contiguous.
Sums have a fixed order. (Golub & Van Loan, "Matrix computations", chapters 3 and 4.)
"""

from __future__ import annotations

import numpy as np
from numba import types

from controlrnn.kernels.compiled import simd
from controlrnn.kernels.compiled.scan import _entry_of, _part

READ = {n: types.Array(types.float64, n, "A", readonly=True) for n in (1, 2, 3)}
WRITE = {n: types.Array(types.float64, n, "C") for n in (1, 2, 3)}


@_part
def _lines_of(B, P, width):
    """Copy B (k, n) to the flat P in rows of ``width`` numbers, whole lines; the rest of each row is not changed."""
    n, line = B.shape[1], simd.line_of(P)
    whole = n - n % line if B.strides[1] == 8 else 0
    for k in range(len(B)):
        for j in range(0, whole, line):
            simd.copy_line(B, k * (B.strides[0] // 8) + j, B, 0, P, k * width + j)
        for j in range(whole, n):
            P[k * width + j] = B[k, j]


@_entry_of(types.float64(READ[1], READ[1]))
def dot(a, b):
    """Scalar product of a and b, as four sums that do not wait for each other."""
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


@_entry_of(types.void(READ[2], READ[1], WRITE[1]))
def matrix_vector(A, b, out):
    """Product of A (m, n) and b (n,), four rows at a time, so that their sums do not wait for each other."""
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


@_entry_of(types.void(READ[1], READ[2], WRITE[1]))
def vector_matrix(a, B, out):
    """Product of a (k,) and B (k, n), four rows at a time."""
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
    """Compute ``out[o + i n + j] = sum_k S[i si + k sk] V[k width + j]`` for i < m, j < n; V and out are flat."""
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


@_entry_of(types.void(READ[3], READ[3], WRITE[3]))
def multiply(A, B, out):
    """Compute the products ``out[t] = A[t] B[t]``; a stack of one matrix serves for all."""
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


@_entry_of(types.void(READ[2], READ[1], WRITE[2]))
def weighted_squares(X, weights, out):
    """Compute ``out = X' diag(weights) X``, exactly symmetric."""
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


@_entry_of(types.boolean(READ[2], READ[2], WRITE[2]))
def solve(A, B, X):
    """Solve A X = B by Gaussian elimination with row exchanges; False where A is singular."""
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
    """Cholesky factor U, U'U = A, by rows from the upper half of A; False unless A is positive definite."""
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


@_entry_of(types.boolean(READ[2]))
def positive_definite(A):
    """Whether A has a Cholesky factor in floating point."""
    return _upper_factor(A, np.empty((len(A), len(A))))


@_entry_of(types.boolean(READ[2], READ[1], WRITE[1]))
def cholesky_solve(A, b, x):
    """Solve A x = b by Cholesky factorisation; False unless A is positive definite."""
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
