"""Monitoring of the premises of a guarantee: contradictions are detected, reported and reacted to at every step.

Premises cannot be proven from data of the running loop, but they can be contradicted: by an input outside the
actuators' range, a reading that no error within the declared bounds explains, an actuator that did not follow its
command, a sample that came late. From the sample of a contradiction on nothing is certified until the theory allows it
again: an observer that restarts over a window needs a window of clean inputs (`mpc.observers.base`), one that corrects
its estimate must have forgotten the gap (`mpc.observers.innovation`), a reading that was not used has no lasting
effect.

A premise may be broken without a contradiction: an actuator without read-back, missing time stamps, an input error
within twice its bound. See docs/premises.md.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, Choice, number, positive, put, read_only
from controlrnn.errors import SettingError
from controlrnn.typed import typed
from mpc.c_tables import PremiseTable
from mpc.calibration.plausibility import PlausibilityLimits, PlausibilityRun, Verdict
from mpc.observers.base import Observer
from mpc.predictor import Predictor
from mpc.problem.ocp import OptimalControlProblem
from mpc.promises.promise import LoopTarget
from mpc.safety.coverage_watch import CoveragePromise, CoverageRun
from mpc.tightening.tightening import Tightening

_log = logging.getLogger(__name__)
ABSURD = 1e3  # ranges of a channel: beyond, a reading is treated as missing, and an input as unknown
_ROUNDING = 1e-9  # relative tolerance on bounds


class Premise(Choice):
    """Premise that can be contradicted at run time."""

    INPUTS = "inputs"
    """Inputs, recorded or forecast, are within the actuators' range."""
    ACTUATORS = "actuators"
    """Actuators follow their commands, within the command error."""
    TIME = "time"
    """Samples come when they are due."""
    READINGS = "readings"
    """Readings are plausible: see `Watching.plausibility`."""
    INNOVATION = "innovation"
    """Innovations are within the certified error of the estimate and the residual bound."""
    MODEL_ERROR = "model_error"
    """Errors of the prediction for the present sample are within the tightening."""
    DRIFT = "drift"
    """Readings agree with earlier ones, where limits learn from them (`mpc.tightening.error_memory`)."""
    REGION = "region"
    """Operation is inside the calibrated region."""
    COVERAGE = "coverage"
    """Stretches are inside as often as was promised: see `Watching.promised`."""
    RANGES = "ranges"
    """Arguments of physical laws are in their declared ranges: see `mpc.safety.range_watch`."""
    MOVES = "moves"
    """Inputs have moved as slowly, and for as long, as before calibrated predictions: see `mpc.safety.move_watch`."""


class Reaction(Choice):
    """Reaction of a controller to a contradicted premise, in order of strength; the strongest is taken."""

    REPORT = "report"
    """Report it and go on."""
    IGNORE = "ignore"
    """Treat the reading as missing."""
    WIDEN = "widen"
    """Plan within the limits of a wider tightening."""
    BACK_OFF = "back_off"
    """Go to the safe set point."""
    HOLD = "hold"
    """Hold the last input."""


