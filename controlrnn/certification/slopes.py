"""Slopes of the neurons where inputs and states are known to stay in boxes: RNN-SDP's input constraints (algorithm 1).

Intervals are propagated through the system, x+ = A x + B1 w + B2 u + bx and so on, and joined over the steps; a neuron
whose pre-activation stays in [l, u] has all its difference quotients between the least and the greatest derivative
there, by the mean value theorem. Intervals forget correlations, so the gain is small unless the boxes are.
"""

from __future__ import annotations

from functools import cache

import numpy as np

from controlrnn.checks import Array, as_array, count, read_only
from controlrnn.errors import SettingError
from controlrnn.systems import Activation, LureSystem
from controlrnn.systems.activations import LEAK
from controlrnn.systems.ops import NUMPY

Box = tuple[Array, Array]
_WIDEN = 1e-12  # relative, far more than the rounding of these short sums
_GRID = 1e-4


def local_slopes(system: LureSystem, input_range: Box, state_range: Box, steps: int) -> Box:
    """Slopes alpha, beta, each shape (nv,), for runs that start in a box of states under inputs in a box.

    Args:
        system: A frozen system.
        input_range: Least and greatest inputs, each shape (nu,).
        state_range: Least and greatest initial states, each shape (nx,).
        steps: Number of steps N; the neurons at the steps 0..N are covered.

    Raises:
        ShapeError, DataError: The boxes do not fit.
        SettingError: A box is empty.
    """
    u = _box("input_range", input_range, system.nu)
    x = _box("state_range", state_range, system.nx)
    hull = np.full(system.nv, np.inf), np.full(system.nv, -np.inf)
    with np.errstate(over="ignore", invalid="ignore"):
        for _ in range(count("steps", steps, least=0) + 1):
            v, w = neuron_intervals(system, x, u)
            hull = np.minimum(hull[0], v[0]), np.maximum(hull[1], v[1])
            x = interval_sum([(system.A, x), (system.B1, w), (system.B2, u)], system.bx)
    if not (np.isfinite(hull[0]).all() and np.isfinite(hull[1]).all()):
        # The intervals have exploded: nothing is known, which the activation's own slope says.
        hull = np.full(system.nv, -np.inf), np.full(system.nv, np.inf)
    return slopes_on(system.activation, hull)


def slopes_on(activation: Activation, interval: Box) -> Box:
    """Least and greatest derivative of an activation on intervals, widened outwards.

    Args:
        activation: The function.
        interval: Ends, each of any shape; infinite ends are allowed.
    """
    low, high = interval
    nearest = np.where((low <= 0) & (high >= 0), 0.0, np.minimum(np.abs(low), np.abs(high)))
    farthest = np.maximum(np.abs(low), np.abs(high))
    alpha0, beta0 = activation.slope
    if activation in (Activation.TANH, Activation.SIGMOID):
        # Even derivatives that fall with the distance from zero.
        peak = 1.0 if activation is Activation.TANH else 0.25
        half = 1.0 if activation is Activation.TANH else 0.5
        alpha, beta = (peak * (1 - np.tanh(half * d) ** 2) for d in (farthest, nearest))
    else:
        below = 0.0 if activation is Activation.RELU else LEAK
        alpha, beta = np.where(low >= 0, 1.0, below), np.where(high <= 0, below, 1.0)
    return np.maximum(alpha - _WIDEN, alpha0), np.minimum(beta + _WIDEN, beta0)


