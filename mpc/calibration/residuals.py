"""Simulation residuals, disturbance estimates and prediction errors of a model on records.

With x* the model's state driven from the far past, the error of the prediction made at t for t + k is

    y[t+k] - yhat[k|t] = ( r[t+k] - dhat[t] ) + ( g(x*[t+k]) - g(xhat[k|t]) ),     r[t] = y[t] - g(x*[t], u[t]) .

The first bracket is bounded from data by `mpc.calibrate`; the second one by a `HorizonCertificate`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, as_array, channels, count
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.kernels import simulate
from controlrnn.systems import LureSystem
from controlrnn.typed import typed
from mpc.calibration.slow_inputs import Counted, becoming_slow, slow_predictions
from mpc.observers.base import Observer
from mpc.promises.promise import Operation
from mpc.promises.records import fits_system


@dataclass(frozen=True)
@typed()
class DisturbanceFilter:
    """Low-pass filter of the output disturbance: ``d += gain (e - d)`` with the output error e of the state estimate.

    The filter starts at the first error; channels without a measurement (NaN) keep their value.

    Args:
        gain: In (0, 1]; 1 takes every error as it is, a small gain averages noise.
    """

    gain: float

    def __post_init__(self) -> None:
        if not 0 < self.gain <= 1:
            raise SettingError(f"the gain of a disturbance filter must lie in (0, 1], got {self.gain!r}")

    def update(self, estimate: Array | None, error: Array) -> Array:
        """Next disturbance estimate (ny,) from the last one (None at the start) and the output error (ny,)."""
        error = as_array("error", error, ("ny",), finite=False)
        if estimate is not None:
            estimate = as_array("estimate", estimate, error.shape)
        return self._update(estimate, np.where(np.isfinite(error), error, np.nan))

    def _update(self, estimate: Array | None, error: Array) -> Array:
        if estimate is None:
            return np.where(np.isnan(error), 0.0, error)
        return np.where(np.isnan(error), estimate, estimate + self.gain * (error - estimate))

    def run(self, errors: Array) -> Array:
        """Disturbance estimates along a record of errors (T, ny); rows before the first complete error are NaN."""
        errors = as_array("errors", errors, ("T", "ny"), finite=False)
        errors = np.where(np.isfinite(errors), errors, np.nan)
        rows, estimate = np.full_like(errors, np.nan), None
        for t, error in enumerate(errors):
            if estimate is None and np.isnan(error).any():
                continue
            estimate = rows[t] = self._update(estimate, error)
        return rows


def measured_errors(system: LureSystem, x: Array, u: Array, y: Array) -> Array:
    """Output errors e[t] = y[t] - g(x[t]) of state estimates x (T, nx), shape (T, ny); see docs/timing.md.

    Raises:
        SettingError: The system has feedthrough: u[t] acts after y[t] was measured.
    """
    if system.has_feedthrough:
        raise SettingError("the model answers to inputs at once: take predictor.system, or carry_input(system)")
    return np.asarray(y - simulate(system, u[:, None], x)[0][:, 0])


@typed(results=False)
def calibration_errors(
    system: LureSystem,
    trajectory: Trajectory,
    *,
    horizon: int,
    washout: int,
    disturbance: DisturbanceFilter | None = None,
    observer: Observer | None = None,
    initial_state: Array | None = None,
    gaps: NDArray[np.bool_] | None = None,
    restarts: NDArray[np.intp] | None = None,
) -> Array:
    """Errors of a model k steps ahead along one record, less the disturbance estimate then: r[t+k] - dhat[t].

    Args:
        system: Frozen model.
        trajectory: Record of at least ``washout + horizon + 1`` samples.
        horizon: Number N of prediction steps.
        washout: Samples after which the run from ``initial_state`` is taken as x*.
        disturbance: Filter that gives dhat; None: dhat = 0.
        observer: Observer whose estimates dhat is formed with; None: x* itself.
        initial_state: Start of the run, shape (nx,); zero when left out.
        gaps: Flags of readings hidden from filter and observer, shape (T, ny); none when left out.
        restarts: Samples at which the filter starts anew; none when left out.

    Returns:
        Shape (starts, horizon + 1, ny): one row per prediction start and step; NaN where the output is missing.

    Raises:
        ShapeError: The record's channels are not the model's.
        DataError: The record is too short or sampled at another rate.
    """
    if system.has_feedthrough:
        raise SettingError("the model answers to inputs at once: take predictor.system, or carry_input(system)")
    fits_system(system, trajectory)
    horizon, washout = count("horizon", horizon), count("washout", washout, least=0)
    u, y = trajectory.u, trajectory.y
    first = washout if observer is None else max(washout, observer.steps)
    starts = len(trajectory) - horizon - first
    if starts < 1:
        raise DataError(
            f"record {trajectory.name!r} must have at least washout + horizon + 1 = {first + horizon + 1} samples, "
            f"got {len(trajectory)}: use longer records or a shorter washout"
        )
    start = np.zeros(system.nx) if initial_state is None else initial_state
    output, states = simulate(system, u, start)
    residual = y - output
    # One row per start of a prediction: residuals r[t], ..., r[t + N].
    windows = np.lib.stride_tricks.sliding_window_view(residual[first:], horizon + 1, axis=0).swapaxes(1, 2)
    if disturbance is None:
        return np.array(windows)
    if not trajectory.is_complete:
        gaps = trajectory.missing if gaps is None else gaps | trajectory.missing
    seen = y if gaps is None else np.where(gaps, np.nan, y)
    x = states[:-1] if observer is None else observer.estimates(u, seen)[:-1]
    # The filter starts where the controller's would: with the first estimate that may be used.
    errors = measured_errors(system, x, u, seen)
    errors[: washout if observer is None else observer.steps] = np.nan
    pieces = np.split(errors, [] if restarts is None else restarts)
    estimates = np.concatenate([disturbance.run(e) for e in pieces])[first : first + starts, None, :]
    if gaps is not None:  # until the first complete measurement a controller assumes no disturbance
        estimates = np.nan_to_num(estimates, nan=0.0)
    return np.asarray(windows - estimates)


@dataclass(frozen=True)
class RecordErrors:
    """Model errors of many records under one operation; fields as the arguments of `calibration_errors`."""

    system: LureSystem
    horizon: int
    washout: int
    disturbance: DisturbanceFilter | None
    observer: Observer | None
    initial_state: Array | None

    def of(self, records: Sequence[Trajectory], operation: Operation, *, scale: bool = False) -> Counted:
        """Model errors of the records that count.

        Args:
            records: The records.
            operation: Gives the share of missing readings, and the move limit under which predictions count.
            scale: Whether they are records for the scale, for which missing readings are drawn separately.

        Raises:
            DataError: None of them counts, or one is too short.
        """
        # Each record's gaps are drawn independently, so that records stay exchangeable.
        seeds = np.random.SeedSequence([operation.seed, int(scale)]).spawn(len(records))
        found = [self._one(r, operation, s) for r, s in zip(records, seeds, strict=True)]
        rows = [self._rows(r, operation) for r in records]
        errors = [np.where(some[:, :, None], e, np.nan) for e, some in zip(found, rows, strict=True)]
        return Counted(tuple(records), errors, rows).where_slow(operation)

    def _rows(self, record: Trajectory, operation: Operation) -> NDArray[np.bool_]:
        """Which predictions of a record count, shape (starts, N + 1)."""
        limit, steps = self.limit(operation), self.horizon
        first = self.washout if self.observer is None else max(self.washout, self.observer.steps)
        starts = len(record) - steps - first
        if limit is None:
            return np.ones((starts, steps + 1), dtype=bool)
        return slow_predictions(record.u, limit, window=self.washout, first=first, starts=starts, horizon=steps)

    def limit(self, operation: Operation) -> Array | None:
        """Move limit of the operation, shape (nu,); None where all predictions count."""
        given = operation.move_limit
        return None if given is None else channels("move_limit", given, self.system.nu, finite=False)

    def _one(self, record: Trajectory, operation: Operation, seed: np.random.SeedSequence) -> Array:
        gaps: NDArray[np.bool_] | None = None
        if operation.missing > 0:
            gaps = np.random.default_rng(seed).random(record.y.shape) < operation.missing
        limit = self.limit(operation)
        return calibration_errors(
            self.system,
            record,
            horizon=self.horizon,
            washout=self.washout,
            disturbance=self.disturbance,
            observer=self.observer,
            initial_state=self.initial_state,
            gaps=gaps,
            # As the controller's: what the filter learnt after large moves says nothing of what follows slow ones.
            restarts=None if limit is None else becoming_slow(record.u, limit, self.washout),
        )


@typed(results=False)
def prediction_errors(
    observer: Observer, trajectory: Trajectory, *, horizon: int, disturbance: DisturbanceFilter | None = None
) -> Array:
    """Prediction errors y[t+k] - yhat[k|t] along a record, for predictions with the recorded inputs.

    Args:
        observer: Observer whose estimates predictions start from.
        trajectory: Record of at least ``observer.steps + horizon + 1`` samples.
        horizon: Number N of prediction steps.
        disturbance: Filter whose estimate is added to the predictions; None: no correction.

    Returns:
        Shape (starts, horizon + 1, ny); NaN where the output is missing.
    """
    system = observer.system
    fits_system(system, trajectory)
    u, y = trajectory.u, trajectory.y
    first, starts = observer.steps, len(trajectory) - count("horizon", horizon) - observer.steps
    if starts < 1:
        raise DataError(
            f"record {trajectory.name!r} must have at least {first + horizon + 1} samples, got {len(trajectory)}"
        )
    x = observer.estimates(u, y)[:-1]
    inputs = np.lib.stride_tricks.sliding_window_view(u[first:], horizon + 1, axis=0).swapaxes(1, 2)
    outputs = np.lib.stride_tricks.sliding_window_view(y[first:], horizon + 1, axis=0).swapaxes(1, 2)
    # All predictions in one batch.
    error = outputs - system.simulate(inputs, x[first : first + starts])[0]
    if disturbance is not None:
        seen = measured_errors(system, x, u, y)
        seen[:first] = np.nan  # the filter starts with the first estimate that may be used
        estimates = disturbance.run(seen)[first : first + starts, None, :]
        # Until the first complete measurement a controller assumes no disturbance.
        error = error - (estimates if trajectory.is_complete else np.nan_to_num(estimates, nan=0.0))
    return np.asarray(error)