_DEFAULT = {Premise.READINGS: Reaction.IGNORE, Premise.INNOVATION: Reaction.IGNORE}
_ORDER = list(Reaction)
ORDER = tuple(Premise)
_ABOUT_READINGS = (Premise.READINGS, Premise.INNOVATION, Premise.MODEL_ERROR)


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Watching:
    """Settings for the monitoring of premises: reactions, plausibility limits, tolerances.

    Args:
        reactions: Reaction by premise. By default implausible readings and innovations are ignored, and everything else
            is reported.
        plausibility: Plausibility limits of readings.
        wider: Tightening of the same premises that is used during the reaction WIDEN.
        safe_reference: Set point that is used during the reaction BACK_OFF, shape (ny,).
        promised: Probability that is compared with what happens; see `mpc.safety.coverage_watch`.
        jitter: How late or early a sample may be, in sample times, below 0.5: where later, one was missed.

    Raises:
        SettingError: A reaction lacks a setting that it needs, or IGNORE is asked for a premise not about readings.
    """

    reactions: Mapping[Premise, Reaction] = field(default_factory=dict)
    plausibility: PlausibilityLimits | None = None
    wider: Tightening | None = None
    safe_reference: ArrayLike | None = None
    promised: CoveragePromise | None = None
    jitter: float = 0.01

    def __post_init__(self) -> None:
        given = {Premise(name): Reaction(what) for name, what in self.reactions.items()}
        put(self, reactions={p: given.get(p, _DEFAULT.get(p, Reaction.REPORT)) for p in Premise})
        number("jitter", positive("jitter", self.jitter), below=0.5, what="a share of the sample time in (0, 0.5)")
        for premise, what in given.items():
            if what is Reaction.IGNORE and premise not in _ABOUT_READINGS:
                raise SettingError(f"reaction to {premise} must not be 'ignore', got it: that is for readings")
        for what, needed in ((Reaction.WIDEN, "wider"), (Reaction.BACK_OFF, "safe_reference")):
            if what in given.values() and getattr(self, needed) is None:
                raise SettingError(f"reaction {what} needs {needed}, got none: pass it as well")


