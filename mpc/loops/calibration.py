"""How far a controller has to stay away from its limits, from closed loops of that very controller.

Records of experiments are not exchangeable with what a controller does. Loops of the controller itself are, on the
plant or on a simulator whose unknowns are drawn as they are declared. But a new tightening is a new controller, so that
its loops are not those that the tightening came from. Hence: explore (tighten, run, recalibrate) until the tightening
settles; freeze it; run fresh loops of the frozen controller and count those that keep what it was tightened for.

**Theorem.** Let attempt j = 1..J freeze a controller that depends on earlier loops in any way, run n fresh independent
loops and accept if at least r of them keep. Then

- with r >= (n + 1) (1 - (1 - c) / J): a controller is accepted and its next loop fails with probability <= 1 - c;
- with P(Binomial(n, c) <= r - 1) >= 1 - (1 - g) / J: a controller whose loops keep with probability < c is accepted
  with probability <= 1 - g.

*Proof.* Given all before, attempt j's n loops and the next one are independent and alike. The next one fails while r of
the n keep only if at most n + 1 - r of these n + 1 fail and it is one of them: by symmetry, with probability <=
(n + 1 - r) / (n + 1). The second: if a loop keeps with probability p < c, at least r of n keep with probability <=
P(Binomial(n, c) >= r). Either is at most a J-th of what is allowed; sum over the attempts. []

What is kept is either the limits of the outputs (`LoopTarget.LIMITS`; no prediction is promised anything), or each
prediction error within the tightening (`LoopTarget.PREDICTIONS`, on which the theorems of `mpc.tightening.tightening`
build).
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, checked_seed, count, positive
from controlrnn.errors import CertificationError, DataError, SettingError
from controlrnn.records import Count, Number, Part, Schema, Stored, Text
from controlrnn.typed import typed
from mpc.loops.rounds import ClosedLoops, LoopRound, Rounds, constant_parts
from mpc.promises.order_statistics import rank_of
from mpc.promises.promise import CoverageUnit, Loop, LoopTarget, coverage_over
from mpc.tightening.tightening import Tightening

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
@typed()
class LoopEffort:
    """How many closed loops a calibration may use.

    Args:
        loops: Loops n per round; twice the least that the promise needs when left out.
        rounds: Rounds of exploration at most.
        attempts: Attempts J at most that a frozen controller gets; the promise pays for all of them.
        inflation: Factor >= 1 on what a round asks for: the price of being accepted at the first attempt.
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
        """Loops n per round, and how many r of them have to keep; see the theorem.

        Args:
            coverage: Wanted probability c.
            confidence: Confidence g; None for the promise over calibration and operation together.

        Raises:
            DataError: ``loops`` are too few; the message names how many are needed.
        """
        each = 1 - (1 - coverage) / self.attempts if confidence is None else coverage
        sure = None if confidence is None else 1 - (1 - confidence) / self.attempts
        n = self.loops or next(2 * n for n in range(1, 10**6) if _suffices(n, each, sure))
        return n, rank_of(n, each, sure)


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class ClosedLoopCalibration(Stored):
    """A tightening, what is promised for its controller, and how it came about.

    Args:
        tightening: To build the controller with, everything else as in calibration.
        target: What loops keep.
        coverage: Promised probability c.
        confidence: Confidence g for this calibration; None: c is over calibration and operation together.
        n: Loops of the accepted attempt.
        rank: How many of them had to keep.
        attempts: Attempts that the promise pays for.
        starts: Control steps of a loop.
        missing: Share of readings missing in the loops.
        rounds: All rounds, the accepted one last.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "closed-loop-calibration", 1,
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
        """What holds, in words."""
        return self.tightening.promise

    @property
    def loop(self) -> Loop:
        """Closed: the promise is for this very controller."""
        return Loop.CLOSED

    @property
    def unit(self) -> CoverageUnit:
        """A whole closed loop."""
        return CoverageUnit.RECORD

    @property
    def length(self) -> int:
        """Control steps of a loop."""
        return self.starts

    def coverage_over(self, steps: int) -> float:
        """Probability >= which all loops keep that ``steps`` samples are made of, each drawn like a calibration loop.

        Args:
            steps: Samples of operation.
        """
        return coverage_over(self, steps)

    def plot(self) -> Figure:
        """Draw the back-off of every output over the rounds, and how many loops kept."""
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
    """A constant distance from all limits, which promises nothing: what one tries before anything is calibrated.

    Args:
        system_digest: The model's digest.
        horizon: Number of predicted steps.
        amount: Distance per output, shape (ny,), output units.
        disturbance_gain: Gain of the filter that predictions are corrected with, where it shall be fixed.
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
    checkpoint: str | os.PathLike[str] | None = None,
) -> ClosedLoopCalibration:
    """Find a tightening under which the closed loop keeps its limits, or its prediction errors, with a probability.

    Args:
        loops: Runs the controller with a given tightening, e.g. `SimulatedLoops`. All else stays as in operation:
            references, disturbances, noise, missing readings and faults are drawn as they will be.
        start: Tightening to begin with: `mpc.nominal`, `mpc.back_off`, or one from `mpc.tighten`.
        seed: Of the loops; every loop gets a seed of its own.
        coverage: Wanted probability c that a new loop keeps, in (0, 1).
        confidence: Confidence g with which c is to hold for this calibration, in (0, 1); None: c is the probability
            over calibration and operation together.
        target: What a loop has to keep.
        effort: How many loops may be used.
        checkpoint: File of the rounds done, from which a stopped calibration goes on.

    Raises:
        CertificationError: No attempt was accepted: nothing is promised. Another call with another seed is a further
            attempt, which the promise does not pay for.
        DataError: Too few loops for the promise, or not what was asked of ``loops``.
        SettingError: A parameter is out of range, or the checkpoint is of another calibration.
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
    run = Rounds(loops, start, target, n, settings, effort.inflation, None if checkpoint is None else Path(checkpoint))
    total = run.explore(effort.rounds, effort.settled)
    for _ in range(effort.attempts):
        last = run.round(total, attempt=True)
        if last.kept >= rank:
            return _accepted(run, last, coverage, confidence, rank, effort.attempts)
        _log.warning("%d of %d loops kept, %d needed: tightening further", last.kept, n, rank)
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
    room = run.tightening(np.array(last.total))
    room = replace(room, promise=text, premises=run.premises(room))
    return ClosedLoopCalibration(
        tightening=room,
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


def _suffices(n: int, coverage: float, confidence: float | None) -> bool:
    try:
        rank_of(n, coverage, confidence)
    except DataError:
        return False
    return True
