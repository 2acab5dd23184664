"""Random controllers, and closed loops with one plant, noise and gaps that a controller and its C code both run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlrnn.data import Signal
from controlrnn.systems import Activation, LureSystem
from mpc import (
    ErrorMemory,
    Predictor,
    RunningOn,
    StateObserver,
    TightenedMPC,
    Tightening,
    Washout,
    kalman_gain,
    no_tightening,
)
from mpc.control.settings import grouped


def network(seed: int, *, layers=(6,), nx=4, nu=2, ny=2, activation=Activation.TANH, through=False) -> LureSystem:
    """A random Lur'e system with all its matrices, contracting in practice."""
    rng = np.random.default_rng(seed)
    nv = sum(layers)

    def matrix(rows: int, columns: int, size: float) -> np.ndarray:
        M = rng.standard_normal((rows, columns))
        return size * M / max(np.linalg.norm(M, 2), 1e-9) if M.size else M

    starts = np.repeat(np.cumsum([0, *layers[:-1]]) if layers else [], layers).astype(int)
    D11 = matrix(nv, nv, 0.5) * (np.arange(nv)[None, :] < starts[:, None]) if nv else np.zeros((0, 0))
    return LureSystem(
        A=matrix(nx, nx, 0.7), B1=matrix(nx, nv, 0.5), B2=matrix(nx, nu, 0.6), bx=0.1 * rng.standard_normal(nx),
        C1=matrix(nv, nx, 0.5), D11=D11, D12=matrix(nv, nu, 1.0), bv=0.2 * rng.standard_normal(nv),
        C2=matrix(ny, nx, 1.0), D21=matrix(ny, nv, 0.3 if through else 0.0), D22=matrix(ny, nu, 0.2 * through),
        by=0.1 * rng.standard_normal(ny), activation=activation, layers=tuple(layers), dt=0.5,
    )  # fmt: skip


def controller(
    system: LureSystem, *, horizon=10, limit: Any = 0.25, observer="running", **options: Any
) -> TightenedMPC:
    """Tracking with inputs of different ranges; ``limit``: of the outputs about their middle, None for none."""
    ranges = [(-1.0, 1.0), (0.0, 3.0), (-0.2, 0.1)][: system.nu]
    inputs = tuple(Signal(f"u{i}", lower=low, upper=high) for i, (low, high) in enumerate(ranges))
    free = Predictor(system, inputs)
    middle = free.steady_output(np.mean(free.input_limits(), axis=0))
    span = np.full(system.ny, np.inf) if limit is None else np.broadcast_to(limit, (system.ny,))
    outputs = tuple(
        Signal(f"y{i}", lower=c - r, upper=c + r) for i, (c, r) in enumerate(zip(middle, span, strict=True))
    )
    predictor = Predictor(system, inputs, outputs)
    made = {
        "running": lambda: RunningOn(predictor, 2),
        "washout": lambda: Washout(predictor, 5),
        "innovation": lambda: StateObserver(
            predictor, kalman_gain(predictor, output_noise_std=0.1, state_noise_std=0.05), 3
        ),
    }[observer]()
    base = no_tightening(predictor.system.digest, horizon, system.ny)
    tightened = replace(base, model_error=np.linspace(0, 0.02, horizon + 1)[:, None] * np.ones(system.ny))
    settings: dict[str, Any] = {"output_weight": 1.0, "input_move_weight": 0.05} | options
    return TightenedMPC(predictor, made, tightened, **grouped(settings))


def learnt(tightening: Tightening, half: Any, *, steps: int = 4, drift: float = 0.05) -> ErrorMemory:
    """What measurements may be believed for, in shares of half the range between limits (ny,); nothing proves it."""
    N = tightening.horizon
    half = np.asarray(half, dtype=float)
    ahead = np.arange(1, steps + 1)[:, None]
    absolute, jump = np.linspace(0.3, 0.4, N + 1)[:, None] * half, np.full((N, 1), 0.002) * half
    growth = 0.004 * np.maximum(np.arange(N + 1) - 1, 0)[:, None] * half
    return ErrorMemory(
        drift=drift * np.sqrt(ahead) * half,
        change=np.full((steps, 1), 0.02) * half,
        jump=jump,
        absolute=absolute,
        growth=growth,
        end=absolute[-1] + growth[-1] + jump[-1],
        promise="made up",
        digests={"tightening": tightening.digest},
    ).on_trust()


@dataclass(frozen=True, eq=False)
class Loop:
    """What a controller did in a closed loop."""

    u: np.ndarray
    status: list[Any]
    fallback: list[Any]
    iterations: list[Any]
    certified: list[Any]
    feasible: list[Any]
    cost: np.ndarray
    contradicts: list[bool]
    errors: np.ndarray  # what is known after each step; empty where nothing is learnt


def programme(model: TightenedMPC, rng: np.random.Generator, steps: int, reach: float) -> np.ndarray:
    """References (steps, ny) that step up to ``reach`` away from the middle."""
    limits = np.array([[s.lower, s.upper] for s in model.predictor.outputs])
    middle = np.where(np.isfinite(limits).all(axis=1), np.where(np.isfinite(limits), limits, 0.0).mean(axis=1), 0.0)
    return np.repeat(middle + reach * rng.uniform(-1, 1, (steps // 25 + 2, len(limits))), 25, axis=0)


def run(
    acting: Any,
    model: TightenedMPC,
    *,
    steps: int = 120,
    seed: int = 0,
    reach: float = 0.3,
    noise: float = 0.01,
    preview: int = 1,
    off: float = 0.05,
    outlier: float = 0.0,
) -> Loop:
    """Closed loop of ``acting`` with a plant that is ``off`` from ``model``'s; some measurements are missing.

    For a while somebody else acts. ``preview``: how many samples of the references are known. ``outlier``: by how much
    one reading of the first output is wrong.
    """
    rng, system = np.random.default_rng(seed), model.predictor.system
    wanted = programme(model, rng, steps, reach)
    shapes = {name: getattr(system, name).shape for name in ("A", "B1", "B2", "C2")}
    plant = replace(
        system, **{k: getattr(system, k) * (1 + off * rng.standard_normal(shape)) for k, shape in shapes.items()}
    )
    x, u, told, known = np.zeros(plant.nx), np.zeros(plant.nu), [], []
    for t in range(steps):
        y = plant.output(x, u) + noise * rng.standard_normal(plant.ny)
        if t % 17 == 11:
            y[rng.integers(plant.ny)] = [np.nan, np.inf][t % 2]
        if t == 60:
            y[0] += outlier
        if t == 40:
            for _ in range(3):
                acting.record(y, u)
        step = acting.step(y, wanted[t] if preview == 1 else wanted[t : t + preview])
        u = step.u
        x = plant.step(x, u)
        told.append(step)
        if model.recalls:
            known.append(acting.errors if acting is not model else model.learnt_errors.interval)
    return Loop(
        u=np.array([step.u for step in told]),
        cost=np.array([step.cost for step in told]),
        contradicts=[bool(step.outside if acting is model else step.contradictions) for step in told],
        errors=np.array(known),
        **{k: [getattr(s, k) for s in told] for k in ("status", "fallback", "iterations", "certified", "feasible")},
    )
