"""The baseline that an engineer builds in an hour: a constant distance from the limits, tried on a few loops."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from mpc import ClosedLoopSetup, MonteCarloResult, monte_carlo

MOST = 200  # distances tried


def least_distance(
    make: Callable[[float], Callable[[], ClosedLoopSetup]], seeds: Sequence[int], step: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, MonteCarloResult, int]:  # fmt: skip
    """The least multiple of a step at which all loops keep their limits.

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
    distance, used = 0.0, 0
    for _ in range(MOST):
        found = monte_carlo(make(distance), seeds, progress=progress)
        used += len(seeds)
        worst = max(r.max_violation for r in found.results)
        if worst <= 0:
            return distance, found, used
        # A distance that lacks `worst` still fails where it grows by less.
        distance = round(distance + max(1, int(np.floor(worst / step))) * step, 9)
    raise RuntimeError(f"limits are left by {worst:.3g} with a distance of {distance:.3g}: no constant is enough")
