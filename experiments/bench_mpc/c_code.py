"""Compiled C code of a controller, called sample by sample from Python and timed inside of the call.

In `experiments.bench_mpc` a loop of it is ``compiled_loop(loop_of("condensed", case, predictor, plant))``.
"""

from __future__ import annotations

import copy
import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array
from experiments.bench_mpc.engines import Timed
from mpc import Fallback, Premise, Status, TightenedMPC
from mpc.c_code.writer import FALLBACKS, STATUSES, controller_to_c

_SHIM = """
#define _POSIX_C_SOURCE 199309L
#include <time.h>
#include "controlrnn_mpc.h"

static controlrnn_mpc_state state, saved;

static double now(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

void start(void) { controlrnn_mpc_init(&state); }

void save(void) { saved = state; }

void load(void) { state = saved; }

void take_over(const double *u) { controlrnn_mpc_start_from(&state, u); }

void clear(void) { controlrnn_mpc_clear_estimate(&state); }

void take(const double *y, const double *u) { controlrnn_mpc_record(&state, y, u); }

void step(const double *y, const double *reference, const double *applied, const double *time, double *u, double *told)
{
    controlrnn_mpc_info info;
    double began = now(CLOCK_MONOTONIC), used = now(CLOCK_PROCESS_CPUTIME_ID);
    controlrnn_mpc_step_watched(&state, y, reference, applied, *time, u, &info);
    told[7] = now(CLOCK_PROCESS_CPUTIME_ID) - used;
    told[6] = now(CLOCK_MONOTONIC) - began;
    told[0] = info.status;
    told[1] = info.fallback;
    told[2] = info.iterations;
    told[3] = info.certified;
    told[4] = info.feasible;
    told[5] = info.cost;
    told[8] = info.contradictions;
    told[9] = info.inside_after;
    told[10] = info.broken;
}

void errors(double *ends)
{
    for (int i = 0; i < CONTROLRNN_MPC_ERRORS; ++i) {
        ends[i] = state.error_low[i];
        ends[CONTROLRNN_MPC_ERRORS + i] = state.error_high[i];
    }
}

/* The estimate for the coming sample, that of the last step, and the bound on its error. */
void look(double *next, double *last, double *bound)
{
    for (int i = 0; i < CONTROLRNN_MPC_NX; ++i) {
        next[i] = state.x[i];
        last[i] = state.undo_x[i];
    }
    *bound = state.bound;
}

unsigned long size(void) { return sizeof state; }
"""


def compiler() -> str | None:
    """Path of a C compiler, or None."""
    return shutil.which("cc") or shutil.which("gcc")


@dataclass(frozen=True, eq=False)
class CompiledStep:
    """Result of a control step of the C code, with the fields of `mpc.MpcStep` that it has."""

    u: Array
    status: Status
    fallback: Fallback
    iterations: int
    certified: bool
    feasible: bool
    cost: float
    contradictions: int
    inside_after: int
    broken: tuple[Premise, ...]


