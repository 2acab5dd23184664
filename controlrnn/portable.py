"""Numbers that every processor agrees on, and room where none can be agreed on.

The last bits of a matrix product depend on the BLAS kernel that the processor gets, on threads and on memory layout.
So a matrix that enters a digest is computed by `product`, which rounds in one order everywhere; and a number that
others compare with what *they* compute is published with room (`ROOM`, `published`) by whoever states it, so that the
comparison itself can stay strict.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import ShapeError

# Two machines that follow the same formula in float64 differ by about the unit 1e-16 times the number of operations
# (up to 1e4 in a long recursion) times how far these amplify it, which `tests/portability` finds to stay below 1e-12.
# A thousand times more room costs nothing: calibrated bounds are known to three digits.
ROOM = 1.0 + 1e-9
_DIGITS = 24  # bits of a published radius


def product(a: Array, b: Array) -> Array:
    """The matrix product a b, with the same bits on every processor, for every memory layout and number of threads.

    Terms are multiplied and added one after the other, in the order of the inner index, each operation rounded to
    nearest. (numpy's elementwise operations are not fused and do not depend on layout; its products and sums are, and
    do.) For n inner terms the error is at most n 2^-53 |a| |b| / (1 - n 2^-53), as for any order.

    Args:
        a: Shape (m, n).
        b: Shape (n, p) or (n,).

    Returns:
        Shape (m, p) or (m,).

    Raises:
        ShapeError: The shapes do not fit together.
    """
    if a.ndim != 2 or b.ndim not in (1, 2) or a.shape[1] != len(b):
        raise ShapeError(f"a must have shape (m, n) and b (n, p) or (n,), got {a.shape} and {b.shape}: transpose one?")
    total = np.zeros((len(a), *b.shape[1:]))
    for column, row in zip(a.T, b, strict=True):
        total += np.multiply.outer(column, row)
    return total


def published(radius: float) -> float:
    """A proven radius as it is stated for others to build on: larger by `ROOM`, rounded up to 24 bits.

    What another machine computes for itself is then at most what was stated here, and states the same number, unless
    it happens to lie within rounding of a step of the grid (odds of 1e-6).

    Args:
        radius: At least zero; zero and infinity stay as they are.
    """
    if not 0 < radius < np.inf:
        return float(radius)
    fraction, exponent = np.frexp(radius * ROOM)
    return float(np.ldexp(np.ceil(fraction * 2.0**_DIGITS), int(exponent) - _DIGITS))
