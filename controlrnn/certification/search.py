"""The search for the multipliers of one output over a horizon.

Only the stages next to the output are optimised one by one; what is further back is forgotten alike at every stage, so
a longer horizon repeats what was found for the middle of these. Whatever the search finds is proven afterwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from controlrnn.certification import incremental
from controlrnn.certification.families import Family, Problem
from controlrnn.certification.incremental import IncrementalForm
from controlrnn.certification.interior import extend, interior
from controlrnn.certification.riccati import Pair, Task, minimise
from controlrnn.checks import Array
from controlrnn.errors import CertificationError

_HEAD = 200  # stages that are optimised one by one
_NUDGE = 0.005  # least initial radius of a search, relative to what inputs do to the state in one step
_SPREAD = 10  # steps that one optimisation looks at together
# How far the multipliers are moved inside the feasible set, and how much the storages are enlarged, in the order tried.
_SHARES = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
_PADDINGS = (1e-11, 1e-11, 1e-11, 1e-10, 1e-10, 1e-9, 1e-9, 1e-8, 1e-7)


class Search:
    """Multipliers for one output; pairs (multipliers, rho) are those of the head, shapes (H, nv) and (H, nu).

    Args:
        problem: The inequality.
        row: The output.
    """

    def __init__(self, problem: Problem, row: int) -> None:
        self.problem, self.row = problem, row
        self.stages = problem.horizon + 1
        self.head = min(self.stages, _HEAD)
        self.inside = interior(self._cut(self.task(self.at(problem.horizon))))

    def at(self, step: int) -> Array:
        """Weights (N + 1,) that look at one step alone."""
        weights = np.zeros(self.stages)
        weights[step] = 1.0
        return weights

    def everywhere(self) -> Array:
        """Weights (N + 1,) that look at steps spread over the horizon, each relative to its own size."""
        last = self.at(self.problem.horizon)
        if self.stages == 1:
            return last
        problem, task = self.problem, self.task(last)
        found, energy = self._extended(task, self.minimise(last, self.inside, 20))
        spread = np.unique(np.round(np.geomspace(1, len(found), _SPREAD)).astype(int)) - 1
        ball = np.eye(problem.form.nx)
        size = np.array([problem.radius**2 * incremental.largest_ratio(found[k], ball) + energy[k] for k in spread])
        weights = np.zeros(self.stages)
        weights[spread] = 1 / np.maximum(size, max(1e-12 * size.max(), 1e-200)) / len(size)
        return weights

    def minimise(self, weights: Array, start: Pair, iterations: int) -> Pair:
        """Multipliers that are good at the steps that ``weights`` (N + 1,) look at."""
        task = self.task(weights)
        if self.stages == self.head:
            return minimise(task, start, steps=iterations)
        # First as if nothing shrank before the head, then with what that says of how fast it does.
        first = minimise(self._cut(task), start, steps=iterations // 4)
        found, energy = self._extended(task, first)
        H, K = self.head, len(found)
        top = np.array([max(float(np.linalg.eigvalsh(P)[-1]), 1e-300) for P in found])
        later = task.state_weights[H:K] * top[H:] + task.weights[H:K] * (energy[H:] - energy[H - 1])
        cut = self._cut(task)
        state_weights = task.state_weights[:H].copy()
        state_weights[-1] += later.sum() / top[H - 1]
        return minimise(replace(cut, state_weights=state_weights), first, steps=iterations)

    def settle(self, found: Pair) -> Family:
        """A family as close to ``found`` as the proof allows; ``found`` is of the head, or of all stages.

        An optimum lies on the boundary of the feasible set, and a solver's answer may lie outside of it; the set is
        convex, so the segment to a point inside enters it.

        Raises:
            CertificationError: The proof does not even pass at the point inside.
        """
        task = self.task(self.at(0))
        for share, padding in zip(_SHARES, _PADDINGS, strict=True):
            try:
                mixed = tuple((1 - share) * a + share * b for a, b in zip(found, self.inside, strict=True))
                family = Family(self.row, *extend(task, (mixed[0], mixed[1]), self.stages), padding)
                self.problem.prove(family)
            except CertificationError as error:
                failure = error
            else:
                return family
        raise failure

    def sizes(self) -> Array:
        """Rough size of the storage per stage of the head, shape (H,), for scaling."""
        found, _ = self._extended(self.task(self.at(0)), self.inside, self.head)
        return np.array([max(float(np.trace(P)) / len(P), 1e-100) for P in found])

    def task(self, weights: Array) -> Task:
        """The optimisation for one output, in coordinates in which the initial set is a ball."""
        problem, f = self.problem, self.problem.form
        L = np.linalg.cholesky(problem.metric)  # xi = L' dx
        back = np.eye(f.nz)
        back[: f.nx, : f.nx] = np.linalg.inv(L.T)
        local = IncrementalForm(L.T @ f.T @ back, f.Y @ back, f.lower @ back, f.upper @ back, f.nx, f.nu)
        c = local.Y[[self.row]]
        # Where the initial difference hardly counts the optimum lies at infinite storages: the search gets a radius of
        # some share of what the inputs do to the state in one step; the bounds are those of the true radius.
        through = local.T[:, f.nx + f.nu :], local.upper[:, f.nx : f.nx + f.nu]
        push = np.linalg.norm(local.T[:, f.nx : f.nx + f.nu] @ problem.b)
        push += np.linalg.norm(through[0], 2) * np.linalg.norm(through[1] @ problem.b) if f.nv and f.nu else 0.0
        radius = max(problem.radius, _NUDGE * float(push))
        return Task(local, c.T @ c, weights, weights * radius**2, problem.b)

    def _cut(self, task: Task) -> Task:
        """The task of the head; steps behind it count as its last one."""
        H = self.head
        weights, state_weights = task.weights[:H].copy(), task.state_weights[:H].copy()
        weights[-1] += task.weights[H:].sum()
        state_weights[-1] += task.state_weights[H:].sum()
        return replace(task, weights=weights, state_weights=state_weights)

    def _extended(self, task: Task, found: Pair, stages: int | None = None) -> tuple[list[Array], Array]:
        """Storages of all stages (as far as they do not overflow) and what the inputs add up to, (K,)."""
        try:
            lam, rho = extend(task, found, stages or self.stages)
        except CertificationError:
            lam, rho = found
        P, _ = incremental.storages(task.form, task.terminal, lam, rho, padding=0.0)
        finite = [n for n, p in enumerate(P) if not np.isfinite(p).all() or np.abs(p).max() > 1e200]
        P = P[: finite[0]] if finite else P
        return P, np.cumsum(rho[: len(P)] @ task.b**2)


def best_family(problem: Problem, row: int, iterations: int) -> Family:
    """One family for one output that is good at all steps."""
    search = Search(problem, row)
    return search.settle(search.minimise(search.everywhere(), search.inside, iterations))


def families_for(problem: Problem, row: int, steps: Sequence[int], together: bool, iterations: int) -> list[Family]:
    """Families for one output: one for all ``together`` if asked, and one for each of ``steps``."""
    search = Search(problem, row)
    start, families = search.inside, []
    for weights in [*([search.everywhere()] if together else []), *(search.at(k) for k in dict.fromkeys(steps))]:
        start = search.minimise(weights, start, iterations)
        families.append(search.settle(start))
    return families
