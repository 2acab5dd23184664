"""Monte Carlo simulation: closed loops that differ in their seed, in one or several processes."""

from __future__ import annotations

import functools
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, Choice, checked_seed, count, items
from controlrnn.errors import SettingError
from controlrnn.records import Part, Schema, Stored
from controlrnn.typed import typed
from controlrnn.workers import Workers
from mpc.control.controller import TightenedMPC
from mpc.loops.compiled.engine import CompiledLoops
from mpc.loops.compiled.library import NotCompiledError
from mpc.loops.plant import Plant
from mpc.loops.result import ClosedLoopResult, times_of
from mpc.loops.run import run_closed_loop
from mpc.loops.settings import loop_settings
from mpc.promises.coverage_met import CoverageMet, met
from mpc.promises.promise import LoopTarget

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from controlrnn.cluster import Client, Parcel

_log = logging.getLogger(__name__)


class LoopEngine(Choice):
    """What runs closed loops."""

    PYTHON = "python"
    """`mpc.run_closed_loop`, one step of the controller at a time."""
    COMPILED = "compiled"
    """The controller's C code beside the plant's, compiled once; see `mpc.loops.compiled.engine`."""


@dataclass(frozen=True)
@typed()
class ClosedLoopSetup:
    """Plant, controller and options that all runs share.

    Args:
        plant: The process.
        controller: The controller; it is reset before each run.
        options: Arguments of `mpc.run_closed_loop` by name, or fields of its records; without the seed.
    """

    plant: Plant
    controller: TightenedMPC
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
@typed()
class MonteCarloResult(Stored):
    """Results of all runs, with statistics.

    Args:
        results: One result per run, in the order of the seeds.
    """

    SCHEMA: ClassVar[Schema] = Schema("monte-carlo", 3, parts={"results": Part(ClosedLoopResult, many=True, own=True)})

    results: tuple[ClosedLoopResult, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "results", tuple(self.results))
        shapes = {(r.y.shape[1], r.u.shape[1], r.bounds.shape) for r in self.results}
        if len(shapes) != 1:
            raise SettingError(f"runs must be of one controller and at least one, got {len(shapes)} kinds")

    @property
    def runs_with_violation(self) -> int:
        """Number of runs in which some true output left its limits."""
        return sum(r.violations > 0 for r in self.results)

    def coverage_met(self, target: LoopTarget = LoopTarget.LIMITS, *, confidence: float = 0.95) -> CoverageMet:
        """Number of runs that kept the target throughout, with a confidence interval; runs are independent.

        Args:
            target: Limits of true outputs, or all prediction errors within their bounds.
            confidence: Of the interval, in (0, 1).
        """
        return met("runs", np.array([r.steps_kept(target).all() for r in self.results]), confidence=confidence)

    def summary(self) -> dict[str, float | int]:
        """Summary as numbers for a table: runs, steps, violations, cost, failures, times [s], share inside the bound.

        The numbers of runs within limits, and of runs with all errors inside their bounds, have 95 % intervals.
        """
        limits, errors = self.coverage_met(), self.coverage_met(LoopTarget.PREDICTIONS)
        times = times_of(np.concatenate([r.solve_time for r in self.results]))
        return {
            "runs": len(self.results),
            "steps": sum(r.steps for r in self.results),
            "runs_with_violation": self.runs_with_violation,
            "max_violation": max(r.max_violation for r in self.results),
            "cost": float(np.mean([r.cost for r in self.results])),
            "failed_solves": sum(r.failed_solves for r in self.results),
            "fallbacks": sum(sum(r.fallback_counts.values()) for r in self.results),
            "readings_rejected": sum(sum(r.rejected.values()) for r in self.results),
            "steps_outside": sum(r.steps_outside for r in self.results),
            "inside_bound": float(np.mean([r.inside for r in self.results])),
            "runs_in_limits": limits.inside,
            "runs_in_limits_lower": limits.lower,
            "runs_in_limits_upper": limits.upper,
            "runs_inside_bound": errors.inside,
            "runs_inside_bound_lower": errors.lower,
            "runs_inside_bound_upper": errors.upper,
            "solve_time_median": times["median"],
            "solve_time_p95": times["p95"],
            "solve_time_max": times["max"],
            "deadline_misses": sum(r.deadline_misses() for r in self.results),
        }

    @property
    def realised(self) -> Array:
        """Largest realised prediction error of all runs per step and output, shape (N + 1, ny)."""
        return np.asarray(np.fmax.reduce([r.realised for r in self.results]))

    def plot(self) -> Figure:
        """Draw the outputs of all runs with their limits, and the largest realised error against its bound."""
        from matplotlib.figure import Figure

        first = self.results[0]
        ny = first.y.shape[1]
        figure = Figure(figsize=(11, 2.1 * ny), layout="constrained")
        panels = figure.subplots(ny, 2, squeeze=False)
        for i, (left, right) in enumerate(panels):
            for run in self.results:
                left.plot(np.arange(run.steps + 1) * run.dt, run.y[:, i], color="C0", alpha=0.3, lw=0.8)
            for limit in (first.lower[i], first.upper[i]):
                if np.isfinite(limit):
                    left.axhline(limit, color="C3")
            left.set_ylabel(first.names[i])
            right.plot(self.realised[:, i], ".-", label="largest realised error")
            right.plot(first.bounds[:, i], color="C3", label="bound")
        panels[0, 1].legend(fontsize="small")
        panels[-1, 0].set_xlabel("time [s]")
        panels[-1, 1].set_xlabel("prediction step")
        return figure


