"""Statistical promise of a calibrated bound: probability, unit, conditions, and what follows for longer operation.

A bound from records holds for trajectories that are exchangeable with them: the same kind of operation, no longer, with
the same share of readings missing, and under the same feedback. Records of experiments prove nothing about the loop
that a controller closes, since it drives the plant elsewhere and correlates inputs with errors.

**Longer operation.** Assume that the process is stationary from the end of the washout on: errors of all stretches of S
samples have one distribution, that of a record. With a_S the probability that such a stretch is not inside throughout:

- T samples are ceil(T / S) stretches; that any of them is not inside has probability <= ceil(T / S) a_S (union bound);
- with a the probability that one single step is not inside (`CoverageUnit.STEP`), each step of an operation of any
  length is not inside with probability <= a, the expected number of such steps among T is <= T a, at least T s of them
  are outside with probability <= a / s (Markov), and any of them is with probability <= T a.

Neither needs independence. Without stationarity nothing is promised beyond the length of the records. See also
docs/theory/statistical_promise.md.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Choice, count, numbers
from controlrnn.errors import SettingError
from controlrnn.typed import typed


class Loop(Choice):
    """Feedback under which calibration records were taken: open or closed loop."""

    OPEN = "open"
    """By an experiment or another controller: nothing is proven for the closed loop."""
    CLOSED = "closed"
    """By the controller that the promise is for, with all its settings unchanged."""


class CoverageUnit(Choice):
    """What a promised probability counts: whole records, or predictions from single samples."""

    RECORD = "record"
    """A whole trajectory, at all its times."""
    STEP = "step"
    """The prediction from one sample of a trajectory, drawn at random."""


class LoopTarget(Choice):
    """Criterion by which a closed loop is judged."""

    LIMITS = "limits"
    """All outputs within their limits, from the first sample on that the controller can influence."""
    PREDICTIONS = "predictions"
    """Every prediction error within the tightening."""


@dataclass(frozen=True, kw_only=True)
@typed(infinite=("move_limit",))
class Operation:
    """Kind of operation that a bound is calibrated for.

    Args:
        loop: Whether the records come from the controller itself.
        missing: Probability with which each reading is missing, independently of everything, in [0, 1). Records are
            complete: readings to be hidden from disturbance filter and observer are drawn, while errors stay known.
        seed: Seed of those draws.
        move_limit: Largest change of each input per sample, one number or one per input, infinite for inputs that move
            at will. Only predictions count before and during which inputs kept it; see `mpc.calibration.slow_inputs`.

    Raises:
        SettingError: ``missing`` is not in [0, 1), or a move limit is not positive.
    """

    loop: Loop = Loop.OPEN
    missing: float = 0.0
    seed: int = 0
    move_limit: ArrayLike | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "loop", Loop(self.loop))
        if not 0 <= self.missing < 1:
            raise SettingError(f"missing must lie in [0, 1), got {self.missing!r}: the share of readings that fail")
        if self.move_limit is not None:
            limit = np.ravel(numbers("move_limit", self.move_limit))
            if not limit.size or not (limit > 0).all():  # NaN is not
                raise SettingError(f"move_limit must be > 0 in every channel, got {self.move_limit}")
            object.__setattr__(self, "move_limit", float(limit[0]) if limit.size == 1 else tuple(limit.tolist()))


class Promised(Protocol):
    """Data that the text of a promise is made from; see `mpc.ModelError` for the fields."""

    @property
    def coverage(self) -> float:
        """Promised probability."""

    @property
    def confidence(self) -> float | None:
        """Confidence for this calibration set, or None."""

    @property
    def unit(self) -> CoverageUnit:
        """Unit that stays inside."""

    @property
    def n(self) -> int:
        """Number of calibration trajectories."""

    @property
    def length(self) -> int:
        """Samples of the shortest trajectory."""

    @property
    def starts(self) -> int:
        """Number of predictions in the shortest one."""

    @property
    def loop(self) -> Loop:
        """Whether the records are from open or closed loop."""

    @property
    def missing(self) -> float | None:
        """Share of readings missing; None where readings are not used."""


def words(promise: Promised) -> str:
    """Text of the promise, one sentence.

    Args:
        promise: Its data.
    """
    probability = f"with probability >= {promise.coverage:g}, "
    chosen = "over the choice of the calibration trajectories, too"
    if promise.confidence is not None:
        chosen = f"for this calibration set with confidence {promise.confidence:g}, if trajectories are independent"
    return f"{probability}{conditions(promise)} ({chosen})"


def conditions(promise: Promised) -> str:
    """Text that says what stays inside, and under which conditions.

    Args:
        promise: Its data.
    """
    feedback = {
        Loop.OPEN: "open-loop (not under feedback)",
        Loop.CLOSED: "closed-loop (under the controller of the records, unchanged)",
    }[promise.loop]
    readings = "" if promise.missing is None else f", {promise.missing:.3g} of the readings missing"
    kind = f"{feedback} trajectory of the same kind as the {promise.n} calibration trajectories"
    if promise.unit is CoverageUnit.STEP:
        return (
            f"the prediction from a sample drawn at random of a new {kind} ({promise.length} samples{readings}) stays "
            "inside at all steps and outputs"
        )
    return (
        f"a new {kind} and no longer ({promise.length} samples, {promise.starts} predictions{readings}) stays inside "
        "at all its times, steps and outputs"
    )


def coverage_over(promise: Promised, steps: int) -> float:
    """Lower bound on the probability that ``steps`` successive predictions are all inside, for a stationary process.

    The theorem is in the module docstring; 0 where it gives nothing.

    Args:
        promise: Its data.
        steps: Samples of operation.
    """
    steps = count("steps", steps)
    # Union bound over stretches of the length that the promise is for.
    each = 1 if promise.unit is CoverageUnit.STEP else promise.starts
    return max(0.0, 1.0 - math.ceil(steps / each) * (1.0 - promise.coverage))


def words_over(promise: Promised, steps: int) -> str:
    """Text of what follows for an operation of ``steps`` samples, one sentence.

    Args:
        promise: Its data.
        steps: Samples of operation.
    """
    whole = coverage_over(promise, steps)
    if promise.unit is CoverageUnit.RECORD and steps <= promise.starts:
        return words(promise)
    sure = "" if promise.confidence is None else f"with confidence {promise.confidence:g} in the calibration set, "
    text = f"{sure}if the process is stationary from the end of the washout on: all of {steps} predictions are inside "
    text += f"with probability >= {whole:.3g}" if whole > 0 else "with a probability of which nothing is promised"
    if promise.unit is CoverageUnit.STEP:
        text += (
            f"; each of them with probability >= {promise.coverage:g}, and on average at most "
            f"{steps * (1 - promise.coverage):.4g} are not"
        )
    return text
