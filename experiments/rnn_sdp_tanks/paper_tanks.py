"""Three tanks and networks as in RNN-SDP's study (Hamelbeck & Schiffer 2025, arXiv 2509.17898, section V).

The paper's tanks are a discrete approximation of the physics with time step 1 s, inflows u_i as inputs and levels as
outputs. Its equation (39) and its outflow parameters a_i are not in the text that we have; here

    h_i <- max(h_i + dt (u_i + a_{i-1} sqrt h_{i-1} - a_i sqrt h_i), 0),    a = 0.5, 0.8, 1.0

whose time constants at the mean inflow are 4, 3 and 3 s, since the paper's constants are flat after some ten steps.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from controlrnn.data import Dataset, Scaler, Trajectory
from controlrnn.identification import SimulationError, identify
from controlrnn.identification.losses.base import Batch, Simulation, Term
from controlrnn.models import Elman
from controlrnn.systems import LureSystem
from experiments.shared.study import Row
from plants import excitation

_OUTFLOW = np.array([0.5, 0.8, 1.0])
_EPOCH = 22  # batches of 32 of the 700 training sequences


@dataclass(frozen=True)
class NormPenalty(Term):
    """Loss term that penalises the spectral norm of W above ``limit`` by a leaky ReLU.

    Args:
        limit: A little less than the norm that the trained network may have.
    """

    limit: float = 0.99
    washout: int = 0

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:  # noqa: ARG002
        """The penalty."""
        excess = torch.linalg.matrix_norm(torch.as_tensor(system.C1), 2) - self.limit
        return torch.nn.functional.leaky_relu(excess)


def train_network(nx: int, seed: int, *, quick: bool) -> tuple[LureSystem, Row]:
    """Train an Elman network on inflows scaled to -1..1 and standardised outputs; returns it and its row."""
    began = time.process_time()
    records = tank_records(200 if quick else 1000, 100, seed)
    cut = int(0.7 * len(records))
    model = Elman(nu=3, ny=3, nx=nx, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():  # uniform, as recurrent layers of torch start
        for weight in (model.W, model.U, model.b, model.C):
            weight.copy_((2 * torch.rand(weight.shape, generator=generator) - 1) * nx**-0.5)
    model.set_units(Scaler(np.full(3, 0.5), np.full(3, 0.5)), Scaler.fit([r.y for r in records[:cut]]), 1.0)
    fit = identify(
        model,
        Dataset(tuple(records[:cut]), tuple(records[cut:])),
        loss=SimulationError(washout=25) + NormPenalty(),
        window=100,
        steps=_EPOCH * (5 if quick else 100),
        batch_size=32,
        validate_every=_EPOCH,
        patience=10,
        learning_rate=1e-3,
        schedule="constant",
        start="continue",
        seed=seed,
    )
    assert fit.model is not None
    fit.model.set_units(Scaler.identity(3), Scaler.identity(3), 1.0)
    system = fit.model.freeze()
    return system, {
        "nx": nx, "spectral_norm": float(np.linalg.norm(system.C1, 2)),
        "spectral_radius": float(np.abs(np.linalg.eigvals(system.C1)).max()),
        "nrmse": float(np.mean(fit.scores["validation"].nrmse)), "train_s": time.process_time() - began,
    }  # fmt: skip


def tank_records(count: int, length: int, seed: int) -> list[Trajectory]:
    """Records with inflows 0..1, held for 1..20 steps, from random levels."""
    rng = np.random.default_rng(seed)
    u = np.stack(
        [
            excitation.random_steps(length, ((0.0, 1.0),) * 3, hold=(1, 20), seed=int(n))
            for n in rng.integers(0, 2**31, count)
        ]
    )
    y, h = np.empty((count, length, 3)), rng.uniform(0, 2, (count, 3))
    for t in range(length):
        y[:, t] = h
        out = _OUTFLOW * np.sqrt(h)
        h = np.maximum(h + u[:, t] - out + np.pad(out[:, :-1], ((0, 0), (1, 0))), 0.0)
    return [Trajectory(u=a, y=b, dt=1.0) for a, b in zip(u, y, strict=True)]


def state_alone(system: LureSystem) -> LureSystem:
    """Network without effect of the inputs, whose constant is the initial state's share."""
    return replace(system, D12=0 * system.D12)


def inputs_alone(system: LureSystem, apart: float) -> LureSystem:
    """Network with states in units of 1 / ``apart``, whose constant bounds the share of the inputs.

    The larger, the less a difference of initial states counts, and the harder the search.
    """
    return replace(
        system,
        B1=apart * system.B1,
        B2=apart * system.B2,
        bx=apart * system.bx,
        C1=system.C1 / apart,
        C2=system.C2 / apart,
    )
