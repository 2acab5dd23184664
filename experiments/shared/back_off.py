"""Baseline back-off: a constant distance from the limits, found by trying a few closed loops."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np

from controlrnn.systems import LureSystem
from mpc import ClosedLoopSetup, MonteCarloResult, Tightening, back_off, monte_carlo

MOST = 200  # distances tried
TRIALS = 1  # purpose of the trial loops, whose seeds no other part of a study has


def trial_seeds(seed: int, n: int) -> list[int]:
    """Seeds of n trial loops of a study."""
    return [int(s.generate_state(1)[0]) for s in np.random.SeedSequence([seed, TRIALS]).spawn(n)]


def backed_off(
    build: Callable[[Tightening], ClosedLoopSetup], system: LureSystem, horizon: int, step: float, seeds: Sequence[int]
) -> tuple[Tightening, int]:
    """The nominal controller's constant distance from its limits, by trial: what an engineer builds in an hour.

    Args:
        build: Builds plant and nominal controller with a tightening.
        system: The model.
        horizon: Prediction horizon.
        step: In which distances grow.
        seeds: Of the trial loops, all of which have to keep their limits.

    Returns:
        The distance as a tightening, which promises nothing, and the number of loops that were run.

    Raises:
        RuntimeError: No distance is enough.
        InfeasibleError: The one that is tried leaves nothing of an output's range.
    """

    def room(distance: float) -> Tightening:
        return back_off(system.digest, horizon, np.full(system.ny, distance))

    distance, _, used = least_distance(lambda d: functools.partial(build, room(d)), seeds, step)
    return room(distance), used


def least_distance(
    make: Callable[[float], Callable[[], ClosedLoopSetup]],
    seeds: Sequence[int],
    step: float,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[float, MonteCarloResult, int]:
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
