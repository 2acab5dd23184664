"""Solvers that fail when it hurts, and loops that start outside of their limits.

With a terminal set the last plan keeps limits for ever, whatever the solver says. Without one, or from outside, no plan
may keep them; then what is applied is compared with what anybody would have thought of: the last plan shifted, the last
input held, the safe one. It has to exceed the tightened limits by no more than the best of these (weighted as
`mpc.safety.fallback` says), or to be back inside sooner.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from controlrnn.checks import Array
from experiments.guarantee_attack.loops import Loop, Sample
from experiments.guarantee_attack.pool import Member
from mpc import Fallback, MpcStep, Status, TightenedMPC
from mpc.problem.ocp import Solution, StepData
from mpc.problem.priorities import less, violation
from mpc.problem.ranking import KEPT

FAILURES = ("fails", "nonsense", "says infeasible", "out of time", "in bursts")
_SLACK = 1e-6  # of an output's range


class FailingBackend:
    """A solver that fails now and then.

    Args:
        inner: The true one.
        how: One of `FAILURES`.
        seed: Of when.
    """

    def __init__(self, inner: Any, how: str, seed: int) -> None:
        self.inner = inner
        self.how = how
        self.rng = np.random.default_rng(seed)
        self.left = 0
        self.options = inner.options

    def reset(self) -> None:
        """Start anew."""
        self.inner.reset()

    def solve(self, data: StepData) -> Solution:
        """The true solution, or none."""
        found: Solution = self.inner.solve(data)
        if self.left == 0 and self.rng.random() < 0.2:
            self.left = 6 if self.how == "in bursts" else int(self.rng.integers(1, 3))
        if self.left == 0:
            return found
        self.left -= 1
        wild = self.rng.uniform(-3, 3, found.u.shape)
        parts = {
            "fails": (Status.FAILED, np.full_like(found.u, np.nan)), "nonsense": (Status.FAILED, wild),
            "says infeasible": (Status.INFEASIBLE, wild), "in bursts": (Status.FAILED, 1e9 * wild),
            "out of time": (Status.MAX_ITERATIONS, 0.5 * (found.u + wild)),
        }  # fmt: skip
        status, u = parts[self.how]
        return replace(found, status=status, u=u, feasible=False, cost=np.nan, iterations=1)


def failing(member: Member, how: str, seed: int, **options: Any) -> TightenedMPC:
    """A controller whose solver fails."""
    made = member.controller(**options)
    made.backend = FailingBackend(made.backend, how, seed)
    return made


class FailureLoop(Loop):
    """A loop in which limits are kept whatever the solver does, or exceeded least.

    With a terminal set, true outputs have to stay inside from the first feasible certified sample on.
    """

    least = 0  # steps compared with what anybody would have thought of

    def one(self, now: Sample, broken: bool) -> MpcStep | None:
        """One sample, see `Loop.one`."""
        controller, last = self.controller, None
        if not isinstance(controller, TightenedMPC):
            return super().one(now, broken)
        if controller._plan is not None and (controller.terminal is not None or controller._age < controller.horizon):
            last = controller._shifted(controller._plan)
        step = super().one(now, broken)
        if step is not None and step.fallback is not Fallback.NONE and step.status is not Status.WARMING_UP:
            self._compared(step, last)
        return step

    def _compared(self, step: MpcStep, last: Array | None) -> None:
        data, N = self.controller.last_data, self.controller.horizon
        assert data is not None
        others = [np.tile(data.previous_input, (N, 1)), np.tile(self.controller.safe_input, (N, 1))]
        others += [] if last is None else [last]
        mine, inside = self._excess(data, step.u_planned)
        self.least += 1
        for other, sooner in (self._excess(data, plan) for plan in others):
            worse = less(other, mine) and sum(mine) > sum(other) + _SLACK
            if worse and not (inside <= sooner and inside <= N):
                self.verdict.violations += 1
                self.verdict.note(self.t, f"{step.fallback} exceeds limits by {mine}, another plan by {other}")
                return

    def _excess(self, data: StepData, plan: Array) -> tuple[tuple[float, ...], int]:
        """Weighted sum of what a plan (N, nu) exceeds its limits by, at rest as well, and from when on it is inside."""
        problem = self.controller.problem
        planner = problem.predictor
        x, u, rows = np.array(data.x), np.zeros(planner.nu), []
        system = planner.system
        for u in plan:
            rows.append(system.output(x, u))
            x = system.step(x, u)
        rows.append(system.output(x, u))
        rest = x
        for _ in range(400):
            rest = system.step(rest, u)
        y, still = np.array(rows), system.output(rest, u)
        y[: problem.first] = np.clip(y[: problem.first], data.lower[: problem.first], data.upper[: problem.first])
        if problem.terminal is not None:
            y[-1], still = still, y[-1]
        over = np.maximum(np.maximum(y - data.upper, data.lower - y), 0.0) / problem.output_scale
        allowed = np.zeros_like(still) if problem.terminal is None else np.resize(problem.terminal.margin, still.shape)
        last = (
            np.maximum(np.maximum(still - data.upper[-1], data.lower[-1] - still) - allowed, 0.0) / problem.output_scale
        )
        beyond = (over[:, problem.counted] > KEPT).any(axis=1)
        inside = int(np.flatnonzero(beyond)[-1]) + 1 if beyond.any() else 0
        return violation(problem, np.vstack([over, last])), inside


def run_failing(member: Member, enemy: Any, seed: int, controller: Any) -> FailureLoop:
    """A loop whose solver fails at random, within everything that is declared."""
    loop = FailureLoop(member, enemy, seed, controller)
    quiet = Sample()
    loop.run(lambda *_: quiet, lambda *_: False, loop.warm + 35)
    return loop


def run_from_outside(member: Member, enemy: Any, seed: int, controller: Any) -> FailureLoop:
    """A loop that somebody has led out of its limits, with inputs in range, before and in between."""
    loop = FailureLoop(member, enemy, seed, controller)
    corner = np.where(loop.rng.random(len(loop.low)) < 0.5, loop.low, loop.high)
    other = np.where(loop.rng.random(len(loop.low)) < 0.5, loop.low, loop.high)

    def script(t: int, now: Loop) -> Sample:
        if t < now.warm:
            return Sample(manual=corner)
        return Sample(manual=other) if now.warm + 15 <= t < now.warm + 22 else Sample()

    loop.run(script, lambda *_: False, loop.warm + 55)
    return loop
