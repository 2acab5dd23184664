"""Neurons with laws of their own in ball arithmetic, written from the definitions in `controlrnn.systems.laws`.

The derivative at v is that of the law at v clipped to the declared range. It is monotone there, or, for the signed
root and the sine, even and falling with |v|; saturation and dead zone are pieces of slope 0 and 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlrnn.certification.ball.arithmetic import number
from controlrnn.systems import Activation, Law, Laws, Neuron

if TYPE_CHECKING:
    from flint import arb

Function = Activation | Neuron
_STRAIGHT = (Law.IDENTITY, Law.SATURATION, Law.DEAD_ZONE)
_FALLING = (Law.ROOT, Law.RECIPROCAL)


def functions(activation: Activation | Laws, nv: int) -> list[Function]:
    """The function of each neuron; an activation stands for itself."""
    if not isinstance(activation, Laws):
        return [activation] * nv
    return [n.law.activation or n for n in activation.neurons]


def clipped(neuron: Neuron, v: arb) -> arb:
    """Argument clipped to the declared range."""
    inside: arb = v.max(number(neuron.low)).min(number(neuron.high))
    return inside


def value(neuron: Neuron, v: arb) -> arb:
    """Value of the law on a ball."""
    if neuron.law is Law.IDENTITY:
        return v
    c = clipped(neuron, v)
    if neuron.law is Law.SATURATION:
        return c
    low, high, none = number(neuron.low), number(neuron.high), number(0)
    below, above = (v - low).min(none), (v - high).max(none)
    if neuron.law is Law.DEAD_ZONE:
        return below + above
    made: arb = _inside(neuron, c) + tangent(neuron, low) * below + tangent(neuron, high) * above
    return made


def _inside(neuron: Neuron, v: arb) -> arb:
    """Value of a curved law within its range."""
    match neuron.law:
        case Law.ROOT:
            return v.sqrt()
        case Law.RECIPROCAL:
            return -1 / v
        case Law.SQUARE:
            return v * v
        case Law.EXPONENTIAL:
            return v.exp()
        case Law.SINE:
            return v.sin()
        case Law.SIGNED_ROOT:
            return v / (v**2 + number(neuron.width) ** 2).sqrt().sqrt()
    raise ValueError(f"no value is known of the law {neuron.law}")


def tangent(neuron: Neuron, v: arb) -> arb:
    """Derivative of a curved law at a ball within its range."""
    match neuron.law:
        case Law.ROOT:
            return 1 / (2 * v.sqrt())
        case Law.RECIPROCAL:
            return 1 / v**2
        case Law.SQUARE:
            return 2 * v
        case Law.EXPONENTIAL:
            return v.exp()
        case Law.SINE:
            return v.cos()
        case Law.SIGNED_ROOT:
            e = number(neuron.width) ** 2
            q = v**2 + e
            return (v**2 / 2 + e) / (q * q.sqrt().sqrt())
    raise ValueError(f"no slope is known of the law {neuron.law}")


def slopes(neuron: Neuron, low: arb | None = None, high: arb | None = None) -> tuple[arb, arb]:
    """Least and greatest slope of chords with both ends in [low, high]; anywhere where these are left out."""
    start, stop, zero, one = number(neuron.low), number(neuron.high), number(0), number(1)
    if neuron.law is Law.IDENTITY:
        return one, one
    if neuron.law in _STRAIGHT:
        known = low is not None and high is not None
        inside = known and low >= start and high <= stop  # type: ignore[operator]
        outside = known and (high <= start or low >= stop)  # type: ignore[operator]
        steep, flat = (inside, outside) if neuron.law is Law.SATURATION else (outside, inside)
        return (one if steep else zero), (zero if flat else one)
    a = start if low is None else clipped(neuron, low).lower().max(start)
    b = stop if high is None else clipped(neuron, high).upper().min(stop)
    if neuron.law in (Law.SIGNED_ROOT, Law.SINE):
        near = a if a > 0 else (-b if b < 0 else zero)
        least, most = tangent(neuron, a.abs_upper().max(b.abs_upper())), tangent(neuron, near)
    else:
        least, most = (tangent(neuron, end) for end in ((b, a) if neuron.law in _FALLING else (a, b)))
    return least.lower(), most.upper()


def size(neuron: Neuron, v: arb) -> arb:
    """Size of the numbers that make up a value at ``v``, added up: of the curve and of both straight lines."""
    low, high, none = number(neuron.low), number(neuron.high), number(0)
    if neuron.law in _STRAIGHT:
        made: arb = abs(v) + abs(low).max(abs(high))
        return made
    inside = abs(_inside(neuron, low)).max(abs(_inside(neuron, high)))
    beyond = tangent(neuron, low) * (low - v).max(none) + tangent(neuron, high) * (v - high).max(none)
    whole: arb = inside + beyond
    return whole


def derivative(neuron: Neuron, v: arb) -> arb | None:
    """Derivative at a ball; None where it may contain a kink."""
    low, high, zero, one = number(neuron.low), number(neuron.high), number(0), number(1)
    if neuron.law is Law.IDENTITY:
        return one
    if neuron.law not in _STRAIGHT:
        return tangent(neuron, clipped(neuron, v))
    if low < v and v < high:
        return one if neuron.law is Law.SATURATION else zero
    if v < low or v > high:
        return zero if neuron.law is Law.SATURATION else one
    return None
