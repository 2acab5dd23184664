"""Many closed loops that differ in their seed, one after another or on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import count
from controlrnn.errors import SettingError
from mpc.closed_loop import ClosedLoopResult, Plant, run_closed_loop
from mpc.controller import TightenedMPC


@dataclass(frozen=True)
class ClosedLoopSetup:
    """What every run shares.

    Args:
        plant: The process.
        controller: The controller; it is reset before each run.
        options: Keyword arguments of `mpc.run_closed_loop`, without the seed.
    """

    plant: Plant
    controller: TightenedMPC
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class MonteCarloResult:
    """What all runs gave.

    Args:
        results: One per run, in the order of the seeds.
    """

    results: tuple[ClosedLoopResult, ...]

    @property
    def runs_with_violation(self) -> int:
        """Runs in which some true output left its limits."""
        return sum(r.violations > 0 for r in self.results)

    def summary(self) -> dict[str, float | int]:
        """Numbers for a table: runs, steps, violations, cost, failures, times [s], share inside the bound."""
        times = np.concatenate([r.solve_time for r in self.results])
        return {
            "runs": len(self.results),
            "steps": sum(r.steps for r in self.results),
            "runs_with_violation": self.runs_with_violation,
            "max_violation": max(r.max_violation for r in self.results),
            "cost": float(np.mean([r.cost for r in self.results])),
            "failed_solves": sum(r.failed_solves for r in self.results),
            "inside_bound": float(np.mean([r.inside for r in self.results])),
            "solve_time_median": float(np.median(times)),
            "solve_time_p95": float(np.quantile(times, 0.95)),
        }


def monte_carlo(
    build: Callable[[], ClosedLoopSetup],
    seeds: Sequence[int],
    *,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> MonteCarloResult:
    """Run one closed loop per seed; the result does not depend on ``workers``.

    Args:
        build: Makes plant and controller; called once per process, since solvers do not travel between processes. With
            several workers it must be importable there: a module's function, or a ``functools.partial`` of one.
        seeds: One run each.
        workers: Processes; 1 runs here.
        progress: Called with (runs done, runs) after each run.

    Raises:
        SettingError: No seeds.
    """
    seeds = [int(s) for s in seeds]
    if not seeds:
        raise SettingError("monte_carlo needs at least one seed, got none")
    results = []
    if count("workers", workers) == 1:
        setup = build()
        for seed in seeds:
            results.append(run_closed_loop(setup.plant, setup.controller, seed=seed, **setup.options))
            _report(progress, len(results), len(seeds))
        return MonteCarloResult(tuple(results))
    # "spawn": a forked copy of a process that has already used BLAS or ipopt threads may hang.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_prepare, initargs=(build,)) as pool:
        for parts in pool.map(_run, seeds):
            results.append(ClosedLoopResult.from_parts(*parts))
            _report(progress, len(results), len(seeds))
    return MonteCarloResult(tuple(results))


_setup: ClosedLoopSetup | None = None  # one per worker process


def _prepare(build: Callable[[], ClosedLoopSetup]) -> None:
    global _setup
    _setup = build()


def _run(seed: int) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    if _setup is None:
        raise RuntimeError("worker was not prepared")  # our own bug: the pool runs _prepare first
    return run_closed_loop(_setup.plant, _setup.controller, seed=seed, **_setup.options).parts()


def _report(progress: Callable[[int, int], None] | None, done: int, total: int) -> None:
    if progress is not None:
        progress(done, total)
