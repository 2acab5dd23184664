"""Settings of a controller: safety and solver; what is tracked, priced and limited is in `mpc.problem.settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from numpy.typing import ArrayLike

from controlrnn.typed import typed
from mpc.calibration.region import OperatingRegion
from mpc.problem.ocp import BackendFactory
from mpc.problem.settings import Limits, Prices, Tracking
from mpc.problem.solver_options import SolverOptions
from mpc.safety.premise_watch import Watching


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Safety:
    """What is watched, and what is applied as a last resort.

    Args:
        safe_input: Last resort, shape (nu,); the middle of the actuators' range when left out.
        region: Where the model error was calibrated, from `mpc.learn_region`: steps outside are logged and flagged.
        watching: How premises are watched at every step, and what is done when one is contradicted; see
            `mpc.safety.premise_watch`.
    """

    safe_input: ArrayLike | None = None
    region: OperatingRegion | None = None
    watching: Watching | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class Solver:
    """Which solver, and how long it may take.

    Args:
        backend: Makes the solver; `mpc.solvers.condensed.CondensedBackend` when left out. Others:
            `mpc.solvers.fatrop.FatropBackend`, `mpc.solvers.dompc.DoMpcBackend`, or several in turn with `mpc.chain`.
        options: Limits for the solver.
    """

    backend: BackendFactory | None = None
    options: SolverOptions | None = None


_RECORDS: dict[str, type[Any]] = {
    "tracking": Tracking, "prices": Prices, "limits": Limits, "safety": Safety, "solver": Solver,
}  # fmt: skip
_RECORD_OF = {field.name: name for name, kind in _RECORDS.items() for field in fields(kind)}


def grouped(settings: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Arguments of `mpc.TightenedMPC` from single settings by name.

    Args:
        settings: Fields of the records above, or whole arguments; the others stay as they are.
        before: Arguments that these change.
    """
    made = dict(before or {})
    parts: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name in _RECORD_OF:
            parts.setdefault(_RECORD_OF[name], {})[name] = value
        else:
            made[name] = value
    for name, values in parts.items():
        given = made.get(name)
        made[name] = _RECORDS[name](**values) if given is None else replace(given, **values)
    return made
