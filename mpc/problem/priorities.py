"""Limits of different rank: hard ones before soft ones, and the first priority before the next, strictly.

Where limits cannot all be kept, the least violation of the first priority comes first; of the plans that have it, those
with the least violation of the second; and so on (lexicographic: Kerrigan & Maciejowski, "Designing model predictive
controllers with prioritised constraints and objectives", CACSD 2002). A violation is the sum over the horizon of what
the limits of one rank are exceeded by, in output ranges, weighted within the rank by their penalties.

One solve in which a rank costs many times the next comes near to that, and is all that is needed where nothing is
exceeded, or the last rank alone. Otherwise each rank is solved for without those behind it, which is its least
violation for certain; where prices had missed it, its limits give way by just that much, and the rest is solved again.
A plan that exceeds an earlier rank by more than was found possible is thrown away. Two things are not claimed: solves
are local, as all of the controller's are; and a rank that is exceeded gives way limit by limit by what its own plan
exceeds, of which there may be several with the same sum.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np

from controlrnn.checks import Array
from mpc.problem.ocp import Backend, OptimalControlProblem, Solution, StepData
from mpc.problem.ranking import KEPT
from mpc.problem.solver_options import Status

_EQUAL = 1e-6  # violations are equal up to this share, and up to what counts as kept


def violation(problem: OptimalControlProblem, over: Array) -> tuple[float, ...]:
    """Of each rank, what its limits are exceeded by: ``over`` (rows, ny) in output ranges, weighted and summed."""
    sums = (np.where(over > KEPT, over, 0.0) * problem.limit_weight).sum(axis=0)
    if problem.ranking is None:
        return (float(sums.sum()),)
    return tuple(float(sums[problem.ranking.at(level)].sum()) for level in range(problem.ranking.levels))


def less(first: tuple[float, ...], second: tuple[float, ...]) -> bool:
    """Whether the first violation is the smaller one: in the first rank in which they differ by more than rounding."""
    for a, b in zip(first[:-1], second[:-1], strict=True):
        if a != b and not abs(a - b) <= KEPT + _EQUAL * max(a, b):
            return a < b
    return first[-1] < second[-1]


def by_priority(
    backend: Backend, problem: OptimalControlProblem, data: StepData, solution: Solution, deadline: float
) -> Solution:
    """The solution that violates the first rank least, then the next; the given one where it does.

    Args:
        backend: The solver.
        problem: What it solves.
        data: The sample.
        solution: Of all limits at once.
        deadline: `time.perf_counter` after which no further solve is begun.
    """
    ranking = problem.ranking
    if ranking is None or solution.status not in (Status.SOLVED, Status.INFEASIBLE):
        return solution
    best = _Found.of(problem, data, solution.u)
    room = np.zeros_like(best.over)
    for level in range(ranking.levels - 1):
        if time.perf_counter() > deadline:
            break
        if best.violation[level]:
            alone = _solved(backend, problem, data, room, (level, level), best.u)
            if alone is not None and less(alone.violation[: level + 1], best.violation[: level + 1]):
                room[:, ranking.at(level)] = alone.over[:, ranking.at(level)]
                best = alone
                rest = _solved(backend, problem, data, room, (level + 1, ranking.levels), best.u)
                if rest is not None and less(rest.violation, best.violation):
                    best = rest
        room[:, ranking.at(level)] = best.over[:, ranking.at(level)]
    return solution if best.u is solution.u else _answer(problem, data, solution, best)


@dataclass(frozen=True, eq=False, slots=True)
class _Found:
    """A plan (N, nu), what it exceeds, (N + 1, ny) in output ranges, and the violation of each rank."""

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
    room: Array,
    ranks: tuple[int, int],
    guess: Array,
) -> _Found | None:
    """With limits ``room`` wider; None where the solver fails.

    The ranks before the first of ``ranks`` are not to give way further, and those after the second do not count.
    """
    ranking = problem.ranking
    assert ranking is not None
    wider = np.where(np.array(ranking.rank) > ranks[1], np.inf, room * problem.output_scale)
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
