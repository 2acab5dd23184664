"""Arithmetic with the same bits on every processor, and safety margins where results differ by rounding.

The last bits of a matrix product depend on the BLAS kernel that the processor gets, on threads and on memory layout.
So a matrix that enters a digest is computed by `product`, which rounds in the same order everywhere. A number that
other machines compare with their own result is published with a margin (`ROOM`, `published`), so that the comparison
itself can be strict. Freely chosen numbers are rounded to few bits (`chosen`).
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import ShapeError

# The margin. Two machines that follow the same formula in float64 differ by about the unit 1e-16 times the number of
# operations (up to 1e4 in a long recursion) times how far these amplify it: 3e-11 was the worst found, for states of
# mixed units.
# So wide a margin costs nothing: the quantities that bounds are compared with are known to three digits.
ROOM = 1.0 + 1e-9
_DIGITS = 24  # bits of a published radius
_WIDER = 1.0 + 2.0**-22  # more than a step of that grid, so that radii computed from published ones have a margin too
_CHOSEN = 16  # bits of a freely chosen number


def product(a: Array, b: Array) -> Array:
    """Matrix product a b with the same bits on every processor, for every memory layout and number of threads.

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
    """Round a proven radius up for publication: enlarge it by 2^-22, then round up to 24 bits.

    A machine that computes the radius anew then finds at most the published one. It also publishes the same number,
    unless that lies within rounding of a step of the grid (odds of about 1e-7).

    Args:
        radius: At least zero; zero and infinity stay as they are.
    """
    if not 0 < radius < np.inf:
        return float(radius)
    fraction, exponent = np.frexp(radius * _WIDER)
    return float(np.ldexp(np.ceil(fraction * 2.0**_DIGITS), int(exponent) - _DIGITS))


def chosen(values: Array) -> Array:
    """Round freely chosen numbers to 16 bits of the largest, so that every machine chooses the same.

    For numbers that need no more digits, such as a gain computed from a noise level that is known to two digits.

    Args:
        values: Any shape.

    Returns:
        The rounded numbers, in C order.
    """
    largest = float(np.abs(values).max(initial=0.0))
    if not 0 < largest < np.inf:
        return np.array(values, dtype=np.float64, order="C")
    step = np.ldexp(1.0, int(np.frexp(largest)[1]) - _CHOSEN)
    return np.array(np.round(values / step) * step, dtype=np.float64, order="C")


def told_apart(*values: float) -> list[str]:
    """Format numbers that a message compares with four digits, or with as many as it takes to tell them apart."""
    for digits in range(4, 17):
        texts = [f"{value:.{digits}g}" for value in values]
        if len(set(texts)) == len(set(values)):
            return texts
    return [repr(float(value)) for value in values]
