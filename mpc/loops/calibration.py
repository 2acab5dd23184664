"""Calibration of a tightening in closed loop, from loops of the controller that uses it.

Records of experiments are not exchangeable with closed-loop operation. Loops of the controller itself are, on the plant
or on a simulator whose unknowns are drawn as declared. But a new tightening makes a new controller, whose loops are not
those that the tightening came from. Hence: explore (tighten, run, recalibrate) until the tightening settles; freeze it;
run fresh loops of the frozen controller and count those that succeed, i.e. keep the target.

**Theorem.** Let attempt j = 1..J freeze a controller that depends on earlier loops in any way, run n fresh independent
loops and accept if at least r of them succeed. Then

- with r >= (n + 1) (1 - (1 - c) / J): a controller is accepted and its next loop fails with probability <= 1 - c;
- with P(Binomial(n, c) <= r - 1) >= 1 - (1 - g) / J: a controller whose loops succeed with probability < c is accepted
  with probability <= 1 - g.

(Proof: docs/theory/statistical_promise.md.)

The target is either the limits of the outputs (`LoopTarget.LIMITS`, without a promise about predictions), or every
prediction error within the tightening (`LoopTarget.PREDICTIONS`, which the theorems of `mpc.tightening.tightening`
need).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, checked_seed, count, number, positive
from controlrnn.errors import CertificationError, SettingError
from controlrnn.records import Count, Number, Part, Schema, Stored, Text
from controlrnn.typed import typed
from mpc.loops.rounds import ClosedLoops, LoopRound, Rounds, constant_parts
from mpc.promises.order_statistics import least_number, rank_of
from mpc.promises.premises import Premises
from mpc.promises.promise import CoverageUnit, Loop, LoopTarget, coverage_over
from mpc.tightening.tightening import Tightening

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)
UNDECLARED = "what that controller rests on was not stated, so that none is checked to be that controller"


@dataclass(frozen=True, kw_only=True)
@typed()
class LoopEffort:
    """Number of closed loops, rounds and attempts that a calibration may use.

    Args:
        loops: Loops n per round; twice the least that the promise needs when left out.
        rounds: Most rounds of exploration.
        attempts: Most attempts J to have a frozen controller accepted; the promise accounts for all of them.
        inflation: Factor >= 1 on the tightening that a round asks for; larger ones are accepted sooner.
        settled: Relative change of the tightening below which exploration ends.
    """

    loops: int | None = None
    rounds: int = 4
    attempts: int = 2
    inflation: float = 1.1
    settled: float = 0.15

    def __post_init__(self) -> None:
        for name in ("rounds", "attempts"):
            count(name, getattr(self, name))
        if self.loops is not None:
            count("loops", self.loops)
        positive("settled", self.settled)
        if positive("inflation", self.inflation) < 1:
            raise SettingError(f"inflation must be >= 1, got {self.inflation!r}: a back-off is not to be shrunk")

    def rank(self, coverage: float, confidence: float | None) -> tuple[int, int]:
        """Number n of loops per round, and number r of them that have to succeed, by the theorem.

        Args:
            coverage: Wanted probability c.
            confidence: Confidence g; None for the promise over calibration and operation together.

        Raises:
            SettingError: A probability is not in (0, 1).
            DataError: ``loops`` are too few; the message names how many are needed.
        """
        for name, value in (("coverage", coverage), ("confidence", confidence)):
            if value is not None:
                number(name, value, above=0, below=1, what="a probability in (0, 1)")
        # Each attempt may use a J-th of the permitted probability of error.
        each = 1 - (1 - coverage) / self.attempts if confidence is None else coverage
        sure = None if confidence is None else 1 - (1 - confidence) / self.attempts
        n = self.loops or count("loops", 2 * least_number(each, sure))
        return n, rank_of(n, each, sure)


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class ClosedLoopCalibration(Stored):
    """Tightening calibrated in closed loop, with its promise and the rounds that led to it.

    Args:
        tightening: Tightening for the controller, whose other settings are those of the calibration.
        target: Criterion that loops keep.
        coverage: Promised probability c.
        confidence: Confidence g for this calibration; None: c is over calibration and operation together.
        n: Loops of the accepted attempt.
        rank: Number of them that had to succeed.
        attempts: Number of attempts that the promise accounts for.
        starts: Control steps of a loop.
        missing: Share of readings missing in the loops.
        rounds: All rounds, the accepted one last.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "closed-loop-calibration", 2,  # 1: without move_window
        meta={
            "target": Text(choices=LoopTarget), "coverage": Number(above=0.0, below=1.0),
            "confidence": Number(above=0.0, below=1.0, none=True), "n": Count(1), "rank": Count(1),
            "attempts": Count(1), "starts": Count(1), "missing": Number(least=0.0, most=1.0),
        },
        parts={"tightening": Part(Tightening), "rounds": Part(LoopRound, many=True)},
    )  # fmt: skip

    tightening: Tightening
    target: LoopTarget
    coverage: float
    confidence: float | None
    n: int
    rank: int
    attempts: int
    starts: int
    missing: float
    rounds: tuple[LoopRound, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", LoopTarget(self.target))

    @property
    def promise(self) -> str:
        """Text of the promise."""
        return self.tightening.promise

    @property
    def loop(self) -> Loop:
        """`Loop.CLOSED`: the promise is for the calibrated controller itself."""
        return Loop.CLOSED

    @property
    def unit(self) -> CoverageUnit:
        """`CoverageUnit.RECORD`: the promise is for whole closed loops."""
        return CoverageUnit.RECORD

    @property
    def length(self) -> int:
        """Control steps of a loop."""
        return self.starts

    def coverage_over(self, steps: int) -> float:
        """Lower bound on the probability that all loops in ``steps`` samples succeed, each drawn as in calibration.

        Args:
            steps: Samples of operation.
        """
        return coverage_over(self, steps)

    def plot(self) -> Figure:
        """Draw the tightening of every output and the share of successful loops over the rounds."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7, 4), layout="constrained")
        top, below = figure.subplots(2, 1, sharex=True)
        at = np.arange(1, len(self.rounds) + 1)
        for i in range(self.tightening.total.shape[1]):
            top.plot(at, [r.total[1, i] for r in self.rounds], marker="o", label=f"output {i + 1}")
        top.set_ylabel("tightening, step 1")
        top.legend(fontsize="small")
        colours = ["C0" if r.attempt else "0.7" for r in self.rounds]
        below.bar(at, [r.kept / len(r.excess) for r in self.rounds], color=colours)
        below.axhline(self.rank / self.n, color="C3", ls=":", label="needed of a frozen controller (blue)")
        below.set(xlabel="round", ylabel="loops that kept", xticks=at)
        below.legend(fontsize="small")
        return figure


@typed()
def back_off(system_digest: str, horizon: int, amount: Array, *, disturbance_gain: float | None = None) -> Tightening:
    """Constant distance from all limits, which promises nothing, e.g. to start a calibration with.

    Args:
        system_digest: The model's digest.
        horizon: Number of predicted steps.
        amount: Distance per output, shape (ny,), output units.
        disturbance_gain: Gain of the filter that corrects the predictions, if it is to be fixed.
    """
    total = np.tile(as_array("amount", amount, ("ny",)), (count("horizon", horizon) + 1, 1))
    return constant_parts(
        total, disturbance_gain, "nothing: a constant back-off, nothing calibrated", {"system": system_digest}
    )


@typed()
def calibrate_closed_loop(
    loops: ClosedLoops,
    start: Tightening,
    *,
    seed: int,
    coverage: float = 0.9,
    confidence: float | None = None,
    target: LoopTarget = LoopTarget.LIMITS,
    effort: LoopEffort | None = None,
    premises: Premises | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
) -> ClosedLoopCalibration:
    """Calibrate a tightening under which a closed loop keeps its limits, or its error bounds, with given probability.

    Args:
        loops: Runs the controller with a given tightening, e.g. `SimulatedLoops`. All else has to be as in operation:
            references, disturbances, noise, missing readings and faults are drawn from the same distributions.
        start: Tightening to start with: `mpc.no_tightening`, `mpc.back_off`, or one from `mpc.tighten`.
        seed: Seed from which every loop gets a seed of its own.
        coverage: Wanted probability c that a new loop succeeds, in (0, 1).
        confidence: Confidence g with which c is to hold for this calibration, in (0, 1); None: c is the probability
            over calibration and operation together.
        target: Criterion that a loop has to keep.
        effort: Number of loops that may be used.
        premises: Premises of the controller that ``loops`` runs, its `TightenedMPC.premises`, to which controllers with
            the tightening are held. `SimulatedLoops` and a start with premises say them by themselves. If nobody does,
            the tightening's promise says that they are unknown, and with the target ``predictions`` no controller
            takes it.
        checkpoint: File of the completed rounds, from which an interrupted calibration continues. What rests on rounds
            that were read is not verified: see `Tightening.on_trust`.

    Raises:
        CertificationError: No attempt was accepted: nothing is promised. Another call with another seed is a further
            attempt, which the promise does not account for.
        DataError: Too few loops for the promise, or ``loops`` returned unsuitable results.
        SettingError: A parameter is out of range, ``premises`` are not those of the start or of ``loops``, or the
            checkpoint is of another calibration.
    """
    effort, target = effort or LoopEffort(), LoopTarget(target)
    n, rank = effort.rank(coverage, confidence)
    settings = {
        "start": start.digest,
        "seed": checked_seed(seed),
        "target": str(target),
        "loops": n,
        "rank": rank,
        "inflation": effort.inflation,
        "settled": effort.settled,
        "rounds": effort.rounds,
    }
    # Exploration may depend on its loops in any way; only the fresh loops of the attempts count for the promise.
    path = None if checkpoint is None else Path(checkpoint)
    run = Rounds(loops, start, target, n, settings, effort.inflation, path, premises)
    total = run.explore(effort.rounds, effort.settled)
    for _ in range(effort.attempts):
        last = run.round(total, attempt=True)
        if last.kept >= rank:
            return _accepted(run, last, coverage, confidence, rank, effort.attempts)
        _log.warning("%d of %d loops kept, %d needed: tightening further", last.kept, n, rank)
        # The loops of a failed attempt may be used to tighten: the next attempt has fresh ones.
        total = np.maximum(total, effort.inflation * last.wanted)
    raise CertificationError(
        f"no controller was accepted: of {n} loops of the last one {last.kept} kept their {target}, {rank} are needed; "
        f"nothing is promised. Allow more inflation (now {effort.inflation:g}) or attempts (now {effort.attempts}), or "
        f"ask for less than coverage {coverage:g}"
    )


def _accepted(
    run: Rounds, last: LoopRound, coverage: float, confidence: float | None, rank: int, attempts: int
) -> ClosedLoopCalibration:
    keeps = {
        LoopTarget.LIMITS: "keeps all outputs within their limits",
        LoopTarget.PREDICTIONS: "keeps every prediction error within the tightening",
    }[run.target]
    sure = "over calibration and operation together"
    if confidence is not None:
        sure = f"for this calibration, with confidence {confidence:g}"
    text = (
        f"with probability >= {coverage:g}, a new closed loop of this very controller, of {run.steps} steps or fewer, "
        f"whose references, disturbances, noise and missing readings ({run.missing:.2g} of all) are drawn as in its "
        f"{run.n} calibration loops, {keeps} ({sure}; {attempts} attempts are paid for); with any setting changed it "
        "is another controller, of which nothing is promised"
    )
    tightening = run.tightening(np.array(last.total))
    own = run.premises(tightening)
    if own is None:
        text += f"; {UNDECLARED}"
        _log.warning("loops and start state no premises: pass premises=controller.premises to have them checked")
    tightening = replace(tightening, promise=text, premises=own)
    if not run.restored:
        tightening._made()
    return ClosedLoopCalibration(
        tightening=tightening,
        target=run.target,
        coverage=coverage,
        confidence=confidence,
        n=run.n,
        rank=rank,
        attempts=attempts,
        starts=run.steps,
        missing=run.missing,
        rounds=tuple(run.done),
    )
