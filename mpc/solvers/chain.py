"""Chain of solvers, each called where the ones before it fail."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from controlrnn.errors import SettingError
from controlrnn.typed import typed
from mpc.problem.ocp import Backend, BackendFactory, OptimalControlProblem, Solution, StepData
from mpc.problem.solver_options import SolverOptions, Status

# Statuses that end the chain: infeasibility is no failure of the solver, and after a time limit no time is left.
_FINAL = (Status.SOLVED, Status.INFEASIBLE, Status.TIME_LIMIT)


@typed()
def chain(*factories: BackendFactory) -> BackendFactory:
    """Combine several solvers: where one fails the next is called, while time is left.

    All are built at once, since building may take seconds. Real-time iteration is for the first one only.

    Args:
        factories: Factories of the solvers, in order, e.g. ``chain(CondensedBackend, FatropBackend)``.

    Raises:
        SettingError: No factory is given.
    """
    if not factories:
        raise SettingError("chain needs at least one solver, got none")

    return _Building(factories)


@dataclass(frozen=True)
class _Building:
    """Makes the chain; no function in a function, which could not be pickled with its controller."""

    factories: tuple[BackendFactory, ...]

    def __call__(self, problem: OptimalControlProblem, options: SolverOptions) -> Backend:
        full = replace(options, rti=False)
        backends = [factory(problem, full if i else options) for i, factory in enumerate(self.factories)]
        return _Chain(backends, options.max_wall_time)


class _Chain:
    """Chain of solvers made by `chain`; where none solves the sample, the first one's answer is returned."""

    def __init__(self, backends: Sequence[Backend], max_wall_time: float | None) -> None:
        self.backends = tuple(backends)
        self._limit = max_wall_time

    def reset(self) -> None:
        for backend in self.backends:
            backend.reset()

    def solve(self, data: StepData) -> Solution:
        started = time.perf_counter()
        first = solution = self.backends[0].solve(data)
        for backend in self.backends[1:]:
            late = self._limit is not None and time.perf_counter() - started > self._limit
            if late or solution.status in _FINAL:
                break
            solution = backend.solve(data)
        return solution if solution.status is Status.SOLVED else first