@typed()
def monte_carlo(
    build: Callable[[], ClosedLoopSetup],
    seeds: Sequence[int],
    *,
    workers: int = 1,
    client: Client | None = None,
    engine: LoopEngine = LoopEngine.PYTHON,
    compiled_in: str | os.PathLike[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> MonteCarloResult:
    """Run one closed loop per seed; the result depends neither on ``workers`` nor on ``client``.

    Args:
        build: Makes plant and controller; called once per process, since solvers cannot be sent between processes. With
            several workers it must be importable there: a module's function, or a ``functools.partial`` of one.
        seeds: Seeds, one per run.
        workers: Number of processes; 1 runs in this one.
        client: Client of a Dask cluster (`distributed.Client`) whose workers run the loops instead. ``build`` with all
            that it holds, and compiled code, travel once to each worker; files that it reads have to be there.
        engine: What runs the loops. Compiled ones have the results of Python's up to rounding, but for ``solve_time``
            and the words of ``outside`` (`mpc.loops.compiled.engine`). Where there is no compiler, or the controller
            has a part without C code, Python runs them and a warning says why.
        compiled_in: Folder that keeps compiled code for the next time, which you alone may access (mode 700); a
            temporary one when left out.
        progress: Called with (runs done, runs) after each run. After Ctrl-C, workers end within 2 s.

    Raises:
        SettingError: There are no seeds, or one is invalid; several workers are asked for beside a client.
        ClusterError: The cluster has no workers, or its scheduler is gone.
    """
    seeds = [checked_seed(s) for s in items("seeds", seeds, object)]
    if not seeds:
        raise SettingError("monte_carlo needs at least one seed, got none")
    engine, results = LoopEngine(engine), []
    if count("workers", workers) > 1 and client is not None:
        raise SettingError(
            f"monte_carlo takes the workers of its client, got {workers} workers as well: leave them out"
        )
    with ExitStack() as stack:
        folder = None
        if engine is LoopEngine.COMPILED:
            folder = Path(compiled_in or stack.enter_context(tempfile.TemporaryDirectory()))
        if client is not None:
            runs = _on_cluster(client, build, seeds, folder)
        elif workers == 1:
            runs = map(loop_runner(build, folder), seeds)
        else:
            pool = stack.enter_context(Workers(min(workers, len(seeds)), prepare=_prepare, given=(build, folder)))
            runs = (ClosedLoopResult.from_record(*parts) for parts in pool.map(_run, seeds))
        for result in runs:  # in the order of the seeds; between processes they travel as plain arrays
            results.append(result)
            if progress is not None:
                progress(len(results), len(seeds))
    return MonteCarloResult(tuple(results))


def _on_cluster(
    client: Client, build: Callable[[], ClosedLoopSetup], seeds: Sequence[int], folder: Path | None
) -> Iterator[ClosedLoopResult]:
    """Results of workers; compiled code is made here, once."""
    from controlrnn import cluster

    client, code = cluster.checked_client(client), None
    if folder is not None:
        loops = _compiled(build(), folder)
        code = None if loops is None else cluster.Parcel.of(loops.files)
    for parts in cluster.stream(client, functools.partial(_on_worker, build, code), ((seed,) for seed in seeds)):
        yield ClosedLoopResult.from_record(*parts)


def _on_worker(build: Callable[[], ClosedLoopSetup], code: Parcel | None) -> Callable[[int], _Parts]:
    """Function of a worker that runs the loop of a seed; code made for another kind of machine is made anew there."""
    run = loop_runner(build, None if code is None else code.folder())
    return lambda seed: run(seed).record()


def _compiled(setup: ClosedLoopSetup, folder: Path) -> CompiledLoops | None:
    try:
        return CompiledLoops(setup.plant, setup.controller, folder)
    except NotCompiledError as error:
        _log.warning("loops run in Python, not compiled: %s", error)
        return None


def loop_runner(build: Callable[[], ClosedLoopSetup], folder: Path | None) -> Callable[[int], ClosedLoopResult]:
    """Function that runs the loop of a seed; ``folder``: of compiled code, None for Python."""
    setup = build()
    options = loop_settings(setup.options)
    loops = None if folder is None else _compiled(setup, folder)
    if loops is not None:
        return lambda seed: loops.run(seed, options)
    return lambda seed: run_closed_loop(setup.plant, setup.controller, seed=seed, **options)


_Parts = tuple[dict[str, NDArray[Any]], dict[str, Any]]
_task: Callable[[int], ClosedLoopResult] | None = None  # one per worker process


def _prepare(build: Callable[[], ClosedLoopSetup], folder: Path | None) -> None:
    global _task
    _task = loop_runner(build, folder)


def _run(seed: int) -> _Parts:
    if _task is None:
        raise RuntimeError("worker was not prepared")  # our own bug: the pool runs _prepare first
    return _task(seed).record()
