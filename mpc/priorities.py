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
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, count, flag, items
from controlrnn.errors import SettingError, ShapeError
from mpc.solver_options import Status

if TYPE_CHECKING:
    from mpc.ocp import Backend, OptimalControlProblem, Solution, StepData

HARD = 1e3  # solvers with slack only price that of hard limits so many times higher than would be exact,
KEPT = 1e-6  # and whoever needs more of it than this, in output ranges, found no solution
_EQUAL = 1e-6  # violations are equal up to this share, and up to what counts as kept
_STEP = 30.0  # times that a rank costs more than the next where all are solved for at once,
_MOST = 4  # and so many ranks at most: quadratic programmes with more have no solution in floating point


@dataclass(frozen=True)
class Ranking:
    """Which limits are hard, and in what order they count.

    Args:
        hard: Of each output.
        rank: Of each output, from 0; hard limits rank before soft ones.
    """

    hard: tuple[bool, ...]
    rank: tuple[int, ...]

    @property
    def levels(self) -> int:
        """Number of ranks."""
        return 1 + max(self.rank)

    def at(self, level: int) -> NDArray[np.bool_]:
        """The outputs of a rank, shape (ny,)."""
        return np.equal(self.rank, level)

    def ladder(self, prices: Array, kept: int = 0) -> Array:
        """Prices (ny,) of slack in output ranges, raised until each rank costs so many times more than the next.

        The first ``kept`` ranks, which have given way as far as they must, cost `HARD` times more than all others.
        """
        raised = prices.copy()
        for level in reversed(range(self.levels - 1)):
            now, times = self.at(level), 1.0 if level + 1 < kept else HARD if level + 1 == kept else _STEP
            raised[now] *= max(times * raised[self.at(level + 1)].max() / raised[now].min(), 1.0)
        return raised

    def wide(self, copies: int) -> Ranking:
        """The same for outputs that plans have ``copies`` times."""
        return Ranking(self.hard * copies, self.rank * copies)


def ranked(
    soft: bool | Sequence[bool] | None, priority: Sequence[int] | None, ny: int, *, copies: int = 1, terminal: bool
) -> tuple[bool, Ranking | None]:
    """Whether all limits are soft, and their ranks; None where they are all alike.

    Args:
        soft: Of all, or of each output; ``not terminal`` when left out.
        priority: Of each output, 1 first; hard limits before soft ones when left out.
        ny: Number of outputs.
        copies: How many times plans have them.
        terminal: Whether plans end in a terminal set.

    Raises:
        ShapeError: There is not one per output.
        SettingError: A soft limit has priority over a hard one, or there are ranks where none can be.
    """
    if soft is None:
        soft = not terminal
    every = [flag("soft", soft)] * ny if isinstance(soft, bool) else [bool(s) for s in items("soft", soft, bool)]
    given = (
        [1] * ny
        if priority is None
        else [count("priority", p) for p in items("priority", priority, (int, float, np.number))]
    )
    for name, values in (("soft", every), ("priority", given)):
        if len(values) != ny:
            raise ShapeError(f"{name} must have one entry for each of {ny} outputs, got {len(values)}")
    keys = list(zip(every, given, strict=True))
    order = sorted(set(keys))
    if len(order) == 1:
        return every[0], None
    if terminal:
        raise SettingError(
            "a terminal set needs limits that are all hard and alike, got different ones: its theorem continues plans "
            "that keep all of them, and knows no others"
        )
    if min([p for s, p in keys if s], default=_MOST) < max([p for s, p in keys if not s], default=0):
        raise SettingError(
            f"a soft limit must not have priority over a hard one, got priority {given} and soft {every}: 1 comes first"
        )
    if len(order) > _MOST:
        raise SettingError(f"priority and soft may make {_MOST} ranks at most, got {len(order)}")
    found = Ranking(tuple(not s for s in every), tuple(order.index(key) for key in keys))
    return all(every), found.wide(copies)


def refuse_ranks(problem: OptimalControlProblem, solver: str) -> None:
    """Raise SettingError where limits have ranks, for a solver that knows none."""
    if problem.ranking is not None:
        raise SettingError(
            f"{solver} knows neither priorities nor hard limits beside soft ones: leave the controller's backend out"
        )


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
