"""One linear tank, x+ = a x + b u with y = x + d u just after u acts: guarantees whose numbers can be followed."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
from mpc_networks import declared_error, signals

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.systems import LureSystem
from mpc import (
    ErrorMemory,
    ModelError,
    Predictor,
    RunningOn,
    StateObserver,
    TightenedMPC,
    Tracking,
    certify_changes,
    make_error_memory,
    make_recursive,
    observer_system,
    terminal_set,
    tighten,
)

N, M, K, W, RESIDUAL, DRIFT = 10, 4, 2, 30, 0.02, 0.039


def tank(b: float = 1.0, d: float = 0.0, a: float = 0.9) -> LureSystem:
    none = np.zeros
    return LureSystem(
        A=np.array([[a]]), B1=none((1, 0)), B2=np.array([[b]]), bx=none(1), C1=none((0, 1)), D11=none((0, 0)),
        D12=none((0, 1)), bv=none(0), C2=np.eye(1), D21=none((1, 0)), D22=np.array([[d]]), by=none(1), layers=(),
        dt=1.0,
    )  # fmt: skip


def error(system: LureSystem, bounds: Any, gain: float | None = None) -> ModelError:
    """Declared, not calibrated."""
    return declared_error(system, np.reshape(np.asarray(bounds, dtype=float), (-1, 1)), gain, washout=0)


@cache
def running_parts() -> tuple[Any, ...]:
    system = tank()
    predictor, contraction = Predictor(system, signals("u", 1, 1.0), signals("y", 1, 1.0)), certify_contraction(system)
    observer = RunningOn(predictor, W, contraction=contraction)
    start = observer.restart
    joint = certify_horizon(system, W + N, initial_radius=start.radius, metric=start.metric, focus=[W, W + N])
    declared = error(system, np.full(N + 1, RESIDUAL))
    tightening = make_recursive(tighten(declared, joint, observer=observer), None, observer=observer)
    terminal = terminal_set(predictor, contraction, horizon=N, jump=observer.jump)
    drift = error(system, np.r_[0.0, np.full(N, DRIFT)], 1.0)
    return predictor, contraction, tightening, terminal, make_error_memory(
        tightening, drift, certify_changes(observer, K), observer=observer
    )  # fmt: skip


def running(recalling: bool = True) -> tuple[TightenedMPC, ErrorMemory]:
    """A controller that runs on, with hard limits, a terminal set and, if wanted, limits that learn."""
    predictor, contraction, tightening, terminal, memory = running_parts()
    observer = RunningOn(predictor, W, contraction=contraction)
    made = TightenedMPC(
        predictor,
        observer,
        tightening,
        Tracking(output_weight=1.0, input_move_weight=1e-4, control_horizon=M),
        terminal=terminal,
        error_memory=memory if recalling else None,
    )
    return made, memory


@cache
def _innovating(d: float) -> tuple[Any, ...]:
    predictor = Predictor(tank(0.3, d), signals("u", 1, 1.0), signals("y", 1, 1.0))
    system = predictor.system
    gain = np.zeros((system.nx, 1))
    gain[0] = 0.3
    parts = certify_contraction(system), certify_contraction(observer_system(system, gain))
    observer = StateObserver(
        predictor, gain, W, contraction=parts[0], observer_contraction=parts[1], residual_bound=RESIDUAL
    )
    return predictor, gain, parts, _room(observer)


def _room(observer: StateObserver) -> tuple[Any, Any]:
    predictor, limited = observer.predictor, observer.predictor.system
    joint, growth = (
        certify_horizon(limited, N, initial_radius=ball.radius, metric=ball.metric)
        for ball in (observer.error, observer.jump)
    )
    declared = error(predictor.system, np.full(N + 1, RESIDUAL))
    tightening = make_recursive(tighten(declared, joint, observer=observer), growth, observer=observer)
    return tightening, terminal_set(predictor, observer.contraction, horizon=N, jump=observer.jump)


def innovating(d: float = 0.0) -> TightenedMPC:
    """A controller with an innovation observer, hard limits and a terminal set."""
    predictor, gain, parts, (tightening, terminal) = _innovating(d)
    observer = StateObserver(
        predictor, gain, W, contraction=parts[0], observer_contraction=parts[1], residual_bound=RESIDUAL
    )
    return TightenedMPC(
        predictor,
        observer,
        tightening,
        Tracking(output_weight=1.0, input_move_weight=1e-3, control_horizon=M),
        terminal=terminal,
    )
