"""Sets of input differences, and what each kind of set adds to a bound (its price in the S-procedure).

With the storages of `incremental` |dy_k|^2 <= (initial part) + sum_{j <= k} sum_c rho_j,c du_j,c^2: a kind costs

    box per step       |du_j,c| <= b_c                       sum_j sum_c rho_j,c b_c^2
    ball per step      sum_c (du_j,c / b_c)^2 <= 1           sum_j max_c rho_j,c b_c^2
    few                box, but zero except at m steps       the m largest of sum_c rho_j,c b_c^2
    constant           du_j = du_0 in the box                du is a state: part of the initial difference
    rate-limited       box, |du_j,c - du_j-1,c| <= s_c       du is a state with input s; the box is valid as well

A state du starts anywhere in its box: with dx_0 it lies in {dx'M dx w_0 / r^2 + sum_c w_c (du_c / b_c)^2 <= 1} for all
weights w >= 0 that add up to one, of which the best are taken (proof: docs/theory/horizon.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import (
    cumulated_up,
    divide_down,
    divide_up,
    ldexp_up,
    root_up,
    sum_up,
    times_up,
)
from controlrnn.checks import Array, Choice, as_array, channels, count, numbers, read_only
from controlrnn.errors import SettingError, ShapeError


class InputErrorKind(Choice):
    """Kind of a set of input differences."""

    BOX = "box"
    BALL = "ball"
    FEW = "few"
    CONSTANT = "constant"
    RATE_LIMITED = "rate_limited"


@dataclass(frozen=True, eq=False, kw_only=True)
class InputDifferences:
    """A set of input differences over a horizon: its kind, radii and other limits.

    Args:
        kind: Kind of the set.
        radius: b, a number for all channels or shape (nu,), input units; a channel of radius zero is exact.
        rate: s, largest change per step, likewise; for `InputErrorKind.RATE_LIMITED` alone.
        steps: m, number of steps at which inputs are wrong, unknown which; for `InputErrorKind.FEW` alone.
    """

    kind: InputErrorKind = InputErrorKind.BOX
    radius: Array | float
    rate: Array | float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", InputErrorKind(self.kind))
        for name in ("radius",) if self.rate is None else ("radius", "rate"):
            given = numbers(name, getattr(self, name))
            given = as_array(name, given, ("nu",) if given.ndim else (), hint="a number, or one per input channel")
            if (given < 0).any():
                raise SettingError(f"{name} must be >= 0 in every channel, got {given}")
            object.__setattr__(self, name, read_only(given) if given.ndim else float(given))
        lengths = {part.shape for part in (self.radius, self.rate) if isinstance(part, np.ndarray)}
        if len(lengths) > 1:
            raise ShapeError(f"radius and rate must have one number per channel each, got shapes {sorted(lengths)}")
        if (self.rate is None) == (self.kind is InputErrorKind.RATE_LIMITED):
            raise SettingError(f"rate belongs to kind 'rate_limited' and to no other, got kind {self.kind!r}")
        if (self.steps is None) == (self.kind is InputErrorKind.FEW):
            raise SettingError(f"steps belongs to kind 'few' and to no other, got kind {self.kind!r}")
        if self.steps is not None:
            object.__setattr__(self, "steps", count("steps", self.steps))

    @classmethod
    def of(cls, value: InputDifferences | Array | float, nu: int) -> Self:
        """Check an error and spread it over ``nu`` channels; plain numbers mean a box."""
        error = value if isinstance(value, InputDifferences) else cls(radius=_per_channel("input_radius", value, nu))
        radius = _per_channel("input_radius", error.radius, nu)
        rate = None if error.rate is None else _per_channel("rate", error.rate, nu)
        return cls(kind=error.kind, radius=radius, rate=rate, steps=error.steps)

    @property
    def b(self) -> Array:
        """Radii per channel (nu,), input units; only after `of`, which spreads them."""
        return np.asarray(self.radius, dtype=np.float64)

    @property
    def is_state(self) -> bool:
        """Whether the difference persists from step to step, so that proofs treat it as a state."""
        return self.kind in (InputErrorKind.CONSTANT, InputErrorKind.RATE_LIMITED)

    @property
    def changes(self) -> Array:
        """Largest change per step (nu,) of differences that are states; zero for exact channels."""
        return np.zeros_like(self.b) if self.rate is None else np.where(self.b > 0, self.rate, 0.0)

    def covered_box(self, horizon: int) -> Array:
        """Radii (nu,) of the largest box per step that is part of the set over ``horizon`` steps."""
        b = self.b
        if self.kind is InputErrorKind.BALL:
            # A box of half widths s b lies in the ellipsoid if s^2 times the number of channels is <= 1.
            return divide_down(b, root_up(max(int((b > 0).sum()), 1)))
        if self.kind is InputErrorKind.FEW and self.steps is not None:
            # A box per step allows differences at all horizon + 1 steps.
            return b if self.steps > horizon else np.zeros_like(b)
        if self.kind is InputErrorKind.RATE_LIMITED:
            rate = np.asarray(self.rate)
            # Two values within half the rate of zero differ by no more than the rate.
            half = 0.5 * rate
            return np.minimum(b, np.where(half + half > rate, np.nextafter(half, 0.0), half))  # subnormal ones round
        return np.zeros_like(b) if self.kind is InputErrorKind.CONSTANT and horizon else b

    def energies(self, rho: Array) -> Array:
        """Upper bounds of the inputs' part in the squared bound at steps 0, 1, .., shape (K,).

        Args:
            rho: By steps to go, shape (K, m) of the channels that differ; of a state's rate where `is_state`.
        """
        if self.kind is InputErrorKind.CONSTANT:
            return np.zeros(len(rho))
        b = self.changes[self.changes > 0] if self.is_state else self.b[self.b > 0]
        size = times_up(rho, b, b)
        if self.kind is InputErrorKind.BALL:
            return cumulated_up(size.max(axis=1, initial=0.0))
        return self._largest_sums(sum_up(size, axis=1))

    def added(self, gains: Array) -> Array:
        """Upper bounds of the inputs' part by gains (K, ny, nu) per lag, at steps 0, 1, .., shape (K, ny)."""
        size = times_up(gains, self.b)
        if self.kind is InputErrorKind.BALL:  # sum_c g_c du_c <= |g b| over the ball
            # Relative to the largest, whose square neither overflows nor vanishes.
            top = np.maximum(size.max(axis=2, initial=0.0), 1e-300)
            relative = divide_up(size, top[:, :, None])
            return cumulated_up(times_up(top, root_up(sum_up(times_up(relative, relative), axis=2))))
        return self._largest_sums(sum_up(size, axis=2))

    def _largest_sums(self, values: Array) -> Array:
        """Upper bounds of the sums of the first 1, 2, .. ``values`` (K, ...); for FEW, of their largest ones only.

        The number of values that count in a sum is at most `steps` there.
        """
        if self.steps is None or self.steps >= len(values):
            return cumulated_up(values)
        firsts = (np.sort(values[: k + 1], axis=0)[-self.steps :] for k in range(len(values)))
        return np.array([sum_up(first, axis=0) for first in firsts])

    def scaled(self, exponent: int) -> InputDifferences:
        """The same set with differences in units of 2^exponent, never rounded down."""
        rate = None if self.rate is None else ldexp_up(np.asarray(self.rate), -exponent)
        return InputDifferences(kind=self.kind, radius=ldexp_up(self.b, -exponent), rate=rate, steps=self.steps)

    def __str__(self) -> str:
        radii = ", ".join(f"{r:.3g}" for r in np.atleast_1d(self.b))
        text = f"at most ({radii}) per channel and step"
        if self.rate is not None:
            text += f", changing by at most ({', '.join(f'{r:.3g}' for r in np.atleast_1d(np.asarray(self.rate)))})"
        return {
            InputErrorKind.BALL: f"an ellipsoid with half axes ({radii}) per step",
            InputErrorKind.FEW: f"{text}, at no more than {self.steps} steps",
            InputErrorKind.CONSTANT: f"a constant of {text.removesuffix(' and step')}",
        }.get(self.kind, text)


def _per_channel(name: str, value: Array | float, nu: int) -> Array:
    """Spread numbers >= 0 over ``nu`` channels, or raise a SettingError."""
    array = channels(name, value, nu)
    if (array < 0).any():
        raise SettingError(f"{name} must be >= 0 in every channel, got {value}")
    return read_only(array)
