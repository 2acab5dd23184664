"""Result of a closed loop: outputs, inputs, predictions, times, failures and faults, with statistics."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, numbers, positive, text
from controlrnn.errors import DataError
from controlrnn.records import Count, ListOf, Number, Numbers, Schema, Stored, Text
from controlrnn.records.stored import Arrays, Meta, as_json, as_stored
from controlrnn.typed import typed
from mpc.calibration.plausibility import Verdict
from mpc.problem.solver_options import Status
from mpc.promises.coverage_met import CoverageMet, met, stretches
from mpc.promises.promise import LoopTarget
from mpc.safety.fallback import Fallback

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ANY: dict[str, Any] = {"nan": True, "infinite": True}
_STATUSES, _FALLBACKS = tuple(Status), tuple(Fallback)


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("readings", "predicted", "errors", "intervals", "lower", "upper"))
class ClosedLoopResult(Stored):
    """Result of one run of ``steps`` control steps after the warm-up.

    Args:
        y: True outputs, shape (steps + 1, ny), each just before the sample's input acts; the last row is the output
            that the last input led to.
        readings: Readings (NaN where missing), shape (steps, ny).
        u: Commanded inputs, shape (steps, nu).
        applied: Inputs that reached the plant, shape (steps, nu).
        u_before: Input before the first one, shape (nu,).
        reference: Set points, shape (steps + 1, ny).
        x: State estimates, shape (steps, model nx).
        disturbance: Output disturbance estimates, shape (steps, ny).
        predicted: Predictions as planned, shape (steps, N + 1, ny).
        errors: True output minus prediction from the same estimates under the inputs that were commanded, measured
            inputs as they were forecast, shape (steps, N + 1, ny); NaN beyond the end of the run.
        bounds: Tightening, shape (N + 1, ny).
        slack: Largest use of soft limits per sample, shape (steps,), output units.
        solve_time: Seconds per step, shape (steps,).
        iterations: Solver iterations, shape (steps,).
        status: `Status` per step.
        fallback: `Fallback` per step.
        certified: Whether the certified error of the estimate held, shape (steps,).
        verdicts: `Verdict` on each reading, shape (steps, ny); without `Watching.plausibility` only MISSING and FINE.
        faults: Whether a fault of a kind acted, shape (steps, len(fault_kinds)).
        lower: Plant's output limits, shape (ny,).
        upper: Plant's output limits, shape (ny,).
        cost: Tracking and move cost with the controller's weights, on true outputs.
        dt: Sample time [s].
        seed: Seed of the run.
        names: Labels of outputs, then inputs.
        fault_kinds: Names of the columns of ``faults``.
        outside: Text of what contradicted a premise or lay outside the calibrated region, one per step, empty where
            nothing did; all empty when left out.
        intervals: Lower and upper bounds on errors where limits learn from measurements
            (`mpc.tightening.error_memory`), shape (steps, 2, N + 1, ny); those of ``bounds`` when left out.
        after: True outputs just after the sample's input has acted, shape (steps, ny); equal to ``y`` for plants
            without feedthrough, and when left out.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "closed-loop", 8,
        arrays={
            "u": Numbers("K", "nu"), "y": Numbers("K + 1", "ny"), "readings": Numbers("K", "ny", nan=True),
            "applied": Numbers("K", "nu"), "u_before": Numbers("nu"), "reference": Numbers("K + 1", "ny"),
            "x": Numbers("K", "nx", **_ANY), "disturbance": Numbers("K", "ny", **_ANY),
            "bounds": Numbers("N + 1", "ny", least=0.0), "predicted": Numbers("K", "N + 1", "ny", **_ANY),
            "errors": Numbers("K", "N + 1", "ny", **_ANY), "slack": Numbers("K", **_ANY),
            "solve_time": Numbers("K", least=0.0), "iterations": Numbers("K", dtype="<i8", least=0),
            "status": Numbers("K", dtype="|i1", least=0, most=len(_STATUSES) - 1),
            "fallback": Numbers("K", dtype="|i1", least=0, most=len(_FALLBACKS) - 1),
            "certified": Numbers("K", dtype="|b1"),
            "verdicts": Numbers("K", "ny", dtype="|i1", least=min(Verdict), most=max(Verdict)),
            "faults": Numbers("K", "F", dtype="|b1"), "lower": Numbers("ny", infinite=True),
            "upper": Numbers("ny", infinite=True), "cost": Numbers(**_ANY),
            "outside_at": Numbers("O", dtype="<i8", least=0), "outside_text": Numbers("B", dtype="|u1"),
            "intervals": Numbers("K", 2, "N + 1", "ny", otherwise=(0, 2, 0, 0), **_ANY), "after": Numbers("K", "ny"),
        },
        meta={
            "dt": Number(above=0.0), "seed": Count(most=2**64), "names": ListOf(Text(), "ny + nu"),
            "fault_kinds": ListOf(Text(), "F"),
        },
        zero=("F", "N", "nu", "O", "B"),
    )  # fmt: skip

    y: Array
    readings: Array
    u: Array
    applied: Array
    u_before: Array
    reference: Array
    x: Array
    disturbance: Array
    predicted: Array
    errors: Array
    bounds: Array
    slack: Array
    solve_time: Array
    iterations: NDArray[np.int64]
    status: tuple[Status, ...]
    fallback: tuple[Fallback, ...]
    certified: NDArray[np.bool_]
    verdicts: NDArray[np.int8]
    faults: NDArray[np.bool_]
    lower: Array
    upper: Array
    cost: float
    dt: float
    seed: int
    names: tuple[str, ...]
    fault_kinds: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()
    intervals: Array = field(default_factory=lambda: np.zeros((0, 2, 0, 0)))
    after: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        object.__setattr__(self, "certified", np.array(self.certified, dtype=np.bool_))
        verdicts = numbers("verdicts", self.verdicts)
        if not np.isin(verdicts, list(Verdict)).all():
            raise DataError("verdicts must be those of `mpc.Verdict`, got other numbers")
        object.__setattr__(self, "verdicts", verdicts.astype(np.int8))
        if not numbers("after", self.after).size:
            object.__setattr__(self, "after", self.y[:-1])
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                kept = value.copy()
                kept.setflags(write=False)
                object.__setattr__(self, f.name, kept)
        # Of these there are as many as steps, and most are what they should be, or empty.
        object.__setattr__(self, "status", tuple(s if type(s) is Status else Status(s) for s in self.status))
        object.__setattr__(self, "fallback", tuple(f if type(f) is Fallback else Fallback(f) for f in self.fallback))
        outside = tuple("" if type(t) is str and not t else _storable(t) for t in self.outside)
        object.__setattr__(self, "outside", outside or ("",) * self.steps)

    @property
    def steps(self) -> int:
        """Number of control steps."""
        return len(self.u)

    @property
    def excess(self) -> Array:
        """Violation of the plant's limits by true outputs, shape (steps + 1, ny); 0 inside.

        The larger one of those just before and just after the sample's input acts.
        """
        beyond = np.maximum(self.y - self.upper, self.lower - self.y)
        after = np.maximum(self.after - self.upper, self.lower - self.after)
        beyond[:-1] = np.maximum(beyond[:-1], after)  # the last row has no input that could follow
        return np.maximum(beyond, 0.0)

    @property
    def violations(self) -> int:
        """Number of samples at which some true output is outside its limits."""
        return int((self.excess > 0).any(axis=1).sum())

    @property
    def max_violation(self) -> float:
        """Largest violation over all samples and outputs."""
        return float(self.excess.max())

    @property
    def failed_solves(self) -> int:
        """Number of steps without a solution."""
        return sum(s not in (Status.SOLVED, Status.WARMING_UP) for s in self.status)

    @property
    def inside(self) -> float:
        """Share of prediction errors within their bounds, over all samples and steps."""
        known = ~np.isnan(self.errors).any(axis=2)  # NaN beyond the end of the run
        low, high = self.error_ends
        inside = np.all((low <= self.errors) & (self.errors <= high), axis=2)
        return float(np.asarray(inside)[known].mean())

    def steps_kept(self, target: LoopTarget = LoopTarget.LIMITS) -> NDArray[np.bool_]:
        """Whether each control step kept its limits one sample later, or all its error bounds; shape (steps,).

        Args:
            target: Which of the two to check.
        """
        if LoopTarget(target) is LoopTarget.LIMITS:
            return np.asarray((self.excess[1:] <= 0).all(axis=1))
        low, high = self.error_ends
        return np.asarray(((low <= self.errors) & (self.errors <= high) | np.isnan(self.errors)).all(axis=(1, 2)))

    def coverage_met(
        self, target: LoopTarget = LoopTarget.LIMITS, *, stretch: int | None = None, confidence: float = 0.95
    ) -> CoverageMet:
        """Number of stretches of the run that kept the target, with a confidence interval valid at every evaluation.

        Args:
            target: Limits of true outputs, or all prediction errors within their bounds.
            stretch: Steps per stretch, best the number that the promise is for; the whole run when left out.
            confidence: Of the interval, in (0, 1).
        """
        kept = stretches(self.steps_kept(target), stretch or self.steps)
        return met("stretches", kept, confidence=confidence, anytime=True)

    @property
    def error_ends(self) -> tuple[Array, Array]:
        """Lower and upper bounds on prediction errors, each (steps, N + 1, ny)."""
        if len(self.intervals):
            return self.intervals[:, 0], self.intervals[:, 1]
        high = np.broadcast_to(self.bounds, self.errors.shape)
        return -high, high

    @property
    def error_use(self) -> Array:
        """Prediction errors relative to their bounds, shape (steps, N + 1, ny); <= 1 where the bound held.

        Distance from the middle of the bounds over half of their width; NaN without a bound and after the run's end.
        """
        low, high = self.error_ends
        half = 0.5 * (high - low)
        away = np.abs(self.errors - 0.5 * (high + low))
        return np.asarray(np.divide(away, half, out=np.full_like(away, np.nan), where=half > 0))

    @property
    def realised(self) -> Array:
        """Largest prediction error per step and output, shape (N + 1, ny); NaN where the run was too short."""
        return np.asarray(np.fmax.reduce(np.abs(self.errors), axis=0))

    @property
    def bound_use(self) -> Array:
        """Largest `error_use` per step and output, shape (N + 1, ny); <= 1 where the bound held, NaN without one."""
        return np.asarray(np.fmax.reduce(self.error_use, axis=0))

    @property
    def status_counts(self) -> dict[str, int]:
        """Number of steps by status."""
        return {str(k): n for k, n in Counter(self.status).items()}

    @property
    def fallback_counts(self) -> dict[str, int]:
        """Number of steps by fallback, solutions left out."""
        return {str(k): n for k, n in Counter(self.fallback).items() if k is not Fallback.NONE}

    @property
    def steps_outside(self) -> int:
        """Number of steps with contradicted premises or outside the calibrated region."""
        return sum(map(bool, self.outside))

    @property
    def rejected(self) -> dict[str, int]:
        """Number of rejected readings by reason."""
        return {v.name.lower(): n for v in Verdict if v and (n := int((self.verdicts == v).sum()))}

    @property
    def times(self) -> dict[str, float]:
        """Time per step [s]: median, 95 % and 99.9 % quantiles, maximum."""
        return times_of(self.solve_time)

    def deadline_misses(self, deadline: float | None = None) -> int:
        """Number of steps that took longer than ``deadline`` [s]; the sample time when left out."""
        limit = self.dt if deadline is None else positive("deadline", deadline)
        return int((self.solve_time > limit).sum())

    def record(self) -> tuple[Arrays, Meta]:
        """Arrays and metadata to store: statuses as indices, texts as bytes separated by zeros; see `Stored.record`."""
        at = [t for t, words in enumerate(self.outside) if words]  # most steps have no text
        texts = "\0".join(self.outside[t] for t in at)
        values = vars(self) | {
            "status": np.array([_STATUSES.index(s) for s in self.status], dtype=np.int8),
            "fallback": np.array([_FALLBACKS.index(f) for f in self.fallback], dtype=np.int8),
            "outside_at": np.array(at, dtype=np.int64),
            "outside_text": np.frombuffer(texts.encode(), dtype=np.uint8),
        }
        arrays = {name: as_stored(values[name], kind) for name, kind in self.SCHEMA.arrays.items()}
        return arrays, {name: as_json(values[name]) for name in self.SCHEMA.meta}

    @classmethod
    def _fields(cls, values: Meta) -> Meta:
        outside = [""] * len(values["u"])
        at, stored = values.pop("outside_at").tolist(), values.pop("outside_text").tobytes()
        # A damaged or forged file must not shift texts to other steps.
        try:
            texts = stored.decode().split("\0") if at else []
        except UnicodeDecodeError as error:
            raise DataError("what lay outside is no text") from error
        if (
            len(texts) != len(at)
            or (stored and not at)
            or not all(texts)
            or at != sorted(set(at))
            or any(t >= len(outside) for t in at)
        ):
            raise DataError(
                f"{len(texts)} texts of what lay outside do not belong to {len(at)} of {len(outside)} steps"
            )
        for t, words in zip(at, texts, strict=True):
            outside[t] = words
        return values | {
            "status": tuple(_STATUSES[i] for i in values["status"]),
            "cost": float(values["cost"]),
            "fallback": tuple(_FALLBACKS[i] for i in values["fallback"]),
            "names": tuple(values["names"]),
            "fault_kinds": tuple(values["fault_kinds"]),
            "outside": tuple(outside),
        }

    def plot(self) -> Figure:
        """Draw outputs with limits, tightened limits and references, then inputs.

        Faults, fallbacks and steps outside of the calibrated region are marked.
        """
        from matplotlib.figure import Figure

        ny, nu = self.y.shape[1], self.u.shape[1]
        time = np.arange(self.steps + 1) * self.dt
        figure = Figure(figsize=(9, 1.9 * (ny + nu)), layout="constrained")
        panels = figure.subplots(ny + nu, 1, sharex=True, squeeze=False)[:, 0]
        for i, panel in enumerate(panels[:ny]):
            panel.step(time, self.reference[:, i], where="post", color="0.6", label="reference")
            panel.plot(time, self.y[:, i], label="output")
            for limit, sign in ((self.lower[i], 1.0), (self.upper[i], -1.0)):
                if np.isfinite(limit):
                    panel.axhline(limit, color="C3", label="limit")
                    panel.axhline(limit + sign * self.bounds[-1, i], color="C3", ls=":", label="tightened, last step")
            panel.set_ylabel(self.names[i])
        for i, panel in enumerate(panels[ny:]):
            panel.step(time[:-1], self.u[:, i], where="post", color="0.3")
            panel.plot(time[:-1], self.applied[:, i], ".", ms=2, color="C1", label="reached the plant")
            panel.set_ylabel(self.names[ny + i])
        self._mark(panels)
        for panel in (panels[0], panels[-1]):
            marks = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
            panel.legend(marks.values(), marks.keys(), loc="best", fontsize="small")
        panels[-1].set_xlabel("time [s]")
        return figure

    def _mark(self, panels: Any) -> None:
        """Shade samples with a fault; mark steps with a fallback and steps outside the calibrated region."""
        if self.faults.any():
            time, shade = np.arange(self.steps) * self.dt, self.faults.any(axis=1)
            for panel in panels:
                axis = panel.get_xaxis_transform()  # across the whole height
                panel.fill_between(time, 0, 1, where=shade, step="post", transform=axis, color="C1", alpha=0.15, lw=0)
        acted = [f is not Fallback.NONE for f in self.fallback]
        for where, height, color, label in (
            (acted, 0.02, "C3", "fallback"),
            ([words != "" for words in self.outside], 0.98, "C4", "outside of the calibrated region"),
        ):
            at = np.flatnonzero(where) * self.dt
            if len(at):
                axis = panels[-1].get_xaxis_transform()
                panels[-1].plot(at, np.full(len(at), height), "|", color=color, transform=axis, label=label)


def times_of(seconds: Array) -> dict[str, float]:
    """Median, 95 % and 99.9 % quantiles and maximum of times (n,), by name."""
    median, p95, p999 = np.quantile(seconds, (0.5, 0.95, 0.999))
    return {"median": float(median), "p95": float(p95), "p99.9": float(p999), "max": float(seconds.max())}


def _storable(said: str) -> str:
    """Text as a file can hold it: in UTF-8, without the zero bytes that part texts there."""
    return text("outside", said).encode(errors="replace").decode().replace("\0", "")
