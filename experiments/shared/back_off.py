"""Baseline back-off: a constant distance from the limits, found by trying a few closed loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mpc import ClosedLoopSetup, MonteCarloResult, monte_carlo

MOST = 200  # distances tried


def least_distance(
    make: Callable[[float], Callable[[], ClosedLoopSetup]], seeds: Sequence[int], step: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, MonteCarloResult, int]:  # fmt: skip
    """Find the least multiple of a step at which all loops keep their limits.

    Args:
        make: Gives what builds plant and controller for a distance.
        seeds: One loop each.
        step: In which distances grow.
        progress: Called with (loops done, loops) for every distance.

    Returns:
        The distance, its loops, and the number of loops that were run.

    Raises:
        RuntimeError: No distance is enough.
    """
    fails, keeps, used, found = -1, 0, 0, None
    for _ in range(MOST):
        tried = keeps if found is None else (fails + keeps) // 2
        loops = monte_carlo(make(round(tried * step, 9)), seeds, progress=progress)
        used += len(seeds)
        worst = max(r.max_violation for r in loops.results)
        if worst <= 0:
            keeps, found = tried, loops
        else:
            fails = tried
            if found is None:
                keeps = tried + max(1, int(np.floor(worst / step)))  # as far as it lacks
        if found is not None and keeps - fails == 1:
            return round(keeps * step, 9), found, used
    raise RuntimeError(f"limits are left by {worst:.3g} with a distance of {tried * step:.3g}: no constant is enough")
