"""Closed loops whose truth is known: an enemy moves what was declared, or breaks it, and every claim is held to it.

The truth is the model's own state x*, run over the inputs that truly act, and outputs g(x*) + w; the controller reads
g(x*) + w + v + what the enemy adds. Nothing that the controller says enters the judgement but the claim itself.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.systems import answers_through_neurons
from experiments.guarantee_attack.pool import Member
from mpc import MpcStep
from mpc.observers.base import Observer

ROOM = 1.0 + 1e-7  # of a bound: rounding of the truth itself
BEFORE, DURING = 6, 8  # certified samples before something is broken, and samples for which it is


@dataclass(kw_only=True)
class Sample:
    """What is different at one sample; by default nothing.

    Args:
        off: Added to the reading, shape (ny,).
        manual: Input that somebody else lets act; the controller is told by `record`.
        recorded: What it is told instead of that.
        acted: Input that acts in place of the command.
        told: Read-back of what acts now, handed over at the next sample; "truth": what acts; None: none.
        missed: Samples of the plant that nobody tells the controller of.
        drive: Input that acts during those; the last one is held when left out.
        stamp: Error of the time stamp, in samples; None: no stamps at all.
        frozen: Whether the plant does not move after this sample: it is delivered twice.
        before: Called with the controller first.
    """

    off: Array | float = 0.0
    manual: Array | None = None
    recorded: Array | None = None
    acted: Array | None = None
    told: Array | str | None = None
    missed: int = 0
    drive: Array | None = None
    stamp: float | None = None
    frozen: bool = False
    before: tuple[str, ...] = ()


@dataclass
class Verdict:
    """What became of one loop.

    Args:
        steps: Steps that were judged.
        violations: Outputs beyond their limits although certified, feasible and nothing broken.
        infeasible: Steps without a feasible plan although theory has one.
        beyond: Certified steps with an estimate, a jump or a prediction beyond its bound.
        late: Certified steps with the estimate beyond its bound while, or after, a premise was broken.
        returned: Whether it ended certified, and inside its limits.
        uncertified: Steps within what was declared that were not certified.
        named: Whether anything was said to be contradicted.
        worst: Largest error of a certified estimate, in bounds.
        notes: First thing that went wrong, in words.
    """

    steps: int = 0
    violations: int = 0
    infeasible: int = 0
    beyond: int = 0
    late: int = 0
    returned: bool = True
    uncertified: int = 0
    named: bool = False
    worst: float = 0.0
    notes: list[str] = field(default_factory=list)

    def note(self, t: int, text: str) -> None:
        """Keep the first few."""
        if len(self.notes) < 3:
            self.notes.append(f"{t}: {text}")


@dataclass(frozen=True)
class Told:
    """One call of the controller, for its C code to repeat, and what Python decided."""

    kind: str  # "step", "record", "clear", "start"
    y: Array
    other: Array  # reference of a step, input of a record or start
    applied: Array | None = None
    time: float | None = None
    step: MpcStep | None = None


Script = Callable[[int, "Loop"], Sample]


class Loop:
    """One closed loop.

    Args:
        member: System and parts.
        enemy: What uses up the declared sets.
        seed: Of everything random.
        controller: Of that member, or what stands in for one.
    """

    def __init__(self, member: Member, enemy: Any, seed: int, controller: Any) -> None:
        self.member = member
        self.enemy = enemy
        self.rng = np.random.default_rng(seed)
        self.controller = controller
        self.controller.reset()
        self.system = member.predictor.system
        self.low, self.high = member.predictor.input_limits()
        self.reader = _Bounds(self.controller.observer)
        self.told: list[Told] = []
        self.verdict = Verdict()
        self.t = 0
        self.clock = 0.0
        self.warm = int(self.controller.observer.steps) + 2
        self.start = self.warm + BEFORE
        self.stop = self.start + DURING
        self.x = self._anywhere()
        self.w = self.v = np.zeros(member.predictor.ny)
        self.past = deque([self.w + self.v], maxlen=4)
        self.u = 0.5 * (self.low + self.high)
        self._applied: Array | None = None
        self._before: tuple[Array, Array, bool] | None = None
        self._promised: tuple[Array, Array] | None = None  # whether y now, and just after the last input, is promised
        self.inside = self._started = self._broken_now = False
        self.kept = self.u  # of scripts
        through = member.predictor.carries and answers_through_neurons(self.system)
        self._answers = member.predictor.carries and not through

    def _anywhere(self) -> Array:
        """A state that inputs within the range, and their errors, lead to from far before."""
        u = self.rng.choice([-1.0, 1.0], (8, len(self.low))).repeat(8, axis=0)
        u = np.where(u < 0, self.low - self.member.input_error, self.high + self.member.input_error)
        x = self.member.predictor.equilibrium(0.5 * (self.low + self.high))
        for row in u:
            x = self.system.step(x, row)
        return np.asarray(x)

    @property
    def dt(self) -> float:
        """Sample time [s]."""
        return float(self.system.dt)

    def output(self, x: Array | None = None) -> Array:
        """The plant's outputs without w."""
        return np.asarray(self.system.output(self.x if x is None else x, np.zeros(len(self.low))))

    def recovery(self, share: float) -> int:
        """Samples in which estimates forget all but a share of an error, and are ready again."""
        rates = [float(self.member.contraction.rate)]
        own = getattr(self.controller.observer, "observer_contraction", None)
        rates += [] if own is None else [float(own.rate)]
        return self.warm + 8 + math.ceil(math.log(share) / math.log(max(rates)))

    def run(self, script: Script, broken: Callable[[int, Loop], bool], last: int) -> Verdict:
        """Run it for ``last`` samples; ``broken`` says at which of them something that was declared does not hold."""
        for self.t in range(last):
            self.one(script(self.t, self), broken(self.t, self))
        return self.end()

    def one(self, now: Sample, broken: bool) -> MpcStep | None:
        """One sample: read, choose, judge, move on."""
        self._outputs_judged(broken)
        for what in now.before:
            self._call(what)
        y = self.output() + self.w + self.v + now.off
        step = None
        if self.t < self.warm or now.manual is not None:
            u = self.u if now.manual is None else now.manual
            given = u if now.recorded is None else now.recorded
            self.told.append(Told("record", y, given))
            self.controller.record(y, given)
            self._before = None
            acted = u
            self._applied = None
            self._started = False
        else:
            time = None if now.stamp is None else self.clock + now.stamp * self.dt
            reference = self.enemy.reference(self)
            step = self.controller.step(y, reference, applied=self._applied, time=time)
            self.told.append(Told("step", y, reference, self._applied, time, step))
            self._judge(step, broken)
            acted = self._acts(step.u, now)
        self._move(acted, now)
        return step

    def _call(self, what: str) -> None:
        if what == "clear":
            self.told.append(Told("clear", np.zeros(0), np.zeros(0)))
            self.controller.clear_estimate()
        elif what == "restore":
            again = getattr(self.controller, "again", None)
            if again is None:
                fresh = self.member.controller()
                fresh.restore(self.controller.state())
                self.controller = fresh
            else:
                again()
        elif what == "start":
            u = np.clip(self.u, self.low, self.high)
            self.told.append(Told("start", np.zeros(0), u))
            self.controller.start_from(u)
        self._before = None

    def _acts(self, command: Array, now: Sample) -> Array:
        """What truly acts is recorded, or read back, with an error."""
        member, acted = self.member, command if now.acted is None else now.acted
        if now.acted is None and now.told is None and member.command_error.any():
            acted = np.clip(command + self.enemy.command(self), self.low, self.high)
            self._applied = acted
        else:
            self._applied = acted if isinstance(now.told, str) else now.told
        return acted

    def _move(self, acted: Array, now: Sample) -> None:
        self.u = acted
        if not now.frozen:
            self.clock += self.dt * (1 + now.missed)
        true = acted + self.enemy.input(self)
        if not now.frozen:
            self.w, self.v = self.enemy.next(self, true)
            self.past.append(self.w + self.v)
        if self._answers and self._promised is not None:
            self._after_judged(true)
        if now.frozen:
            return
        self.x = self.system.step(self.x, true)
        for _ in range(min(now.missed, 200)):
            self.x = self.system.step(self.x, acted if now.drive is None else now.drive)

    # what is claimed

    def _outputs_judged(self, broken: bool) -> None:
        y, (low, high) = self.output() + self.w, self.member.limits
        self.inside = bool(((y >= low) & (y <= high)).all())
        if self._promised is not None and not self.inside and not broken:
            self.verdict.violations += 1
            self.verdict.note(self.t, f"output {y} beyond {low} to {high}")
        self._promised = None

    def _after_judged(self, true: Array) -> None:
        """Outputs just after an input, where they answer to it at once."""
        x = self.x.copy()
        x[-len(true) :] = true
        y, (low, high) = self.output(x) + self.w, self.member.limits
        if not ((y >= low) & (y <= high)).all() and not self._broken_now:
            self.verdict.violations += 1
            self.verdict.note(self.t, f"output just after the input {y} beyond {low} to {high}")

    def _judge(self, step: MpcStep, broken: bool) -> None:
        verdict, member = self.verdict, self.member
        verdict.steps += 1
        verdict.named = verdict.named or bool(step.broken)
        self._broken_now = broken
        self._promised = None
        error = self.reader.estimate(self.x - step.x)
        if step.certified:
            verdict.worst = max(verdict.worst, error)
            if error > ROOM:
                verdict.late += 1
                verdict.note(self.t, f"certified, and the estimate {error:.4g} bounds away")
            if self._before is not None and self._before[2] and not broken:
                leapt = self.reader.leapt(step.x - self.system.step(*self._before[:2]))
                if leapt > ROOM:
                    verdict.beyond += 1
                    verdict.note(self.t, f"jumped by {leapt:.4g} bounds")
            if not broken and self.t % 4 == 0 and hasattr(step, "u_planned"):
                self._predictions_judged(step)
        elif not broken:
            verdict.uncertified += 1
        if step.certified and step.feasible and not broken:
            self._promised = (step.x, step.u)
            self._started = True
        if member.terminal is not None and step.certified and not broken and self._started and not step.feasible:
            verdict.infeasible += 1
            verdict.note(self.t, f"infeasible: {step.status}, {step.fallback}")
        self._started = self._started and step.certified
        self._before = (step.x, step.u, step.certified)

    def _predictions_judged(self, step: MpcStep) -> None:
        """The plan carried out on the truth, with the worst inputs and residuals that are declared."""
        member, x, plan = self.member, self.x, step.u_planned
        low, high = step.error_interval
        for k in range(len(low)):
            least, most = self._residuals(k)
            away, tolerance = self.output(x) - step.y_predicted[k], 1e-7 * member.half
            if ((away + least < low[k] - tolerance) | (away + most > high[k] + tolerance)).any():
                self.verdict.beyond += 1
                said = f"error {away + least} to {away + most}, promised {low[k]} to {high[k]}"
                self.verdict.note(self.t, f"prediction of step {k}: {said}")
                return
            if k < len(plan):
                x = self.system.step(x, plan[k] + self.enemy.input(self) + self.enemy.command(self))

    def _residuals(self, k: int) -> tuple[Array, Array]:
        """Ends of what the residual may be k samples from now, after those so far."""
        member = self.member
        least, most = -member.residual, member.residual
        for back, r in enumerate(reversed(self.past)):
            if member.error_memory is not None and k + back <= member.error_memory.steps:
                drift = member.drifted(k + back)
                least, most = np.maximum(least, r - drift), np.minimum(most, r + drift)
        return (self.past[-1], self.past[-1]) if k == 0 else (least, most)

    def end(self) -> Verdict:
        """Judge how it ended."""
        steps = [told.step for told in self.told[-5:] if told.step is not None]
        hard = self.member.terminal is not None
        certified = bool(steps) and all(s.certified and (s.feasible or not hard) for s in steps)
        self.verdict.returned = certified and self.inside
        return self.verdict


class _Bounds:
    """Certified bounds of an observer, in its own metrics."""

    def __init__(self, observer: Observer) -> None:
        self._error = observer.error
        self._jump = observer.jump

    def estimate(self, away: Array) -> float:
        """Error of an estimate, in bounds."""
        return _share(away, self._error.metric, self._error.radius)

    def leapt(self, away: Array) -> float:
        """Size of a jump, in bounds."""
        assert self._jump is not None
        return _share(away, self._jump.metric, self._jump.radius)


def _share(away: Array, metric: Array, radius: float) -> float:
    if not np.isfinite(away).all():
        return np.inf
    return math.sqrt(max(float(away @ metric @ away), 0.0)) / max(radius, 1e-9)
