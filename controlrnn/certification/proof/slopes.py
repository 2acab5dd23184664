"""Slope bounds of activations: global, on intervals, and of chords with one known end.

A neuron whose pre-activation stays in [l, u] has all its difference quotients between the least and the greatest
derivative there, by the mean value theorem.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import Array
from controlrnn.certification.proof.laws import Laws, hull
from controlrnn.checks import read_only

Box = tuple[Array, Array]
LEAK = 0.01  # slope of the leaky ReLU below zero

# Absolute. Slopes are at most one, and every formula here is made of fewer than 20 operations and values of tanh, none
# of which errs by more than 64 UNIT = 7e-15 (arguments: |v| UNIT |s''(v)| is less than one UNIT).
_WIDEN = 1e-12
_GRID = 1e-4
_GLOBAL = {"tanh": (0.0, 1.0), "relu": (0.0, 1.0), "sigmoid": (0.0, 0.25), "leaky_relu": (LEAK, 1.0)}


def within(activation: str | Laws, start: int, stop: int) -> str | Laws:
    """The function of the neurons start .. stop - 1."""
    return activation if isinstance(activation, str) else activation.take(range(start, stop))


def global_slopes(activation: str | Laws) -> tuple[Any, Any]:
    """Bounds (alpha, beta) that hold all difference quotients of an activation, or of each neuron, (nv,) each."""
    if isinstance(activation, str):
        return _GLOBAL[str(activation)]
    everywhere = np.full(len(activation), np.inf)
    return slopes_on(activation, (-everywhere, everywhere))


def slopes_on(activation: str | Laws, interval: Box) -> Box:
    """Least and greatest derivative of an activation on intervals, widened outwards.

    Args:
        activation: The function, or the laws of the neurons.
        interval: Ends, each of any shape, of shape (..., nv) for laws; infinite ends are allowed.
    """
    low, high = interval
    if not isinstance(activation, str):
        return _of_laws(activation, lambda law, here: slopes_on(law, (low[here], high[here])), low, high)
    nearest = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
    farthest = np.maximum(np.abs(low), np.abs(high))
    alpha0, beta0 = global_slopes(activation)
    if activation in ("tanh", "sigmoid"):
        # Even derivatives that fall with the distance from zero.
        peak = 1.0 if activation == "tanh" else 0.25
        half = 1.0 if activation == "tanh" else 0.5
        alpha, beta = (peak * (1 - np.tanh(half * d) ** 2) for d in (farthest, nearest))
    else:
        below = 0.0 if activation == "relu" else LEAK
        alpha, beta = np.where(low >= 0, 1.0, below), np.where(high <= 0, below, 1.0)
    return np.maximum(alpha - _WIDEN, alpha0), np.minimum(beta + _WIDEN, beta0)


def secant_slopes(activation: str | Laws, base: Array, error: Array, reach: Array) -> Box:
    """Least and greatest slope of chords from within ``error`` of ``base`` to within ``reach`` of that end.

    With a fixed end chords are flatter than the steepest tangent in between, which is what is gained where one of two
    trajectories is known. For an S-shaped s and an end a >= 0 the slope of the chord to a + h falls with h > 0, and
    with h < 0 rises towards the point where the chord touches s: N = s(a + h) - s(a) - h s'(a + h) has the sign of
    -d slope/dh, and dN/dh = -h s''(a + h) shows that it changes once. Both extremes fall as |a| grows.

    Args:
        activation: The function, or the laws of the neurons, whose chords are bounded by their tangents.
        base: Shape (n,).
        error: Shape (n,), >= 0.
        reach: Shape (n,), >= 0.

    Returns:
        Alpha and beta, each shape (n,), widened outwards.
    """
    if not isinstance(activation, str):
        low, high = (
            np.nextafter(np.nextafter(base + sign * error, sign * np.inf) + sign * reach, sign * np.inf)
            for sign in (-1, 1)
        )
        return _of_laws(
            activation, lambda law, here: secant_slopes(law, base[here], error[here], reach[here]), low, high
        )
    alpha0, beta0 = global_slopes(activation)
    if activation in ("tanh", "sigmoid"):
        # s(v) = 0.5 + 0.5 tanh(v / 2) for the sigmoid
        unit, scale = (1.0, 1.0) if activation == "tanh" else (0.25, 0.5)
        near, far, d = scale * np.maximum(np.abs(base) - error, 0.0), scale * (np.abs(base) + error), scale * reach
        alpha, steepest = unit * _tanh_chord(far, d), _tanh_chord(near, -d)
        # Once beyond the point where the chord touches the curve it is that one which is the steepest.
        touched = 1 - np.tanh(near - d) ** 2 < steepest + _WIDEN
        beta = unit * np.where(touched, np.maximum(steepest, _touching_slope(near)), steepest)
    else:
        # The flattest chord reaches as far below zero, the steepest as far above, as error and reach allow.
        below, d = 0.0 if activation == "relu" else LEAK, np.maximum(reach, 1e-300)
        low, high = base - error, base + error
        alpha = below + (1 - below) * np.where(low >= 0, np.minimum(low / d, 1.0), 0.0)
        beta = below + (1 - below) * np.maximum(1 + high / d, 0.0)  # more than one where high >= 0, until it is clipped
    return np.maximum(alpha - _WIDEN, alpha0), np.minimum(beta + _WIDEN, beta0)


def _of_laws(laws: Laws, of: Callable[[str, Any], Box], low: Array, high: Array) -> Box:
    """Slopes of neurons with laws on intervals; those of neurons with an activation by ``of``."""
    alpha, beta = np.empty(low.shape), np.empty(low.shape)
    for law, start, stop in laws.groups:
        here = (..., slice(start, stop))
        if law in _GLOBAL:
            alpha[here], beta[here] = of(str(law), here)
        else:
            alpha[here], beta[here] = hull(str(law), laws.parameters[start:stop], (low[here], high[here]))
    return alpha, beta


def _tanh_chord(a: Array, h: Array) -> Array:
    """Slope (tanh(a + h) - tanh(a)) / h of a chord of tanh, without cancellation; the derivative for h = 0."""
    ratio = np.divide(np.tanh(h), h, out=np.ones_like(h), where=np.abs(h) > 1e-150)
    return np.asarray(ratio * (1 - np.tanh(a) * np.tanh(a + h)))


@cache
def _touching_slopes() -> Array:
    """Table of the slopes of chords of tanh from a = 0, _GRID, 2 _GRID, .. that touch the curve in [-a, 0]."""
    a = np.arange(0.0, 8.0, _GRID)
    low, high = -2 * a, -a
    for _ in range(45):
        h = 0.5 * (low + high)
        beyond = _tanh_chord(a, h) > 1 - np.tanh(a + h) ** 2
        low, high = np.where(beyond, h, low), np.where(beyond, high, h)
    return read_only(_tanh_chord(a, high))


def _touching_slope(a: Array) -> Array:
    """Upper bound, but for rounding, of the slope of the chord from a >= 0 that touches tanh: `_touching_slopes`.

    It falls with a, so that the next smaller a on the grid has a larger one.
    """
    table = _touching_slopes()
    # NaN, from numbers that overflowed, counts as zero, where the slope is largest.
    place = np.where(a >= 0, np.minimum(a / _GRID, len(table) - 1.0), 0.0)
    return np.asarray(table[place.astype(int)])
