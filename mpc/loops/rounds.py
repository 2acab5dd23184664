"""Rounds of a calibration in closed loop: run a controller, count successes, determine the tightening it needs."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np

from controlrnn.checks import Array, read_only
from controlrnn.errors import DataError, SettingError, StorageError
from controlrnn.printing import brief
from controlrnn.records import Count, Digest, Flag, Number, Numbers, Part, Schema, Stored, digest
from controlrnn.records.writing import exists
from controlrnn.typed import typed
from mpc.loops.monte_carlo import ClosedLoopSetup, LoopEngine, monte_carlo
from mpc.loops.result import ClosedLoopResult
from mpc.promises.premises import Premises
from mpc.promises.promise import Loop, LoopTarget
from mpc.tightening.tightening import NO_CLAIM, Tightening

if TYPE_CHECKING:
    from controlrnn.cluster import Client

_log = logging.getLogger(__name__)


class ClosedLoops(Protocol):
    """Interface of a function that runs closed loops of one controller, on a plant or on a simulator."""

    def __call__(self, tightening: Tightening, seeds: Sequence[int]) -> Sequence[ClosedLoopResult]:
        """Run one loop per seed of the controller with this tightening, all of the same length."""


@dataclass(frozen=True)
@typed()
class SimulatedLoops:
    """Simulation of closed loops with a given tightening (`mpc.monte_carlo`), for `mpc.calibrate_closed_loop`.

    Args:
        build: Makes plant and controller for a tightening; importable if there are several workers.
        workers: Number of processes.
        progress: Called with (runs done, runs) of each round.
        engine: What runs the loops; as in `mpc.monte_carlo`. A controller is compiled anew for each tightening, which
            takes seconds: worth it for many loops a round.
        compiled_in: Folder that keeps compiled code; as in `mpc.monte_carlo`.
        client: Client of a Dask cluster whose workers run the loops instead; as in `mpc.monte_carlo`.
    """

    build: Callable[[Tightening], ClosedLoopSetup]
    workers: int = 1
    progress: Callable[[int, int], None] | None = None
    engine: LoopEngine = LoopEngine.PYTHON
    compiled_in: str | os.PathLike[str] | None = None
    client: Client | None = None

    def __call__(self, tightening: Tightening, seeds: Sequence[int]) -> Sequence[ClosedLoopResult]:
        """Run one loop per seed; see `ClosedLoops`."""
        make = functools.partial(self.build, tightening)
        return monte_carlo(
            make,
            seeds,
            workers=self.workers,
            client=self.client,
            engine=self.engine,
            compiled_in=self.compiled_in,
            progress=self.progress,
        ).results

    def premises(self, tightening: Tightening) -> Premises:
        """Premises of the controller with a given tightening.

        Args:
            tightening: The tightening.
        """
        return self.build(tightening).controller.premises


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("excess",))
class LoopRound(Stored):
    """Result of the loops with one tightening.

    Args:
        total: Tightening, shape (N + 1, ny).
        wanted: Tightening that these loops would have needed, shape (N + 1, ny).
        excess: Largest distance beyond the limits of each loop and output, negative inside, shape (n, ny).
        kept: Number of loops that kept the target.
        cost: Mean cost.
        attempt: Whether the controller was frozen (an attempt), or the round was exploration.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "closed-loop-round", 1,
        arrays={
            "total": Numbers("N + 1", "ny", least=0.0), "wanted": Numbers("N + 1", "ny", least=0.0),
            "excess": Numbers("n", "ny", infinite=True),
        },
        meta={"kept": Count(), "cost": Number(), "attempt": Flag()},
    )  # fmt: skip

    total: Array
    wanted: Array
    excess: Array
    kept: int
    cost: float
    attempt: bool

    def __post_init__(self) -> None:
        for name in self.SCHEMA.arrays:
            object.__setattr__(self, name, read_only(getattr(self, name)))


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedLoopRounds(Stored):
    """Checkpoint of a calibration: its settings and the completed rounds."""

    SCHEMA: ClassVar[Schema] = Schema(
        "closed-loop-rounds", 1,
        meta={"settings": Digest(), "steps": Count(1), "missing": Number(least=0.0, most=1.0)},
        parts={"rounds": Part(LoopRound, many=True)},
    )  # fmt: skip

    settings: str
    steps: int
    missing: float
    rounds: tuple[LoopRound, ...]

    __repr__ = brief


