"""The R2DN paper's three tasks: identification of the F-16, an observer of reaction-diffusion, a robust policy.

Sizes, windows, rates and batches are those of the paper's code; each task has a REN and an R2DN of as many parameters.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlrnn.data import Scaler, Trajectory, benchmarks
from controlrnn.kernels import simulate
from controlrnn.models import ContractingR2DN, ContractingREN, Model
from controlrnn.models.base import lure
from controlrnn.systems import LureSystem
from plants import ReactionDiffusion
from plants import simulate as simulate_plant

KINDS = ("ren", "r2dn")
Run = Callable[..., Any]  # a simulation: the compiled scan, or the eager loop
WINDOW, PERIOD, SKIP = 256, 8192, 50
SEGMENTS, SEGMENT, HOLD = 4, 200, 50
DISTURBANCE, LIMIT = 10.0, 5.0


@dataclass(frozen=True)
class Task:
    """A task with its two models.

    Args:
        name: Short name.
        models: Constructor of each kind, from ``seed=``.
        batches: Endless batches from a seed.
        loss: Loss of (system, batch, carried state, simulation), and the state to carry on.
        test: Error of a system that was not trained on.
        steps: Gradient steps of a training.
        learning_rate: Of Adam at the start.
        drops: Shares of the steps after which the learning rate is a tenth.
    """

    name: str
    models: Mapping[str, Callable[..., Model]]
    batches: Callable[[int], Iterator[Any]]
    loss: Callable[[LureSystem, Any, Any, Run], tuple[Tensor, Any]]
    test: Callable[[LureSystem], float]
    steps: int
    learning_rate: float
    drops: tuple[float, ...]


def equal(ren: Mapping[str, Any], r2dn: Mapping[str, Any], **both: Any) -> dict[str, Callable[..., Model]]:
    """A REN and an R2DN that share some arguments."""
    return {"ren": partial(ContractingREN, **both, **ren), "r2dn": partial(ContractingR2DN, **both, **r2dn)}


def identification(*, quick: bool) -> Task:
    """F-16 from force and voltage to accelerations: windows of 256, the state carried from one to the next.

    Levels 1 and 7 cannot be had: levels 3 and 5 in two halves each make the batch of four. Level 4 tests.
    """
    data = benchmarks.load("f16_two_inputs")
    scalers = {c: Scaler.fit([getattr(r, c) for r in data.train]) for c in "uy"}
    half = 4 * PERIOD
    parts = [(record, start) for record in data.train for start in (0, half)]
    scaled = {
        c: torch.tensor(
            np.stack([scalers[c].apply(getattr(r, c)[n : n + half]) for r, n in parts]), dtype=torch.float32
        )
        for c in "uy"
    }
    test = data.test[0]

    def batches(seed: int) -> Iterator[Any]:  # noqa: ARG001  # every epoch goes through the records in order
        while True:
            for n in range(0, half, WINDOW):
                yield scaled["u"][:, n : n + WINDOW], scaled["y"][:, n : n + WINDOW], n == 0

    def loss(system: LureSystem, batch: Any, state: Any, run: Run) -> tuple[Tensor, Any]:
        u, y, first = batch
        predicted, x = run(system, u, None if first else state)
        return (predicted - y).square().mean(dim=1).sum(), x[:, -1].detach()

    def error(system: LureSystem) -> float:
        u = torch.tensor(scalers["u"].apply(test.u), dtype=torch.float32)
        missed = simulate(system, u)[0].numpy() - scalers["y"].apply(test.y)
        deviation = scalers["y"].apply(test.y).std(axis=0)
        return float(np.mean(np.sqrt(np.square(missed[SKIP:]).mean(axis=0)) / deviation))

    models = equal({"nv": 150}, {"nv": 75, "layers": (87,) * 3}, nu=2, ny=3, nx=75, activation="relu", feedthrough=True)
    epochs = 2 if quick else 70
    return Task("F-16", models, batches, loss, error, epochs * half // WINDOW, 1e-3, (2 / 7, 4 / 7, 6 / 7))


def observer(*, quick: bool) -> Task:
    """Observer of reaction and diffusion: the next state from the state, the ends and the middle, one step at a time.

    The test follows a record from a wrong state; its error is that of the second half, relative to the states.
    """
    plant = ReactionDiffusion(points=51, dt=0.02)
    rng = np.random.default_rng(0)
    records, length = (20, 300) if quick else (100, 1000)
    walk = rng.uniform(0, 1, (records, 1, 1)) + 0.05 * rng.normal(size=(records, length, 1)).cumsum(axis=1)
    u: Any = np.abs((walk + 1) % 2 - 1)  # a random walk that is reflected at 0 and 1
    x0 = np.clip(rng.uniform(0, 1, (records, 1)) + 0.1 * rng.normal(size=(records, plant.nx)), 0, 1)
    every: tuple[Trajectory, ...] = simulate_plant(plant, u, x0, seed=0)
    seen = np.stack([np.hstack([r.u, r.y]) for r in every])
    states = np.stack([np.asarray(r.x) for r in every])
    held = max(records // 10, 1)  # records that are not trained on
    pairs = [
        torch.tensor(values[held:].reshape(-1, values.shape[-1]), dtype=torch.float32)
        for values in (seen[:, :-1], states[:, :-1], states[:, 1:])
    ]

    def batches(seed: int) -> Iterator[Any]:
        draw = torch.Generator().manual_seed(seed)
        while True:
            for which in torch.split(torch.randperm(len(pairs[0]), generator=draw), 500):
                if len(which) == 500:
                    yield [values[which] for values in pairs]

    def loss(system: LureSystem, batch: Any, state: Any, run: Run) -> tuple[Tensor, Any]:
        inputs, before, after = batch
        _, x = run(system, inputs[:, None], before)
        return (x[:, 1] - after).square().mean(), state

    def error(system: LureSystem) -> float:
        inputs = torch.tensor(seen[:held], dtype=torch.float32)
        _, x = simulate(system, inputs, torch.full((held, plant.nx), 0.5))
        true, half = states[:held], length // 2
        return float(np.linalg.norm((x[:, :-1].numpy() - true)[:, half:]) / np.linalg.norm(true[:, half:]))

    models = equal({"nv": 200}, {"nv": 50, "layers": (96,) * 4}, nu=2, ny=1, nx=plant.nx, activation="relu")
    return Task("observer", models, batches, loss, error, 200 if quick else 40_000, 2e-3, (0.8,))


def feedback(*, quick: bool) -> Task:
    """Robust policy u = Q(yt) on a known plant: any contracting Q is stable with it (Youla).

    z = T0 d + T1 sat(u), yt = T2 d with T0 = T1 = -T2, |sat(u)| <= 5, and the disturbance d held for 50 samples; cost
    mean |z| + 1e-4 u^2. Two scans a step: the policy, and the plant's answer to it.
    """
    rollouts = 16 if quick else 64
    plant = _oscillator()

    def segments(seed: int, n: int) -> Iterator[Any]:
        rng = np.random.default_rng(seed)
        while True:
            levels = rng.uniform(-DISTURBANCE, DISTURBANCE, (n, SEGMENTS * SEGMENT // HOLD, 1))
            d = torch.tensor(np.repeat(levels, HOLD, axis=1), dtype=torch.float32)
            free = simulate(plant, d)[0]  # T0 d, which no policy changes
            for k in range(SEGMENTS):
                yield free[:, k * SEGMENT : (k + 1) * SEGMENT], k == 0

    def loss(system: LureSystem, batch: Any, state: Any, run: Run) -> tuple[Tensor, Any]:
        free, first = batch
        of_policy, of_plant = (None, None) if first or state is None else state
        u, x = run(system, -free, of_policy)
        answer, xp = run(plant, u.clamp(-LIMIT, LIMIT), of_plant)
        cost = (free + answer).abs().mean() + 1e-4 * u.square().mean()
        return cost, (x[:, -1].detach(), xp[:, -1].detach())

    def error(system: LureSystem) -> float:
        state, costs = None, []
        for batch, _ in zip(segments(10_000, 64), range(SEGMENTS), strict=False):
            cost, state = loss(system, batch, state, simulate)
            costs.append(float(cost))
        return float(np.mean(costs))

    models = equal(
        {"nv": 400}, {"nv": 100, "layers": (140,) * 4}, nu=1, ny=1, nx=10, activation="tanh", feedthrough=True
    )
    return Task(
        "feedback", models, partial(_with, segments, rollouts), loss, error, 80 if quick else 320, 5e-3, (0.75,)
    )


def _with(segments: Callable[[int, int], Iterator[Any]], n: int, seed: int) -> Iterator[Any]:
    return segments(seed, n)


def _oscillator() -> LureSystem:
    """0.3 / (z^2 - 2 0.8 cos(0.2 pi) z + 0.64) as a system of tensors."""
    A = torch.tensor([[0.0, 1.0], [-0.64, 2 * 0.8 * math.cos(0.2 * math.pi)]])
    return lure(
        A=A, B2=torch.tensor([[0.0], [1.0]]), C2=torch.tensor([[0.3, 0.0]]), by=torch.zeros(1), layers=(), dt=1.0
    )
