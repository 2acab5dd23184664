"""Optimal control problems and samples of them for tests of solvers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from controlrnn.data import Signal
from controlrnn.systems import LureSystem
from mpc import OptimalControlProblem, Predictor, StepData
from mpc.predictor import output_scale
from mpc.problem.ocp import cost_scale, default_penalty


def problem(system: LureSystem, horizon: int = 8, *, limit: Any = 0.6, **options: Any) -> OptimalControlProblem:
    """Tracking with inputs in [-1, 1] and outputs within +-limit (scalar, or one (lower, upper) an output)."""
    limits = [(-limit, limit)] * system.ny if np.isscalar(limit) else limit
    predictor = Predictor(
        system,
        tuple(Signal(f"u{i}", lower=-1.0, upper=1.0) for i in range(system.nu)),
        tuple(Signal(f"y{i}", lower=low, upper=high) for i, (low, high) in enumerate(limits)),
    )
    weight, moves = np.full(system.ny, 1.0), np.full(system.nu, 0.05)
    scale = output_scale(predictor)
    settings = {
        "output_weight": weight,
        "terminal_weight": 3.0 * weight,
        "input_move_weight": moves,
        "move_limit": np.full(system.nu, np.inf),
        "penalty": default_penalty(horizon, cost_scale(predictor, weight, moves, scale), scale),
        "soft": True,
    } | options
    return OptimalControlProblem(predictor=predictor, horizon=horizon, output_scale=scale, **settings)


def sample(
    ocp: OptimalControlProblem, reference: Sequence[float], *, x: Any = 0.0, before: Any = 0.0, shift: Any = 0.0
) -> StepData:
    """One sample; ``shift`` moves the limits, as a disturbance estimate does."""
    N, predictor = ocp.horizon, ocp.predictor
    limits = np.array([[s.lower, s.upper] for s in predictor.outputs]) - np.reshape(shift, (-1, 1))
    state, known = np.zeros(predictor.nx) + np.mean(x), np.atleast_1d(x)
    if np.ndim(x):
        state[: len(known)] = known
        if len(known) < len(state):  # a model that carries its last input
            state[len(known) :] = before
    return StepData(
        x=state,
        previous_input=np.zeros(predictor.nu) + before,
        reference=np.tile(np.asarray(reference, dtype=float), (N + 1, 1)),
        lower=np.tile(limits[:, 0], (N + 1, 1)),
        upper=np.tile(limits[:, 1], (N + 1, 1)),
        guess=np.tile(np.zeros(predictor.nu) + before, (N, 1)),
    )


def objective(ocp: OptimalControlProblem, data: StepData, u: np.ndarray) -> float:
    """The objective of `OptimalControlProblem` at u (N, nu), slack included, written down anew, without any solver."""
    y = ocp.predictor.predict(data.x, u)
    error, moves = (y - data.reference) ** 2, np.diff(np.vstack([data.previous_input, u]), axis=0) ** 2
    excess = np.maximum(np.maximum(y - data.upper, data.lower - y), 0.0)[1:]
    return float(
        (error[:-1] @ ocp.output_weight).sum()
        + error[-1] @ ocp.terminal_weight
        + (moves @ ocp.input_move_weight).sum()
        + (excess @ ocp.penalty).sum()
    )
