"""Safety and solver settings of a controller; those of the optimal control problem are in `mpc.problem.settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from numpy.typing import ArrayLike

from controlrnn.checks import shown
from controlrnn.errors import SettingError
from controlrnn.typed import typed
from mpc.calibration.region import OperatingRegion
from mpc.problem.ocp import BackendFactory
from mpc.problem.settings import Limits, Prices, Tracking, by_record
from mpc.problem.solver_options import SolverOptions
from mpc.safety.premise_watch import Watching


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Safety:
    """Safety settings: monitoring of premises and of the operating region, and the last-resort input.

    Args:
        safe_input: Last resort, shape (nu,); the middle of the actuators' range when left out.
        region: Operating region of the calibration, from `mpc.learn_region`: steps outside are logged and flagged.
        watching: Monitoring of premises at every step, and reactions to contradictions; see `mpc.safety.premise_watch`.
    """

    safe_input: ArrayLike | None = None
    region: OperatingRegion | None = None
    watching: Watching | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Solver:
    """Solver settings: the solver and its limits.

    Args:
        backend: Factory of the solver; `mpc.solvers.condensed.CondensedBackend` when left out. Others:
            `mpc.solvers.fatrop.FatropBackend`, `mpc.solvers.dompc.DoMpcBackend`, or several in turn with `mpc.chain`.
        options: Limits for the solver.
    """

    backend: BackendFactory | None = None
    options: SolverOptions | None = None

    def __post_init__(self) -> None:
        if self.backend is not None and not callable(self.backend):
            raise SettingError(f"backend must make a solver, got {shown(self.backend)}: pass a class, not an instance")


_RECORDS: dict[str, type[Any]] = {
    "tracking": Tracking, "prices": Prices, "limits": Limits, "safety": Safety, "solver": Solver,
}  # fmt: skip


def grouped(settings: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Group single settings by name into the arguments of `mpc.TightenedMPC`.

    Args:
        settings: Fields of the settings records, or whole arguments.
        before: Arguments to change; those not named stay as they are.
    """
    return by_record(_RECORDS, settings, before)