class Rounds:
    """Runs the rounds of a calibration, or takes them from its checkpoint.

    Args:
        loops: Runs the controller.
        start: Tightening of the first round.
        target: Criterion that loops have to keep.
        n: Loops per round.
        settings: Settings that the rounds depend on, as JSON: a checkpoint with other settings is refused.
        inflation: Factor on the tightening that a round asks for.
        checkpoint: File of the completed rounds, or None.
        premises: Premises of the controller that is run, as the user states them, or None.

    Raises:
        SettingError: The premises are not those of the start or of the loops, or the checkpoint is of another
            calibration.
    """

    def __init__(
        self,
        loops: ClosedLoops,
        start: Tightening,
        target: LoopTarget,
        n: int,
        settings: dict[str, Any],
        inflation: float,
        checkpoint: Path | None,
        premises: Premises | None,
    ) -> None:
        self.loops = loops
        self.start = start
        self.target = target
        self.n = n
        #: Premises of the controller that is run, without those of records; None where nobody states them.
        self.known = self._stated(premises)
        # A checkpoint is of this very controller, as far as it is known.
        self.settings = settings if self.known is None else settings | {"premises": self.known.digest}
        self.inflation = inflation
        self.checkpoint = checkpoint
        self.done: list[LoopRound] = []
        self.steps = 0
        self.missing = 0.0
        #: Whether a round was taken from the checkpoint, for whose maker this program does not vouch.
        self.restored = False
        self._stored = self._load()

    def explore(self, rounds: int, settled: float) -> Array:
        """Repeat rounds, each with the tightening that the last one asked for, until it settles; returns the last one.

        Args:
            rounds: Most rounds.
            settled: Relative change of the tightening below which it has settled.
        """
        # The tightening changes the loops, and these the tightening: a fixed point is approached by repetition.
        wanted = self.round(np.array(self.start.total), attempt=False).wanted
        for _ in range(rounds - 1):
            before, wanted = wanted, self.round(self.inflation * wanted, attempt=False).wanted
            most = np.maximum(wanted, before)
            if (np.abs(wanted - before) <= settled * most).all():
                return np.asarray(self.inflation * most)
        _log.warning("the tightening did not settle within %d rounds: it is frozen as the last one wants it", rounds)
        return np.asarray(self.inflation * wanted)

    def round(self, total: Array, *, attempt: bool) -> LoopRound:
        """Run one round of fresh loops with a tightening, or take it from the checkpoint.

        Args:
            total: The tightening's total, shape (N + 1, ny).
            attempt: Whether the controller is frozen.
        """
        i = len(self.done)
        if i < len(self._stored) and np.array_equal(self._stored[i].total, total):
            self.done.append(self._stored[i])
            self.restored = True
            return self.done[-1]
        tightening = self.tightening(total)
        # The i-th round's seeds do not depend on how many rounds there are.
        drawn = np.random.SeedSequence([self.settings["seed"], i]).spawn(self.n)
        results = tuple(self.loops(tightening, [int(s.generate_state(1)[0]) for s in drawn]))
        self._check(results, tightening)
        self.steps = results[0].steps
        self.missing = float(np.mean([np.isnan(r.readings).mean() for r in results]))
        excess = np.array([excess_of(r) for r in results])
        if self.target is LoopTarget.LIMITS:
            # The present tightening plus what the worst loop lacked, or less what it had to spare.
            over = np.maximum(excess.max(axis=0) + total[1], 0.0)
            kept, wanted = (excess <= 0).all(axis=1), np.tile(over, (len(total), 1))
        else:
            errors = [np.abs(r.errors) for r in results]
            kept, wanted = np.array([bool(within_total(e, total)) for e in errors]), errors_wanted(errors)
        self.done.append(
            LoopRound(
                total=total,
                wanted=wanted,
                excess=excess,
                kept=int(kept.sum()),
                cost=float(np.mean([r.cost for r in results])),
                attempt=attempt,
            )
        )
        self._save()
        return self.done[-1]

    def tightening(self, total: Array) -> Tightening:
        """Tightening with a given total; the start tightening in the first round.

        Args:
            total: Shape (N + 1, ny).
        """
        if not self.done:
            return self.start
        # A tightening that claims nothing about predictions leaves the controller's mode open, and must go on to.
        kept = {k: v for k, v in self.start.digests.items() if k in ("system", "observer")}
        open_mode = self.target is LoopTarget.LIMITS and set(self.start.digests) <= NO_CLAIM
        name = "closed_loop" if open_mode else f"closed_loop_{self.target}"
        digests = kept | {name: digest({"total": total}, self.settings)}
        # A controller takes what claims something about predictions only with what that rests on.
        text, gain = "nothing yet: calibration goes on", self.start.disturbance_gain
        return constant_parts(total, gain, text, digests, premises=self.known)

    def _stated(self, premises: Premises | None) -> Premises | None:
        """Premises of the controller that is run, after comparing what is said of it; None where nobody says it."""
        of_start = self.start.premises
        of_loops = self.loops.premises(self.start) if isinstance(self.loops, SimulatedLoops) else None
        if premises is not None:
            if not premises.observer:
                raise SettingError("premises must be a controller's, got none of an observer: take the controller's")
            if premises.system != self.start.digests.get("system"):
                raise SettingError("premises must be of the start's model, got another: take the controller's premises")
            for whose, other in (("the start", of_start), ("the loops", of_loops)):
                if other is not None:
                    _of_controller(premises).refuse_other("the premises", other, whose)
        given = [one for one in (of_loops, of_start, premises) if one is not None]
        # All errors of its loops count: none has to wait until inputs were slow.
        return _of_controller(given[0]).also(move_window=None) if given else None

    def premises(self, tightening: Tightening) -> Premises | None:
        """Premises of the promise: those of the calibrated controller, where known, and of its loops.

        Args:
            tightening: The accepted tightening.
        """
        if self.known is None:
            return None
        return self.known.also(horizon=tightening.horizon, length=self.steps, missing=self.missing, loop=Loop.CLOSED)

    def _check(self, results: Sequence[ClosedLoopResult], tightening: Tightening) -> None:
        if len(results) != self.n:
            raise DataError(f"loops must give one result per seed, {self.n}, got {len(results)}")
        if len({r.steps for r in results}) > 1 or (self.steps and results[0].steps != self.steps):
            raise DataError("all loops must have the same number of steps: they are exchangeable no more")
        if not all(np.isfinite(r.y).all() for r in results):
            raise DataError("the outputs of every loop must be finite, got NaN or infinity: look for what diverged")
        # The controller may plan over a shorter horizon than that of the tightening.
        used = tightening.total[: len(results[0].bounds)]
        if not all(np.array_equal(r.bounds, used) for r in results):
            raise DataError("a loop was not tightened by what calibration asked for: build its controller with it")
        if len({r.y.tobytes() for r in results}) < self.n:
            raise DataError("two loops are equal: every loop may serve once, so draw its unknowns from its seed")
        if self.target is LoopTarget.PREDICTIONS and any(len(r.intervals) for r in results):
            raise SettingError("limits that learn have bounds of their own: use target='limits'")

    def _load(self) -> list[LoopRound]:
        if self.checkpoint is None or not exists(self.checkpoint):
            return []
        kept = ClosedLoopRounds.load(self.checkpoint)
        if kept.settings != digest({}, self.settings):
            raise SettingError(f"checkpoint {self.checkpoint} is of another calibration: name another file")
        self.steps = kept.steps
        self.missing = kept.missing
        return list(kept.rounds)

    def _save(self) -> None:
        if self.checkpoint is not None:
            settings, rounds = digest({}, self.settings), tuple(self.done)
            kept = ClosedLoopRounds(settings=settings, steps=self.steps, missing=self.missing, rounds=rounds)
            try:
                kept.save(self.checkpoint)
            except StorageError as error:
                _log.warning("round %d: %s; calibration goes on without a new checkpoint", len(rounds), error)


