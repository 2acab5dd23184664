"""Search for the multipliers of one output over a horizon, stage by stage near the output.

Only the stages next to the output are optimised one by one; what is further back is the `Tail`'s. Whatever the search
finds is proven afterwards.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise

import numpy as np

from controlrnn.certification.certificate import PROOF_ROOM
from controlrnn.certification.families import Family, PredictionInequality
from controlrnn.certification.proof import incremental
from controlrnn.certification.search.interior import interior
from controlrnn.certification.search.riccati import HorizonObjective, Multipliers, minimise
from controlrnn.certification.search.tail import Tail
from controlrnn.certification.search.units import Units
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.portable import ROOM

_log = logging.getLogger(__name__)
_HEAD = 200  # stages that are optimised one by one
_GREEDY = 20  # stages at the end of which a long search starts from stationary multipliers
# Least initial radius of a search, relative to what inputs do to the state in one step; see `Search.task`. Without an
# initial difference a search that goes to the last at once gets stuck up to a fifth above the optimum.
_NUDGES = (0.3, 0.1, 0.03, 0.01, 0.003)
_FINE = 2e-5  # where a search goes through them, it stops when 20 iterations gain less than this
_BACK = 0.3  # how far back inside the feasible set a search starts that follows another: on its boundary it gets stuck
_SPREAD = 10  # steps that one optimisation looks at together
# How far the multipliers are moved inside the feasible set, and how much the storages are enlarged, in the order tried.
SHARES = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
PADDINGS = (1e-11, 1e-11, 1e-11, 1e-10, 1e-10, 1e-9, 1e-9, 1e-8, 1e-7)


class Search:
    """Search for multipliers of one output; a pair (multipliers, rho) is that of the head, (H, nv) and (H, nu).

    Args:
        claim: The inequality that has to be proven.
        problem: The same inequality in ``units``, in which multipliers are sought.
        units: Units of ``problem``.
        row: The output.
        tail: Multipliers of the far stages, from `tail_for`, or None.
    """

    def __init__(
        self, claim: PredictionInequality, problem: PredictionInequality, units: Units, row: int, tail: Tail | None
    ) -> None:
        self.claim = claim
        self.problem = problem
        self.units = units
        self.row = row
        self.tail = tail
        self.stages = problem.horizon + 1
        self.head = self.stages if tail is None else _HEAD
        task = self.task(self.at(problem.horizon))
        if self.tail is None:
            self.inside = interior(task)
        else:
            # Stage after stage a small loss adds up over hundreds: soon the stationary multipliers do better.
            few = replace(task, weights=task.weights[:_GREEDY], state_weights=task.state_weights[:_GREEDY])
            found, terminal = interior(few), problem.terminal(row)[1]
            P, _ = incremental.storages(problem.form, terminal, *found, padding=PADDINGS[-1])
            self.inside = self.tail.extend(P[-1], found, self.head)

    def at(self, step: int) -> Array:
        """Weights (N + 1,) of an objective that counts one step alone."""
        weights = np.zeros(self.stages)
        weights[step] = 1.0
        return weights

    def everywhere(self) -> Array:
        """Weights (N + 1,) of an objective that counts steps all over the horizon, each relative to its size."""
        last = self.at(self.problem.horizon)
        if self.stages == 1:
            return last
        problem = self.problem
        lam, rho = self._extended(self.minimise(last, self.inside, 20))
        found, _ = incremental.storages(problem.form, problem.terminal(self.row)[1], lam, rho, padding=0.0)
        energy = np.cumsum(rho @ problem.b**2)
        spread = np.unique(np.round(np.geomspace(1, len(found), _SPREAD)).astype(int)) - 1
        reach = [problem.radius**2 * incremental.largest_ratio(found[k], problem.metric) for k in spread]
        size = np.array(reach) + energy[spread]
        weights = np.zeros(self.stages)
        weights[spread] = 1 / np.maximum(size, max(1e-12 * size.max(), 1e-200)) / len(size)
        return weights

    def plan(self, steps: Sequence[int], together: bool) -> list[Array]:
        """Weights of the optimisations to run: all steps ``together`` if asked, then each of ``steps`` alone."""
        return [*([self.everywhere()] if together else []), *(self.at(k) for k in dict.fromkeys(steps))]

    def minimise(self, weights: Array, start: Multipliers, iterations: int) -> Multipliers:
        """Optimise multipliers for the steps that ``weights`` (N + 1,) count."""
        tasks = [self.task(weights, nudge) for nudge in _NUDGES]
        # Where the true radius exceeds the least one, the tasks are the same.
        differ = [a for a, b in pairwise(tasks) if not np.array_equal(a.state_weights, b.state_weights)]
        if not differ:
            return minimise(tasks[-1], start, steps=iterations)
        for task in [*differ, tasks[-1]]:
            start = minimise(task, start, steps=iterations, tolerance=_FINE)
        return start

    def back(self, found: Multipliers, share: float) -> Multipliers:
        """Move ``found`` by a share of the way to a point inside the feasible set, which is convex."""
        (a, b), (c, d) = found, self.inside
        return (1 - share) * a + share * c, (1 - share) * b + share * d

    def settle(self, found: Multipliers) -> Family:
        """Find a family as close to ``found`` as the proof allows.

        An optimum lies on the boundary of the feasible set, and a solver's answer may lie outside of it; the set is
        convex, so the segment to a point inside enters it.

        Raises:
            CertificationError: The proof does not even pass at the point inside.
        """
        best, family, failure = np.inf, None, CertificationError("no multipliers")
        for share, padding in zip(SHARES, PADDINGS, strict=True):
            lam, rho = self.back(found, share)
            try:
                candidate = self.claim.family(self.row, *self._claimed(self._extended((lam, rho))), padding)
                self.claim.prove(candidate, room=PROOF_ROOM)
                candidate = replace(candidate, padding=2 * padding)  # other machines round differently
                last = float(issued_bounds(self.claim, candidate)[-1])
            except CertificationError as error:
                failure = error
                continue
            # Barely inside, rounding and padding may be blown up over the stages: a little further in can be better.
            if family is not None and last >= best:
                break
            best, family = last, candidate
        if family is None:
            raise failure
        return family

    def sizes(self) -> Array:
        """Rough size of the storage at each stage of the head, shape (H,), for scaling."""
        task = self.task(self.at(0))
        found, _ = incremental.storages(task.form, task.terminal, *self.inside, padding=0.0)
        return np.array([max(float(np.trace(P)) / len(P), 1e-100) for P in found])

    def task(self, weights: Array, nudge: float = _NUDGES[-1]) -> HorizonObjective:
        """Optimisation task of the head, in coordinates in which the initial set or the tail's metric is a ball.

        Where the initial difference hardly counts the optimum lies at infinite storages: the search gets a radius of
        some share, ``nudge``, of what the inputs do to the state in one step; the bounds are those of the true radius.
        """
        problem, f = self.problem, self.problem.form
        L = np.linalg.cholesky(problem.metric if self.tail is None else self.tail.metric)  # xi = L' dx
        back = np.eye(f.nz)
        back[: f.nx, : f.nx] = np.linalg.inv(L.T)
        local = f.in_coordinates(np.asarray(L.T), back)
        through = local.T[:, f.nx + f.nu :], local.upper[:, f.nx : f.nx + f.nu]
        push = np.linalg.norm(local.T[:, f.nx : f.nx + f.nu] @ problem.b)
        push += np.linalg.norm(through[0], 2) * np.linalg.norm(through[1] @ problem.b) if f.nv and f.nu else 0.0
        least, H = nudge * float(push), self.head
        head, radius = weights[:H].copy(), problem.radius
        if self.tail is not None:
            radius *= float(np.sqrt(incremental.largest_ratio(self.tail.metric, problem.metric)))
        state_weights = head * max(radius, least) ** 2
        if self.tail is not None:
            for k in np.flatnonzero(weights[H:]):
                head[-1] += weights[H + k]
                cost = self.tail.cost(int(k) + 1, problem.b, problem.radius, problem.metric)
                state_weights[-1] += weights[H + k] * max(cost, least**2)
        c = local.Y[[self.row]]
        return HorizonObjective(local, c.T @ c, head, state_weights, problem.b, few=problem.error.steps)

    def _claimed(self, found: Multipliers) -> Multipliers:
        """Convert multipliers to the user's units."""
        error = self.claim.asked
        differ = error.changes > 0 if self.claim.lifted else error.b > 0
        claimed = self.units.back(*found, float(self.units.y[self.row]), self.units.u[differ])
        if not all(np.isfinite(part).all() for part in claimed):
            raise CertificationError("multipliers overflow in the units of inputs and outputs")
        return claimed

    def _extended(self, found: Multipliers) -> Multipliers:
        """Extend the head's multipliers to all stages; raises CertificationError where a stage does not exist."""
        if self.tail is None:
            return found
        form, terminal = self.problem.form, self.problem.terminal(self.row)[1]
        P, stages = incremental.storages(form, terminal, *found, padding=PADDINGS[-1])
        if stages < self.head:
            raise CertificationError(f"stage {stages} of output {self.row} has no storage for these multipliers")
        return self.tail.extend(P[-1], found, self.stages)


