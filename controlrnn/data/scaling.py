"""Affine scaling of channels: a model trains on scaled signals, and `freeze()` folds the scaling into its matrices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, count, evaluated, items, read_only, rows
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.records import Numbers, Schema, Stored
from controlrnn.typed import typed


@dataclass(frozen=True, eq=False)
@typed()
class Scaler(Stored):
    """Affine scaling of each channel: ``scaled = (physical - shift) / scale``.

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
        """Scaler of ``n`` channels that changes nothing."""
        n = count("n", n, least=0)
        return cls(np.zeros(n), np.ones(n))

    @classmethod
    def fit(cls, records: Sequence[Array]) -> Scaler:
        """Scaler to zero mean and unit standard deviation over all samples of ``records`` (each (T, n)).

        A channel that never moves keeps scale 1: it carries no information, and dividing by its rounding noise would
        blow it up. Samples that are missing (NaN) are left out.
        """
        parts = [
            as_array(f"records[{i}]", r, ("T", "n"), finite=False)
            for i, r in enumerate(items("records", records, object, least=1))
        ]
        if len({p.shape[1] for p in parts}) > 1 or not any(len(p) for p in parts):
            raise ShapeError(f"records must have samples of the same channels, got shapes {[p.shape for p in parts]}")
        samples = np.concatenate(parts)
        if np.isinf(samples).any() or np.isnan(samples).all(axis=0).any():
            raise DataError("records must be finite or NaN (missing), with a number in every channel: clean the data")
        size = np.maximum(np.nanmax(np.abs(samples), axis=0), np.finfo(np.float64).tiny)  # squares stay within float64
        # Mean and deviation of the samples over their size: the plain sums could overflow or vanish.
        shift, scale = size * np.nanmean(samples / size, axis=0), size * np.nanstd(samples / size, axis=0)
        still = scale <= 1e-12 * size  # relative: a current of picoamperes does move
        return cls(shift, np.where(still, 1.0, scale))

    def apply(self, physical: Array) -> Array:
        """Scale physical values (..., n); any leading axes."""
        return evaluated(lambda v: (v - self.shift) / self.scale, physical=rows("physical", physical, len(self.shift)))

    def apply_measured(self, physical: Array) -> Array:
        """Scale measured values (..., n), of which some may be missing: NaN, and stay so.

        Args:
            physical: Values, any leading axes.
        """
        values = rows("physical", physical, len(self.shift))
        known = np.where(np.isnan(values), self.shift, values)
        return np.where(np.isnan(values), np.nan, self.apply(known))

    def invert(self, scaled: Array) -> Array:
        """Convert scaled values (..., n) back to physical ones; any leading axes."""
        return evaluated(lambda v: v * self.scale + self.shift, scaled=rows("scaled", scaled, len(self.shift)))
