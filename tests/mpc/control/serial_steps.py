"""Run as a program: control steps of every kind, and which BLAS routines and other threads they used, as JSON.

Started by `test_serial_steps` in a process of its own, since threads and preloaded libraries belong to processes.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from mpc_networks import NormContraction, elman, signals
from random_systems import random_system

from controlrnn.data import Scaler, Signal, Trajectory
from controlrnn.identification import StateEncoder
from mpc import (
    EncoderObserver,
    ErrorMemory,
    MovingHorizonObserver,
    PlausibilityLimits,
    Predictor,
    RegionShape,
    RunningOn,
    SolverOptions,
    StateObserver,
    TerminalSet,
    TightenedMPC,
    Tracking,
    Washout,
    kalman_gain,
    learn_region,
    no_tightening,
    observer_system,
)
from mpc.control.settings import grouped
from mpc.observers.base import Observer

N, STEPS = 10, 12
SMALL = elman(rate=0.6, seed=2)
GAIN = 0.3 * SMALL.C2.T / np.linalg.norm(SMALL.C2, 2) ** 2
CERTIFIED = NormContraction.of(SMALL)
FAR = np.array([0.9, -0.9])  # out of reach, at limits: second derivatives, corrections


def predictor(system=SMALL, limit=0.3):
    return Predictor(system, signals("u", system.nu, 1.0), signals("y", system.ny, limit))


def encoder(past=3):
    rng, nz = np.random.default_rng(0), 4 * past
    return StateEncoder(
        past=past,
        inputs=Scaler.identity(2),
        outputs=Scaler.identity(2),
        linear=0.1 * rng.standard_normal((4, 1 + nz)),
        inner=rng.standard_normal((5, nz)),
        bias=np.zeros(5),
        outer=0.1 * rng.standard_normal((4, 5)),
        system_digest=SMALL.digest,
    )


def observers(model: Predictor) -> dict[str, Observer]:
    """One of each kind, certified where it can be."""
    own = NormContraction.of(observer_system(SMALL, GAIN))
    guard = RunningOn(model, 2, contraction=CERTIFIED, input_error=0.02)
    horizon = {"window": 5, "output_std": 0.05, "input_error": 0.02, "offset_std": 0.1}
    return {
        "washout": Washout(model, 4, contraction=CERTIFIED),
        "running on": RunningOn(model, 2, contraction=CERTIFIED),
        "innovation": StateObserver(
            model, GAIN, 2, residual_bound=0.1, contraction=CERTIFIED, observer_contraction=own
        ),
        "moving horizon": MovingHorizonObserver(model, 2, **horizon, guard=guard, trust=0.5),
        "moving horizon with limits": MovingHorizonObserver(
            model, 2, **horizon, state_limits=(-0.5 * np.ones(4), 0.5 * np.ones(4))
        ),
        "encoder": EncoderObserver(model, encoder(), guard=guard, trust=0.5),
    }  # fmt: skip


def terminal(model: Predictor) -> TerminalSet:
    return TerminalSet(
        metric=np.eye(model.nx),
        radius=0.05,
        rate=0.9,
        horizon=N,
        jump=0.0,
        margin=np.full(model.ny, 0.02),
        digests={"system": model.system.digest, "jump": SMALL.digest},
    ).on_trust()


def learnt(tightening, observer: Observer) -> ErrorMemory:
    half = np.full((N + 1, 2), 0.1)
    return ErrorMemory(
        drift=0.01 * np.ones((3, 2)),
        change=0.01 * np.ones((3, 2)),
        jump=np.zeros((N, 2)),
        absolute=half,
        growth=np.zeros((N + 1, 2)),
        end=half[0],
        promise="declared",
        digests={"tightening": tightening.digest, "observer": observer.digest, "system": SMALL.digest},
    )


def region(observer: Observer, shape: RegionShape):
    def records(seed):
        rng = np.random.default_rng(seed)
        for _ in range(12):
            u = rng.uniform(-0.5, 0.5, (30, 2))
            y = SMALL.simulate(u)[0] + 0.02 * rng.standard_normal((30, 2))
            yield Trajectory(u=u, y=y, dt=1.0, name="r")

    return learn_region(observer, list(records(0)), scale_trajectories=list(records(1)), coverage=0.8, shape=shape)


def controllers() -> Iterator[tuple[str, TightenedMPC]]:
    """Every kind of controller with our solver."""
    model = predictor()
    plain, price = no_tightening(SMALL.digest, N, 2), {"input_price": [0.3, -0.2], "output_price": -0.5}
    cost = {"output_weight": 1.0, "input_move_weight": 0.05}
    for name, observer in observers(model).items():
        yield name, TightenedMPC(model, observer, plain, **grouped(cost))
    settings = {
        "rti": {"options": SolverOptions(rti=True)}, "hard": {"soft": False}, "moves": {"move_limit": 0.1},
        "economic": price | {"input_weight": 0.1}, "measured": {"measured_inputs": ["u2"]},
        "held": {"control_horizon": 4}, "cut short": {"options": SolverOptions(max_iterations=1)},
        "cut short, economic": price | {"options": SolverOptions(max_iterations=1)},
        "cut short, measured": {"measured_inputs": ["u2"], "options": SolverOptions(max_iterations=1)},
    }  # fmt: skip
    for name, options in settings.items():
        yield name, TightenedMPC(model, RunningOn(model, 2), plain, **grouped(dict(**cost, **options)))
    for shape in RegionShape:
        observer = RunningOn(model, 2)
        yield (
            f"region {shape}",
            TightenedMPC(model, observer, plain, **grouped(dict(region=region(observer, shape), **cost))),
        )
    layers = predictor(random_system(3, layers=(3, 2), coupling=0.25), limit=2.0)
    for name, system in (("layers", layers), ("elman", model)):
        untightened = no_tightening(system.system.digest, N, 2)
        yield name, TightenedMPC(system, RunningOn(system, 2), untightened, **grouped(cost))
        yield (
            f"{name} at rest",
            TightenedMPC(
                system,
                RunningOn(system, 2),
                replace(untightened, digests=untightened.digests | {"jump": SMALL.digest}).on_trust(),
                terminal=terminal(system),
                **grouped(cost),
            ),
        )
    # So large that OpenBLAS would call threads for whatever it is asked to do.
    large = predictor(elman(150, 2, 2, rate=0.5, gain=0.1), limit=0.05)
    gain = kalman_gain(large, output_noise_std=0.01, state_noise_std=0.01)
    observer = StateObserver(large, gain, 2)
    for rti in (False, True):
        yield (
            f"large, rti {rti}",
            TightenedMPC(
                large,
                observer,
                no_tightening(large.system.digest, 60, 2),
                **grouped(dict(options=SolverOptions(rti=rti), **cost)),
            ),
        )


def recalling() -> TightenedMPC:
    """Limits that learn."""
    model = predictor(limit=1.0)
    observer = Washout(model, 4, contraction=CERTIFIED)
    tightening = replace(no_tightening(SMALL.digest, N, 2), model_error=np.full((N + 1, 2), 0.1))
    return TightenedMPC(
        model,
        observer,
        tightening,
        Tracking(output_weight=1.0, input_move_weight=0.05),
        error_memory=learnt(tightening, observer),
    )


def run(controller: TightenedMPC) -> None:
    """Warm-up, steps with gaps, a reading that comes late, one that is wrong, and references near and far."""
    system, rng = controller.predictor.system, np.random.default_rng(0)
    checks = PlausibilityLimits(
        sensors=tuple(Signal(s.name, lower=-100.0, upper=100.0) for s in controller.predictor.outputs), rate=[50.0] * 2
    ).start()
    readings = 0.05 * rng.standard_normal((STEPS, 2)) + controller.predictor.predict(
        np.zeros(system.nx), np.zeros((STEPS - 1, 2))
    )
    readings[4, 0], readings[7], readings[8] = np.nan, np.nan, 1e3
    forecast = [0.1] if controller.problem.measured_inputs else None
    for t, y in enumerate(readings):
        believed, _ = checks.check(y, np.zeros(2))
        if t < 3:
            controller.record(believed, np.array([0.1, -0.1]))
            continue
        controller.step(believed, FAR if t % 3 else 0.1 * FAR, forecast)
        if t == 9:
            controller.correct(2, readings[9])


def switches() -> dict[str, tuple[str, ...]]:
    """For each other thread of this process, its state and how often it has ceased to run."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        if int(task.name) != os.getpid():
            lines = (task / "status").read_text().splitlines()
            found[task.name] = tuple(line.split()[1] for line in lines if line.startswith("State") or "ctxt_" in line)
    return found


def settled() -> dict[str, tuple[str, ...]]:
    """`switches` once all other threads are asleep.

    A thread that was woken waits for more work at first and is counted only when it falls asleep again.
    """
    seen: dict[str, tuple[str, ...]] = {}
    while seen != (seen := switches()) or any(state != "S" for state, *_ in seen.values()):
        time.sleep(0.1)
    return seen


def main() -> None:
    """Report on the standard output."""
    from blas_calls import Calls

    calls, report = Calls(), {}
    matrix = np.ones((400, 400))

    def observe(work) -> dict[str, object]:
        calls.look()
        before = settled()  # making controllers may have woken threads
        work()
        seen = dict(calls.look())
        return {"calls": seen, "other threads": sum(before.get(k) != v for k, v in settled().items())}

    report["a product of numpy's"] = observe(lambda: matrix @ matrix)
    for name, controller in [*controllers(), ("recall", recalling())]:
        report[name] = observe(lambda c=controller: run(c))
    json.dump(report, sys.stdout)


if __name__ == "__main__":
    main()
