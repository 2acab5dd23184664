"""Random and given reference and disturbance signals for `run_closed_loop`, drawn from the run's seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array, count, positive
from controlrnn.errors import SettingError
from controlrnn.typed import typed


@dataclass(frozen=True, kw_only=True)
@typed()
class RandomSteps:
    """Random steps within a box, each held for a random time: a reference, or a disturbance from a declared set.

    Args:
        lower: Lower corner of the box, one number per channel.
        upper: Upper corner.
        steps: Number of samples.
        hold: Shortest and longest time between changes, in samples.
        at_edge: Whether only corners of the box are drawn, instead of values uniformly within.

    Raises:
        SettingError: The box is empty, or a number is out of range.
    """

    lower: tuple[float, ...]
    upper: tuple[float, ...]
    steps: int
    hold: tuple[int, int] = (1, 1)
    at_edge: bool = False

    def __post_init__(self) -> None:
        n = len(self.lower)
        low, high = as_array("lower", self.lower, (n,)), as_array("upper", self.upper, (n,))
        if not n or (low > high).any():
            raise SettingError(f"lower must be <= upper in every channel, got {self.lower} and {self.upper}")
        shortest, longest = (count("hold", h) for h in self.hold)
        if shortest > longest:
            raise SettingError(f"hold must be (shortest, longest), got {self.hold}")
        count("steps", self.steps)

    def __call__(self, rng: np.random.Generator) -> Array:
        """Draw one signal, shape (steps, channels)."""
        low, high = np.array(self.lower), np.array(self.upper)
        rows: list[Array] = []
        while len(rows) < self.steps:
            share = rng.random(len(low))
            value = low + (high - low) * (share > 0.5 if self.at_edge else share)
            rows += [value] * int(rng.integers(self.hold[0], self.hold[1] + 1))
        return np.array(rows[: self.steps])


@dataclass(frozen=True, kw_only=True)
@typed()
class Wandering:
    """First-order coloured noise of zero mean, clipped to a known bound, as a slowly varying disturbance.

    Args:
        std: Standard deviation, one number per channel.
        memory: Time constant in samples.
        cut: Bound in standard deviations.
        steps: Number of samples.

    Raises:
        SettingError: A number is out of range.
    """

    std: tuple[float, ...]
    memory: float
    steps: int
    cut: float = 3.0

    def __post_init__(self) -> None:
        for name in ("memory", "cut"):
            positive(name, getattr(self, name))
        if not np.isfinite(self.cut * max(self.std, default=0.0)):
            raise SettingError(f"cut times std must be finite, got {self.cut} and {self.std}")
        count("steps", self.steps)
        for value in self.std:
            positive("std", value, zero=True)

    @property
    def bound(self) -> Array:
        """Bound on the absolute value per channel."""
        return self.cut * np.array(self.std)

    def __call__(self, rng: np.random.Generator) -> Array:
        """Draw one signal, shape (steps, channels)."""
        # Stationary, with unit variance before clipping.
        keep = np.exp(-1.0 / self.memory)
        rows = rng.standard_normal((self.steps, len(self.std)))
        for t in range(1, self.steps):
            rows[t] = keep * rows[t - 1] + np.sqrt(1 - keep**2) * rows[t]
        return np.asarray(np.clip(rows, -self.cut, self.cut) * self.std)


@typed()
def staircase(levels: ArrayLike, holds: Sequence[int]) -> Array:
    """Piecewise constant signal: each level held for its number of samples.

    Args:
        levels: Values, one row per level, shape (n, channels).
        holds: Samples, one per level.

    Returns:
        Shape (sum of holds, channels).

    Raises:
        ShapeError: There is not one time per level.
        SettingError: A time is not positive.
    """
    rows = as_array("levels", levels, ("n", "channels"))
    times = [count("holds", h) for h in holds]
    as_array("holds", times, (len(rows),), hint="one number of samples per level")
    return np.repeat(rows, times, axis=0)
