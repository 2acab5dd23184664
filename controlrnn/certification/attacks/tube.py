"""Attacks on bounds around a known trajectory: neighbours whose outputs are driven far from the nominal ones.

The set of allowed differences is a ball times a box, over which a linear function is maximised in closed form. So the
attack climbs by conditional gradients (Frank & Wolfe 1956), from many starts and towards either side, as one batch.
"""

from __future__ import annotations

import numpy as np
import torch

from controlrnn.certification.attacks.horizon import Attack, _grad, _tensors, _worst
from controlrnn.certification.families import PredictionInequality
from controlrnn.checks import Array, as_array, count, read_only
from controlrnn.kernels import simulate
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

_FULL = 5  # first steps, which go all the way to the point that the gradient asks for


@typed()
def attack_around(
    system: LureSystem,
    x0: Array,
    u: Array,
    *,
    initial_radius: float,
    input_radius: float | Array = 0.0,
    metric: Array | None = None,
    starts: int = 8,
    steps: int = 30,
    seed: int,
) -> Attack:
    """Search for neighbours of a trajectory with outputs far from its own; the counterpart of `certify_around`.

    Args:
        system: A frozen system.
        x0: Nominal initial state, shape (nx,).
        u: Nominal inputs, shape (N + 1, nu).
        initial_radius: As in `certify_around`.
        input_radius: As in `certify_around`.
        metric: As in `certify_around`.
        starts: Random starts per step, output and sign that is attacked.
        steps: Ascent steps.
        seed: Seed of the starts.

    Returns:
        The largest distances found from the nominal outputs.
    """
    u = as_array("u", u, ("N + 1", system.nu))
    x0 = as_array("x0", x0, (system.nx,))
    problem = PredictionInequality(system, len(u) - 1, initial_radius, metric, input_radius)
    starts, steps = count("starts", starts), count("steps", steps, least=0)
    back = torch.tensor(np.linalg.inv(np.linalg.cholesky(problem.metric)).T)  # dx = back xi with |xi| <= radius
    radius, box = problem.radius, torch.tensor(problem.input_radius)
    aims = sorted({0, *np.linspace(0, len(u) - 1, min(len(u) - 1, 6) + 1).astype(int).tolist()})
    targets = [(k, i, sign) for k in aims for i in range(system.ny) for sign in (1.0, -1.0)]
    batch, rng, model = len(targets) * starts, np.random.default_rng(seed), _tensors(system)
    pick = torch.zeros(batch, len(u), system.ny, dtype=torch.float64)
    for n, (k, i, sign) in enumerate(targets):
        pick[n * starts : (n + 1) * starts, k, i] = sign
    xi = torch.tensor(rng.normal(size=(batch, system.nx)))
    xi = radius * xi / xi.norm(dim=1, keepdim=True).clamp_min(1e-300)
    du = box * torch.tensor(rng.choice([-1.0, 1.0], (batch, *u.shape)))
    nominal = torch.tensor(system.simulate(u, x0)[0])
    inputs, start = torch.tensor(u), torch.tensor(x0)
    best = random = np.zeros(nominal.shape)
    for n in range(steps + 1):
        xi, du = xi.detach().requires_grad_(), du.detach().requires_grad_()
        y, _ = simulate(model, inputs + du, start + xi @ back.T)
        found = (y - nominal).detach().abs().amax(dim=0).numpy()
        best = np.maximum(best, found)
        if n == 0:
            random = found
        if n == steps:
            break
        (y * pick).sum().backward()
        # Some full steps, then the diminishing ones of Frank & Wolfe.
        length = 1.0 if n < _FULL else 2 / (n - _FULL + 2)
        xi = (1 - length) * xi.detach() + length * _worst(xi, radius)
        du = (1 - length) * du.detach() + length * box * torch.sign(_grad(du))
    return Attack(read_only(best), read_only(random), batch * (steps + 1))
