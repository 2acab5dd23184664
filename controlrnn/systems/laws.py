# ruff: noqa: ARG005 (all laws take the same arguments)
"""Laws of single neurons: physical characteristics on declared ranges beside the usual activations.

A physical law of one variable is a neuron. On its declared range [low, high] it is the law f; outside it goes on as a
straight line with the slope at that end, so that its slopes are facts about all arguments:

    s(v) = f(c) + f'(low) min(v - low, 0) + f'(high) max(v - high, 0),     c = v clipped to [low, high]

Every law rises, so that its value tells its slope. A law that falls is one that rises with another sign, a parabola
with a minimum inside of its range one that is shifted: v^2 = (v - low)^2 + 2 low v - low^2, whose rest is linear.

    law            f(v)                          range              slopes on the range
    root           sqrt(v)                       0 < low            1 / (2 sqrt(v)), falling
    signed_root    v / (v^2 + width^2)^(1/4)     any                falling with |v|, at most 1 / sqrt(width)
    square         v^2                           0 <= low           2 v, rising
    exponential    exp(v)                        any within +-300   exp(v), rising
    reciprocal     -1 / v                        0 < low            1 / v^2, falling
    sine           sin(v)                        within +-1.5       cos(v), falling with |v|
    saturation     v clipped to [low, high]      any                1, and 0 outside
    dead_zone      v less v clipped              any                0, and 1 outside
    identity       v                             none               1

Smooth friction tanh(v / width) is a neuron ``tanh`` whose row of the system is divided by the width. The signed root is
Torricelli's law in both directions, laminar below ``width`` (as `plants.tanks.torricelli`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import NamedTuple

import numpy as np

from controlrnn.checks import Array, Choice, items, number, put, read_only, shown
from controlrnn.errors import SettingError
from controlrnn.systems.activations import Activation
from controlrnn.systems.ops import NUMPY, Ops, Value


class Law(Choice):
    """Law of one neuron: an activation, or a characteristic on a declared range that goes on as a straight line."""

    TANH = "tanh"
    RELU = "relu"
    SIGMOID = "sigmoid"
    LEAKY_RELU = "leaky_relu"
    IDENTITY = "identity"
    ROOT = "root"
    SIGNED_ROOT = "signed_root"
    SQUARE = "square"
    EXPONENTIAL = "exponential"
    RECIPROCAL = "reciprocal"
    SINE = "sine"
    SATURATION = "saturation"
    DEAD_ZONE = "dead_zone"

    @property
    def activation(self) -> Activation | None:
        """The activation of this name; None for a characteristic."""
        return _ACTIVATIONS.get(self)

    @property
    def has_range(self) -> bool:
        """Whether it needs a declared range."""
        return self in _LIMITS

    @property
    def is_curved(self) -> bool:
        """Whether it is a curve on its range, and another function, a straight line, beyond."""
        return self in CURVES


_ACTIVATIONS = {Law(str(a)): a for a in Activation}
# Least lower and greatest upper end. No formula comes near the ends of float64 there.
_FAR, _NEAR = 1e12, 1e-12
_LIMITS = {
    Law.ROOT: (_NEAR, _FAR),
    Law.SIGNED_ROOT: (-_FAR, _FAR),
    Law.SQUARE: (0.0, _FAR),
    Law.EXPONENTIAL: (-300.0, 300.0),
    Law.RECIPROCAL: (_NEAR, _FAR),
    Law.SINE: (-1.5, 1.5),
    Law.SATURATION: (-_FAR, _FAR),
    Law.DEAD_ZONE: (-_FAR, _FAR),
}


class Curve(NamedTuple):
    """A curved law inside of its range, by functions of the argument v (its value w) and the width e.

    Args:
        value: f(ops, v, e), for values of any backend.
        inverse: The argument at which the law has the value w.
        slope: f'(v, e).
        bend: f''(v, e).
    """

    value: Callable[[Ops, Value, Value], Value]
    inverse: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    bend: Callable[[Array, Array], Array]


def _head(w: Array, e: Array) -> Array:
    """Argument of the signed root with value w: w^2 s = v^2 = s^2 - e^2 with s = sqrt(v^2 + e^2)."""
    return np.asarray(w * np.sqrt(0.5 * (w * w + np.hypot(w * w, 2.0 * e))))


# The table of curved laws, one row each.
CURVES = {
    Law.ROOT: Curve(
        lambda ops, v, e: ops.sqrt(v), lambda w, e: w * w,
        lambda v, e: 0.5 / np.sqrt(v), lambda v, e: -0.25 / (v * np.sqrt(v)),
    ),
    Law.SIGNED_ROOT: Curve(
        lambda ops, v, e: v / ops.sqrt(ops.sqrt(v * v + e * e)), _head,
        lambda v, e: (0.5 * v * v + e * e) * (v * v + e * e) ** -1.25,
        lambda v, e: -v * (0.25 * v * v + 1.5 * e * e) * (v * v + e * e) ** -2.25,
    ),
    Law.SQUARE: Curve(
        lambda ops, v, e: v * v, lambda w, e: np.sqrt(w), lambda v, e: 2.0 * v, lambda v, e: np.full_like(v, 2.0)
    ),
    Law.EXPONENTIAL: Curve(
        lambda ops, v, e: ops.exp(v), lambda w, e: np.log(w), lambda v, e: np.exp(v), lambda v, e: np.exp(v)
    ),
    Law.RECIPROCAL: Curve(
        lambda ops, v, e: -1.0 / v, lambda w, e: -1.0 / w,
        lambda v, e: 1.0 / (v * v), lambda v, e: -2.0 / (v * v * v),
    ),
    Law.SINE: Curve(
        lambda ops, v, e: ops.sin(v), lambda w, e: np.arcsin(w), lambda v, e: np.cos(v), lambda v, e: -np.sin(v)
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Neuron:
    """Law of one neuron with its parameters.

    Args:
        law: The law.
        low: Lower end of the declared range; zero for a law without one.
        high: Upper end of the declared range; zero for a law without one.
        width: Argument below which a signed root is laminar; zero for all others.

    Raises:
        SettingError: The range or the width does not fit the law.
    """

    law: Law
    low: float = 0.0
    high: float = 0.0
    width: float = 0.0

    def __post_init__(self) -> None:
        law = Law(self.law)
        numbers = {name: float(number(name, getattr(self, name))) + 0.0 for name in ("low", "high", "width")}
        put(self, law=law, **numbers)
        if not law.has_range:
            if any(numbers.values()):
                raise SettingError(f"{law} has neither range nor width, got {self.low}, {self.high}, {self.width}")
            return
        least, most = _LIMITS[law]
        if not least <= self.low < self.high <= most:
            raise SettingError(
                f"{law} needs a range {least:g} <= low < high <= {most:g}, got {self.low} to {self.high}: "
                "declare where it is used, and choose units in which the numbers are moderate"
            )
        # Ends that agree in most of their digits would leave nothing of the differences between them.
        if not self.high - self.low >= max(1e-9 * max(abs(self.low), abs(self.high)), _NEAR):
            raise SettingError(f"{law} needs a range that is no single point, got {self.low} to {self.high}: widen it")
        if law is Law.SIGNED_ROOT:
            if not _NEAR <= self.width <= _FAR:
                raise SettingError(f"{law} needs a width from {_NEAR:g} to {_FAR:g}, got {self.width}")
        elif self.width:
            raise SettingError(f"{law} has no width, got {self.width}: leave it out")


class Laws:
    """Laws of all neurons of a system, in their order; what `LureSystem.activation` is where they differ.

    Args:
        neurons: The neurons' laws with their parameters; a `Law` (or its name) alone is one without a range.

    Raises:
        SettingError: There are none.
    """

    def __init__(self, neurons: Iterable[Neuron | Law | str]) -> None:
        if isinstance(neurons, str):
            raise SettingError(f"neurons must be a list with one law for each neuron, got {shown(neurons)}")
        self.neurons = tuple(n if isinstance(n, Neuron) else Neuron(Law(n)) for n in items("neurons", neurons, object))
        if not self.neurons:
            raise SettingError("neurons must hold at least one law, got none: a system without neurons has 'tanh'")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Laws) and self.neurons == other.neurons

    def __hash__(self) -> int:
        return hash(self.neurons)

    def __len__(self) -> int:
        return len(self.neurons)

    def __str__(self) -> str:
        return " ".join(f"{law}:{stop - start}" for law, start, stop in self.groups)

    def __repr__(self) -> str:
        return f"Laws({self})"

    @cached_property
    def groups(self) -> tuple[tuple[Law, int, int], ...]:
        """Law, first and one past the last neuron of each run of neurons of one law."""
        found, start = [], 0
        for law, run in groupby(self.neurons, key=lambda n: n.law):
            stop = start + len(list(run))
            found.append((law, start, stop))
            start = stop
        return tuple(found)

    @cached_property
    def parameters(self) -> Array:
        """Low, high and width of each neuron, shape (nv, 3), read-only."""
        return read_only(np.array([(n.low, n.high, n.width) for n in self.neurons]))

    @cached_property
    def ends(self) -> Array:
        """Values and slopes of curved laws at both ends of their range, (f(low), f(high), f'(low), f'(high)), (nv, 4).

        Zero for other laws.
        """
        found = np.zeros((len(self), 4))
        for law, start, stop in self.groups:
            if law in CURVES:
                curve, p = CURVES[law], self.parameters[start:stop]
                found[start:stop, :2] = curve.value(NUMPY, p[:, :2], p[:, 2:])
                found[start:stop, 2:] = curve.slope(p[:, :2], p[:, 2:])
        return read_only(found)

    @property
    def alike(self) -> Activation | None:
        """The activation that all neurons share; None where they differ or have ranges."""
        return self.neurons[0].law.activation if len(self.groups) == 1 else None

    def take(self, places: Iterable[int]) -> Laws:
        """Laws of the neurons at some places, in that order."""
        return Laws([self.neurons[int(i)] for i in places])

    def apply(self, ops: Ops, v: Value, start: int = 0, stop: int | None = None) -> Value:
        """Evaluate the laws of the neurons start .. stop - 1 on their arguments, of any backend."""
        stop = len(self) if stop is None else stop
        parts = []
        for law, first, last in self.groups:
            a, b = max(first, start), min(last, stop)
            if a < b:
                here = v if (a, b) == (start, stop) else ops.columns(v, a - start, b - start)
                parts.append(self._apply(ops, law, here, a, b))
        return parts[0] if len(parts) == 1 else ops.join(parts)

    def _apply(self, ops: Ops, law: Law, v: Value, start: int, stop: int) -> Value:
        """Evaluate one law."""
        if law.activation is not None:
            return law.activation.apply(ops, v)
        if law is Law.IDENTITY:
            return v
        low, high, width = (ops.constants(column, v) for column in self.parameters[start:stop].T)
        inside = ops.clip(v, low, high)
        if law is Law.SATURATION:
            return inside
        if law is Law.DEAD_ZONE:
            return v - inside
        left, right = (ops.constants(column, v) for column in self.ends[start:stop, 2:].T)
        beyond = right * ops.relu(v - high) - left * ops.relu(low - v)
        return CURVES[law].value(ops, inside, width) + beyond

    def derivative(self, w: Array) -> Array:
        """Derivatives s'(v), shape (..., nv), at the v with s(v) = ``w`` (..., nv); at a kink the flatter one."""
        return self._by_value(w, bend=False)

    def curvature(self, w: Array) -> Array:
        """Second derivatives s''(v) at the v with s(v) = ``w``; zero on straight parts."""
        return self._by_value(w, bend=True)

    def _by_value(self, w: Array, *, bend: bool) -> Array:
        """First or second derivatives from values."""
        found = np.zeros(np.shape(w))
        for law, start, stop in self.groups:
            here = w[..., start:stop]
            low, high, width = self.parameters[start:stop].T
            known = law.activation
            if known is not None:
                slope = known.curvature(here) if bend else known.derivative(here)
            elif law in CURVES:
                curve, (least, most) = CURVES[law], self.ends[start:stop, :2].T
                v = np.clip(curve.inverse(np.clip(here, least, most), width), low, high)
                if bend:
                    slope = np.where((here > least) & (here < most), curve.bend(np.maximum(v, _tiny(law)), width), 0.0)
                else:
                    slope = curve.slope(v, width)
                slope = np.where(np.isnan(here), np.nan, slope)
            elif bend:
                slope = np.zeros_like(here)
            else:
                slope = _straight(law, here, low, high)
            found[..., start:stop] = slope
        return found

    @property
    def slope(self) -> tuple[Array, Array]:
        """Slope bounds (alpha, beta) of each neuron, (nv,) each, a little wider; see `Activation.slope`."""
        alpha, beta = np.zeros(len(self)), np.ones(len(self))
        for law, start, stop in self.groups:
            here = slice(start, stop)
            if law.activation is not None:
                alpha[here], beta[here] = law.activation.slope
            elif law is Law.IDENTITY:
                alpha[here], beta[here] = 1 - 2.0**-20, 1 + 2.0**-20
            elif law in CURVES:
                ends = self.ends[here, 2:]
                low, high, width = self.parameters[here].T
                steepest = ends.max(axis=1)
                if law in (Law.SIGNED_ROOT, Law.SINE):
                    peak = 1.0 / np.sqrt(width) if law is Law.SIGNED_ROOT else 1.0
                    steepest = np.where((low < 0) & (high > 0), peak, steepest)
                alpha[here], beta[here] = ends.min(axis=1) * (1 - 1e-12), steepest * (1 + 1e-12)
        return alpha, beta


def _tiny(law: Law) -> float:
    """Least argument at which a law's curvature is evaluated: what only looks like zero must not divide."""
    return 1e-13 if law in (Law.ROOT, Law.RECIPROCAL) else -np.inf


def _straight(law: Law, w: Array, low: Array, high: Array) -> Array:
    """Derivative of a piecewise linear law from its value."""
    if law is Law.SATURATION:
        return np.where((w > low) & (w < high), 1.0, 0.0)
    return np.ones_like(w) if law is Law.IDENTITY else np.where(w == 0, 0.0, 1.0)
