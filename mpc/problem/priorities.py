"""Prioritised output limits: lexicographic minimisation of violations, rank by rank.

If not all limits can be kept, the violation of the first rank is minimised, then that of the second among the plans
with the least violation of the first, and so on (lexicographic: Kerrigan & Maciejowski, "Designing model predictive
controllers with prioritised constraints and objectives", CACSD 2002). Hard limits rank before soft ones. The violation
of a rank is the sum of its limits' violations over the horizon, in output ranges, weighted by their penalties.

A single solve in which each rank is penalised much more than the next approximates that, and suffices if no limit or
only limits of the last rank are violated. Otherwise each rank is solved for without the later ones, which gives its
least violation; where the penalties had missed it, the limits of the rank are relaxed by just that much, and the rest
is solved again. A plan that violates an earlier rank by more than necessary is discarded. Two limitations: solves are
local, as all of the controller's; and a violated rank is relaxed limit by limit by the violations of its own plan, of
which there may be several with the same sum.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from controlrnn.checks import Array
from mpc.problem.ocp import Backend, OptimalControlProblem, Solution, StepData
from mpc.problem.ranking import KEPT
from mpc.problem.solver_options import Status

EQUAL = 1e-6  # relative difference up to which violations are equal, besides KEPT


def violation(problem: OptimalControlProblem, over: Array) -> tuple[float, ...]:
    """Violation of each rank: weighted sum over its limits and all rows of ``over`` (rows, ny), in output ranges."""
    sums = (np.where(over > KEPT, over, 0.0) * problem.limit_weight).sum(axis=0)
    if problem.ranking is None:
        return (float(sums.sum()),)
    return tuple(float(sums[problem.ranking.at(level)].sum()) for level in range(problem.ranking.levels))


def less(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether the first violation is smaller, by the first rank in which the two differ by more than rounding."""
    for a, b in zip(first[:-1], second[:-1], strict=True):
        if a != b and not abs(a - b) <= KEPT + EQUAL * max(a, b):
            return a < b
    return first[-1] < second[-1]


def by_priority(
    backend: Backend, problem: OptimalControlProblem, data: StepData, solution: Solution, deadline: float
) -> Solution:
    """Improve a solution by priorities: least violation of the first rank, then of the next, and so on.

    Args:
        backend: The solver.
        problem: Its optimal control problem.
        data: Data of the sample.
        solution: Solution with all limits at once; returned if there is none better.
        deadline: `time.perf_counter` after which no further solve is begun.
    """
    ranking = problem.ranking
    if ranking is None or solution.status not in (Status.SOLVED, Status.INFEASIBLE):
        return solution
    best = _Found.of(problem, data, solution.u)
    extra = np.zeros_like(best.over)
    for level in range(ranking.levels - 1):
        if time.perf_counter() > deadline:
            break
        if best.violation[level]:
            alone = _solved(backend, problem, data, extra, (level, level), best.u)
            if alone is not None and less(alone.violation[: level + 1], best.violation[: level + 1]):
                extra[:, ranking.at(level)] = alone.over[:, ranking.at(level)]
                best = alone
                rest = _solved(backend, problem, data, extra, (level + 1, ranking.levels), best.u)
                if rest is not None and less(rest.violation, best.violation):
                    best = rest
        extra[:, ranking.at(level)] = best.over[:, ranking.at(level)]
    return solution if best.u is solution.u else _answer(problem, data, solution, best)


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    """Plan (N, nu) with its violations, (N + 1, ny) in output ranges, and the sum for each rank."""

    u: Array
    over: Array
    violation: tuple[float, ...]

    @classmethod
    def of(cls, problem: OptimalControlProblem, data: StepData, u: Array) -> _Found:
        over = problem.excess_of(data, problem.outcome(data.x, u)[0])
        return cls(u, over, violation(problem, over))


def _solved(
    backend: Backend,
    problem: OptimalControlProblem,
    data: StepData,
    extra: Array,
    ranks: tuple[int, int],
    guess: Array,
) -> _Found | None:
    """Solve with limits relaxed by ``extra`` (N + 1, ny), in output ranges; None where the solver fails.

    Ranks before the first of ``ranks`` must not be violated further, and those after the second are left out.
    """
    ranking = problem.ranking
    assert ranking is not None
    wider = np.where(np.array(ranking.rank) > ranks[1], np.inf, extra * problem.output_scale)
    wide = replace(data, lower=data.lower - wider, upper=data.upper + wider, guess=guess, kept_ranks=ranks[0])
    solution = backend.solve(wide)
    if solution.status not in (Status.SOLVED, Status.INFEASIBLE) or not np.isfinite(solution.u).all():
        return None
    return _Found.of(problem, data, solution.u)


def _answer(problem: OptimalControlProblem, data: StepData, solution: Solution, best: _Found) -> Solution:
    kept, slack = not (best.over[:, problem.hard] > KEPT).any(), best.over * problem.output_scale
    return replace(
        solution,
        status=Status.SOLVED if kept else Status.INFEASIBLE,
        u=best.u,
        slack=slack,
        cost=problem.objective(data, best.u)[0] + float((slack * (problem.prices() - problem.penalty)).sum()),
        message="limits by priority" if kept else "the least excess over the hard limits is not zero",
    )