def _of_controller(premises: Premises) -> Premises:
    """Premises without those of calibration records, which a new calibration replaces."""
    return premises.also(length=None, missing=None, loop=None, horizon=None)


def constant_parts(
    total: Array, gain: float | None, promise: str, digests: dict[str, str], *, premises: Premises | None = None
) -> Tightening:
    """Make a tightening that consists of one part.

    Args:
        total: Shape (N + 1, ny).
        gain: Gain of the disturbance filter that corrects the predictions, or None.
        promise: Text of what holds.
        digests: Sources by name.
        premises: What it rests on, or None.
    """
    zero = np.zeros_like(total)
    return Tightening(
        model_error=total,
        reinitialisation=zero,
        input_error=zero,
        disturbance_gain=gain,
        promise=promise,
        digests=digests,
        premises=premises,
    )._made()


def excess_of(result: ClosedLoopResult) -> Array:
    """Largest distance beyond the limits, negative inside, shape (ny,), without the first sample."""
    answered = (result.after != result.y[:-1]).any(axis=1)  # plants with feedthrough: also just after the input
    y = np.concatenate([result.y[1:], result.after[answered]])
    return np.asarray(np.maximum(y - result.upper, result.lower - y).max(axis=0))


def within_total(errors: Array, total: Array) -> bool:
    """Whether all known errors (steps, horizon + 1, ny) are within a tightening (horizon + 1, ny)."""
    known = ~np.isnan(errors)
    return bool((errors <= total[: errors.shape[1]])[known].all())


def errors_wanted(errors: Sequence[Array]) -> Array:
    """Least bound proportional to the RMS errors over steps and outputs that all loops keep, shape (N + 1, ny)."""
    pooled = np.concatenate(errors)
    rms = np.sqrt(np.nanmean(pooled**2, axis=0))
    scale = np.maximum(rms, 1e-3 * rms.max(axis=0))
    some = scale > 0  # an output that never had an error asks for nothing
    return np.asarray(scale * np.nanmax(pooled[:, some] / scale[some], initial=0.0))
