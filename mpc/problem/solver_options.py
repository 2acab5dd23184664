"""Solver status and solver options."""

from __future__ import annotations

from dataclasses import dataclass

from controlrnn.checks import Choice, count, positive
from controlrnn.errors import SettingError
from controlrnn.typed import typed


class Status(Choice):
    """Outcome of the solve of a control step."""

    SOLVED = "solved"
    MAX_ITERATIONS = "max_iterations"
    TIME_LIMIT = "time_limit"
    INFEASIBLE = "infeasible"
    FAILED = "failed"
    WARMING_UP = "warming_up"


@dataclass(frozen=True, kw_only=True)
@typed()
class SolverOptions:
    """Iteration, time and accuracy limits of a solver.

    Args:
        max_iterations: Most iterations per solve.
        max_wall_time: Most seconds per solve, or None for no limit.
        tolerance: Relative accuracy of the solution.
        rti: Number of iterations after which a plan counts as a solution (real-time iteration), True being one; zero
            or False: the solver has to converge. Only for solvers that support it.
    """

    max_iterations: int = 100
    max_wall_time: float | None = None
    tolerance: float = 1e-8
    rti: int | bool = 0

    def __post_init__(self) -> None:
        count("max_iterations", self.max_iterations)
        if count("rti", int(self.rti), least=0) > self.max_iterations:
            raise SettingError(f"rti must be at most max_iterations = {self.max_iterations}, got {self.rti}")
        positive("tolerance", self.tolerance)
        if self.max_wall_time is not None:
            positive("max_wall_time", self.max_wall_time, what="a positive time in seconds")
