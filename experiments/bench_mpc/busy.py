"""`experiments.bench_mpc` beside busy processes: with the environment as it is, and with one thread.

A library that hands part of a matrix product to a thread of its own waits until that thread gets its turn. Thread
variables are read when libraries are loaded, so that each setting has processes of its own, in turns. As a controller
does, they sleep until the next sample.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np

from experiments.shared.study import Row

BUSY = 2  # processes beside
ENGINES = ("condensed", "rti")
SETTINGS: dict[str, str | None] = {"environment": None, "one_thread": "1"}
KEYS = [f"{engine}_{name}" for name in SETTINGS for engine in ENGINES]
_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PERIOD = 0.005  # s


def rows(case: dict[str, int], rounds: int, seed: int) -> dict[str, Row]:
    """Solve times [ms] of each engine with each setting, by ``engine_setting``; ``case``: n, horizon, steps."""
    times: dict[str, list[float]] = {key: [] for key in KEYS}
    with _busy():
        for _ in range(rounds):
            for name, threads in SETTINGS.items():
                for engine, found in _measured(case, seed, threads).items():
                    times[f"{engine}_{name}"] += found
    return {
        key: {
            "engine": key,
            **case,
            "busy": BUSY,
            "solve_p05": np.percentile(found, 5),
            "solve_median": np.median(found),
            "solve_p95": np.percentile(found, 95),
            "solve_max": max(found),
        }
        for key, found in times.items()
    }


def _measured(case: dict[str, int], seed: int, threads: str | None) -> dict[str, list[float]]:
    environment = {k: v for k, v in os.environ.items() if k not in _VARIABLES}
    if threads is not None:
        environment |= dict.fromkeys(_VARIABLES, threads)
    command = [sys.executable, "-m", __spec__.name, json.dumps(case | {"seed": seed})]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, list[float]] = json.loads(done.stdout)
    return found


@contextmanager
def _busy() -> Iterator[None]:
    beside = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(BUSY)]
    try:
        yield
    finally:
        for process in beside:
            process.kill()
            process.wait()


def _main(n: int, horizon: int, steps: int, seed: int) -> None:
    from experiments.bench_mpc import study as bench_mpc

    case = bench_mpc.Case(n, horizon, steps)
    predictor, plant, references = bench_mpc.setting(case, seed)
    loops = {engine: bench_mpc.loop_of(engine, case, predictor, plant) for engine in ENGINES}
    rng = np.random.default_rng([seed, 1])
    for t in range(steps):
        state_noise, output_noise = bench_mpc.NOISE * rng.standard_normal(n), bench_mpc.NOISE * rng.standard_normal(2)
        for loop in loops.values():
            time.sleep(_PERIOD)
            loop.step(references[3 * t // steps], 0.3 * state_noise, output_noise)
    print(json.dumps({engine: [1e3 * s for s in loop.timed.wall] for engine, loop in loops.items()}))


if __name__ == "__main__":
    _main(**json.loads(sys.argv[1]))
