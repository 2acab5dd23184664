"""Rows of numbers over the horizon: known future values, plans within the actuators' limits, slack."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, numbers, read_only
from controlrnn.errors import SettingError, ShapeError
from mpc.problem.ocp import Solution
from mpc.problem.solver_options import Status


def known_rows(name: str, value: ArrayLike, n: int, rows: int) -> Array:
    """Rows (rows, n) from now on, of which the last one given is held.

    Raises:
        ShapeError: ``value`` has neither shape (n,) nor (T, n), or no row.
    """
    value = numbers(name, value)
    if value.ndim < 2:
        return np.tile(as_array(name, value, (n,)), (rows, 1))
    known = as_array(name, value, ("T", n))
    if not len(known):
        raise ShapeError(f"{name} must have at least one row, got {known.shape}")
    return known[np.minimum(np.arange(rows), len(known) - 1)]


def within_moves(plan: Array, before: Array, lower: Array, upper: Array, move_limit: Array) -> Array:
    """A plan (N, nu) within input limits, one input after the other also within ``move_limit`` (nu,) of the last one.

    Args:
        plan: Inputs within ``lower`` and ``upper``.
        before: The input ahead of it, shape (nu,).
        lower: Shape (nu,).
        upper: Shape (nu,).
        move_limit: Shape (nu,).
    """
    if (np.abs(np.diff(plan, axis=0, prepend=before[None])) <= move_limit).all():
        return plan
    kept = []
    for u in plan:
        moved = np.clip(u, before - move_limit, before + move_limit)
        before = np.clip(moved, lower, upper)
        kept.append(before)
    return np.array(kept)


def safe_input(given: ArrayLike | None, lower: Array, upper: Array) -> Array:
    """The last resort, (nu,): the middle between input limits when left out; refused outside of them."""
    safe = read_only(as_array("safe_input", 0.5 * (lower + upper) if given is None else given, lower.shape))
    if ((safe < lower) | (safe > upper)).any():
        raise SettingError(f"safe_input must lie within the input limits, got {safe}")
    return safe


def slack_of(solution: Solution | None, like: Array) -> Array:
    """Use of soft limits; zeros where there is no solution."""
    solved = solution is not None and solution.status is Status.SOLVED
    return solution.slack if solved and solution is not None else np.zeros_like(like)


def inside_after(beyond: NDArray[np.bool_]) -> int:
    """From which step on a plan keeps its limits, given which it breaks, (N + 1, ny): N + 1 if one at the last step."""
    bad = np.flatnonzero(beyond.any(axis=1))
    return int(bad[-1]) + 1 if len(bad) else 0
