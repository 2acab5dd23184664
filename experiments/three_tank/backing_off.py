"""Controllers with a constant distance from their limits: chosen by trial, or calibrated in closed loop.

Both are the nominal controller with a distance from its limits, and both are chosen on loops of the simulator that no
other part of the study sees. The engineer's constant is a multiple of a step at which all of a handful of loops keep
their limits, while one step less is not enough: nothing is promised. The calibrated one is confirmed by fresh loops,
with a stated probability.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from controlrnn.systems import LureSystem
from experiments.shared.back_off import least_distance
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import (
    ClosedLoopCalibration,
    ClosedLoopResult,
    ClosedLoopSetup,
    LoopEffort,
    MonteCarloResult,
    SimulatedLoops,
    Tightening,
    back_off,
    calibrate_closed_loop,
    no_tightening,
)

TRIALS = 1  # purpose of the engineer's loops
Progress = Callable[[int, int], None]


def seeds_of(seed: int, purpose: int, n: int) -> list[int]:
    """Seeds of loops for one purpose; different purposes see different loops."""
    return [int(s.generate_state(1)[0]) for s in np.random.SeedSequence([seed, purpose]).spawn(n)]


def build(folder: Path, config: Config, tightening: Tightening) -> ClosedLoopSetup:
    """Build the nominal controller with this tightening; importable, for worker processes."""
    observer = stages.make_observer(stages.model_of(folder), stages.contraction_of(folder / "contraction.npz"), config)
    return stages.setup(observer, tightening, config)


def constant(system: LureSystem, config: Config, distance: float) -> Tightening:
    """Tightening by the same distance [cm] from the limits of all levels."""
    return back_off(system.digest, config.horizon, np.full(system.ny, distance))


def least(
    folder: Path, config: Config, seeds: Sequence[int], progress: Progress
) -> tuple[float, MonteCarloResult, int]:
    """Find the least multiple of the configured step [cm] at which all loops keep their limits.

    Returns:
        The distance, its loops, and the number of loops that were run.
    """
    system = stages.model_of(folder)

    def make(distance: float) -> Callable[[], ClosedLoopSetup]:
        return functools.partial(build, folder, config, constant(system, config, distance))

    return least_distance(make, seeds, config.back_off_step, progress)


def calibrated(folder: Path, config: Config, seed: int, progress: Progress) -> ClosedLoopCalibration:
    """Calibrate a tightening with the configured probability that a loop keeps its limits."""
    system = stages.model_of(folder)
    loops = SimulatedLoops(functools.partial(build, folder, config), progress=progress)
    return calibrate_closed_loop(
        loops,
        no_tightening(system.digest, config.horizon, system.ny),
        seed=seed,
        coverage=config.coverage,
        effort=LoopEffort(attempts=config.attempts),
        checkpoint=folder / "calibration_rounds.npz",
    )


def summary(results: Sequence[ClosedLoopResult]) -> dict[str, float | int]:
    """Mean cost of the loops, and how many left their limits."""
    return {
        "cost": float(np.mean([r.cost for r in results])),
        "runs_with_violation": sum(r.violations > 0 for r in results),
    }
