"""Scores of a simulation against a measurement, per output channel, as the nonlinear benchmarks define them.

RMSE = sqrt(mean e^2),  NRMSE = RMSE / std(measured),  fit = 100 (1 - NRMSE) %,  R2 = 1 - NRMSE^2, each after the first
``skip`` samples of every record were dropped. (nonlinearbenchmark.org, `nonlinear_benchmarks.error_metrics`.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, count, items, read_only
from controlrnn.errors import DataError, ShapeError
from controlrnn.records import Numbers, Schema, Stored
from controlrnn.typed import typed

# One record (T, ny), or several of any lengths whose samples are pooled.
Records = Array | Sequence[Array]


@typed(results=False)
def rmse(measured: Records, simulated: Records, *, skip: int = 0) -> Array:
    """Root mean square error per channel, shape (ny,), in the unit of the output.

    Args:
        measured: Shape (T, ny), or a sequence of such records; their samples are pooled, and those that are missing
            (NaN) do not count.
        simulated: The same shapes. Where a run is not finite the error is infinite.
        skip: Samples dropped at the start of every record.

    Raises:
        ShapeError: The two do not have the same shapes.
        DataError: A measured value is infinite, or no sample of a record or of a channel is left.
    """
    truth, model = _pool(measured, simulated, skip)
    with np.errstate(over="ignore"):
        return np.asarray(np.sqrt(np.nanmean((truth - model) ** 2, axis=0)))


@typed(results=False)
def nrmse(measured: Records, simulated: Records, *, skip: int = 0) -> Array:
    """RMSE over the standard deviation of the measurement, NaN in a constant channel. Arguments as `rmse`."""
    truth, model = _pool(measured, simulated, skip)
    error, spread = rmse(truth, model), np.nanstd(truth, axis=0)
    moving = spread > 1e-12 * np.maximum(1.0, np.nanmax(np.abs(truth), axis=0))
    return np.asarray(np.where(moving, error / np.where(moving, spread, 1.0), np.nan))


@typed(results=False)
def fit_percent(measured: Records, simulated: Records, *, skip: int = 0) -> Array:
    """Fit in per cent, 100 (1 - NRMSE): 100 is perfect, 0 is as good as the mean. Arguments as `rmse`."""
    return 100.0 * (1.0 - nrmse(measured, simulated, skip=skip))


@typed(results=False)
def r2(measured: Records, simulated: Records, *, skip: int = 0) -> Array:
    """Coefficient of determination, 1 - NRMSE^2. Arguments as `rmse`."""
    return np.asarray(1.0 - nrmse(measured, simulated, skip=skip) ** 2)


@dataclass(frozen=True, eq=False)
@typed(infinite=("rmse", "nrmse", "fit_percent", "r2"))
class Scores(Stored):
    """All scores of one part of a dataset, each of shape (ny,).

    Args:
        rmse: Root mean square error, in the unit of the output.
        nrmse: Normalised RMSE, dimensionless.
        fit_percent: Fit in per cent.
        r2: Coefficient of determination, dimensionless.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "scores",
        1,
        arrays={name: Numbers("ny", nan=True, infinite=True) for name in ("rmse", "nrmse", "fit_percent", "r2")},
    )

    rmse: Array
    nrmse: Array
    fit_percent: Array
    r2: Array

    def __post_init__(self) -> None:
        for name in ("rmse", "nrmse", "fit_percent", "r2"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def of(cls, measured: Records, simulated: Records, *, skip: int = 0) -> Scores:
        """Compute all scores. Arguments as `rmse`."""
        return cls(*(score(measured, simulated, skip=skip) for score in (rmse, nrmse, fit_percent, r2)))


def _pool(measured: Records, simulated: Records, skip: int) -> tuple[Array, Array]:
    """Check two sets of records and pool their samples after the first ``skip``, shape (N, ny) each."""
    skip = count("skip", skip, least=0)
    truth, model = _as_records("measured", measured), _as_records("simulated", simulated)
    if [r.shape for r in truth] != [r.shape for r in model]:
        raise ShapeError(
            f"measured and simulated must have the same shapes, got {[r.shape for r in truth]} and "
            f"{[r.shape for r in model]}: compare record by record"
        )
    for i, record in enumerate(truth):
        if len(record) <= skip:
            raise DataError(f"record {i} has {len(record)} samples, of which skip = {skip} leaves none: lower skip")
    seen, pooled = np.concatenate([r[skip:] for r in truth]), np.concatenate([r[skip:] for r in model])
    if np.isinf(seen).any():
        raise DataError("measured must be finite or NaN (missing), got infinite values: clean the data")
    if (empty := np.isnan(seen).all(axis=0)).any():
        raise DataError(
            f"measured has no sample of channel {int(np.argmax(empty)) + 1} after skip = {skip}: nothing to score"
        )
    # A run that diverged has an infinite error, also where it ended in NaN.
    return seen, np.where(np.isfinite(pooled), pooled, np.inf)


def _as_records(name: str, value: Records) -> list[Array]:
    """Convert one record or several to a list of arrays (T, ny)."""
    if isinstance(value, np.ndarray) and value.ndim != 3:
        return [as_array(name, value, ("T", "ny"), finite=False)]
    given = items(name, value, object)
    if not given:
        raise DataError(f"{name} must hold at least one record, got none")
    return [as_array(f"{name}[{i}]", r, ("T", "ny"), finite=False) for i, r in enumerate(given)]
