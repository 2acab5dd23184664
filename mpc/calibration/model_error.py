"""Calibrated bounds on the model error per prediction step and output, by conformal prediction or set membership.

Split-conformal prediction with the trajectory as the exchangeable unit (Vovk, Gammerman, Shafer, "Algorithmic Learning
in a Random World", 2005; Lei et al., JASA 2018, thm 2.2): the score of a trajectory is its largest scaled error over
all times, steps and outputs. Of n calibration scores the ceil((n+1) coverage)-th smallest bounds the score of a new
trajectory with probability >= coverage for every distribution (docs/theory/statistical_promise.md). Since a score
covers a whole trajectory, neither overlapping windows nor correlation in time matter. The scale comes from *other*
records: a scale fitted to the calibration records would make them not exchangeable with a new one.

A new trajectory is exchangeable if it is of the same kind, no longer, with the same share of readings missing and the
same feedback: see `mpc.promises.promise` for longer operation, and `mpc.loops.calibration` for calibration under
feedback.

Set membership takes the largest error of n records for each of d numbers. A new record passes one of them with
probability <= 1 / (n + 1), any of them with <= d / (n + 1); that is all that n records can say.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, Choice, as_array, count, number, put, read_only, share
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.records import Count, Digest, Number, Numbers, Part, Schema, Stored, Text
from controlrnn.systems import LureSystem, without_feedthrough
from controlrnn.typed import typed
from mpc.calibration.residuals import DisturbanceFilter, RecordErrors
from mpc.calibration.slow_inputs import Counted, refuse_other_window, slow_differences, slow_premises, slow_words
from mpc.observers.base import Observer
from mpc.promises.order_statistics import clopper_pearson, pooled_quantile, rank_of
from mpc.promises.premises import Premises, record_premises
from mpc.promises.promise import CoverageUnit, Loop, Operation, conditions, coverage_over, words, words_over
from mpc.promises.records import data_digest, refuse_copies, refuse_unmeasured, sources_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)


class CalibrationMethod(Choice):
    """Method that makes a bound from records."""

    CONFORMAL = "conformal"
    SET_MEMBERSHIP = "set_membership"


@dataclass(frozen=True)
@typed()
class Coverage:
    """Empirical coverage: shares of records, and of single predicted steps, inside a bound.

    Args:
        trajectories: Share of records that are inside at every step, in [0, 1].
        steps: Share of single predictions, starts and steps pooled, in [0, 1].
        n: Number of records.
        differs: Text of how the records differ from the conditions of the promise; empty where no difference is known.
    """

    trajectories: float
    steps: float
    n: int
    differs: str = ""

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Confidence interval for the probability that a new record is inside, if records are independent.

        Args:
            confidence: Of the interval (Clopper & Pearson), in (0, 1).
        """
        return clopper_pearson(round(self.trajectories * self.n), self.n, confidence)


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class ModelError(Stored):
    """Calibrated bound on the model error r[t+k] - dhat[t]; see `mpc.calibration.residuals`.

    Args:
        bounds: Shape (horizon + 1, ny), output units.
        method: Method that the bound comes from.
        coverage: Promised probability; for set membership by order statistics, 0 where nothing follows.
        n: Number of calibration trajectories.
        length: Samples of the shortest of them: the promise is for no longer ones.
        starts: Number of predictions in it, which equals the number of control steps that the promise covers; of those
            in a row that count, where not all do.
        washout: Samples at the start of each record that are left out.
        disturbance_gain: Gain of the disturbance filter, or None without disturbance feedback.
        system_digest: The model's digest.
        data_digest: Digest of the records.
        observer_digest: Digest of the observer that dhat was formed with; "" for x* itself.
        missing: Share of readings hidden from disturbance filter and observer.
        loop: Whether the records are from experiments or from the controller itself.
        unit: Unit that stays inside with that probability: whole trajectories, or steps drawn at random.
        confidence: Confidence with which ``coverage`` holds for this calibration set; None: on average over such sets.
        premises: Channels and sample time of the records, where these state them, or None.
        measured: Share of the outputs that were measured, in records or where they count; errors of the others are not
            covered.
        sources: Number of experiments that the records are from, less than ``n`` for pieces of one; None: ``n``.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "model-error", 6,  # 4: without measured and sources; 5: without move_window
        arrays={"bounds": Numbers("N + 1", "ny", least=0.0)},
        meta={
            "method": Text(choices=CalibrationMethod), "coverage": Number(least=0.0, most=1.0), "n": Count(1),
            "length": Count(1), "starts": Count(1), "washout": Count(), "loop": Text(choices=Loop),
            "unit": Text(choices=CoverageUnit), "missing": Number(least=0.0, below=1.0, none=True),
            "confidence": Number(above=0.0, below=1.0, none=True),
            "disturbance_gain": Number(above=0.0, most=1.0, none=True),
            "system_digest": Digest(), "data_digest": Digest(), "observer_digest": Digest(empty=True),
            "measured": Number(above=0.0, most=1.0), "sources": Count(1, none=True),
        },
        parts={"premises": Part(Premises, none=True, own=True)},
        zero=("N",),
    )  # fmt: skip

    bounds: Array
    method: CalibrationMethod
    coverage: float
    n: int
    length: int
    starts: int
    washout: int
    disturbance_gain: float | None
    system_digest: str
    data_digest: str
    observer_digest: str
    missing: float | None = None
    loop: Loop = Loop.OPEN
    unit: CoverageUnit = CoverageUnit.RECORD
    confidence: float | None = None
    premises: Premises | None = None
    measured: float = 1.0
    sources: int | None = None

    def __post_init__(self) -> None:
        bounds = as_array("bounds", self.bounds, ("horizon + 1", "ny"))
        if (bounds < 0).any():
            raise SettingError("bounds must be >= 0, got negative ones")
        put(
            self,
            bounds=read_only(bounds),
            method=CalibrationMethod(self.method),
            loop=Loop(self.loop),
            unit=CoverageUnit(self.unit),
            n=count("n", self.n),
            length=count("length", self.length),
            starts=count("starts", self.starts),
            washout=count("washout", self.washout, least=0),
            coverage=share("coverage", self.coverage, what="a probability in [0, 1]"),
        )
        if self.disturbance_gain is not None:
            DisturbanceFilter(self.disturbance_gain)
        if self.missing is not None:
            share("missing", self.missing)
        refuse_other_window(self.premises, self.washout)
        number("measured", self.measured, above=0, most=1, what="a share in (0, 1]")
        if self.sources is not None:
            count("sources", self.sources, most=self.n)
        if self.confidence is not None:
            number("confidence", self.confidence, above=0, below=1, what="a probability in (0, 1)")

    @property
    def horizon(self) -> int:
        """Number of prediction steps."""
        return len(self.bounds) - 1

    @property
    def move_limit(self) -> Array | None:
        """Largest moves of the inputs before predictions that count, shape (nu,); None: all predictions count."""
        stated = self.premises
        return None if stated is None or stated.move_window is None else stated.move_limit

    @property
    def promise(self) -> str:
        """Text of what the bound promises."""
        few = "" if self.move_limit is None else f", and for no more than {self.starts} of them in a row"
        return self._stated() + self._evidence() + few

    def _evidence(self) -> str:
        """Text of what the records lack: samples, or independence of each other."""
        said = ""
        if self.measured < 1:
            said += (
                f"; {100 * self.measured:.3g} % of the outputs were measured, and errors of the others are not covered"
            )
        if self.sources is not None and self.sources < self.n:
            said += (
                f"; the {self.n} trajectories are pieces of {self.sources} experiment(s): this is "
                "a promise for further pieces of such a record, cut alike, if the order of pieces says nothing (a "
                "stationary process that forgets within the gap between them), and none for another experiment"
            )
        return said + slow_words(self.premises)

    def _stated(self) -> str:
        """Text of what the bound promises for what was measured."""
        if self.method is CalibrationMethod.CONFORMAL:
            return words(self)
        text = f"holds as long as the residuals stay within the (inflated) largest ones of {self.n} trajectories; "
        if self.coverage <= 0:
            return text + "with what probability they do, so few trajectories do not say"
        return text + f"with probability >= {self.coverage:.3g}, {conditions(self)} (order statistics)"

    def promise_over(self, steps: int) -> str:
        """Text of what follows for ``steps`` samples of operation, more than in a record; see `mpc.promises.promise`.

        Args:
            steps: Samples of operation.
        """
        return words_over(self, steps) + self._evidence()

    def coverage_over(self, steps: int) -> float:
        """Lower bound on the probability that ``steps`` predictions in a row are all inside, for a stationary process.

        Args:
            steps: Samples of operation; up to ``starts`` the result is ``coverage``. 0 where nothing is promised.
        """
        return coverage_over(self, steps)

    @typed()
    def coverage_on(
        self,
        system: LureSystem,
        trajectories: Sequence[Trajectory],
        *,
        observer: Observer | None = None,
        initial_state: Array | None = None,
        operation: Operation | None = None,
    ) -> Coverage:
        """Measure the coverage on other records, and report how they differ from the conditions of the promise.

        Args:
            system: The model.
            trajectories: Records.
            observer: The controller's observer, if it was used in calibration.
            initial_state: Start of the runs, shape (nx,); zero when left out.
            operation: Loop, share of missing readings and move limit of these records; those of the calibration when
                left out.

        Raises:
            SettingError: ``system`` is not the model that was calibrated.
            DataError: No prediction of these records counts.
        """
        system = without_feedthrough(system)
        if system.digest != self.system_digest:
            raise SettingError("system is not the model that this error was calibrated for: pass that one")
        # Without other information the records are taken to be of the calibrated kind.
        operation = operation or Operation(loop=self.loop, missing=self.missing or 0.0, move_limit=self.move_limit)
        disturbance = None if self.disturbance_gain is None else DisturbanceFilter(self.disturbance_gain)
        parts = RecordErrors(system, self.horizon, self.washout, disturbance, observer, initial_state)
        counted = parts.of(trajectories, operation)
        found = coverage_of(self.bounds, counted.errors)
        differs = self._differs(trajectories, operation, counted)
        if differs:
            _log.warning("the promise of this model error does not cover these records: %s", differs)
        return Coverage(found.trajectories, found.steps, found.n, differs)

    def _differs(self, trajectories: Sequence[Trajectory], operation: Operation, counted: Counted) -> str:
        longest = max(len(record) for record in trajectories)
        said = []
        if longest > self.length:
            said.append(f"records of {longest} samples, calibrated on {self.length}")
        if self.missing is not None and operation.missing != self.missing:
            said.append(f"{operation.missing:g} of the readings missing, calibrated with {self.missing:g}")
        if operation.loop is not self.loop:
            said.append(f"{operation.loop} loop, calibrated in {self.loop} loop")
        if self.move_limit is not None:
            said += slow_differences(self.move_limit, self.starts, operation, counted)
        return "; ".join(said)

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


@typed()
def calibrate(
    system: LureSystem,
    trajectories: Sequence[Trajectory],
    *,
    horizon: int,
    washout: int,
    scale_trajectories: Sequence[Trajectory] = (),
    coverage: float = 0.9,
    confidence: float | None = None,
    unit: CoverageUnit = CoverageUnit.RECORD,
    operation: Operation | None = None,
    disturbance: DisturbanceFilter | None = None,
    observer: Observer | None = None,
    initial_state: Array | None = None,
    method: CalibrationMethod = CalibrationMethod.CONFORMAL,
    inflation: float = 1.0,
) -> ModelError:
    """Calibrate a bound on the model error from held-out records.

    Args:
        system: Frozen model; one with feedthrough is converted as in `mpc.Predictor`.
        trajectories: Records that were used neither for training nor for model selection.
        horizon: Prediction steps N.
        washout: Samples that x* needs to forget the unknown state at the start of a record.
        scale_trajectories: Records, none of them in ``trajectories``, whose RMS errors give the shape of the bound over
            steps and outputs (conformal only), e.g. the validation records.
        coverage: Wanted probability (conformal only), in (0, 1).
        confidence: Probability, in (0, 1), with which the coverage is to hold for *this* set of records, if they are
            independent of each other; None: on average over such sets, of which some give less.
        unit: Whether whole trajectories stay inside (each step of them), or steps drawn at random, which gives more
            for operation that is longer than a record; see `mpc.promises.promise`.
        operation: Whether the records are from open or closed loop, the share of readings missing in operation, and how
            fast its inputs move at most; an open loop with all readings and any moves when left out.
        disturbance: The controller's disturbance filter if its estimate shifts the predictions, else None.
        observer: The controller's observer, from whose estimates the disturbance estimate is formed.
        initial_state: Start of the runs, shape (nx,); zero when left out.
        method: Conformal quantile, or the largest error per output, and per step with a disturbance filter.
        inflation: Factor >= 1 on the bound.

    Raises:
        DataError: Too few records for the coverage (the message says how many are needed), too short ones, or one that
            serves both purposes.
        SettingError: A parameter is out of range.
    """
    system = without_feedthrough(system)
    method, unit, operation = CalibrationMethod(method), CoverageUnit(unit), operation or Operation()
    if not inflation >= 1 or not math.isfinite(inflation):
        raise SettingError(f"inflation must be a number >= 1, got {inflation!r}: a bound is not to be shrunk")
    records, others = tuple(trajectories), tuple(scale_trajectories)
    conformal = method is CalibrationMethod.CONFORMAL
    _promisable(conformal, unit, confidence, operation)
    rank = rank_of(len(records), coverage, confidence) if conformal else len(records)
    if not records or (conformal and not others):
        raise DataError(
            "calibrate needs trajectories, and scale_trajectories for the conformal method, "
            f"got {len(records)} and {len(others)}: set some records aside"
        )
    refuse_copies(records, others)
    digest_of_data = data_digest(records + others)
    parts = RecordErrors(system, horizon, washout, disturbance, observer, initial_state)
    counted = parts.of(records, operation)
    records, errors = counted.records, counted.errors
    rank = rank_of(len(records), coverage, confidence) if conformal else rank  # of those that count
    refuse_unmeasured(errors)
    sources = sources_of(records)
    if confidence is not None and sources < len(records):
        raise DataError("confidence needs independent records, got pieces of one: leave confidence out, or record more")
    if conformal:
        scale = _scale(parts.of(others, operation, scale=True).errors, others)
        # One score per start of a prediction; the largest one is the score of the record.
        scores = [np.nan_to_num(np.abs(e / scale)).max(axis=(1, 2)) for e in errors]
        if unit is CoverageUnit.STEP:
            bounds = inflation * scale * pooled_quantile(scores, coverage)
        else:
            bounds = inflation * scale * np.sort([s.max() for s in scores])[rank - 1]
    else:
        bounds, coverage = _largest(errors, inflation, disturbance)
    return ModelError(
        bounds=bounds,
        method=method,
        coverage=coverage,
        n=len(records),
        length=min(len(record) for record in records),
        starts=min(counted.stretches),
        washout=count("washout", washout, least=0),
        disturbance_gain=None if disturbance is None else disturbance.gain,
        system_digest=system.digest,
        data_digest=digest_of_data,
        observer_digest="" if observer is None else observer.digest,
        missing=None if disturbance is None else operation.missing,
        loop=operation.loop,
        unit=unit,
        confidence=confidence,
        premises=slow_premises(record_premises(system, records), parts.limit(operation), washout),
        measured=counted.measured(operation),
        sources=sources,
    )


def _promisable(conformal: bool, unit: CoverageUnit, confidence: float | None, operation: Operation) -> None:
    """Raise SettingError for combinations of settings that no theorem covers."""
    if unit is CoverageUnit.STEP and operation.move_limit is not None:
        raise SettingError("move_limit is for whole records (unit='record'): a step at random may follow any move")
    if not conformal and (unit is not CoverageUnit.RECORD or confidence is not None):
        raise SettingError("unit and confidence are for the conformal method: set membership promises neither")
    if unit is CoverageUnit.STEP and confidence is not None:
        raise SettingError("confidence is for whole records (unit='record'): for single steps leave it out")


def _largest(errors: Sequence[Array], inflation: float, disturbance: DisturbanceFilter | None) -> tuple[Array, float]:
    """Bounds (N + 1, ny) by set membership, and the probability that a new record stays inside them."""
    # Each of the numbers is exceeded by a new record with probability <= 1 / (n + 1): union bound over all of them.
    bounds = inflation * np.max([np.nan_to_num(np.abs(e)).max(axis=0) for e in errors], axis=0)
    if disturbance is None:
        # Without a filter the error is the residual, which does not depend on the step: one bound per output for all.
        bounds = np.tile(bounds.max(axis=0), (len(bounds), 1))
    numbers = bounds.shape[1] if disturbance is None else bounds.size
    return bounds, max(0.0, 1.0 - numbers / (len(errors) + 1))


@typed(infinite=("errors",))
def coverage_of(bounds: Array, errors: Sequence[Array]) -> Coverage:
    """Empirical coverage of bounds by given errors.

    Args:
        bounds: Shape (N + 1, ny).
        errors: One array per record, each (starts, N + 1, ny); NaN where the output is missing, which does not count.

    Raises:
        DataError: There is no record.
    """
    if not errors:
        raise DataError("coverage needs at least one record, got none")
    bounds = as_array("bounds", bounds, ("horizon + 1", "ny"))
    errors = [as_array(f"errors[{i}]", e, ("starts", *bounds.shape), finite=False) for i, e in enumerate(errors)]
    # Per start and step.
    inside = [np.asarray(((np.abs(e) <= bounds) | np.isnan(e)).all(axis=2)) for e in errors]
    known = [np.asarray(~np.isnan(e).all(axis=2)) for e in errors]
    if not all(part.any() for part in known):
        raise DataError("a record has no error that is known: leave it out")
    whole = float(np.mean([part.all() for part in inside]))
    pooled = float(np.concatenate([part[k] for part, k in zip(inside, known, strict=True)]).mean())
    return Coverage(whole, pooled, len(errors))


def _scale(errors: Sequence[Array], records: Sequence[Trajectory]) -> Array:
    pooled = np.concatenate(errors)
    if np.isnan(pooled).all(axis=0).any():
        raise DataError("an output of scale_trajectories was never measured at some step: take more records")
    rms = np.sqrt(np.nanmean(pooled**2, axis=0))
    # A step or output without error (e.g. k = 0 with full disturbance feedback) would divide by zero.
    floor = 1e-3 * rms.max(axis=0)
    sizes = np.max([np.nanmax(np.abs(r.y), axis=0) for r in records], axis=0)
    if (rms.max(axis=0) <= 64 * np.finfo(np.float64).eps * sizes).any():  # rounding alone
        raise DataError(
            "an output of scale_trajectories is predicted without any error: are they simulated by the model?"
        )
    return np.asarray(np.maximum(rms, floor))