class CompiledController:
    """Wrapper of the C code that replaces a `TightenedMPC` in a loop.

    Args:
        controller: Whose C code is written and compiled.
        folder: Where.
        flags: Of the compiler.

    Attributes:
        wall: Time of each step on the C side [s]: estimates, solve and fallback.
        cpu: Processor time of each [s].
        memory: Size of the state [bytes].
    """

    def __init__(self, controller: TightenedMPC, folder: Path, *, flags: Sequence[str] = ("-O2",)) -> None:
        self.nx = controller.problem.predictor.nx
        self.ny = controller.predictor.ny
        self.nu = controller.predictor.nu
        self.rows = controller.horizon + 1
        backend = controller.backend
        if isinstance(backend, Timed):
            controller = copy.copy(controller)
            controller.backend = backend.inner
        source, _ = controller_to_c(controller, folder)
        shim, target = folder / "shim.c", folder / "controller.so"
        shim.write_text(_SHIM)
        command = [compiler() or "cc", "-std=c99", "-Wall", "-Wextra", "-Werror", *flags, "-shared", "-fPIC"]
        subprocess.run([*command, str(source), str(shim), "-o", str(target), "-lm"], check=True)
        self._library = ctypes.CDLL(str(target))
        self._library.size.restype = ctypes.c_ulong
        self.memory = int(self._library.size())
        self.wall: list[float] = []
        self.cpu: list[float] = []
        self.inner = None  # what `experiments.bench_mpc` asks of whoever keeps the times
        self.reset()

    def reset(self) -> None:
        """Reset the controller's state."""
        self._library.start()
        self.wall.clear()
        self.cpu.clear()

    def save(self) -> None:
        """Keep a copy of the state."""
        self._library.save()

    def load(self) -> None:
        """Restore the saved copy of the state."""
        self._library.load()

    def start_from(self, u_previous: ArrayLike) -> None:
        """Set the state; as `TightenedMPC.start_from`, or NaN where the input is not known."""
        self._call("take_over", as_array("u_previous", u_previous, (self.nu,), finite=False))

    def clear_estimate(self) -> None:
        """Clear the disturbance estimate; as `TightenedMPC.clear_estimate`."""
        self._library.clear()

    def record(self, y: ArrayLike, u: ArrayLike) -> None:
        """Record a sample without control; as `TightenedMPC.record`, or NaN where the input is not known."""
        seen, acted = (as_array(n, v, (size,), finite=False) for n, v, size in (("y", y, self.ny), ("u", u, self.nu)))
        self._call("take", seen, acted)

    def step(
        self, y: ArrayLike, reference: ArrayLike, *, applied: ArrayLike | None = None, time: float | None = None
    ) -> CompiledStep:
        """Compute the next input; as `TightenedMPC.step`."""
        seen = as_array("y", y, (self.ny,), finite=False)
        known = np.atleast_2d(np.asarray(reference, dtype=np.float64))
        known = known[np.minimum(np.arange(self.rows), len(known) - 1)]
        u, told = np.empty(self.nu), np.empty(11)
        acted = np.full(self.nu, np.nan) if applied is None else np.asarray(applied, dtype=np.float64)
        self._call("step", seen, known, acted, np.array([np.nan if time is None else time]), u, told)
        self.wall.append(float(told[6]))
        self.cpu.append(float(told[7]))
        status, fallback, iterations, certified, feasible = (int(number) for number in told[:5])
        return CompiledStep(
            u,
            STATUSES[status],
            FALLBACKS[fallback],
            iterations,
            bool(certified),
            bool(feasible),
            float(told[5]),
            int(told[8]),
            int(told[9]),
            tuple(p for i, p in enumerate(Premise) if int(told[10]) >> i & 1),
        )

    def look(self) -> tuple[Array, Array, Array]:
        """The estimate for the coming sample and that of the last step, each (nx,), and the bound on its error (1,)."""
        seen = np.empty(self.nx), np.empty(self.nx), np.empty(1)
        self._call("look", *seen)
        return seen

    @property
    def errors(self) -> Array:
        """Error bounds of the next prediction, shape (2, N + 1, ny); only where limits learn."""
        ends = np.empty((2, self.rows, self.ny))
        self._call("errors", ends)
        return ends

    def _call(self, name: str, *arrays: Array) -> None:
        whole = [np.ascontiguousarray(array) for array in arrays]
        getattr(self._library, name)(*(a.ctypes.data_as(ctypes.POINTER(ctypes.c_double)) for a in whole))


def compiled_loop(loop: Any, *, flags: Sequence[str] = ("-O2",)) -> Any:
    """Run the C code's own loop, on the plant and limits of a fresh `experiments.bench_mpc` loop.

    Args:
        loop: With the condensed solver, not yet stepped.
        flags: Of the compiler.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = CompiledController(loop.controller, Path(folder), flags=flags)
    made.record(loop.plant.output(np.zeros(loop.plant.nx), np.zeros(made.nu)), np.zeros(made.nu))
    return type(loop)(loop.plant, made, made, loop.limit)
