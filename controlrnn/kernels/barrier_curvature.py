# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Second derivatives of -log det M for unknowns that enter through products of two vectors, compiled.

The mathematics are in `controlrnn.certification.search.barrier`. Written with array operations every entry costs four
gathers into temporary matrices of the size of the result; compiled, the small products stay in the cache.
"""

from __future__ import annotations

from controlrnn.kernels.compiled.scan import _entry


@_entry
def add_curvature(
    hessian,
    which,
    left,
    right,
    weight,
    other_which,
    other_left,
    other_right,
    other_weight,
    LL,
    UU,
    LU,
    UL,
    same,
):
    """Add 2 w_i w_j (LL UU + LU UL) of two terms to the lower triangle of ``hessian`` (m, m).

    Args:
        hessian: Changed in place.
        which: Unknowns of the first term, shape (q,), as are ``left``, ``right`` and ``weight``.
        left: Rows of L.
        right: Rows of U.
        weight: Factors.
        other_which: Unknowns of the other term, as are the three arguments that follow.
        other_left: Rows of its L.
        other_right: Rows of its U.
        other_weight: Its factors.
        LL: L W L' of the two terms.
        UU: U W U'.
        LU: L W U'.
        UL: U W L'.
        same: Whether both terms are the same one; then half of the pairs suffices, and ``which`` has to rise.
    """
    for i in range(len(which)):
        a, b, row, factor = left[i], right[i], which[i], 2.0 * weight[i]
        for j in range(i + 1 if same else len(other_which)):
            c, d, column = other_left[j], other_right[j], other_which[j]
            value = factor * other_weight[j] * (LL[a, c] * UU[b, d] + LU[a, d] * UL[b, c])
            if column <= row:
                hessian[row, column] += value
            else:
                hessian[column, row] += value
            # On the diagonal, two different terms meet twice: once in either order.
            if not same and column == row:
                hessian[row, row] += value
