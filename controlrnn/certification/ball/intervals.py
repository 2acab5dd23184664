"""Interval arithmetic with exact ends, and proven slope bounds of activations.

The balls of `arithmetic` keep few bits of a wide radius; here both ends of an interval are exact numbers, rounded
outwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball import laws
from controlrnn.certification.ball.arithmetic import Row, number, total
from controlrnn.certification.ball.laws import Function
from controlrnn.checks import Array
from controlrnn.systems import Activation, Neuron
from controlrnn.systems.activations import LEAK

if TYPE_CHECKING:
    from flint import arb

Box = tuple[Row, Row]
_OFFSETS = (2.0**-46, 2.0**-40, 2.0**-30, 2.0**-10, 1.0)


def image(rows: Sequence[Row], box: Box, start: Sequence[arb]) -> Box:
    """Interval of M z + start for the rows of M and z in a box."""
    low, high = [], []
    for line, s in zip(rows, start, strict=True):
        pairs = [
            (m * a, m * b) if m > 0 else (m * b, m * a) for m, a, b in zip(line, *box, strict=True) if not m.is_zero()
        ]
        low.append((s + total(a for a, _ in pairs)).lower())
        high.append((s + total(b for _, b in pairs)).upper())
    return low, high


def added(*parts: Box) -> Box:
    """Sum of intervals."""
    return (
        [total(v).lower() for v in zip(*(p[0] for p in parts), strict=True)],
        [total(v).upper() for v in zip(*(p[1] for p in parts), strict=True)],
    )


def apply(activation: Function, v: arb) -> arb:
    """Value of an activation or a law on a ball."""
    if isinstance(activation, Neuron):
        return laws.value(activation, v)
    if activation is Activation.TANH:
        return v.tanh()
    if activation is Activation.SIGMOID:
        return sigmoid(v)
    least = number(0) if activation is Activation.RELU else number(LEAK) * v
    return v.max(least)


def sigmoid(v: arb) -> arb:
    """The logistic function 1 / (1 + exp(-v)) on a ball."""
    return number(0.5) + (v / 2).tanh() / 2


def monotone(functions: Sequence[Function], box: Box) -> Box:
    """Intervals of the values of each neuron's function, all of which rise, on intervals of their arguments."""
    return (
        [apply(f, v).lower() for f, v in zip(functions, box[0], strict=True)],
        [apply(f, v).upper() for f, v in zip(functions, box[1], strict=True)],
    )


def derivative(activation: Activation, v: arb) -> arb:
    """Derivative of tanh or the sigmoid on a ball."""
    return v.sech() ** 2 if activation is Activation.TANH else (v / 2).sech() ** 2 / 4


def slope(activation: Function) -> tuple[arb, arb]:
    """Least and greatest slope of any chord, from the definition of the activation or law."""
    if isinstance(activation, Neuron):
        return laws.slopes(activation)
    least = number(LEAK if activation is Activation.LEAKY_RELU else 0)
    return least, number(0.25 if activation is Activation.SIGMOID else 1)


def slopes_between(activation: Function, low: arb, high: arb) -> tuple[arb, arb]:
    """Least and greatest slope of chords with both ends in [low, high], by the mean value theorem."""
    if isinstance(activation, Neuron):
        return laws.slopes(activation, low, high)
    least, most = slope(activation)
    if activation in (Activation.RELU, Activation.LEAKY_RELU):
        return (most if low >= 0 else least), (least if high <= 0 else most)
    # Even derivatives that fall with the distance from zero.
    far = low.abs_upper().max(high.abs_upper())
    near = low if low > 0 else (-high if high < 0 else number(0))
    return derivative(activation, far).lower(), derivative(activation, near).upper()


def chord(activation: Activation, a: arb, h: arb) -> arb:
    """Slope of the chord of tanh or the sigmoid from a to a + h, h not zero."""
    # tanh(a + h) - tanh(a) = sinh(h) / (cosh(a + h) cosh(a)), without cancellation
    if activation is Activation.SIGMOID:
        return chord(Activation.TANH, a / 2, h / 2) / 4
    return h.sinh() / h * (a + h).sech() * a.sech()


def chords_from(activation: Function, base: arb, reach: arb) -> tuple[arb, arb]:
    """Least and greatest slope of chords from ``base`` (a ball) to points within ``reach`` > 0 of it.

    For an S-shaped function and a >= 0 the chord to a + h is flattest at h = reach, since s(a + t) - s(a) <=
    s(a) - s(a - t). Towards h < 0 it gets steeper up to the point -t where it touches the curve, then flatter; before
    that point a chord is flatter than the curve at its end.
    """
    if isinstance(activation, Neuron):
        return laws.slopes(activation, base.lower() - reach, base.upper() + reach)
    least, most = slope(activation)
    if activation in (Activation.RELU, Activation.LEAKY_RELU):
        flat = (base.lower() / reach).lower().max(number(0)).min(number(1))
        steep = number(1) if not base < 0 else (1 + base / reach).upper().max(number(0))
        return least + (most - least) * flat, least + (most - least) * steep
    near, far = base.abs_lower(), base.abs_upper()
    alpha = chord(activation, far, reach).lower()
    end = chord(activation, near, -reach)
    if end <= derivative(activation, near - reach):
        return alpha, end.upper()
    unit = 1.0 if activation is Activation.TANH else 0.5
    guess = _touching(unit * float(near)) / unit
    # The guess is checked: where the chord is flatter than the curve at its end, that end's slope is a bound.
    for offset in _OFFSETS:
        t = number(guess * (1 - offset))
        here = derivative(activation, t)
        if near + t > 0 and chord(activation, near, -near - t) <= here:
            return alpha, here.upper()
    return alpha, most


def _touching(a: float) -> float:
    """Approximate t such that the chord of tanh from a >= 0 touches it at -t.

    It solves tanh(a) + tanh(t) = (a + t) / cosh(t)^2.
    """
    low, high = 0.0, a
    for _ in range(60):
        t = 0.5 * (low + high)
        beyond = np.tanh(a) + np.tanh(t) > (a + t) / np.cosh(min(t, 300.0)) ** 2
        low, high = (low, t) if beyond else (t, high)
    return float(low)


def suggested(exact: Sequence[tuple[arb, arb]], hints: tuple[Array, Array]) -> list[tuple[arb, arb]]:
    """Widen the exact slopes of neurons to float64's where these contain them: multipliers are made for those."""
    return [_wider(one, low, high) for one, low, high in zip(exact, *hints, strict=True)]


def _wider(exact: tuple[arb, arb], low: float, high: float) -> tuple[arb, arb]:
    """Each end of a hint, where it lies outside of the exact slopes; the exact end elsewhere."""
    least = number(low) if np.isfinite(low) else exact[0]
    most = number(high) if np.isfinite(high) else exact[1]
    return (least if least <= exact[0] else exact[0]), (most if most >= exact[1] else exact[1])
