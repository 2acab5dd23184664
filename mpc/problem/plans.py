"""Helpers for sequences over the horizon: previews, move limits, slack."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, numbers, read_only
from controlrnn.errors import SettingError, ShapeError
from mpc.problem.ocp import Solution
from mpc.problem.solver_options import Status


def known_rows(name: str, value: ArrayLike, n: int, rows: int) -> Array:
    """Extend known future values to ``rows`` rows of n channels by holding the last one given.

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
    """Clip a plan (N, nu) to input and move limits, one input after the other.

    Args:
        plan: Inputs within ``lower`` and ``upper``.
        before: The input applied before the plan, shape (nu,).
        lower: Lower input limits, shape (nu,).
        upper: Upper input limits, shape (nu,).
        move_limit: Largest change per step, shape (nu,).
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
    """Slack of a solved problem, shape as ``like``; zeros where there is no solution."""
    solved = solution is not None and solution.status is Status.SOLVED
    return solution.slack if solved and solution is not None else np.zeros_like(like)


def inside_after(beyond: NDArray[np.bool_]) -> int:
    """First step from which on a plan keeps its limits, given its violations (N + 1, ny); N + 1 if the last one is."""
    bad = np.flatnonzero(beyond.any(axis=1))
    return int(bad[-1]) + 1 if len(bad) else 0
