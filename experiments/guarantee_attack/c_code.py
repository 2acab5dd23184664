"""The C controller in the same loops: its code, compiled with sanitisers, repeats every call that Python answered.

The harness is a program of its own, so that what a sanitiser finds ends the harness and not the study.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controlrnn.checks import Array
from experiments.bench_mpc.c_code import compiler
from experiments.guarantee_attack.loops import Told
from mpc import Fallback, Status, TightenedMPC, controller_to_c
from mpc.c_code.watch import bits
from mpc.c_code.writer import FALLBACKS, STATUSES

_CALLS = {"step": 0.0, "record": 1.0, "clear": 2.0, "start": 3.0}
_FORGET, _NEAR = 4.0, 2e-5  # of an input's range
_MAIN = """
#include <stdio.h>
#include "attacked.h"
#define ROWS ((ATTACKED_HORIZON + 1) * ATTACKED_NY)

static attacked_state state;

int main(void)
{
    double in[1 + 2 * ATTACKED_NY + 2 * ATTACKED_NU + 1], out[5 + ATTACKED_NU], wanted[ROWS];
    const double *y = in + 1, *reference = y + ATTACKED_NY, *u = reference + ATTACKED_NY, *acted = u + ATTACKED_NU;
    attacked_init(&state);
    while (fread(in, sizeof in, 1, stdin) == 1) {
        attacked_info info;
        switch ((int)in[0]) {
        case 0:
            for (int k = 0; k < ROWS; ++k) wanted[k] = reference[k % ATTACKED_NY];
            attacked_step_watched(&state, y, wanted, acted, acted[ATTACKED_NU], out + 5, &info);
            out[0] = info.status;
            out[1] = info.fallback;
            out[2] = info.certified;
            out[3] = info.feasible;
            out[4] = info.broken;
            if (fwrite(out, sizeof out, 1, stdout) != 1) return 2;
            break;
        case 1: attacked_record(&state, y, u); break;
        case 2: attacked_clear_estimate(&state); break;
        case 3: attacked_start_from(&state, u); break;
        default: attacked_init(&state);
        }
    }
    return 0;
}
"""


@dataclass(frozen=True)
class Repeated:
    """What C made of one loop.

    Args:
        differs: Whether a decision or an input differs from Python's.
        other: Whether only what stands in for a solution does, or an input after such a sample.
        first: The first difference, in words.
    """

    differs: bool = False
    other: bool = False
    first: str = ""


class Harness:
    """Compiled code of one controller.

    Args:
        controller: The controller.
        folder: Where to compile.

    Raises:
        RuntimeError: It does not compile.
    """

    def __init__(self, controller: TightenedMPC, folder: Path) -> None:
        self.ny = controller.predictor.ny
        self.nu = controller.predictor.nu
        self._span = controller._span
        self._memory = controller.horizon
        source, _ = controller_to_c(controller, folder / "attacked.c")
        main, self._program = folder / "main.c", folder / "attacked"
        main.write_text(_MAIN)
        for self.sanitisers in ("address,undefined", "undefined", ""):
            flags = [f"-fsanitize={self.sanitisers}", "-fno-sanitize-recover=all"] if self.sanitisers else []
            command = [compiler() or "cc", "-std=c99", "-O1", "-g", *flags, str(source), str(main), "-o"]
            built = subprocess.run([*command, str(self._program), "-lm"], check=False, capture_output=True, text=True)
            if not built.returncode:
                return
        raise RuntimeError(f"the C code does not compile: {built.stderr[-2000:]}")

    def repeat(self, loops: Sequence[Sequence[Told]]) -> list[Repeated]:
        """Repeat loops, each from a fresh start.

        Args:
            loops: Their calls.

        Raises:
            RuntimeError: A sanitiser stopped the code.
        """
        rows = [row for calls in loops for row in (self._row(None), *(self._row(call) for call in calls))]
        done = subprocess.run([str(self._program)], input=np.array(rows).tobytes(), check=False, capture_output=True)
        if done.returncode:
            raise RuntimeError(f"the C code was stopped: {done.stderr.decode()[-2000:]}")
        found, at, results = np.frombuffer(done.stdout).reshape(-1, 5 + self.nu), 0, []
        for calls in loops:
            steps = [call for call in calls if call.step is not None]
            results.append(self._compared(steps, found[at : at + len(steps)]))
            at += len(steps)
        return results

    def _row(self, call: Told | None) -> Array:
        row = np.full(2 + 2 * self.ny + 2 * self.nu, np.nan)
        row[0] = _FORGET if call is None else _CALLS[call.kind]
        if call is None:
            return row
        row[1 : 1 + len(call.y)] = call.y
        at = 1 + self.ny + (0 if call.step is not None else self.ny)
        row[at : at + len(call.other)] = call.other
        if call.applied is not None:
            row[-1 - self.nu : -1] = call.applied
        row[-1] = np.nan if call.time is None else call.time
        return row

    def _compared(self, calls: Sequence[Told], found: Array) -> Repeated:
        """Up to the first difference, after which two loops need not agree any more."""
        other, alone = False, self._memory  # samples since the last one without a solution
        for t, (call, row) in enumerate(zip(calls, found, strict=True)):
            step = call.step
            assert step is not None
            alone = 0 if step.fallback is not Fallback.NONE and step.status is not Status.WARMING_UP else alone + 1
            mine = [STATUSES.index(step.status), step.certified, step.feasible, bits(step.broken)]
            theirs = [int(row[0]), bool(row[2]), bool(row[3]), int(row[4])]
            far = bool((np.abs(step.u - row[5:]) > _NEAR * self._span).any())
            if mine != theirs or far:
                only = mine[1] == theirs[1] and mine[3] == theirs[3] and (other or alone < self._memory)
                names = f"{step.fallback} against {FALLBACKS[int(row[1])]}"
                said = f"step {t}: status, certified, feasible, broken {mine} against {theirs}, {names}"
                return Repeated(not only, only, f"{said}, input {step.u} against {row[5:]}")
            other = other or FALLBACKS.index(step.fallback) != int(row[1])
        return Repeated(other=other)
