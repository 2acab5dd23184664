"""Plausibility checks of readings: implausible ones are treated as missing before the controller uses them.

Each reading has to be, in this order: a number; strictly inside the sensor's range, since a reading at its end is only
a bound; not repeated too often; no faster than the plant can change; no further from the expected reading than
residuals were on good records. The first check that fails gives the verdict. One sensor and one model cannot
distinguish a permanent sensor fault from a changed plant: after ``patience`` suspicious readings in a row they are
accepted, until a reading passes all checks again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import EnumType, IntEnum
from itertools import pairwise
from typing import Any, NoReturn

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, count, positive, read_only, shown
from controlrnn.data import Signal, Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.typed import typed
from mpc.calibration.residuals import DisturbanceFilter, measured_errors
from mpc.observers.base import Observer


class _VerdictType(EnumType):
    """Metaclass that accepts only whole numbers for the lookup of a verdict."""

    def __call__(cls, value: Any, *more: Any, **options: Any) -> Any:
        return super().__call__(int(count("a verdict", value, least=0)) if cls.__members__ else value, *more, **options)


class Verdict(IntEnum, metaclass=_VerdictType):
    """Result of the plausibility checks of a reading."""

    FINE = 0
    MISSING = 1
    OUT_OF_RANGE = 2
    STUCK = 3
    TOO_FAST = 4
    UNEXPECTED = 5

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        raise SettingError(f"a verdict must be one of {[int(v) for v in cls]}, got {shown(value)}")


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("rate", "residual"))
class PlausibilityLimits:
    """Limits of plausible readings; `start` starts the checks of a run.

    Args:
        sensors: One `Signal` per output whose limits are the *sensor's* range (not the limits to keep).
        rate: Largest change per sample of each output, shape (ny,); not checked when left out.
        residual: Largest difference from the expected reading, shape (ny,); not checked when left out.
        repeats: Most equal readings in a row; None: any number.
        patience: Most readings in a row that are rejected as too fast or unexpected; None: any number.

    Raises:
        ShapeError: An array does not have one entry per sensor.
        SettingError: A number is not positive.
    """

    sensors: tuple[Signal, ...]
    rate: Array | None = None
    residual: Array | None = None
    repeats: int | None = None
    patience: int | None = 10

    def __post_init__(self) -> None:
        if not self.sensors:
            raise SettingError("plausibility needs sensors, got none: one Signal per output with the sensor's range")
        for name in ("rate", "residual"):
            given: ArrayLike | None = getattr(self, name)
            array = np.full(len(self.sensors), np.inf) if given is None else np.asarray(given, dtype=np.float64)
            array = as_array(name, array, (len(self.sensors),), finite=False)
            if not (array > 0).all():
                raise SettingError(f"{name} must be positive for every output, got {array}")
            object.__setattr__(self, name, read_only(array))
        for name in ("repeats", "patience"):
            if getattr(self, name) is not None:
                count(name, getattr(self, name))

    @classmethod
    @typed()
    def calibrated(
        cls,
        sensors: tuple[Signal, ...],
        observer: Observer,
        trajectories: Sequence[Trajectory],
        *,
        disturbance: DisturbanceFilter,
        factor: float = 1.5,
        patience: int | None = 10,
    ) -> PlausibilityLimits:
        """Make limits from good records: ``factor`` times the largest change and residual found there.

        Args:
            sensors: One `Signal` per output with the sensor's range.
            observer: The controller's observer.
            trajectories: Good records of the plant, longer than the observer needs.
            disturbance: The controller's filter: expected readings include its estimate of one sample before.
            factor: At least 1.
            patience: As above.

        Raises:
            DataError: There are no records, or one is too short.
            SettingError: ``factor`` is below 1.
        """
        if positive("factor", factor) < 1:
            raise SettingError(f"factor must be >= 1, got {factor!r}: good readings would be rejected")
        if not trajectories or min(len(r) for r in trajectories) < observer.steps + 2:
            raise DataError(f"plausibility needs records of at least {observer.steps + 2} samples: pass longer ones")
        changes, residuals, repeats = [], [], 1
        for record in trajectories:
            x = observer.estimates(record.u, record.y)[:-1]
            ready = slice(observer.steps, None)
            errors = measured_errors(observer.system, x[ready], record.u[ready], record.y[ready])
            residuals.append(_largest(errors[1:] - disturbance.run(errors)[:-1], record))
            changes.append(_largest(np.diff(record.y, axis=0), record))
            repeats = max(repeats, _longest_repeat(record.y))
        return cls(
            sensors=sensors,
            rate=factor * np.max(changes, axis=0),
            residual=factor * np.max(residuals, axis=0),
            repeats=2 * repeats + 1,
            patience=patience,
        )

    def start(self) -> PlausibilityRun:
        """Start the checks of a new run."""
        return PlausibilityRun(self)


class PlausibilityRun:
    """State of the plausibility checks along a run.

    Args:
        limits: The limits.
    """

    @typed()
    def __init__(self, limits: PlausibilityLimits) -> None:
        self.limits = limits
        self._lower, self._upper = (np.array([getattr(s, side) for s in limits.sensors]) for side in ("lower", "upper"))
        self.reset()

    def reset(self) -> None:
        """Forget all readings."""
        ny = len(self.limits.sensors)
        self._before = np.full(ny, np.nan)  # last reading
        self._good = np.full(ny, np.nan)  # last accepted reading
        self._equal, self._age, self._suspicious = (np.zeros(ny, dtype=np.int64) for _ in range(3))

    def check(self, y: ArrayLike, expected: ArrayLike | None = None) -> tuple[Array, NDArray[np.int8]]:
        """Check the readings of one sample.

        Args:
            y: Readings, shape (ny,).
            expected: Readings expected by the model, shape (ny,); NaN or None where there is no expectation.

        Returns:
            The readings with NaN for rejected ones, and the `Verdict` of each, shape (ny,).
        """
        limits, n = self.limits, (len(self.limits.sensors),)
        y = as_array("y", y, n, finite=False)
        wanted = np.full(n, np.nan) if expected is None else as_array("expected", expected, n, finite=False)
        self._equal = np.where(y == self._before, self._equal + 1, 1)
        self._before = y
        self._age = self._age + 1
        # Comparisons with NaN are False: a reading passes where there is nothing to compare it with.
        fast = np.abs(y - self._good) > np.asarray(limits.rate) * self._age
        odd = np.abs(y - wanted) > np.asarray(limits.residual)
        verdict = np.zeros(n, dtype=np.int8)
        # In rising priority: a later entry overwrites an earlier one.
        for failed, name in (
            (odd, Verdict.UNEXPECTED),
            (fast, Verdict.TOO_FAST),
            (self._equal > (limits.repeats or np.inf), Verdict.STUCK),
            ((y <= self._lower) | (y >= self._upper), Verdict.OUT_OF_RANGE),
            (~np.isfinite(y), Verdict.MISSING),
        ):
            verdict[failed] = name
        # Suspicious readings are accepted after too many in a row; missing ones do not end the row.
        suspicious = verdict >= Verdict.TOO_FAST
        self._suspicious = np.where(suspicious, self._suspicious + 1, np.where(verdict == 0, 0, self._suspicious))
        verdict[suspicious & (self._suspicious > (limits.patience or np.inf))] = Verdict.FINE
        fine = verdict == Verdict.FINE
        self._good = np.where(fine, y, self._good)
        self._age = np.where(fine, 0, self._age)
        return np.where(fine, y, np.nan), verdict


def _largest(values: Array, record: Trajectory) -> Array:
    """Largest size in each column of values (T, ny), of which some may be missing, shape (ny,)."""
    if np.isnan(values).all(axis=0).any():
        raise DataError(f"record {record.name!r} has no two readings in a row of some output: leave it out")
    return np.asarray(np.nanmax(np.abs(values), axis=0))


def _longest_repeat(y: Array) -> int:
    """Longest run of equal readings in any column of y (T, ny)."""
    longest = 1
    for column in y.T:
        ends = np.flatnonzero(np.concatenate([[True], np.diff(column) != 0, [True]]))
        longest = max(longest, *(b - a for a, b in pairwise(ends.tolist())))
    return longest
