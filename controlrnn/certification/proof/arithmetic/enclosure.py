"""Matrices with proven error bounds: a float64 midpoint and a radius for every entry.

An `Enclosure` holds midpoints and radii, entry by entry: every true value lies within its radius of its midpoint. All
proofs are written in these operations, so that their error analysis is here and nowhere else. Rounding is to
nearest (Rump, "Fast and parallel interval arithmetic", BIT 39, 1999; Higham, "Accuracy and Stability of Numerical
Algorithms", ch. 3):

* one operation rounds by at most ``UNIT`` relative; only products, quotients and roots can underflow, which errs by
  less than ``TINY``, also on processors that flush to zero;
* a sum of n products in any order, fused or not, errs by at most gamma_n = n UNIT / (1 - n UNIT) of the sum of the
  absolute values, whatever BLAS computes it (algorithms of Strassen's kind excepted, which no BLAS for float64 uses);
* a radius is itself computed from nonnegative numbers, errs relatively, and is enlarged by more than that.

Overflow makes infinities or NaN; every decision is a comparison that is false for NaN, so that these refuse.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

UNIT = 2.0**-53  # rounding to nearest, float64
TINY = 2.0**-1019  # covers what underflow and flushing to zero do to one operation


def gamma(n: int) -> float:
    """Upper bound of gamma_n = n UNIT / (1 - n UNIT) for n < 1e12."""
    return 1.01 * n * UNIT


class Arithmetic(Protocol):
    """The operations in which proofs are written; `Enclosure` and `Twofold` (in `twofold`) provide them."""

    @classmethod
    def of(cls, value: Any, rad: Any = None) -> Self:
        """Take numbers as exact, or as known within ``rad``."""

    def __add__(self, other: Self) -> Self: ...
    def __sub__(self, other: Self) -> Self: ...
    def __mul__(self, other: Self) -> Self: ...
    def __matmul__(self, other: Self) -> Self: ...
    def __neg__(self) -> Self: ...
    def __getitem__(self, index: Any) -> Self: ...
    @property
    def T(self) -> Self:
        """The transpose: the last two axes exchanged."""

    def placed(self, shape: tuple[int, ...], index: Any) -> Self:
        """Zeros of this shape with these values at ``index``."""

    def add_at(self, index: Any, other: Self) -> None:
        """Add to the values at ``index``, in place; no entry may be named twice."""

    def set_at(self, index: Any, other: Self) -> None:
        """Put other values at ``index``, in place."""

    def enclosure(self) -> Enclosure:
        """The same numbers as an `Enclosure`."""


@dataclass(frozen=True, eq=False, slots=True)
class Enclosure:
    """Numbers known up to an error: every true value lies within ``rad`` of ``mid``.

    Args:
        mid: Any shape.
        rad: Of the same shape, >= 0.
    """

    mid: Array
    rad: Array

    @classmethod
    def of(cls, value: Any, rad: Any = None) -> Enclosure:
        """Take numbers as exact, or as known within ``rad``."""
        mid = np.asarray(value, dtype=np.float64)
        return cls(mid, np.zeros(mid.shape) if rad is None else np.asarray(rad, dtype=np.float64))

    def __add__(self, other: Enclosure) -> Enclosure:
        # The rounding error of the sum is known exactly and goes into the radius.
        total, error = two_sum(self.mid, other.mid)
        return Enclosure(total, (np.abs(error) + self.rad + other.rad) * _larger(2))

    def __neg__(self) -> Enclosure:
        return Enclosure(-self.mid, self.rad)

    def __sub__(self, other: Enclosure) -> Enclosure:
        return self + -other

    def __mul__(self, other: Enclosure) -> Enclosure:
        mid = self.mid * other.mid
        a, b = np.abs(self.mid), np.abs(other.mid)
        rad = UNIT * np.abs(mid) + a * other.rad + self.rad * (b + other.rad)
        # What underflows counts, unless a factor is zero and known to be.
        lost = ((a != 0) | (self.rad != 0)) & ((b != 0) | (other.rad != 0))
        return Enclosure(mid, rad * _larger(4) + 4 * TINY * lost)

    def __matmul__(self, other: Enclosure) -> Enclosure:
        k = self.mid.shape[-1]
        mid = self.mid @ other.mid
        a, b = np.abs(self.mid), np.abs(other.mid)
        rad = gamma(k) * (a @ b)
        # Exact factors are common, and a product with zero radii would only cost time.
        if other.rad.any():
            rad = rad + a @ other.rad
        if self.rad.any():
            rad = rad + self.rad @ (b + other.rad)
        return Enclosure(mid, rad * _larger(2 * k) + 4 * k * TINY)

    def __getitem__(self, index: Any) -> Enclosure:
        return Enclosure(self.mid[index], self.rad[index])

    @property
    def T(self) -> Enclosure:
        """The transpose: the last two axes exchanged."""
        return Enclosure(self.mid.swapaxes(-1, -2), self.rad.swapaxes(-1, -2))

    def placed(self, shape: tuple[int, ...], index: Any) -> Enclosure:
        """Zeros of this shape with these values at ``index``."""
        mid, rad = np.zeros(shape), np.zeros(shape)
        mid[index], rad[index] = self.mid, self.rad
        return Enclosure(mid, rad)

    def add_at(self, index: Any, other: Enclosure) -> None:
        """Add to the values at ``index``, in place; no entry may be named twice."""
        total = self.mid[index] + other.mid
        self.rad[index] = (self.rad[index] + other.rad + UNIT * np.abs(total)) * _larger(3)
        self.mid[index] = total

    def set_at(self, index: Any, other: Enclosure) -> None:
        """Put other values at ``index``, in place."""
        self.mid[index], self.rad[index] = other.mid, other.rad

    def enclosure(self) -> Enclosure:
        """The enclosure itself, as `Arithmetic` asks for."""
        return self

    def upper(self) -> Array:
        """Upper bounds of the true values."""
        return np.nextafter(self.mid + self.rad, np.inf)

    def lower(self) -> Array:
        """Lower bounds of the true values."""
        return np.nextafter(self.mid - self.rad, -np.inf)

    def magnitude(self) -> Array:
        """Upper bounds of the true absolute values."""
        return np.nextafter(np.abs(self.mid) + self.rad, np.inf)


def _larger(n: int) -> float:
    """Factor that makes a result of n operations on nonnegative numbers an upper bound of its exact value."""
    return 1 + 2 * (n + 6) * UNIT


def two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    """Sum of two arrays as the rounded sum and its exact rounding error.

    From Knuth; numpy's elementwise operations do not fuse.
    """
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def sum_up(values: Array, axis: int | Sequence[int] | None = None) -> Array:
    """Upper bound of the sum of nonnegative ``values``, whatever the order of summation."""
    total = np.asarray(np.sum(values, axis=axis if axis is None or isinstance(axis, int) else tuple(axis)))
    terms = values.size // max(total.size, 1)
    return np.asarray(np.where(total == 0, total, np.nextafter(total * (1 + 2 * (terms + 2) * UNIT), np.inf)))


def cumulated_up(values: Array) -> Array:
    """Upper bounds of the sums of the first 1, 2, .. nonnegative ``values``, along the first axis."""
    total = np.cumsum(values, axis=0)
    return np.where(total == 0, total, np.nextafter(total * (1 + 2 * (len(values) + 2) * UNIT), np.inf))


def times_up(*factors: Any) -> Array:
    """Upper bound of the product of nonnegative ``factors``; zero only where a factor is."""
    product = np.asarray(factors[0], dtype=np.float64)
    for factor in factors[1:]:
        rounded = product * np.asarray(factor, dtype=np.float64)
        zero = (product == 0) | (np.asarray(factor) == 0)
        product = np.where(zero, 0.0, np.nextafter(np.maximum(rounded, 2 * TINY * (rounded < TINY)), np.inf))
    return product


def dot_up(a: Array, b: Array) -> Array:
    """Upper bound of a @ b for nonnegative ``a`` and ``b``."""
    k = a.shape[-1]
    return np.asarray((a @ b) * (1 + 2 * (k + 4) * UNIT) + 4 * k * TINY)


def divide_up(a: Any, b: Any) -> Array:
    """Upper bound of a / b for a >= 0 and b > 0."""
    quotient = np.asarray(a, dtype=np.float64) / np.asarray(b, dtype=np.float64)
    return np.where(np.asarray(a) == 0, 0.0, np.nextafter(np.maximum(quotient, 2 * TINY * (quotient < TINY)), np.inf))


def divide_down(a: Any, b: Any) -> Array:
    """Lower bound, itself >= 0, of a / b for a >= 0 and b > 0."""
    quotient = np.asarray(a, dtype=np.float64) / np.asarray(b, dtype=np.float64)
    return np.where(quotient > TINY, np.nextafter(quotient, -np.inf), 0.0)


def root_up(value: Any) -> Array:
    """Upper bound of the square root of ``value`` >= 0."""
    value = np.asarray(value, dtype=np.float64)
    return np.where(value == 0, 0.0, np.nextafter(np.sqrt(value), np.inf))


def ldexp_up(value: Any, exponent: int) -> Array:
    """Upper bound of value 2^exponent for ``value`` >= 0; only underflow makes it inexact."""
    # Scaled back it equals the value exactly where nothing was lost.
    scaled = np.ldexp(np.asarray(value, dtype=np.float64), exponent)
    return np.where(np.ldexp(scaled, -exponent) == value, scaled, np.nextafter(scaled, np.inf))


def arithmetic_is_ieee() -> bool:
    """Whether this thread rounds to nearest and keeps subnormal numbers, which some libraries switch off."""
    one, half, least = np.float64(1), np.float64(UNIT), np.float64(2.0**-1022)
    nearest = one + half == one and one + np.float64(3 * UNIT) == one + np.float64(4 * UNIT) and one - half < one
    return bool(nearest and -one - half == -one and least * np.float64(0.5) > 0)