class PremiseWatch:
    """Monitors the premises of one controller.

    Args:
        watching: Settings.
        predictor: The controller's predictor.
        problem: Its optimal control problem.
        bounds: Bounds on errors of readings by the tightening, shape (ny,); infinite where it gives none.
    """

    def __init__(self, watching: Watching, predictor: Predictor, problem: OptimalControlProblem, bounds: Array) -> None:
        self.watching = watching
        self._inputs = predictor.inputs
        self._outputs = predictor.outputs
        lower, upper = predictor.input_limits()
        tolerance = 1e-9 * (np.abs(lower) + np.abs(upper))
        self._lower = lower - tolerance
        self._upper = upper + tolerance
        self._dt = float(predictor.dt)
        #: Set point during the reaction BACK_OFF, shape (ny,).
        self.safe = np.zeros(predictor.ny) if watching.safe_reference is None else np.asarray(watching.safe_reference)
        self.absurd_input = ABSURD * (upper - lower)
        self.absurd = ABSURD * problem.output_scale[: predictor.ny]
        self.bounds = np.asarray(bounds) * (1 + _ROUNDING)
        self.promised_bounds = self.bounds  # of what is promised a probability; see `watch_of`
        #: What happened to the promised probability; None where none is compared.
        self.coverage_run = None if watching.promised is None else CoverageRun(watching.promised)
        self.reset()

    def c_table(self) -> PremiseTable:
        """Numbers that C code needs of the watch."""
        return PremiseTable(
            range_low=self._lower,
            range_high=self._upper,
            absurd=self.absurd,
            bounds=self.bounds,
            reactions=np.array([_ORDER.index(self.watching.reactions[p]) for p in ORDER], dtype=int),
            safe=self.safe,
            jitter=self.watching.jitter,
            counted=None if self.coverage_run is None else self.coverage_run.c_table(*self.counted()),
        )

    def reset(self) -> None:
        """Forget all contradictions and samples."""
        self.now: dict[Premise, str] = {}
        #: `Verdict` on each reading of the last sample, shape (ny,).
        self.verdicts: NDArray[np.int8] = np.zeros(len(self._outputs), dtype=np.int8)
        self._lasting: tuple[str, ...] = ()
        self._reacting: tuple[str, ...] = ()
        limits = self.watching.plausibility
        self._plausibility: PlausibilityRun | None = None if limits is None else limits.start()
        self._time: float | None = None
        if self.coverage_run is not None:
            self.coverage_run.reset()

    @property
    def broken(self) -> tuple[Premise, ...]:
        """Premises that are contradicted now, or were and still affect the estimate."""
        return tuple(p for p in ORDER if p in self.now or p in self._lasting) if self.now or self._lasting else ()

    @property
    def words(self) -> str:
        """Text of the contradictions at this sample, with names and numbers."""
        return "; ".join(self.now.values())

    @property
    def reaction(self) -> Reaction:
        """Strongest reaction to the present and lasting contradictions."""
        if not (self.now or self._lasting or self._reacting):
            return Reaction.REPORT
        found = (self.watching.reactions[Premise(p)] for p in {*self.now, *self._lasting, *self._reacting})
        return max(found, key=_ORDER.index)

    def tell(self, premise: Premise, words: str) -> None:
        """Note a contradiction.

        Args:
            premise: The contradicted premise.
            words: Text of what contradicts it; nothing is noted if empty.
        """
        if words:
            self.now[premise] = f"{self.now[premise]}; {words}" if premise in self.now else words

    def inputs(self, u: Array, what: str = "input") -> None:
        """Check that inputs (nu,), or rows of them (T, nu), are within the actuators' range."""
        if ((u < self._lower) | (u > self._upper)).any():
            out = np.atleast_2d((u < self._lower) | (u > self._upper))
            k, i = (int(j) for j in np.argwhere(out)[0])
            s, value = self._inputs[i], float(np.atleast_2d(u)[k, i])
            self.tell(Premise.INPUTS, f"{what} {s.label}: {value:.4g}, range {s.lower:.4g} to {s.upper:.4g}")

    def possible(self, u: Array) -> tuple[Array, bool]:
        """An input (nu,) cut to the range where no actuator can have done what is said, and whether it was cut.

        Args:
            u: As recorded or read back.
        """
        far = self.absurd_input
        wrong = (u < self._lower - far) | (u > self._upper + far)
        if not wrong.any():
            return u, False
        self.inputs(u)
        return np.where(wrong, np.clip(u, self._lower, self._upper), u), True

    def recorded(self, u: Array) -> tuple[Array, bool]:
        """Look at a recorded sample, which came when it was due; gives what `possible` does.

        Args:
            u: Its input, shape (nu,).
        """
        self._time = self._next_time
        cut, wrong = self.possible(u)
        if not wrong:
            self.inputs(u)
        return cut, wrong

    @property
    def _next_time(self) -> float | None:
        """When the sample after the last one is due [s]; None where no stamp was given yet."""
        return None if self._time is None else self._time + self._dt

    def since(self, time: float | None) -> tuple[int, bool]:
        """Number of sample times since the last sample, and whether this one came when due.

        Args:
            time: Time stamp of this sample [s]; None: it came when due, after the last one that has a stamp.
        """
        if time is None or self._time is None:
            self._time = self._next_time if time is None else time
            return 1, True
        passed = (time - self._time) / self._dt
        self._time = time
        whole = int(max(passed, 1.0) + 0.5) if passed < 1e6 else 10**6
        due = abs(passed - 1) <= self.watching.jitter
        if not due:
            self.tell(Premise.TIME, f"sample came {passed:.4g} sample times after the one before it, expected 1")
        return whole, due

    def readings(self, y: Array, error: Array, expected: Array, observer: Observer) -> tuple[Array, Array]:
        """Remove implausible readings: those for the observer and those for everything else, each (ny,) with NaN.

        Args:
            y: Readings, NaN where missing.
            error: Their distance from the estimate's outputs.
            expected: Expected readings, with the disturbance estimate.
            observer: The controller's observer.
        """
        used, reactions = y, self.watching.reactions
        self.verdicts = Verdict.MISSING * np.isnan(y).astype(np.int8)
        if self._plausibility is not None:
            believed, verdicts = self._plausibility.check(y, expected)
            self.verdicts, odd = verdicts, verdicts > Verdict.MISSING
            if odd.any():
                names = [f"{self._outputs[i].name} is {Verdict(verdicts[i]).name.lower()}" for i in np.flatnonzero(odd)]
                self.tell(Premise.READINGS, f"reading of {', '.join(names)}")
                used = believed if reactions[Premise.READINGS] is Reaction.IGNORE else used
        # NaN compares as false: what is missing contradicts nothing
        absurd = np.abs(error) > self.absurd
        if absurd.any():
            i = int(np.flatnonzero(absurd)[0])
            self.tell(Premise.READINGS, f"reading of {self._outputs[i].name} {y[i]:.3g} cannot be right")
            used = np.where(absurd, np.nan, used)
        seen = used
        wrong, words = observer.implausible(used)
        if words:
            self.tell(Premise.INNOVATION, words)
            used = np.where(wrong, np.nan, used) if reactions[Premise.INNOVATION] is Reaction.IGNORE else used
        return seen, used

    def late(self, y: Array) -> Array:
        """A reading (ny,) that comes late, with NaN where a sensor's range ends: nothing else is there to compare."""
        limits = self.watching.plausibility
        return y if limits is None else limits.start().check(y)[0]

    def model_error(self, error: Array, observer: Observer) -> bool:
        """Whether an error of the readings (ny,), corrected as predictions are, exceeds its bound; notes it if so."""
        if not observer.certified:
            return False
        large = np.abs(error) > self.bounds
        if not large.any():
            return False
        i = int(np.flatnonzero(large)[0])
        self.tell(
            Premise.MODEL_ERROR,
            f"{self._outputs[i].name} measured {error[i]:.3g} from the prediction, tightened for {self.bounds[i]:.3g}",
        )
        return True

    def coverage(self, y: Array, error: Array, *, promised: bool = True) -> None:
        """Count a sample.

        Args:
            y: Readings, shape (ny,); NaN unseen.
            error: Their errors less what predictions are corrected by.
            promised: Whether anything is promised of predictions now; otherwise they are unseen.
        """
        if self.coverage_run is None:
            return
        low, high = self.counted()
        limits = self.coverage_run.promise.target is LoopTarget.LIMITS
        if not (promised or limits):
            y = error = np.full(len(y), np.nan)
        looked = y if limits else error
        outside = (looked < low) | (looked > high)
        self.coverage_run.update(not outside.any(), float(np.isfinite(y).sum()) / len(y))
        self.tell(Premise.COVERAGE, self.coverage_run.words)

    def counted(self) -> tuple[Array, Array]:
        """Lower and upper ends, each (ny,), of what counts as inside: readings within limits, or else their errors."""
        if self.coverage_run is not None and self.coverage_run.promise.target is LoopTarget.LIMITS:
            return np.array([s.lower for s in self._outputs]), np.array([s.upper for s in self._outputs])
        return -self.promised_bounds, self.promised_bounds

    def ignored(self, y: Array, error: Array) -> Array:
        """Readings (ny,) with NaN where the error (ny,) is too large, if the reaction to that is IGNORE."""
        if self.watching.reactions[Premise.MODEL_ERROR] is not Reaction.IGNORE:
            return y
        return np.where(np.abs(error) > self.bounds, np.nan, y)

    def finish(self, observer: Observer, *, told: bool = True) -> None:
        """End a sample: drop the contradictions that no longer affect the estimate, by its certified error.

        Args:
            observer: The controller's observer, after the sample.
            told: Whether a step has reported this sample's contradictions.
        """
        if not (self.now or self._lasting or self._reacting):
            return
        self._reacting = tuple(p.value for p in self.now)
        every = (*self._lasting, *(p for p in self._reacting if p not in self._lasting))
        # A certified estimate has forgotten the contradiction; without a certificate there is nothing to restore.
        over = observer.certified or observer.contraction is None
        if told:
            self._lasting = () if over else every
        else:
            self._lasting = every
        self.now = {}


def reading_bounds(tightening: Tightening, claims: bool) -> Array:
    """Bounds on the distance of readings from the prediction for now, shape (ny,); infinite where there is none.

    Args:
        tightening: The controller's tightening.
        claims: Whether it promises anything about predictions.
    """
    bounds = tightening.predictive[0]
    return read_only(bounds if claims and "certificate" in tightening.digests else np.full(len(bounds), math.inf))
