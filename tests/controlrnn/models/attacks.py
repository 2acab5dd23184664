"""Gradient attacks on what models promise: the worst pair of trajectories that a few steps of Adam find."""

import numpy as np
import torch

from controlrnn.kernels import simulate
from controlrnn.systems import MATRICES


def worst_gain(system, scale_u, scale_y, *, steps=60, length=30, pairs=6, seed=0):
    """Largest |dy| / |du| found over pairs of input sequences from equal states, in units of the scales."""
    rng = torch.Generator().manual_seed(seed)
    torch_system = type(system)(
        **{name: torch.tensor(getattr(system, name)) for name in MATRICES},
        activation=system.activation,
        layers=system.layers,
        dt=system.dt,
    )
    shape = (pairs, length, system.nu)
    u = torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
    du = torch.randn(shape, generator=rng, dtype=torch.float64).requires_grad_()
    x0 = torch.randn(pairs, system.nx, generator=rng, dtype=torch.float64).requires_grad_()
    optimiser, best = torch.optim.Adam([u, du, x0], lr=0.1), 0.0
    s_u, s_y = torch.tensor(scale_u), torch.tensor(scale_y)
    for _ in range(steps):
        optimiser.zero_grad()
        one, _ = simulate(torch_system, u * s_u, x0)
        two, _ = simulate(torch_system, (u + du) * s_u, x0)
        gain = ((one - two) / s_y).flatten(1).norm(dim=1) / du.flatten(1).norm(dim=1)
        best = max(best, float(gain.detach().max()))
        (-gain.log().sum()).backward()
        optimiser.step()
    return best


def dissipation_gaps(system, guarantee, *, seed=0, runs=50, length=30):
    """rate^2 |dx|^2 + supply - |dx+|^2 along random pairs of trajectories, and the size of its terms."""
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-2, 1, (runs, 1, 1))
    u = [size * rng.normal(size=(runs, length, system.nu)) for _ in range(2)]
    x0 = [size[:, 0] * rng.normal(size=(runs, system.nx)) for _ in range(2)]
    (y1, x1), (y2, x2) = (system.simulate(a, b) for a, b in zip(u, x0, strict=True))
    du, dy, dx = u[0] - u[1], y1 - y2, x1 - x2
    supply = guarantee.supply
    stored = np.einsum("rti,ij,rtj->rt", dx, guarantee.metric, dx)
    given = (
        np.einsum("rti,ij,rtj->rt", dy, supply.Q, dy)
        + 2 * np.einsum("rti,ij,rtj->rt", du, supply.S, dy)
        + np.einsum("rti,ij,rtj->rt", du, supply.R, du)
    )
    terms = stored[:, :-1] + stored[:, 1:] + np.einsum("rti,ij,rtj->rt", du, supply.R, du)
    return guarantee.rate**2 * stored[:, :-1] + given - stored[:, 1:], np.abs(terms) + 1e-12
