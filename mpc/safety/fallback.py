"""Fallback inputs for samples at which the solve gives no plan that keeps all limits.

The first of these plans that keeps its limits is applied:

    the last plan, shifted;  the solver's last iterate;  a held input on the way to the best steady one;  the safe one.

If none does, the one with the least weighted sum of violations is applied, each in output ranges and weighted by the
penalty of its limit; with priorities, those of the first rank are compared first (`mpc.problem.priorities`). Where hard
limits can be back sooner (`mpc.safety.recovery`), it is the plan that is inside first, among the one that recovery
finds and those that violate limits less.

The best steady input costs least per step *within the tightened limits* (`mpc.problem.steady_input`). It is not applied
at once: a governor goes only so far from the last input towards it that holding the result keeps every limit on the way
and at rest (command governors: Gilbert & Kolmanovsky, Automatica 2002; Garone, Di Cairano, Kolmanovsky, Automatica
2017). The next sample starts from there, so that the steady input is reached as fast as limits allow. Holding the last
input is the governor's own fallback: where it was applied and predictions are right, it stays admissible.

A plan counts as keeping its limits only if the steady state of its last input does as well, since a plan that reaches a
limit just after its horizon does not help. Held inputs need not end in the terminal set; such a plan is no proof for
the next sample, and its step is reported as not feasible.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array, Choice
from controlrnn.errors import SettingError
from controlrnn.kernels import output
from mpc.problem.ocp import OptimalControlProblem, Solution, StepData
from mpc.problem.plans import inside_after
from mpc.problem.priorities import less, violation
from mpc.problem.ranking import KEPT
from mpc.problem.solver_options import Status
from mpc.problem.steady_input import best_held_input

_log = logging.getLogger(__name__)
SHARES = 6  # bisections of the way from the last input to the steady input
_OVERSHOOT = (1, 2, 4)  # samples for which an input is at one end of its range before the steady input follows


class Fallback(Choice):
    """Source of the applied plan where the solve gave no solution."""

    NONE = "none"
    PLAN = "plan"
    LEAST = "least excess"
    STEADY = "steady"
    SAFE = "safe"


@dataclass(frozen=True, eq=False, slots=True)
class StandIn:
    """Candidate plan with its violations of the limits.

    Args:
        plan: Inputs, shape (N, nu).
        fallback: Source of the plan.
        feasible: Whether it keeps all tightened limits, and ends in the terminal set where there is one.
        inside_after: First step from which on it keeps the output limits, the hard ones where some are hard; N + 1
            where it does not.
        violation: Weighted sum of its violations for each rank, in output ranges.
    """

    plan: Array
    fallback: Fallback
    feasible: bool
    inside_after: int
    violation: tuple[float, ...]

    @property
    def safe(self) -> bool:
        """Whether it violates no limit, so that no other candidate is needed."""
        return not any(self.violation)

    def followed(self, terminal: bool) -> bool:
        """Whether the next sample goes on from it: an iterate, or one that is proven to have a continuation.

        Args:
            terminal: Whether plans end in a terminal set.
        """
        return self.fallback is Fallback.LEAST or (terminal and self.feasible and self.fallback is not Fallback.PLAN)


@dataclass(frozen=True, eq=False)
class Fallbacks:
    """Chooses the plan to apply where the solve gave no solution; has no memory.

    Args:
        problem: The optimal control problem.
        safe_input: The last resort, shape (nu,).
        admit: Clips a plan (N, nu) to the limits of inputs and moves.
    """

    problem: OptimalControlProblem
    safe_input: Array
    admit: Callable[[Array], Array]

    def choose(
        self, data: StepData, last: Array | None, solution: Solution, back: Callable[[Array, int], Array | None]
    ) -> StandIn:
        """Choose the plan to apply: the first that keeps all limits, or the one of least violation, or inside sooner.

        Args:
            data: Data of the sample.
            last: The last plan from now on, shape (N, nu), or None.
            solution: The solver's answer.
            back: Given a plan and the step from which on it keeps its limits, searches for one that is inside sooner;
                None where there is none.
        """
        with np.errstate(over="ignore", invalid="ignore"):  # a diverged estimate is no reason to warn here
            return self._chosen(data, last, solution, back)

    def _chosen(
        self, data: StepData, last: Array | None, solution: Solution, back: Callable[[Array, int], Array | None]
    ) -> StandIn:
        found: list[StandIn] = []
        for candidate in self._candidates(data, last, solution):
            if candidate.safe:
                return candidate
            found.append(candidate)
        best = found[0]
        for candidate in found[1:]:
            best = candidate if less(candidate.violation, best.violation) else best
        sooner = back(best.plan, best.inside_after)
        if sooner is None:
            return best
        returning = self.assess(data, sooner, Fallback.LEAST)
        if returning.inside_after >= best.inside_after:
            return best
        # A plan of less violation than the returning one is better if it is inside as soon.
        among = [returning, *(c for c in found if less(c.violation, returning.violation))]
        soonest = min(among, key=lambda c: c.inside_after)
        for candidate in among:
            if candidate.inside_after == soonest.inside_after and less(candidate.violation, soonest.violation):
                soonest = candidate
        return soonest

    def assess(self, data: StepData, plan: Array, fallback: Fallback) -> StandIn:
        """Evaluate the violations of a plan (N, nu)."""
        problem, plan = self.problem, self.admit(plan)
        y, states = problem.predictor.rollout(data.x, plan)
        rest = self._at_rest(plan[-1], states[-1], y[-1])
        allowed = np.zeros_like(rest)
        # With a terminal set the limits at step N are for the steady state, tighter by its margin: its output takes the
        # place of y_N, and y_N is checked without the margin.
        if problem.terminal is not None:
            y[-1], rest, allowed = rest, y[-1].copy(), np.resize(problem.terminal.margin, allowed.shape)
        over, later = problem.excess_of(data, y), np.maximum(rest - data.upper[-1], data.lower[-1] - rest) - allowed
        later = np.nan_to_num(np.maximum(later, 0.0) / problem.output_scale, nan=np.inf)
        inside, feasible = inside_after(over[:, problem.counted] > KEPT), not (over > KEPT).any()
        if problem.terminal is not None:
            feasible = feasible and problem.excess(data, plan) <= 0.0
        exceeded = violation(problem, np.vstack([over, later]))
        return StandIn(plan=plan, fallback=fallback, feasible=feasible, inside_after=inside, violation=exceeded)

    def _at_rest(self, u: Array, near: Array, otherwise: Array) -> Array:
        """Outputs (ny,) of the steady state under a held input; ``otherwise`` where there is none."""
        predictor = self.problem.predictor
        if not np.isfinite(near).all():
            return otherwise
        try:
            return output(predictor.system, predictor.equilibrium(u, guess=near), u)
        except SettingError:  # an integrator has none
            return otherwise

    def _candidates(self, data: StepData, last: Array | None, solution: Solution) -> Iterator[StandIn]:
        iterate = solution.iterations > 0 and np.isfinite(solution.u).all()
        lost = solution.status is Status.FAILED  # its iterate need not be near a solution: it is the last candidate
        if last is not None:
            yield self.assess(data, last, Fallback.PLAN)
        if iterate and not lost:
            yield self.assess(data, solution.u, Fallback.LEAST)
        try:
            target, kind = best_held_input(self.problem, data), Fallback.STEADY
        except SettingError as error:
            _log.warning("no steady input (%s): safe input", error)
            target, kind = self.safe_input, Fallback.SAFE
        yield from self._governed(data, target, kind)
        if kind is not Fallback.SAFE:
            yield self._held(data, self.safe_input, Fallback.SAFE)
        if iterate and lost:
            yield self.assess(data, solution.u, Fallback.LEAST)

    def _held(self, data: StepData, u: Array, kind: Fallback) -> StandIn:
        return self.assess(data, np.tile(u, (self.problem.horizon, 1)), kind)

    def _governed(self, data: StepData, target: Array, kind: Fallback) -> Iterator[StandIn]:
        """Held inputs between the last input and a target: as close to it as limits allow, else ways back inside."""
        whole = self._held(data, target, kind)
        if whole.safe:
            yield whole
            return
        start = data.previous_input
        best = self._held(data, start, kind)
        if not best.safe:
            yield whole
            yield best
            yield from self._bringing_back(data, target, kind)
            return
        # Bisection: holding `near` of the way keeps all limits, holding `far` does not.
        near, far = 0.0, 1.0
        for _ in range(SHARES):
            share = 0.5 * (near + far)
            trial = self._held(data, start + share * (target - start), kind)
            if trial.safe:
                near, best = share, trial
            else:
                far = share
        yield best

    def _bringing_back(self, data: StepData, target: Array, kind: Fallback) -> Iterator[StandIn]:
        """Plans that may bring outputs back: part of the way to the target, or one input at an extreme first."""
        lower, upper = self.problem.predictor.input_limits()
        for share in (0.5, 0.25):
            yield self._held(data, data.previous_input + share * (target - data.previous_input), kind)
        for samples in [n for n in _OVERSHOOT if n < self.problem.inputs]:
            for j in self.problem.chosen:
                for end in (lower, upper):
                    plan = np.tile(target, (self.problem.horizon, 1))
                    plan[:samples, j] = end[j]
                    yield self.assess(data, plan, kind)
