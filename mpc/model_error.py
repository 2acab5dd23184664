"""How far the model can be from the plant: a bound from held-out trajectories, per step and output.

Split-conformal prediction with the trajectory as the exchangeable unit (Vovk, Gammerman, Shafer, "Algorithmic Learning
in a Random World", 2005; Lei et al., JASA 2018, thm 2.2): the score of a trajectory is its largest scaled error over
all times, steps and outputs. Of n calibration scores the ceil((n+1) coverage)-th smallest bounds the score of a new
trajectory with probability >= coverage, whatever the distribution. Since a score covers a whole trajectory, neither
overlapping windows nor correlation in time break this. The scale comes from *other* records: taken from the calibration
records it would know them, and they would no longer be exchangeable with a new one.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.checks import Array, Choice, as_array, count, positive, read_only
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.records import digest, load_record, save_record
from controlrnn.systems import LureSystem
from mpc.observer import Observer
from mpc.residuals import DisturbanceFilter, calibration_errors

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERSION = 1


class CalibrationMethod(Choice):
    """How records become a bound."""

    CONFORMAL = "conformal"
    SET_MEMBERSHIP = "set_membership"


@dataclass(frozen=True)
class Coverage:
    """Share of records, and of single predicted steps, inside a bound.

    Args:
        trajectories: Share of records that are inside at every step, in [0, 1].
        steps: Share of single predictions, starts and steps pooled, in [0, 1].
        n: Number of records.
    """

    trajectories: float
    steps: float
    n: int


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelError:
    """Bound on r[t+k] - dhat[t]; see `mpc.residuals`.

    Args:
        bounds: Shape (horizon + 1, ny), output units.
        method: Where the bound comes from.
        coverage: Promised probability per trajectory; 1 for set membership (if its assumption holds).
        n: Number of calibration trajectories.
        washout: Samples at the start of each record that are left out.
        disturbance_gain: Gain of the disturbance filter, or None without disturbance feedback.
        system_digest: The model's digest.
        data_digest: Digest of the records.
        observer_digest: Digest of the observer that dhat was formed with; "" for x* itself.
    """

    bounds: Array
    method: CalibrationMethod
    coverage: float
    n: int
    washout: int
    disturbance_gain: float | None
    system_digest: str
    data_digest: str
    observer_digest: str

    def __post_init__(self) -> None:
        bounds = as_array("bounds", self.bounds, ("horizon + 1", "ny"))
        if (bounds < 0).any():
            raise SettingError("bounds must be >= 0, got negative ones")
        object.__setattr__(self, "bounds", read_only(bounds))
        object.__setattr__(self, "method", CalibrationMethod(self.method))

    @property
    def horizon(self) -> int:
        """Number of prediction steps."""
        return len(self.bounds) - 1

    @property
    def promise(self) -> str:
        """What the bound promises, in words."""
        if self.method is CalibrationMethod.CONFORMAL:
            return (
                f"with probability >= {self.coverage:g}, a new trajectory of the same kind and length as the {self.n} "
                f"calibration trajectories stays inside at all its times, steps and outputs"
            )
        return f"holds as long as the residuals stay within the (inflated) largest ones of {self.n} trajectories"

    @property
    def digest(self) -> str:
        """SHA-256 of the bound and everything it was made from."""
        return digest({"bounds": self.bounds}, self._meta())

    def coverage_on(
        self,
        system: LureSystem,
        trajectories: Sequence[Trajectory],
        *,
        observer: Observer | None = None,
        initial_state: Array | None = None,
    ) -> Coverage:
        """Measure the share of other records that stay inside.

        Raises:
            SettingError: ``system`` is not the model that was calibrated.
        """
        if system.digest != self.system_digest:
            raise SettingError("system is not the model that this error was calibrated for: pass that one")
        errors = [
            calibration_errors(
                system,
                record,
                horizon=self.horizon,
                washout=self.washout,
                disturbance=None if self.disturbance_gain is None else DisturbanceFilter(self.disturbance_gain),
                observer=observer,
                initial_state=initial_state,
            )
            for record in trajectories
        ]
        return coverage_of(self.bounds, errors)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.npz`` record (atomic, no pickle)."""
        save_record(path, "model-error", _VERSION, {"bounds": self.bounds}, self._meta())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ModelError:
        """Read what `save` wrote. Raises FileFormatError for anything else."""
        arrays, meta = load_record(path, "model-error", _VERSION)
        return cls(bounds=arrays["bounds"], **meta)

    def plot(self) -> Figure:
        """Draw the bound of each output over the horizon."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        for i, bound in enumerate(self.bounds.T):
            axes.plot(bound, marker=".", label=f"output {i + 1}")
        axes.set(xlabel="prediction step", ylabel="bound on the model error", ylim=(0, None))
        axes.legend()
        return figure

    def _meta(self) -> dict[str, str | float | int | None]:
        names = ("coverage", "n", "washout", "disturbance_gain", "system_digest", "data_digest", "observer_digest")
        return {"method": str(self.method)} | {name: getattr(self, name) for name in names}


def calibrate(
    system: LureSystem,
    trajectories: Sequence[Trajectory],
    *,
    horizon: int,
    washout: int,
    scale_trajectories: Sequence[Trajectory] = (),
    coverage: float = 0.9,
    disturbance: DisturbanceFilter | None = None,
    observer: Observer | None = None,
    initial_state: Array | None = None,
    method: CalibrationMethod = CalibrationMethod.CONFORMAL,
    inflation: float = 1.0,
) -> ModelError:
    """Bound the model error on held-out records.

    Args:
        system: Frozen model.
        trajectories: Records that neither training nor model choice has seen.
        horizon: Prediction steps N.
        washout: Samples that x* needs to forget the unknown state at the start of a record.
        scale_trajectories: Records, none of them in ``trajectories``, whose RMS errors fix the shape of the bound over
            steps and outputs (conformal only), e.g. the validation records.
        coverage: Wanted probability (conformal only), in (0, 1).
        disturbance: The controller's disturbance filter if its estimate shifts the predictions, else None.
        observer: The controller's observer, whose estimates the disturbance estimate is formed with.
        initial_state: Start of the runs, shape (nx,); zero when left out.
        method: Conformal quantile, or the largest error per step and output.
        inflation: Factor >= 1 on the bound.

    Raises:
        DataError: Too few records for the coverage (the message says how many are needed), too short ones, or one that
            serves both purposes.
        SettingError: A parameter is out of range.
    """
    method = CalibrationMethod(method)
    if not inflation >= 1 or not math.isfinite(inflation):
        raise SettingError(f"inflation must be a number >= 1, got {inflation!r}: a bound is not to be shrunk")
    records, others = tuple(trajectories), tuple(scale_trajectories)
    conformal = method is CalibrationMethod.CONFORMAL
    rank = conformal_rank(len(records), coverage) if conformal else len(records)
    if not records or (conformal and not others):
        raise DataError(
            "calibrate needs trajectories, and scale_trajectories for the conformal method, "
            f"got {len(records)} and {len(others)}: set some records aside"
        )
    marks = [data_digest([r]) for r in records]
    if set(marks) & {data_digest([r]) for r in others} or len(set(marks)) < len(marks):
        raise DataError("a record may serve once, either for the scale or for calibration: split the records anew")

    errors = partial(
        calibration_errors,
        system,
        horizon=horizon,
        washout=washout,
        disturbance=disturbance,
        observer=observer,
        initial_state=initial_state,
    )
    if conformal:
        scale = _scale([errors(record) for record in others])
        scores = np.array([np.abs(errors(record) / scale).max() for record in records])
        bounds = inflation * scale * np.sort(scores)[rank - 1]
    else:
        bounds = inflation * np.max([np.abs(errors(record)).max(axis=0) for record in records], axis=0)
    return ModelError(
        bounds=bounds,
        method=method,
        coverage=coverage if conformal else 1.0,
        n=len(records),
        washout=count("washout", washout, least=0),
        disturbance_gain=None if disturbance is None else disturbance.gain,
        system_digest=system.digest,
        data_digest=data_digest(records + others),
        observer_digest="" if observer is None else observer.digest,
    )


def conformal_rank(n: int, coverage: float) -> int:
    """ceil((n + 1) coverage): which of n ordered scores bounds a new one with that probability.

    Raises:
        SettingError: ``coverage`` is not in (0, 1).
        DataError: n is too small.
    """
    if not 0 < positive("coverage", coverage) < 1:
        raise SettingError(f"coverage must lie in (0, 1), got {coverage!r}")
    # Guard against (n + 1) * coverage = 9.000000000000002.
    rank = math.ceil((n + 1) * coverage - 1e-9)
    if rank > n:
        least = math.ceil(coverage / (1 - coverage) - 1e-9)
        raise DataError(
            f"coverage {coverage:g} needs at least {least} calibration trajectories, got {n}: "
            f"record more, or ask for at most {n / (n + 1):.3g}"
        )
    return max(rank, 1)


def coverage_of(bounds: Array, errors: Sequence[Array]) -> Coverage:
    """How many errors lie inside of bounds.

    Args:
        bounds: Shape (N + 1, ny).
        errors: One array per record, each (starts, N + 1, ny).

    Raises:
        DataError: There is no record.
    """
    if not errors:
        raise DataError("coverage needs at least one record, got none")
    inside = [(np.abs(e) <= bounds).all(axis=2) for e in errors]
    whole = float(np.mean([part.all() for part in inside]))
    return Coverage(whole, float(np.concatenate([part.ravel() for part in inside]).mean()), len(errors))


def data_digest(records: Sequence[Trajectory]) -> str:
    """SHA-256 over inputs, outputs and sample times of the records."""
    arrays = {f"{i}.{name}": value for i, r in enumerate(records) for name, value in (("u", r.u), ("y", r.y))}
    return digest(arrays, {"dt": [r.dt for r in records]})


def _scale(errors: Sequence[Array]) -> Array:
    rms = np.sqrt(np.mean(np.concatenate(errors) ** 2, axis=0))
    # A step or output without error (e.g. k = 0 with full disturbance feedback) would divide by zero.
    floor = 1e-3 * rms.max(axis=0)
    if (floor <= 0).any():
        raise DataError(
            "an output of scale_trajectories is predicted without any error: are they simulated by the model?"
        )
    return np.asarray(np.maximum(rms, floor))
