"""Benchmark of certificates around a plan: tightness against those for all trajectories and attacks, and speed.

The network of `experiments.bench_certify`. Bounds for all trajectories are compared with the worst slope pattern: since
slopes of different neurons and steps may take any values within their limits, no multipliers whatever can prove less
than the worst linear system with such slopes does. What lies between that and the attack is not a matter of the proof,
but of slopes that no trajectory reaches together; only what is known of the trajectory helps there.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from controlrnn.certification import attack_around, attack_horizon, certify_around, certify_horizon
from controlrnn.checks import Array
from controlrnn.systems import LureSystem
from experiments.bench_certify.study import RADII, three_tanks
from experiments.shared.study import Row, Study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("bench_around", __doc__, arguments)
    with study.stage("three-tank network"):
        tank = three_tanks(study.seed, quick=study.quick)
    for horizon in (10,) if study.quick else (10, 50):
        for radius, b in (*RADII, (0.02, 0.02)):
            compare(study, tank, horizon, radius, b)
    return study.finish()


def compare(study: Study, tank: LureSystem, horizon: int, radius: float, b: float) -> None:
    """Compute one row: bounds for all trajectories against bounds around one plan of held random inputs."""
    radii: dict[str, Any] = {"initial_radius": radius, "input_radius": b}
    x0, u = plan(tank, horizon, study.seed)

    def compute() -> Row:
        limits = -2.0 * np.ones(tank.nu), 2.0 * np.ones(tank.nu)
        everywhere = certify_horizon(tank, horizon, **radii).bounds[-1]
        reached = attack_horizon(tank, horizon, input_range=limits, steps=60, seed=study.seed, **radii).differences[-1]
        pattern = np.array([worst_pattern(tank, horizon, radius, b, i, study.seed) for i in range(tank.ny)])
        around, search_s = timed(lambda: certify_around(tank, x0, u, **radii))
        found = attack_around(tank, x0, u, seed=study.seed, steps=60, **radii)
        moved, reuse_s = timed(lambda: around.around(tank, x0 + 0.01, u - 0.1))
        fresh = certify_around(tank, x0 + 0.01, u - 0.1, **radii)
        return {
            "horizon": horizon, "radius": radius, "b": b,
            "everywhere_over_attack": everywhere / reached, "everywhere_over_pattern": everywhere / pattern,
            "around_over_attack": around.bounds[-1] / found.differences[-1],
            "everywhere_over_around": everywhere / around.bounds[-1],
            "holds": bool((found.differences <= around.bounds).all()),
            "search_s": search_s, "verify_ms": 1e3 * timed(lambda: around.verify(tank))[1],
            "reuse_ms": 1e3 * reuse_s, "reused_over_fresh": moved.bounds[-1] / fresh.bounds[-1],
        }  # fmt: skip

    row = study.row(f"{horizon} steps, radii {radius}, {b}", compute)
    limit, name = 1.10 if horizon <= 10 else 1.25, f"{horizon} steps, radii ({radius}, {b})"
    worst = max(row["around_over_attack"])
    study.target(f"{name}: bound around a plan over attack", f"<= {limit}", worst, worst <= limit)


def plan(system: LureSystem, horizon: int, seed: int) -> tuple[Array, Array]:
    """Draw a settled initial state (nx,) and held inputs (horizon + 1, nu)."""
    rng = np.random.default_rng(seed)
    u = np.repeat(rng.uniform(-1.5, 1.5, (horizon // 5 + 1, system.nu)), 5, axis=0)[: horizon + 1]
    return np.asarray(system.simulate(np.tile(u, (3, 1)))[1][-1]), u


def worst_pattern(system: LureSystem, horizon: int, radius: float, b: float, row: int, seed: int) -> float:
    """Search for the largest |dy| of an Elman network whose neurons' slopes are chosen freely as 0 or 1."""
    rng, best = np.random.default_rng(seed), 0.0
    A, B = system.C1, system.D12
    for n in range(40):
        share = 1.0 if n == 0 else rng.uniform(0.3, 1.0)
        slopes = (rng.random((horizon, system.nx)) < share).astype(float)
        last = -1.0
        for sweep in range(60):
            before = [system.C2[row]]
            for t in reversed(range(horizon)):
                before.append(A.T @ (slopes[t] * before[-1]))
            costates = before[::-1]  # of the state at each step
            du = [b * np.sign(B.T @ (slopes[t] * costates[t + 1])) for t in range(horizon)]
            dx = radius * costates[0] / max(float(np.linalg.norm(costates[0])), 1e-300)
            inputs = sum(float(np.abs(B.T @ (slopes[t] * costates[t + 1])).sum()) * b for t in range(horizon))
            value = radius * float(np.linalg.norm(costates[0])) + inputs
            if value <= last * (1 + 1e-12):
                break
            last = value
            for t in range(horizon):
                dv = A @ dx + B @ du[t]
                if t % 2 == sweep % 2:  # every other step, so that the costates still mean something
                    slopes[t] = costates[t + 1] * dv > 0
                dx = slopes[t] * dv
        best = max(best, last)
    return best


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Call a function and return its result and CPU seconds."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


if __name__ == "__main__":
    sys.exit(main())
