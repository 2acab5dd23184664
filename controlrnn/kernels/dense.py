"""Dense linear algebra that stays in the calling thread, for use within a control step instead of BLAS and LAPACK.

BLAS and LAPACK start threads of their own for matrices of some ten thousand entries (in products, 40 columns suffice),
and wait for them. Beside other busy processes such a thread is scheduled much later, so that a step of half a
millisecond takes a hundred; the number of threads is a setting of the whole process, which a library may not change.
The compiled code here has no threads and no settings, needs no lock and may be called from many threads at once.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels.compiled import dense as compiled
from controlrnn.kernels.compiled.eigen import eigen as eigen_of


def product(A: Array, B: Array) -> Array:
    """Product ``A @ B`` of matrix and vector, of matrices, or of stacks (T, ., .); one matrix may serve a stack."""
    if A.shape[-1] != B.shape[-2 if B.ndim > 1 else 0]:
        raise ValueError(f"matrices of shapes {A.shape} and {B.shape} cannot be multiplied")
    if B.ndim == 1:
        out = np.empty(len(A))
        compiled.matrix_vector(A, B, out)
    elif A.ndim == 1:
        out = np.empty(B.shape[1])
        compiled.vector_matrix(A, B, out)
    elif A.ndim == B.ndim == 2:
        out = np.empty((1, len(A), B.shape[1]))
        compiled.multiply(A[None], B[None], out)
        out = out[0]
    else:
        left, right = A if A.ndim == 3 else A[None], B if B.ndim == 3 else B[None]
        if len(left) != len(right) and 1 not in (len(left), len(right)):
            raise ValueError(f"stacks of shapes {A.shape} and {B.shape} cannot be multiplied")
        out = np.empty((len(left) if len(right) == 1 else len(right), left.shape[1], right.shape[2]))
        compiled.multiply(left, right, out)
    return out


def dot(a: Array, b: Array) -> float:
    """Scalar product of two arrays of one shape."""
    if a.shape != b.shape:
        raise ValueError(f"arrays of shapes {a.shape} and {b.shape} have no scalar product")
    return float(compiled.dot(a.ravel(), b.ravel()))


def length(e: Array, metric: Array) -> float:
    """Length ``sqrt(e' metric e)`` of a vector e (n,) in a metric (n, n)."""
    return float(np.sqrt(dot(e, product(metric, e))))


def weighted_squares(X: Array, weights: Array) -> Array:
    """Product ``X' diag(weights) X`` of X (k, n) and weights (k,), exactly symmetric."""
    out = np.empty((X.shape[1], X.shape[1]))
    compiled.weighted_squares(X, weights, out)
    return out


def solve(A: Array, b: Array) -> Array | None:
    """Solve A x = b for A (n, n) and b (n,) or (n, k); None where A is singular."""
    columns = b if b.ndim == 2 else b[:, None]
    x = np.empty(columns.shape)
    return x.reshape(b.shape) if compiled.solve(A, columns, x) else None


def cholesky_solve(A: Array, b: Array) -> Array | None:
    """Solve A x = b for a symmetric A (n, n) and b (n,); None unless A is positive definite in floating point."""
    x = np.empty(len(b))
    return x if compiled.cholesky_solve(A, b, x) else None


def positive_definite(A: Array) -> bool:
    """Whether a symmetric A (n, n) has a Cholesky factor in floating point."""
    return bool(compiled.positive_definite(A))


def eigen(A: Array) -> tuple[Array, Array] | None:
    """Eigenvalues (n,), rising, and eigenvectors as *rows* (n, n) of a symmetric A; None unless A is finite."""
    values, rows = np.empty(len(A)), np.empty(A.shape)
    return (values, rows) if eigen_of(A, values, rows) else None
