"""Fast closed loops: a one-step predictive controller on a plant with a mode that its model lacks.

The model is x+ = 0.8 x + 0.2 u, y = x; the plant adds a slow mode of half the gain, which inputs that switch never
build up, and steps of an unmeasured load. The controller aims one step ahead at the reference, cut at the limit less
the tightening: a model predictive controller of horizon 1, written in arrays over all loops at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.systems import LureSystem
from mpc import ClosedLoopResult, Fallback, Status, Tightening

LIMIT, STEPS, NOISE, LOAD = 0.8, 50, 0.01, 0.02


def first_order(pole: float) -> LureSystem:
    """The system x+ = pole x + (1 - pole) u, y = x, with one idle neuron."""
    one, none = np.ones((1, 1)), np.zeros((1, 1))
    return LureSystem(
        A=pole * one, B1=none, B2=(1 - pole) * one, bx=np.zeros(1), C1=none, D11=none, D12=none, bv=np.zeros(1),
        C2=one, D21=none, D22=none, by=np.zeros(1), layers=(1,), dt=1.0,
    )  # fmt: skip


@dataclass(frozen=True)
class Drawn:
    """Random signals of several loops, each from a seed of its own.

    Args:
        reference: Shape (n, steps + 1).
        noise: Shape (n, steps + 1).
        load: Shape (n, steps + 1).
    """

    reference: Array
    noise: Array
    load: Array

    @classmethod
    def of(cls, seeds: Sequence[int], steps: int = STEPS) -> Drawn:
        """Draw the signals from the declared unknowns."""
        parts = []
        for seed in seeds:
            rng = np.random.default_rng(seed)
            side, holds = rng.choice([-1.0, 1.0]), rng.integers(10, 40, steps)
            load = np.repeat(rng.normal(0, LOAD, steps), holds)[: steps + 1]
            parts.append((np.full(steps + 1, side * LIMIT), NOISE * rng.standard_normal(steps + 1), load))
        reference, noise, load = (np.array(part) for part in zip(*parts, strict=True))
        return cls(reference, noise, load)


class FastLoops:
    """Closed loops for a calibration; see `mpc.loops.rounds.ClosedLoops`."""

    def __call__(self, tightening: Tightening, seeds: Sequence[int]) -> list[ClosedLoopResult]:
        """Run one loop per seed."""
        drawn, bounds = Drawn.of(seeds), tightening.total
        goal = np.clip(drawn.reference, -LIMIT + bounds[1, 0], LIMIT - bounds[1, 0])
        n = len(seeds)
        model, slow = np.zeros(n), np.zeros(n)
        y, u, predicted = np.zeros((n, STEPS + 1)), np.zeros((n, STEPS)), np.zeros((n, STEPS, 2))
        for t in range(STEPS + 1):
            y[:, t] = model + slow + drawn.load[:, t]
            if t == STEPS:
                break
            u[:, t] = np.clip((goal[:, t] - 0.8 * model) / 0.2, -1, 1)
            predicted[:, t, 0] = model
            model, slow = 0.8 * model + 0.2 * u[:, t], 0.99 * slow + 0.005 * u[:, t]
            predicted[:, t, 1] = model
        errors = np.stack([y[:, :-1], y[:, 1:]], axis=2) - predicted
        return [self._result(i, seeds[i], y, u, predicted, errors, drawn, bounds) for i in range(n)]

    @staticmethod
    def _result(
        i: int, seed: int, y: Array, u: Array, predicted: Array, errors: Array, drawn: Drawn, bounds: Array
    ) -> ClosedLoopResult:
        """Result of one loop, as `mpc.run_closed_loop` would return it."""
        none = np.zeros((STEPS, 1))
        return ClosedLoopResult(
            y=y[i, :, None],
            readings=(y + drawn.noise)[i, :-1, None],
            u=u[i, :, None],
            applied=u[i, :, None],
            u_before=np.zeros(1),
            reference=drawn.reference[i, :, None],
            x=predicted[i, :, :1],
            disturbance=none,
            predicted=predicted[i, :, :, None],
            errors=errors[i, :, :, None],
            bounds=bounds,
            slack=none[:, 0],
            solve_time=none[:, 0],
            iterations=np.zeros(STEPS, dtype=np.int64),
            status=(Status.SOLVED,) * STEPS,
            fallback=(Fallback.NONE,) * STEPS,
            certified=np.ones(STEPS, dtype=np.bool_),
            verdicts=np.zeros((STEPS, 1), dtype=np.int8),
            faults=np.zeros((STEPS, 0), dtype=np.bool_),
            lower=np.array([-LIMIT]),
            upper=np.array([LIMIT]),
            cost=float(np.sum((y[i, 1:] - drawn.reference[i, 1:]) ** 2)),
            dt=1.0,
            seed=seed,
            names=("y", "u"),
        )


def experiment(seed: int, length: int = STEPS + 2) -> Trajectory:
    """Record of the same plant under inputs that switch within the same range, as in identification."""
    rng, drawn = np.random.default_rng(seed), Drawn.of([seed], length)
    u = np.repeat(rng.uniform(-1, 1, length), rng.integers(2, 9, length))[:length]
    x, y = np.zeros(2), np.zeros(length)
    for t in range(length):
        y[t] = x.sum() + drawn.load[0, t] + drawn.noise[0, t]
        x = np.array([0.8 * x[0] + 0.2 * u[t], 0.99 * x[1] + 0.005 * u[t]])
    return Trajectory(u=u[:, None], y=y[:, None], dt=1.0)
