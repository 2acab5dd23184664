"""Closed loops in C: what `mpc.run_closed_loop` does, for one controller and one plant, at the speed of compiled code.

The controller is its own C code (`mpc.controller_to_c`); a plant gives C code with two members:

- ``nw``, its number of disturbances;
- ``c_code(name)``, C99 source of ``int NAME_step(double *x, const double *u, const double *w)``, which replaces x by
  the state one sample later (w may be null), and ``int NAME_output(const double *x, const double *u, double *y)``.
  Both return 0 where they succeed.

All plants of ``plants`` have them, and so has `mpc.DelayedPlant` of one. Other plants, and faults of the user's own,
are called back in Python. A plant that is an adversary and also chooses where a washout starts sets ``restarts`` and
gives ``void NAME_restart(double *offset)``, called after each step.

Code is compiled for the instructions of this very processor. Layers are computed column by column, several neurons in
a register, with a tanh within 3 units in the last place; the code of `mpc.controller_to_c` is plain C99 without these.

Everything random is drawn in Python, from the same generators. Controller and plant do the same operations as in Python
in another order: inputs and outputs agree up to rounding (1e-9 in the tests) wherever rounding decides nothing. It
does where a converged solver may take one more step or not, which is within its tolerance, and at corners of a plant,
where the integrator's steps differ within its own. Texts in ``outside`` name premises without numbers.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from controlrnn.errors import SettingError
from mpc.c_code.writer import FALLBACKS, STATUSES, controller_code
from mpc.calibration.plausibility import Verdict
from mpc.control.controller import TightenedMPC
from mpc.loops.compiled.call import Call, Prepared
from mpc.loops.compiled.library import NotCompiledError, library
from mpc.loops.faults import Late
from mpc.loops.plant import Plant
from mpc.loops.result import ClosedLoopResult
from mpc.loops.run import Drawn, drawn, run_closed_loop
from mpc.problem.solver_options import Status
from mpc.safety.premise_watch import ORDER

_NAME, _PLANT = "controlrnn_mpc", "process"


class CompiledLoops:
    """Compiled loops of one controller and one plant.

    Args:
        plant: The plant.
        controller: The controller, which is reset and stepped only where a loop has to be run in Python.
        folder: Where compiled code is kept.

    Raises:
        NotCompiledError: There is no compiler, or the controller has a part without C code.
        SettingError: Others may access the folder.

    Attributes:
        files: The compiled code and its digest.
    """

    def __init__(self, plant: Plant, controller: TightenedMPC, folder: Path) -> None:
        self.plant = plant
        self.controller = controller
        self._hooked = not callable(getattr(plant, "c_code", None))
        try:
            sources = _sources(plant, controller, self._hooked)
        except SettingError as error:
            raise NotCompiledError(str(error)) from error
        self._library, self.files = library(sources, folder)
        self._run = getattr(self._library, f"{_NAME}_loop")
        self._run.argtypes = [ctypes.POINTER(Call)]
        size = getattr(self._library, f"{_NAME}_loop_memory")
        size.restype = ctypes.c_size_t
        self._size = int(size())
        self._one_at_a_time = threading.Lock()  # an adversary's restarts are static memory

    def run(self, seed: int, options: Mapping[str, Any]) -> ClosedLoopResult:
        """Run one loop, as `mpc.run_closed_loop`.

        Args:
            seed: Seed of everything random.
            options: Its other arguments by name.
        """
        loop = drawn(self.plant, self.controller, seed=seed, **options)
        if not self._knows(loop):
            return run_closed_loop(self.plant, self.controller, seed=seed, **options)
        call = Prepared(loop, hooked=self._hooked, state=self._size)
        with self._one_at_a_time:
            failed = self._run(ctypes.byref(call.call))
        if call.hooks.errors:
            raise call.hooks.errors[0]
        if failed:  # the plant did not go on: Python says why
            return run_closed_loop(self.plant, self.controller, seed=seed, **options)
        return loop.result(_found(call.found))

    def _knows(self, loop: Drawn) -> bool:
        """Whether C can run a loop: no readings that are put in later, disturbances as many as the plant has."""
        faults, rows = loop.actor.faults, loop.actor.disturbance
        fits = rows is None or self._hooked or rows.shape[1] == self.plant.nw  # type: ignore[attr-defined]
        return fits and not any(isinstance(fault, Late) and fault.stamped for _, fault, _ in faults.acting)


def _sources(plant: Plant, controller: TightenedMPC, hooked: bool) -> dict[str, str]:
    """Files to compile by name."""
    restarts = bool(getattr(plant, "restarts", False))
    code, header = controller_code(controller, _NAME, f"{_NAME}.h", tested=False, restarts=restarts, wide=True)
    ends = [float(getattr(s, side)) for side in ("lower", "upper") for s in plant.inputs]
    words = {
        "name": _NAME, "NAME": _NAME.upper(), "header": f"{_NAME}.h", "source": f"_{_NAME}.c", "plant": _PLANT,
        "restarts": int(restarts), "hooked": int(hooked), "plant_nx": plant.nx,
        "channels": max(len(plant.inputs), len(plant.outputs)),
        "input_reach": ", ".join(map(repr, ends)).replace("inf", "INFINITY"),
    }  # fmt: skip
    template = (resources.files("mpc.c_code") / "templates" / "loop.c").read_text()
    files = {f"_{_NAME}.c": code, f"{_NAME}.h": header, "loop.c": Template(template).substitute(words)}
    if not hooked:
        files["plant.c"] = plant.c_code(_PLANT)  # type: ignore[attr-defined]
    return files


def _found(c: dict[str, Any]) -> dict[str, Any]:
    """What C found, by the names of `ClosedLoopResult`."""
    statuses = (*STATUSES, Status.TIME_LIMIT)
    same = ("y", "after", "readings", "u", "applied", "x", "disturbance", "predicted", "errors", "intervals", "slack")
    return {name: c[name] for name in same} | {
        "solve_time": c["seconds"],
        "iterations": c["iterations"].astype(np.int64),
        "status": tuple(statuses[i] for i in c["status"]),
        "fallback": tuple(FALLBACKS[i] for i in c["fallback"]),
        "certified": c["certified"] != 0,
        "verdicts": (c["missed"] * int(Verdict.MISSING)).astype(np.int8),
        "outside": tuple(_words(bits) if bits else "" for bits in c["outside"].tolist()),
    }


def _words(bits: int) -> str:
    return ", ".join(f"{p} contradicted" for i, p in enumerate(ORDER) if bits >> i & 1)
