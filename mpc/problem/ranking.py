"""Ranks of output limits by hardness and priority; see `mpc.problem.priorities`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, count, items
from controlrnn.errors import SettingError, ShapeError
from mpc.problem.settings import Limits

HARD = 1e3  # factor on the exact penalty with which soft-constrained solvers treat hard limits
KEPT = 1e-6  # in output ranges: more slack than this on hard limits means infeasible
_STEP = 30.0  # factor between the penalties of a rank and the next in a solve for all of them
_MOST = 4  # most ranks: with more, quadratic programs have no solution in floating point


@dataclass(frozen=True)
class Ranking:
    """Hardness and rank of the limits of each output.

    Args:
        hard: Whether the limits are hard, per output.
        rank: Rank per output, from 0; hard limits rank before soft ones.
    """

    hard: tuple[bool, ...]
    rank: tuple[int, ...]

    @property
    def levels(self) -> int:
        """Number of ranks."""
        return 1 + max(self.rank)

    def at(self, level: int) -> NDArray[np.bool_]:
        """Flags of the outputs of a rank, shape (ny,)."""
        return np.equal(self.rank, level)

    def ladder(self, prices: Array, kept: int = 0) -> Array:
        """Raise penalties (ny,) on slack in output ranges so that each rank costs a fixed factor more than the next.

        The first ``kept`` ranks, which are relaxed as far as necessary, cost `HARD` times more than all others.
        """
        raised = prices.copy()
        for level in reversed(range(self.levels - 1)):
            now, times = self.at(level), 1.0 if level + 1 < kept else HARD if level + 1 == kept else _STEP
            raised[now] *= max(times * raised[self.at(level + 1)].max() / raised[now].min(), 1.0)
        return raised

    def wide(self, copies: int) -> Ranking:
        """Ranking for plans that contain every output ``copies`` times."""
        return Ranking(self.hard * copies, self.rank * copies)


def ranked(limits: Limits, ny: int, *, copies: int = 1, terminal: bool) -> tuple[bool, Ranking | None]:
    """Make the ranking from settings: whether all limits are soft, and their ranks, None if all are equal.

    Args:
        limits: Settings of hardness and priorities.
        ny: Number of outputs.
        copies: Number of times that plans contain every output.
        terminal: Whether plans end in a terminal set.

    Raises:
        ShapeError: There is not one per output.
        SettingError: A soft limit has priority over a hard one, or there are ranks where none can be.
    """
    priority, soft = limits.priority, not terminal if limits.soft is None else limits.soft
    every = [soft] * ny if isinstance(soft, bool) else list(soft)
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


def refuse_ranks(ranking: Ranking | None, solver: str) -> None:
    """Raise SettingError if limits have ranks, for a solver that does not support them."""
    if ranking is not None:
        raise SettingError(
            f"{solver} knows neither priorities nor hard limits beside soft ones: leave the controller's backend out"
        )
