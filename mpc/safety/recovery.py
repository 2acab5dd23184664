"""Minimal-time recovery from violated hard limits: the plan that is back inside them in the fewest samples.

Where hard limits leave no plan from the present state, the solver's answer has the least sum of violations, and may
stay just outside for long. The smallest k for which a plan keeps all limits from step k on is the *minimal time*
(Rawlings & Muske, IEEE TAC 1993; Scokaert & Rawlings, AIChE Journal 1999). Limits before step k are relaxed, but only
by the largest violation of the plan of least violation, so that coming back sooner never means going further out. k is
found by bisection, with one solve of the same solver each. Soft limits beside hard ones are not changed. Hard limits of
different priorities are brought back in order of priority instead, not in minimal time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from controlrnn.checks import Array
from mpc.problem.ocp import Backend, OptimalControlProblem, Solution, StepData
from mpc.problem.solver_options import Status


def sooner_inside(
    backend: Backend, problem: OptimalControlProblem, data: StepData, plan: Array, outside: int, deadline: float
) -> Array | None:
    """Search for a plan (N, nu) that keeps its limits from an earlier step than ``outside`` on; None if not found.

    Args:
        backend: The solver.
        problem: Optimal control problem with hard limits.
        data: Data of the sample.
        plan: The plan of least violation, shape (N, nu).
        outside: First step from which on that plan keeps its limits.
        deadline: `time.perf_counter` after which no further solve is begun.
    """
    over = np.where(problem.hard, problem.excess_of(data, problem.outcome(data.x, plan)[0]), 0.0)
    excess = over.max(axis=0) * problem.output_scale
    if not np.isfinite(excess).all():
        return None
    best, low, high, guess = None, 1, outside, plan  # limits can be kept from `high` on, and not from before `low`
    while low < high and time.perf_counter() < deadline:
        k = (low + high) // 2
        solution = backend.solve(_given_up(data, k, excess, guess))
        if _keeps(solution):
            best = guess = solution.u
            high = k
        else:
            low = k + 1
    return best


def returning(
    backend: Backend, problem: OptimalControlProblem, data: StepData, solution: Solution, deadline: float
) -> Callable[[Array, int], Array | None]:
    """Function that calls `sooner_inside` for hard limits of one rank, where the solver works but found no plan."""

    def look(plan: Array, outside: int) -> Array | None:
        ranks = 1 if problem.ranking is None else len(set(np.array(problem.ranking.rank)[problem.hard]))
        if ranks != 1 or problem.soft or solution.status is not Status.INFEASIBLE or outside <= 1:
            return None
        return sooner_inside(backend, problem, data, plan, outside, deadline)

    return look


def _given_up(data: StepData, k: int, excess: Array, guess: Array) -> StepData:
    lower, upper = data.lower.copy(), data.upper.copy()
    lower[:k] -= excess
    upper[:k] += excess
    return replace(data, lower=lower, upper=upper, guess=guess)


def _keeps(solution: Solution) -> bool:
    return solution.status is Status.SOLVED or solution.feasible
