"""Attacks on finite-horizon and l2-gain bounds: pairs of trajectories that are driven far apart.

For a nominal trajectory the worst small difference is the maximiser of a linear function: the initial difference goes
along the gradient (in the metric), input differences to the point of their set that it likes best. That step is
repeated (it is exact for linear systems), while the nominal initial state and inputs climb by Adam. Many starts run as
one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlrnn.certification.families import PredictionInequality
from controlrnn.certification.input_error import InputError
from controlrnn.certification.proof.intervals import checked_box
from controlrnn.checks import Array, count, read_only, scales
from controlrnn.errors import SettingError
from controlrnn.kernels import simulate
from controlrnn.systems import MATRICES, LureSystem
from controlrnn.typed import typed


@dataclass(frozen=True, eq=False)
@typed()
class Attack:
    """Result of an attack: the largest output differences found.

    Args:
        differences: Largest |dy| found per step and output, shape (horizon + 1, ny).
        random: The same for the random starts alone, before any ascent.
        pairs: How many pairs of trajectories were looked at.
    """

    differences: Array
    random: Array
    pairs: int


@typed()
def attack_horizon(
    system: LureSystem,
    horizon: int,
    *,
    initial_radius: float,
    input_radius: float | Array | InputError = 0.0,
    metric: Array | None = None,
    input_range: tuple[Array, Array],
    state_range: tuple[Array, Array] | None = None,
    starts: int = 64,
    steps: int = 40,
    seed: int,
) -> Attack:
    """Search for trajectories that differ as much as possible; the counterpart of `certify_horizon`.

    Args:
        system: A frozen system.
        horizon: Number of steps N.
        initial_radius: As in `certify_horizon`.
        input_radius: As in `certify_horizon`.
        metric: As in `certify_horizon`.
        input_range: Lower and upper input limits, each shape (nu,), for the nominal inputs.
        state_range: Box for the nominal initial state, each shape (nx,); the states that random inputs reach if None.
        starts: Random starts per step and output that is attacked.
        steps: Ascent steps.
        seed: Seed of the starts.

    Returns:
        The largest differences found. The ascent aims at a spread of steps; every step profits.
    """
    problem = PredictionInequality(system, horizon, initial_radius, metric, input_radius)
    horizon, starts, steps = problem.horizon, count("starts", starts), count("steps", steps, least=0)
    low, high = _range(system, input_range)
    rng = np.random.default_rng(seed)
    back = torch.tensor(np.linalg.inv(np.linalg.cholesky(problem.metric)).T)  # dx = back xi with |xi| <= radius
    radius = torch.tensor(problem.input_radius)
    aims = sorted({0, *np.linspace(0, horizon, min(horizon, 6) + 1).astype(int).tolist()})
    targets = [(k, i) for k in aims for i in range(system.ny)]
    batch = len(targets) * starts
    model = _tensors(system)
    first = rng.uniform(low, high, (batch, horizon + 1, system.nu)), _starts(system, low, high, state_range, batch, rng)
    # Steps are taken in units of each input's range and of each state's size, so that no unit drowns another.
    sizes = torch.tensor(high - low), torch.tensor(np.abs(first[1]).max(axis=0) + 1e-300)
    u, x0 = (torch.tensor(value) / size for value, size in zip(first, sizes, strict=True))
    xi = torch.tensor(rng.normal(size=(batch, system.nx)))
    xi = initial_radius * xi / xi.norm(dim=1, keepdim=True).clamp_min(1e-300)
    error = InputError.of(input_radius, system.nu)
    du = torch.tensor(error.extreme(rng.choice([-1.0, 1.0], (batch, horizon + 1, system.nu))))
    pick = torch.zeros(batch, horizon + 1, system.ny, dtype=torch.float64)
    for n, (k, i) in enumerate(targets):
        pick[n * starts : (n + 1) * starts, k, i] = 1.0
    limits = (torch.tensor(low) + radius / 2) / sizes[0], (torch.tensor(high) - radius / 2) / sizes[0]
    climb = torch.optim.Adam([u.requires_grad_(), x0.requires_grad_()], lr=0.02, maximize=True)
    best = random = np.zeros((horizon + 1, system.ny))
    for n in range(steps + 1):
        xi, du = xi.detach().requires_grad_(), du.detach().requires_grad_()
        # The two runs of each pair are one batch; the linearised half of the difference on either side of the nominal.
        half = 0.5 * xi @ back.T, 0.5 * du
        at, start = u * sizes[0], x0 * sizes[1]
        y, _ = simulate(model, torch.cat([at + half[1], at - half[1]]), torch.cat([start + half[0], start - half[0]]))
        difference = y[:batch] - y[batch:]
        found = difference.detach().abs().amax(dim=0).numpy()
        best = np.maximum(best, found)
        if n == 0:
            random = found
        if n == steps:
            break
        climb.zero_grad()
        (difference * pick).sum().backward()
        climb.step()
        with torch.no_grad():
            u.copy_(torch.minimum(torch.maximum(u, limits[0]), limits[1]))
            xi, du = _worst(xi, initial_radius), torch.tensor(error.extreme(_grad(du).numpy()))
    return Attack(read_only(best), read_only(random), batch * (steps + 1))


@dataclass(frozen=True, eq=False)
@typed()
class GainAttack:
    """Result of an attack on the l2 gain: the largest ratio found.

    Args:
        gain: Largest ratio |dy| / |du| found, in the declared units.
        random: The same for the random starts alone, before any ascent.
        pairs: How many pairs of trajectories were looked at.
    """

    gain: float
    random: float
    pairs: int


@typed()
def attack_l2_gain(
    system: LureSystem,
    horizon: int = 100,
    *,
    input_range: tuple[Array, Array],
    input_scale: float | Array = 1.0,
    output_scale: float | Array = 1.0,
    state_range: tuple[Array, Array] | None = None,
    starts: int = 32,
    steps: int = 60,
    seed: int,
) -> GainAttack:
    """Search for input differences that the outputs amplify most; the counterpart of `certify_l2_gain`.

    The input difference takes power iterations (exact for linear systems), while the nominal input and initial state
    climb by Adam. The difference is small: the incremental gain is the largest gain of a linearisation.

    Args:
        system: A frozen system.
        horizon: Number of samples; the gain over all time is approached from below as it grows.
        input_range: Lower and upper limits, each shape (nu,), for the nominal inputs.
        input_scale: As in `certify_l2_gain`.
        output_scale: As in `certify_l2_gain`.
        state_range: Box for the initial state, each shape (nx,); the states that random inputs reach if None.
        starts: Random starts.
        steps: Ascent steps.
        seed: Seed of the starts.
    """
    if not system.is_frozen:
        raise SettingError("an attack needs a frozen system, got one of tensors: call model.freeze() first")
    horizon, starts, steps = count("horizon", horizon), count("starts", starts), count("steps", steps, least=0)
    low, high = _range(system, input_range)
    unit = torch.tensor(np.ascontiguousarray(scales("input_scale", input_scale, system.nu)))
    weight = 1 / torch.tensor(np.ascontiguousarray(scales("output_scale", output_scale, system.ny)))
    rng, model = np.random.default_rng(seed), _tensors(system)
    u = torch.tensor(rng.uniform(low, high, (starts, horizon, system.nu)))
    # Every second start holds its input: constant inputs reach states that white ones average out.
    u[::2] = u[::2, :1]
    x0 = torch.tensor(_starts(system, low, high, state_range, starts, rng))
    du = torch.tensor(rng.normal(size=(starts, horizon, system.nu)))
    # Small against the range of the inputs, large against rounding.
    size = 1e-3 * float(((high - low) / unit.numpy()).min())
    limits = torch.tensor(low), torch.tensor(high)
    climb = torch.optim.Adam([u.requires_grad_(), x0.requires_grad_()], lr=0.02 * float((high - low).max()))
    best = random = 0.0
    for n in range(steps + 1):
        du = (size * du / du.norm(dim=(1, 2), keepdim=True).clamp_min(1e-300)).requires_grad_()
        half = 0.5 * unit * du
        first, second = u + half, u - half
        y, _ = simulate(model, torch.cat([first, second]), torch.cat([x0, x0]))
        reached = ((y[:starts] - y[starts:]) * weight).pow(2).sum(dim=(1, 2))
        with torch.no_grad():  # of the inputs as they were rounded
            supplied = ((first - second) / unit).pow(2).sum(dim=(1, 2))
            found = float((reached / supplied.clamp_min(1e-300)).max().sqrt())
        best, random = max(best, found), found if n == 0 else random
        if n == steps:
            break
        climb.zero_grad()
        # The logarithm lets every start climb at its own size.
        (-(reached + 1e-300).log().sum()).backward()
        climb.step()
        with torch.no_grad():
            u.copy_(torch.minimum(torch.maximum(u, limits[0]), limits[1]))
            du = -_grad(du)
    return GainAttack(best, random, starts * (steps + 1))


def _range(system: LureSystem, input_range: tuple[Array, Array]) -> tuple[Array, Array]:
    """Check limits of the inputs, which must not touch."""
    low, high = checked_box("input_range", input_range, system.nu)
    if (low >= high).any():
        raise SettingError(f"input_range must satisfy lower < upper, got {low} and {high}")
    return low, high


def _tensors(system: LureSystem) -> LureSystem:
    """The system with torch tensors as matrices, for gradients."""
    return LureSystem(
        **{name: torch.tensor(getattr(system, name)) for name in MATRICES},
        activation=system.activation,
        layers=system.layers,
        dt=system.dt,
    )


def _starts(
    system: LureSystem, low: Array, high: Array, box: tuple[Array, Array] | None, batch: int, rng: np.random.Generator
) -> Array:
    """Draw nominal initial states (batch, nx) from a box, or from what random inputs reach."""
    if box is not None:
        return rng.uniform(*checked_box("state_range", box, system.nx), (batch, system.nx))
    u = rng.uniform(low, high, (batch, 60, system.nu))
    # Held inputs reach further than white ones, which average out.
    u[: batch // 2] = u[: batch // 2, :1]
    states: Array = simulate(system, u)[1][:, -1]
    return states


def _grad(value: Tensor) -> Tensor:
    """Gradient of a leaf; zeros where it was not reached."""
    return torch.zeros_like(value) if value.grad is None else value.grad


def _worst(xi: Tensor, radius: float) -> Tensor:
    """Point of the ball that maximises a linear function with the gradient of ``xi``."""
    gradient = _grad(xi)
    size = gradient.norm(dim=1, keepdim=True)
    return torch.where(size > 0, radius * gradient / size.clamp_min(1e-300), xi.detach())
