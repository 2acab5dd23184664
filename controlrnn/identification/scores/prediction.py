"""Scores of k-step predictions, which an MPC uses, as opposed to free runs over whole records.

From every start t the state is estimated by least squares over the samples t - past + 1..t, then the model runs freely:
the k-step prediction of y[t + k] uses outputs up to t and inputs up to t + k (as `compare(..., k)` of MATLAB's System
Identification Toolbox does, with the model's own noise-free predictor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, count, read_only
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.identification.states.initial_state import estimate_initial_states
from controlrnn.kernels import simulate
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
@typed(infinite=("rmse", "nrmse", "persistence"))
class PredictionScores:
    """Prediction errors of a model by the number of steps ahead.

    Args:
        rmse: Root mean square error k steps ahead in row k - 1, shape (horizon, ny), in the unit of the outputs.
        nrmse: The same over the standard deviation of the outputs that were predicted; NaN where they never move.
        persistence: RMSE of predicting the last measured output, shape (horizon, ny).
        n: Number of predictions that each error is computed from.
        dt: Sample time [s].
    """

    rmse: Array
    nrmse: Array
    persistence: Array
    n: int
    dt: float

    def __post_init__(self) -> None:
        for name in ("rmse", "nrmse", "persistence"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def plot(self) -> Figure:
        """Draw the errors over the step, one panel an output; returns the figure."""
        from matplotlib.figure import Figure

        horizon, ny = self.rmse.shape
        figure = Figure(figsize=(7, 2.6 * ny), layout="constrained")
        panels = figure.subplots(ny, 1, sharex=True, squeeze=False)[:, 0]
        for i, panel in enumerate(panels):
            panel.plot(np.arange(1, horizon + 1), self.rmse[:, i], marker=".", label="model")
            panel.plot(np.arange(1, horizon + 1), self.persistence[:, i], color="0.6", label="last output held")
            panel.set_ylabel(f"RMSE of y{i + 1}")
            panel.set_ylim(bottom=0)
            panel.legend()
        panels[-1].set_xlabel("steps ahead")
        return figure


@typed()
def score_predictions(
    system: LureSystem, records: Sequence[Trajectory], horizon: int, *, past: int, stride: int = 1
) -> PredictionScores:
    """Score predictions 1 to ``horizon`` steps ahead from every ``stride``-th sample of all records.

    Args:
        system: A frozen system.
        records: Measured records of any lengths.
        horizon: Largest number of steps ahead.
        past: Samples that the state is estimated from, up to the last known one.
        stride: Samples between two starts.

    Raises:
        SettingError: ``past`` cannot determine the state.
        DataError: A record is shorter than ``past + horizon``.
    """
    horizon, past, stride = count("horizon", horizon), count("past", past), count("stride", stride)
    if past * system.ny < system.nx:
        raise SettingError(f"past must be at least nx / ny = {system.nx / system.ny:g} samples, got {past}")
    if not records:
        raise DataError("score_predictions needs at least one record, got none")
    length = past + horizon
    for i, record in enumerate(records):
        if len(record) < length:
            raise DataError(f"record {i} must have past + horizon = {length} samples, got {len(record)}: drop it")
    u, y = (np.concatenate([_windows(getattr(r, name), length, stride) for r in records]) for name in "uy")
    # The state is estimated at the start of each window; its first `past` samples lead up to the last known output.
    x0 = estimate_initial_states(system, u[:, :past], y[:, :past])
    known = ~np.isnan(y[:, past:])
    if not known.any(axis=0).all():
        raise DataError("an output was never measured at some step of all predictions: lower horizon or stride")
    with np.errstate(over="ignore", invalid="ignore"):
        ahead = simulate(system, u, x0)[0][:, past:]
        error = _rms(ahead - y[:, past:], known)
    spread = np.nanstd(y[:, past:], axis=0)
    moving = spread > 1e-12 * np.maximum(1.0, np.nanmax(np.abs(y), axis=(0, 1)))
    last = _last_known(y[:, :past])
    held = _rms(last - y[:, past:], known & ~np.isnan(last))
    error = np.where(np.isfinite(error), error, np.inf)
    return PredictionScores(
        error, np.where(moving, error / np.where(moving, spread, 1.0), np.nan), held, len(u), records[0].dt
    )


def _rms(error: Array, known: NDArray[np.bool_]) -> Array:
    """Root mean square over the windows of errors (R, horizon, ny) that are known, shape (horizon, ny)."""
    count = known.sum(axis=0)
    square = np.where(known, error, 0.0) ** 2
    return np.asarray(np.where(count > 0, np.sqrt(square.sum(axis=0) / np.maximum(count, 1)), np.nan))


def _last_known(y: Array) -> Array:
    """Last output of windows (R, past, ny) that was measured, shape (R, 1, ny); NaN where none was."""
    at = np.where(np.isnan(y), -1, np.arange(y.shape[1])[None, :, None]).max(axis=1, keepdims=True)
    return np.where(at >= 0, np.take_along_axis(y, np.maximum(at, 0), axis=1), np.nan)


def _windows(signal: Array, length: int, stride: int) -> Array:
    """Cut out windows of ``length`` samples, one every ``stride`` samples, shape (R, length, n)."""
    views = np.lib.stride_tricks.sliding_window_view(signal, length, axis=0)[::stride]
    return np.ascontiguousarray(views.transpose(0, 2, 1))
