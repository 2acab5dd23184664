"""Closed loops of which only counts are kept, wherever they run."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from controlrnn.cluster import Parcel
from experiments.shared.study import Row
from mpc import ClosedLoopResult, ClosedLoopSetup, Status
from mpc.loops.compiled.engine import CompiledLoops
from mpc.loops.monte_carlo import loop_runner

Makers = Mapping[str, Callable[[], ClosedLoopSetup]]


class CountedLoops:
    """Function of a truth and a seed that runs a loop; every process makes plant and controller of a truth once.

    Args:
        makers: What makes plant and controller, by truth.
        code: Compiled loops of all of them; None for loops in Python.
    """

    def __init__(self, makers: Makers, code: Parcel | None) -> None:
        self._makers = dict(makers)
        self._code = code
        self._runners: dict[str, Callable[[int], ClosedLoopResult]] = {}

    @classmethod
    def compiled(cls, makers: Makers, folder: Path) -> CountedLoops:
        """Compile the loops of all truths in a folder."""
        files: dict[str, bytes] = {}
        for make in makers.values():
            setup = make()
            files |= Parcel.of(CompiledLoops(setup.plant, setup.controller, folder).files).files
        return cls(makers, Parcel(files))

    def __getstate__(self) -> Row:
        return vars(self) | {"_runners": {}}

    def __call__(self, truth: str, seed: int) -> Row:
        """Run a loop; what it violated, and what it took."""
        if truth not in self._runners:
            folder = None if self._code is None else self._code.folder()
            self._runners[truth] = loop_runner(self._makers[truth], folder)
        began = time.process_time()
        run = self._runners[truth](seed)
        used = time.process_time() - began
        return {
            "violations": run.violations, "infeasible": sum(s is Status.INFEASIBLE for s in run.status),
            "failed": run.failed_solves, "fallbacks": sum(run.fallback_counts.values()),
            "most_iterations": int(run.iterations.max()), "beyond_limit": float((run.y - run.upper).max()),
            "ms_median": 1e3 * float(np.median(run.solve_time)), "cpu_s": used,
        }  # fmt: skip