def issued_bounds(problem: PredictionInequality, family: Family) -> Array:
    """Bounds (N + 1,) that a certificate states of a family, with room for other machines' rounding.

    Every stage's rounding is less than what its padding adds, or the proof would not pass. Twice the padding thus holds
    what any order of rounding makes of a storage, and of the later ones, which grow with it; `ROOM` covers the few
    operations that follow.

    Args:
        problem: The inequality.
        family: From `Search.settle`.

    Raises:
        CertificationError: The wider storages prove nothing.
    """
    wider = replace(family, padding=2 * family.padding)
    proven = problem.prove(family, room=PROOF_ROOM)[0]
    return np.asarray(np.maximum(proven, problem.prove(wider, room=PROOF_ROOM)[0]) * ROOM)


def tail_for(problem: PredictionInequality) -> Tail | None:
    """Stationary multipliers for the far stages of a long horizon; None where every stage is optimised."""
    if problem.horizon < _HEAD:
        return None
    try:
        return Tail.of(problem.form)
    except CertificationError as error:
        _log.warning("all %d stages are optimised: the far ones are not forgotten: %s", problem.horizon + 1, error)
        return None


def best_family(search: Search, iterations: int) -> Family:
    """Find one family for one output that is good at all steps."""
    return search.settle(search.minimise(search.everywhere(), search.inside, iterations))


def families_for(search: Search, steps: Sequence[int], together: bool, iterations: int) -> list[Family]:
    """Find families for one output: one for all steps ``together`` if asked, and one for each of ``steps``."""
    start, families = search.inside, []
    for weights in search.plan(steps, together):
        start = search.minimise(weights, search.back(start, _BACK), iterations)
        families.append(search.settle(start))
    return families
