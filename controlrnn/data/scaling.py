"""Affine scaling of channels. A model trains on scaled signals; `freeze()` folds the scaling into its matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, read_only
from controlrnn.errors import SettingError
from controlrnn.records import Numbers, Schema, Stored


@dataclass(frozen=True, eq=False)
class Scaler(Stored):
    """``scaled = (physical - shift) / scale`` per channel.

    Args:
        shift: Shape (n,), physical units.
        scale: Shape (n,), physical units, positive.
    """

    SCHEMA: ClassVar[Schema] = Schema("scaler", 1, arrays={"shift": Numbers("n"), "scale": Numbers("n", above=0.0)})

    shift: Array
    scale: Array

    def __post_init__(self) -> None:
        shift = as_array("shift", self.shift, ("n",))
        scale = as_array("scale", self.scale, (len(shift),))
        if (scale <= 0).any():
            raise SettingError(f"scale must be positive in every channel, got {scale}")
        object.__setattr__(self, "shift", read_only(shift))
        object.__setattr__(self, "scale", read_only(scale))

    @classmethod
    def identity(cls, n: int) -> Scaler:
        """The scaler that changes nothing, for ``n`` channels."""
        return cls(np.zeros(n), np.ones(n))

    @classmethod
    def fit(cls, records: Sequence[Array]) -> Scaler:
        """Zero mean, unit standard deviation over all samples of ``records`` (each (T, n)).

        A channel that never moves keeps scale 1: it carries no information, and dividing by its rounding noise would
        blow it up.
        """
        samples = np.concatenate([np.asarray(r, dtype=np.float64) for r in records])
        shift, scale = samples.mean(axis=0), samples.std(axis=0)
        still = scale <= 1e-12 * np.abs(samples).max(axis=0)  # relative: a current of picoamperes does move
        return cls(shift, np.where(still, 1.0, scale))

    def apply(self, physical: Array) -> Array:
        """Physical to scaled, any leading axes."""
        return (physical - self.shift) / self.scale

    def invert(self, scaled: Array) -> Array:
        """Scaled to physical, any leading axes."""
        return scaled * self.scale + self.shift
