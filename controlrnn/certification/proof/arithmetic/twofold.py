"""Matrices in twice the precision: unevaluated sums hi + lo of two float64, with error bounds.

They are for proofs whose terms all but cancel. Sums and products without error (Knuth; Dekker's splitting) and the
products of Ogita, Rump, Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26 (2005): with two_prod and
two_sum a sum of k products is s + c up to gamma_k gamma_2k of the sum of absolute values. Elementwise numpy operations
only: no extended precision of the processor, which many do not have, and no BLAS except for what is small already.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import TINY, UNIT, Array, Enclosure, gamma, two_sum

_SPLIT = 2.0**27 + 1


@dataclass(frozen=True, eq=False, slots=True)
class Twofold:
    """Numbers known up to an error, in twice the precision: every true value lies within ``rad`` of ``hi + lo``.

    Args:
        hi: Any shape.
        lo: Of the same shape, small against ``hi``.
        rad: Of the same shape, >= 0.
    """

    hi: Array
    lo: Array
    rad: Array

    @classmethod
    def of(cls, value: Any, rad: Any = None) -> Twofold:
        """Take numbers as exact, or as known within ``rad``."""
        hi = np.asarray(value, dtype=np.float64)
        rad = np.zeros(hi.shape) if rad is None else np.asarray(rad, dtype=np.float64)
        return cls(hi, np.zeros(hi.shape), rad)

    def __add__(self, other: Twofold) -> Twofold:
        hi, error = two_sum(self.hi, other.hi)
        lo = (self.lo + other.lo) + error
        rad = self.rad + other.rad + 4 * UNIT * (np.abs(self.lo) + np.abs(other.lo) + np.abs(error))
        # Normalised: lo is at most half a unit in the last place of hi again.
        return Twofold(*two_sum(hi, lo), rad * (1 + 16 * UNIT))

    def __neg__(self) -> Twofold:
        return Twofold(-self.hi, -self.lo, self.rad)

    def __sub__(self, other: Twofold) -> Twofold:
        return self + -other

    def __mul__(self, other: Twofold) -> Twofold:
        hi, error = two_prod(self.hi, other.hi)
        # The product of both low parts is left out; the radius covers it.
        across = self.hi * other.lo + self.lo * other.hi
        a, b = np.abs(self.hi) + np.abs(self.lo), np.abs(other.hi) + np.abs(other.lo)
        size = np.abs(self.hi * other.lo) + np.abs(self.lo * other.hi) + np.abs(error)
        rad = 6 * UNIT * size + np.abs(self.lo * other.lo) + a * other.rad + self.rad * (b + other.rad)
        return Twofold(*two_sum(hi, error + across), rad * (1 + 32 * UNIT) + 16 * TINY)

    def __matmul__(self, other: Twofold) -> Twofold:
        k = self.hi.shape[-1]
        shape = np.broadcast_shapes(self.hi.shape[:-2], other.hi.shape[:-2])
        total = np.zeros((*shape, self.hi.shape[-2], other.hi.shape[-1]))
        low = np.zeros_like(total)
        # Outer products one by one, so that the error of every product and sum is collected in ``low``.
        for i in range(k):
            product, error = two_prod(self.hi[..., :, i, None], other.hi[..., None, i, :])
            total, lost = two_sum(total, product)
            low = low + (error + lost)
        a, b, a_low, b_low = (np.abs(part) for part in (self.hi, other.hi, self.lo, other.lo))
        across = a @ b_low + a_low @ b
        rad = 2 * gamma(k) * gamma(2 * k + 2) * (a @ b) + gamma(k + 4) * across + a_low @ b_low + 4 * UNIT * np.abs(low)
        rad = rad + (a + a_low) @ other.rad + self.rad @ (b + b_low + other.rad)
        # Small against the result: float64 products do, and gamma(k + 4) * across covers their rounding.
        low = low + (self.hi @ other.lo + self.lo @ other.hi)
        return Twofold(*two_sum(total, low), (rad + 4 * UNIT * across) * (1 + 8 * (k + 8) * UNIT) + 32 * k * TINY)

    def __getitem__(self, index: Any) -> Twofold:
        return Twofold(self.hi[index], self.lo[index], self.rad[index])

    @property
    def T(self) -> Twofold:
        """The transpose: the last two axes exchanged."""
        return Twofold(*(part.swapaxes(-1, -2) for part in (self.hi, self.lo, self.rad)))

    def placed(self, shape: tuple[int, ...], index: Any) -> Twofold:
        """Zeros of this shape with these values at ``index``."""
        parts = [np.zeros(shape) for _ in range(3)]
        for part, values in zip(parts, (self.hi, self.lo, self.rad), strict=True):
            part[index] = values
        return Twofold(*parts)

    def add_at(self, index: Any, other: Twofold) -> None:
        """Add to the values at ``index``, in place; no entry may be named twice."""
        total = self[index] + other
        self.hi[index], self.lo[index], self.rad[index] = total.hi, total.lo, total.rad

    def set_at(self, index: Any, other: Twofold) -> None:
        """Put other values at ``index``, in place."""
        self.hi[index], self.lo[index], self.rad[index] = other.hi, other.lo, other.rad

    def enclosure(self) -> Enclosure:
        """The same numbers as an `Enclosure`, hi + lo rounded to one float64."""
        mid, error = two_sum(self.hi, self.lo)
        return Enclosure(mid, (np.abs(error) + self.rad) * (1 + 4 * UNIT))


def two_prod(a: Array, b: Array) -> tuple[Array, Array]:
    """Product of two arrays as the rounded product and its rounding error, exact up to underflow.

    From Dekker and Veltkamp.
    """
    product = a * b
    (a_hi, a_lo), (b_hi, b_lo) = _split(a), _split(b)
    return product, a_lo * b_lo - (((product - a_hi * b_hi) - a_lo * b_hi) - a_hi * b_lo)


def _split(a: Array) -> tuple[Array, Array]:
    """Split every number into two halves short enough that their products are exact (Veltkamp)."""
    large = _SPLIT * a
    hi = large - (large - a)
    return hi, a - hi
