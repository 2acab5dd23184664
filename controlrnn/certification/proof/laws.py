"""Slope bounds and values of neurons with laws of their own, rounded outwards; `controlrnn.systems.laws` defines them.

A characteristic goes on as a straight line outside of its range, so that its derivative at v is that of the law at v
clipped to the range. There it is monotone (root, reciprocal, square, exponential) or even and falling with |v| (sine
within a right angle; signed root: d/dt (t/2 + e^2)(t + e^2)^(-5/4) has the sign of -(t + 6 e^2) with t = v^2). So its
hull on an interval is attained at the ends, and for the even ones at the point nearest to zero. By the mean value
theorem the hull holds all difference quotients in the interval. Saturation and dead zone are two pieces of slope 0
and 1.

Formulas are made of fewer than 20 operations without cancellation, none of which errs by more than 64 units of
rounding (numpy's exp, sin and cos; roots, products and sums err by one): 1e-12, relative, covers them. No number here
comes near the ends of float64, because `controlrnn.systems.Neuron` refuses such ranges.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import TINY, UNIT, Array

Box = tuple[Array, Array]
_WIDEN = 1e-12
# Half width of slopes that are known exactly: multipliers of sectors without width would have to be infinite.
_NARROW = 2.0**-10
_ULPS = 256 * UNIT
_FALLING = ("root", "reciprocal")
_EVEN = ("signed_root", "sine")  # derivatives that fall with |v|


class Laws(Protocol):
    """Laws of the neurons of a frozen system; see `controlrnn.systems.Laws`."""

    def __len__(self) -> int: ...
    @property
    def groups(self) -> tuple[tuple[Any, int, int], ...]:
        """Law, first and one past the last neuron of each run of equal laws."""

    @property
    def parameters(self) -> Array:
        """Low, high and width of each neuron, shape (nv, 3)."""

    def take(self, places: Iterable[int]) -> Laws:
        """Laws of some neurons."""


def derivative(law: str, v: Array, width: Array) -> Array:
    """Derivative of a curved law within its range, rounded.

    Args:
        law: The law.
        v: Arguments within the range, shape (..., n).
        width: Width of each neuron, shape (n,).
    """
    if law == "root":
        return np.asarray(0.5 / np.sqrt(v))
    if law == "reciprocal":
        return np.asarray(1.0 / (v * v))
    if law == "square":
        return np.asarray(2.0 * v)
    if law == "exponential":
        return np.asarray(np.exp(v))
    if law == "sine":
        return np.asarray(np.cos(v))
    if law != "signed_root":
        raise ValueError(f"no slopes are known of the law {law!r}")
    e = width * width
    q = v * v + e
    return np.asarray((0.5 * v * v + e) / (q * np.sqrt(np.sqrt(q))))


def hull(law: str, parameters: Array, interval: Box) -> Box:
    """Least and greatest derivative of neurons of one law on intervals, widened outwards.

    Args:
        law: A law that is no activation.
        parameters: Low, high and width, shape (n, 3).
        interval: Ends, shape (..., n) each; infinite ones are allowed, NaN means that nothing is known.
    """
    start, stop, width = parameters.T
    low, high = (np.where(np.isnan(end), far, end) for end, far in zip(interval, (-np.inf, np.inf), strict=True))
    if law == "identity":
        return np.full(low.shape, 1 - _NARROW), np.full(low.shape, 1 + _NARROW)
    if law in ("saturation", "dead_zone"):
        inside, outside = (low >= start) & (high <= stop), (high <= start) | (low >= stop)
        flat, steep = (outside, inside) if law == "saturation" else (inside, outside)
        return np.where(steep, 1 - _NARROW, 0.0), np.where(flat, _NARROW, 1.0)
    a, b = np.clip(low, start, stop), np.clip(high, start, stop)
    if law in _EVEN:
        nearest = np.where((a <= 0) & (b >= 0), 0.0, np.minimum(np.abs(a), np.abs(b)))
        ends = derivative(law, np.maximum(np.abs(a), np.abs(b)), width), derivative(law, nearest, width)
    else:
        ends = derivative(law, a, width), derivative(law, b, width)
        ends = ends[::-1] if law in _FALLING else ends
    return ends[0] * (1 - _WIDEN), ends[1] * (1 + _WIDEN)


def values(law: str, parameters: Array, v: Array) -> Box:
    """Lower and upper bounds of the values of neurons of one law, at arguments v (..., n); arguments as in `hull`."""
    low, high, width = parameters.T
    c = np.clip(v, low, high)
    if law == "identity":
        return v, v
    if law == "saturation":
        return c, c
    if law == "dead_zone":
        rest = v - c
        return np.nextafter(rest, -np.inf), np.nextafter(rest, np.inf)
    inside = _inside(law, c, width)
    left, right = derivative(law, low, width), derivative(law, high, width)
    # A slope may be zero at the lower end, where it counts also if the argument is infinite; at the upper end none is.
    below = np.multiply(left, v - low, out=np.zeros_like(c), where=(v < low) & (left > 0))
    above = right * np.maximum(v - high, 0.0)
    value = inside + below + above
    pad = _ULPS * (np.abs(inside) + np.abs(below) + np.abs(above)) + TINY
    return np.nextafter(value - pad, -np.inf), np.nextafter(value + pad, np.inf)


def sizes(law: str, parameters: Array, v: Array) -> Array:
    """Upper bounds of the numbers that make up a value, added up, at arguments v; they rise with |v| on either side.

    Their greatest size on an interval is at one of its ends, or at one of the range's: those are included.
    """
    low, high, width = parameters.T
    if law in ("identity", "saturation", "dead_zone"):
        return np.asarray(np.nextafter(np.abs(v) + np.maximum(np.abs(low), np.abs(high)), np.inf))
    inside = np.maximum(*(np.abs(_inside(law, end, width)) for end in (low, high)))
    left, right = derivative(law, low, width), derivative(law, high, width)
    beyond = left * np.maximum(low - v, 0.0) + right * np.maximum(v - high, 0.0)
    return np.asarray((inside + beyond) * (1 + _WIDEN))


def _inside(law: str, v: Array, width: Array) -> Array:
    """Value of a curved law within its range, rounded."""
    if law == "root":
        return np.asarray(np.sqrt(v))
    if law == "reciprocal":
        return np.asarray(-1.0 / v)
    if law == "square":
        return np.asarray(v * v)
    if law == "exponential":
        return np.asarray(np.exp(v))
    if law == "sine":
        return np.asarray(np.sin(v))
    return np.asarray(v / np.sqrt(np.sqrt(v * v + width * width)))
