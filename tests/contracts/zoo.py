"""The models that the contract suite runs on, one entry a model of `controlrnn.models`: add yours here."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from controlrnn import models
from controlrnn.models import Model


@dataclass(frozen=True)
class Entry:
    """How the suite makes a model and what the model promises.

    Args:
        make: The class; called with nu, ny, nx, dt, seed and ``settings``.
        settings: Further keyword arguments, small enough for quick tests.
        promises: Whether the model contracts by construction, so that `Model.guarantee` says how fast.
        sized: Settings that depend on (nu, ny).
    """

    make: type[Model[Any]]
    settings: dict[str, Any]
    promises: bool = True
    sized: Callable[[int, int], dict[str, Any]] | None = None

    def __call__(self, *, nu: int = 2, ny: int = 2, nx: int = 3, seed: int = 0, dt: float = 0.5) -> Any:
        more = self.sized(int(nu), int(ny)) if self.sized else {}
        return self.make(nu=nu, ny=ny, nx=nx, seed=seed, dt=dt, **self.settings, **more)


def _supply(nu: int, ny: int) -> dict[str, Any]:
    """A weak supply with all three parts, which the linear models of the suite dissipate."""
    S = np.zeros((nu, ny))
    S[:1, :1] = 0.3
    return {"Q": -1e-3 * np.eye(ny), "S": S, "R": 1e3 * np.eye(nu)}


ZOO: dict[str, Entry] = {
    "LTI": Entry(models.LTI, {"rate": 0.9, "feedthrough": True}),
    "Elman": Entry(models.Elman, {}, promises=False),
    "ContractingR2DN": Entry(models.ContractingR2DN, {"nv": 2, "layers": (3, 2), "rate": 0.9, "feedthrough": True}),
    "ContractingREN": Entry(models.ContractingREN, {"nv": 3, "rate": 0.9, "feedthrough": True}),
    "LipschitzREN": Entry(models.LipschitzREN, {"gamma": 1e3, "nv": 3, "rate": 0.9, "feedthrough": True}),
    "DissipativeREN": Entry(models.DissipativeREN, {"nv": 3, "rate": 0.9, "feedthrough": True}, sized=_supply),
    "LipschitzR2DN": Entry(
        models.LipschitzR2DN, {"gamma": 1e3, "nv": 2, "layers": (3, 2), "rate": 0.9, "feedthrough": True}
    ),
    "ContractingImplicitRNN": Entry(models.ContractingImplicitRNN, {"rate": 0.9}),
    "RobustRNN": Entry(models.RobustRNN, {"gamma": 1e3, "nv": 3, "rate": 0.95, "feedthrough": True}),
    "ResidualRNN": Entry(models.ResidualRNN, {"nv": 3, "feedthrough": True}, promises=False),
    "StableRNN": Entry(models.StableRNN, {"rate": 0.9}),
    "LipschitzRNN": Entry(models.LipschitzRNN, {"implicitness": 0.5, "alpha": 0.7}, promises=False),
    "AntisymmetricRNN": Entry(models.AntisymmetricRNN, {}, promises=False),
    "CayleyRNN": Entry(models.CayleyRNN, {}, promises=False),
    "NeuralODERNN": Entry(models.NeuralODERNN, {}, promises=False),
    "LSTM": Entry(models.LSTM, {}, promises=False),
    "GRU": Entry(models.GRU, {"feedthrough": True}, promises=False),
}


def randomise(model: Any, seed: int, *, orders: float = 0.0, spread: float = 0.3) -> Any:
    """Add noise to every parameter, then scale each by 10^U(-orders, orders): nothing is left at its start.

    A model that is kept inside a set rather than free gets the chance to return there, as after a training step.
    """
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.add_(spread * torch.randn(p.shape, generator=rng, dtype=torch.float64).to(p.dtype))
            p.mul_(10.0 ** float(orders * (2 * torch.rand((), generator=rng) - 1)))
        model.after_step(before)
    return model