def secant_slopes(activation: Activation, base: Array, error: Array, reach: Array) -> Box:
    """Least and greatest slope of chords with one end within ``error`` of ``base``, the other within ``reach`` of it.

    With a fixed end chords are flatter than the steepest tangent in between, which is what is gained where one of two
    trajectories is known. For an S-shaped s and an end a >= 0 the slope of the chord to a + h falls with h > 0, and
    with h < 0 rises towards the point where the chord touches s: N = s(a + h) - s(a) - h s'(a + h) has the sign of
    -d slope/dh, and dN/dh = -h s''(a + h) shows that it changes once. Both extremes fall as |a| grows.

    Args:
        activation: The function.
        base: Shape (n,).
        error: Shape (n,), >= 0.
        reach: Shape (n,), >= 0.

    Returns:
        Alpha and beta, each shape (n,), widened outwards.
    """
    alpha0, beta0 = activation.slope
    if activation in (Activation.TANH, Activation.SIGMOID):
        # s(v) = 0.5 + 0.5 tanh(v / 2) for the sigmoid
        unit, scale = (1.0, 1.0) if activation is Activation.TANH else (0.25, 0.5)
        near, far, d = scale * np.maximum(np.abs(base) - error, 0.0), scale * (np.abs(base) + error), scale * reach
        alpha, steepest = unit * _tanh_chord(far, d), _tanh_chord(near, -d)
        # Once beyond the point where the chord touches the curve it is that one which is the steepest.
        touched = 1 - np.tanh(near - d) ** 2 < steepest + _WIDEN
        beta = unit * np.where(touched, np.maximum(steepest, _touching_slope(near)), steepest)
    else:
        below, d = 0.0 if activation is Activation.RELU else LEAK, np.maximum(reach, 1e-300)
        low, high = base - error, base + error
        alpha = below + (1 - below) * np.where(low >= 0, np.minimum(low / d, 1.0), 0.0)
        beta = below + (1 - below) * np.where(high >= 0, 1.0, np.maximum(1 + high / d, 0.0))
    return np.maximum(alpha - _WIDEN, alpha0), np.minimum(beta + _WIDEN, beta0)


def _tanh_chord(a: Array, h: Array) -> Array:
    """(tanh(a + h) - tanh(a)) / h without cancellation; the derivative for h = 0."""
    ratio = np.divide(np.tanh(h), h, out=np.ones_like(h), where=np.abs(h) > 1e-150)
    return np.asarray(ratio * (1 - np.tanh(a) * np.tanh(a + h)))


@cache
def _touching_slopes() -> Array:
    """Slope of the chord of tanh that starts at a = 0, _GRID, 2 _GRID, .. and touches the curve in [-a, 0]."""
    a = np.arange(0.0, 8.0, _GRID)
    low, high = -2 * a, -a
    for _ in range(45):
        h = 0.5 * (low + high)
        beyond = _tanh_chord(a, h) > 1 - np.tanh(a + h) ** 2
        low, high = np.where(beyond, h, low), np.where(beyond, high, h)
    return read_only(_tanh_chord(a, high) + _WIDEN)


def _touching_slope(a: Array) -> Array:
    """Upper bound of that slope for any a >= 0: it falls, so the next smaller a on the grid has a larger one."""
    table = _touching_slopes()
    return np.asarray(table[np.minimum(a / _GRID, len(table) - 1.0).astype(int)])


def neuron_intervals(system: LureSystem, x: Box, u: Box) -> tuple[Box, Box]:
    """Intervals of v and w, layer after layer."""
    drive = interval_sum([(system.C1, x), (system.D12, u)], system.bv)
    v = np.array(drive)
    w = np.empty_like(v)
    for start, stop in system.blocks:
        before = w[0, :start], w[1, :start]
        through = interval_sum([(system.D11[start:stop, :start], before)], np.zeros(stop - start))
        v[0, start:stop] += through[0]
        v[1, start:stop] += through[1]
        for side in (0, 1):  # activations rise
            w[side, start:stop] = system.activation.apply(NUMPY, v[side, start:stop])
    pad = _WIDEN * (1 + np.abs(w))
    return (v[0], v[1]), (w[0] - pad[0], w[1] + pad[1])


def interval_sum(terms: list[tuple[Array, Box]], bias: Array) -> Box:
    """Interval of sum M z + bias, widened outwards."""
    low, high = bias.copy(), bias.copy()
    for M, (a, b) in terms:
        centre, radius = 0.5 * (a + b), 0.5 * (b - a)
        middle, spread = M @ centre, np.abs(M) @ radius
        pad = _WIDEN * (np.abs(M) @ (np.abs(centre) + radius))
        low, high = low + middle - spread - pad, high + middle + spread + pad
    return low, high


def _box(name: str, box: Box, n: int) -> Box:
    low, high = (as_array(name, side, (n,), hint="give lower and upper ends") for side in box)
    if (low > high).any():
        raise SettingError(f"{name} must satisfy lower <= upper, got {low} and {high}: swap them?")
    return low, high
