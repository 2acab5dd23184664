"""`experiments.bench_mpc`: what watching premises costs of a step, in Python and in the C code.

In Python every call of the watch is timed, with what the clock itself takes; in C the watch's functions run again and
again on a copy of the state, beside the step that they are part of.
"""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench_mpc.c_code import compiler
from experiments.shared.study import Row
from mpc import TightenedMPC, controller_to_c
from mpc.solvers.condensed import CondensedBackend

_WATCHED = ("inputs", "since", "readings", "model_error", "coverage", "tell", "finish")
_AGAIN = 1000  # runs of the watch in C that are timed at once
_SHIM = """
#define _POSIX_C_SOURCE 199309L
#include <time.h>
#include "controlrnn_mpc.c"

static controlrnn_mpc_state state, copy;

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + 1e-9 * t.tv_nsec;
}

void start(void) { controlrnn_mpc_init(&state); }

/* Times [s] of the watch, and of the step that it is part of. */
void step(const double *y, const double *reference, double *u, double *times, int again)
{
    double seen[CONTROLRNN_MPC_NY], used[CONTROLRNN_MPC_NY], began;
    volatile int found = 0;
    copy = state;
    began = now();
    for (int i = 0; i < again; ++i) {
        watch_inputs(&copy, before_of(&copy));
        believe(&copy, before_of(&copy), y, seen, used);
        found += reaction_of(&copy) + is_certified(&copy);
        finish(&copy, 1);
    }
    times[0] = (now() - began) / again;
    began = now();
    controlrnn_mpc_step(&state, y, reference, u, 0);
    times[1] = now() - began;
}
"""


def python_row(controller: TightenedMPC, step: Callable[[int], None], steps: int) -> Row:
    """Median times [ms] of the watch and of whole steps.

    Args:
        controller: Whose watch is timed.
        step: Takes one step of a loop with it.
        steps: How many.
    """
    spent, watch = [0.0], controller.premise_watch
    for name in _WATCHED:
        setattr(watch, name, _timed(getattr(watch, name), spent))
    watched, whole = [], []
    for t in range(steps):
        spent[0], began = 0.0, time.perf_counter()
        step(t)
        whole.append(time.perf_counter() - began)
        watched.append(spent[0])
    for name in _WATCHED:
        delattr(watch, name)
    return _row(watched, whole)


def _timed(method: Callable[..., Any], spent: list[float]) -> Callable[..., Any]:
    def timed(*given: Any, **options: Any) -> Any:
        began = time.perf_counter()
        found = method(*given, **options)
        spent[0] += time.perf_counter() - began
        return found

    return timed


def c_row(controller: TightenedMPC, plant: Any, references: np.ndarray, steps: int) -> Row:
    """The same of the C code.

    Args:
        controller: With our solver.
        plant: System that the loop is closed with.
        references: Shape (steps, ny).
        steps: How many.
    """
    watched, whole = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        controller_to_c(controller, folder)
        (folder / "shim.c").write_text(_SHIM)
        target = folder / "watch.so"
        command = [compiler() or "cc", "-std=c99", "-O2", "-shared", "-fPIC", str(folder / "shim.c")]
        subprocess.run([*command, "-o", str(target), "-lm"], check=True)
        library = ctypes.CDLL(str(target))
        library.start()
        x, u, times = np.zeros(plant.nx), np.zeros(plant.nu), np.zeros(2)
        for t in range(steps):
            y, wanted = np.ascontiguousarray(plant.output(x, u)), np.ascontiguousarray(references[t])
            given = [ctypes.c_void_p(a.ctypes.data) for a in (y, wanted, u, times)]
            library.step(*given, ctypes.c_int(_AGAIN))
            x = plant.step(x, u)
            watched.append(float(times[0]))
            whole.append(float(times[1]))
    return _row(watched, whole)


def _row(watched: list[float], whole: list[float]) -> Row:
    watch, step = 1e3 * float(np.median(watched)), 1e3 * float(np.median(whole))
    return {"watch_ms": watch, "step_ms": step, "share_percent": 100 * watch / step, "steps": len(whole)}


def rows(loop: Any, references: np.ndarray, steps: int) -> dict[str, Row]:
    """Rows by language; C only where there is a compiler.

    Args:
        loop: A loop of `experiments.bench_mpc` with the condensed solver.
        references: Shape (steps, ny).
        steps: How many.
    """
    quiet = np.zeros(loop.plant.nx), np.zeros(loop.controller.predictor.ny)
    found = {"python": python_row(loop.controller, lambda t: loop.step(references[t], *quiet), steps)}
    if compiler():
        controller = loop.controller
        controller.backend = CondensedBackend(controller.problem, loop.timed.inner.options)
        found["c"] = c_row(controller, loop.plant, references, steps)
    return found
