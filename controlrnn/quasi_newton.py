"""Directions of limited-memory BFGS: the two-loop recursion of Nocedal & Wright, Numerical Optimization, algorithm 7.4.

Fits and searches for multipliers both descend along them, each with a line search of its own.
"""

from __future__ import annotations

from collections.abc import Iterable

from controlrnn.checks import Array


def lbfgs_direction(gradient: Array, pairs: Iterable[tuple[Array, Array]]) -> Array:
    """Direction of descent -H g, where H is built from the last steps and from how the gradient changed along them.

    Sums are in numpy's order, the same with every BLAS. The initial H is the multiple of the identity that has the
    curvature of the last step; without pairs it is the identity.

    Args:
        gradient: Gradient g, any shape.
        pairs: Steps and changes of the gradient of this shape, the oldest first; each product of the two is positive.

    Returns:
        The direction, of the shape of ``gradient``.
    """
    known = [(s, y, (s * y).sum()) for s, y in pairs]
    q = gradient.copy()
    weights = []
    for s, y, curvature in reversed(known):
        a = (s * q).sum() / curvature
        q -= a * y
        weights.append(a)
    if known:
        _, y, curvature = known[-1]
        q *= curvature / (y * y).sum()
    for (s, y, curvature), a in zip(known, reversed(weights), strict=True):
        q += s * (a - (y * q).sum() / curvature)
    return -q
