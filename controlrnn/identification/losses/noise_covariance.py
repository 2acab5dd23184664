"""Covariance of the outputs under noise on inputs and states, linearised along a run, as a loss.

With white noise e on the inputs (covariance S) and v on the states (Q), independent of each other, and F = dx+/dx,
G = dx+/du, C = dy/dx, D = dy/du taken at every sample of the noise-free run,

    P[t+1] = F P[t] F' + G S G' + Q,   P[0] given,        R[t] = C P[t] C' + D S D',

R[t] is the covariance of y[t] up to terms of third order in the noise. Training keeps its trace small.
(Amini, Liu, Motee, "Robust learning of recurrent neural networks in presence of exogenous noise", IEEE CDC 2021,
sec. III, for the basic RNN and its last output; here for any system, sample and task.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlrnn.checks import count, numbers
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.identification.losses.base import Batch, Simulation, Term
from controlrnn.systems import System
from controlrnn.typed import typed

Std = float | tuple[float, ...]


@typed()
def output_covariance(
    system: System, u: Tensor, x: Tensor, *, input_std: Std, state_std: Std = 0.0, initial_std: Std = 0.0
) -> Tensor:
    """Covariance of the outputs along given runs; gradients reach the system, ``u`` and ``x``.

    For classification with the last output:
    ``output_covariance(system, u, x, input_std=0.3)[:, -1].diagonal(dim1=-2, dim2=-1).sum(-1).mean()``.

    Args:
        system: A system of tensors; noise is in the units of its signals, which are scaled ones in training.
        u: Inputs, shape (B, T, nu).
        x: States of the runs, shape (B, T + 1, nx), as ``simulate`` returns them; the last one is not needed.
        input_std: Standard deviation of the noise on the inputs, one number or one a channel.
        state_std: Standard deviation of the noise that is added to every next state.
        initial_std: Standard deviation of the states at sample 0.

    Returns:
        Shape (B, T, ny, ny); not finite where noise grows beyond the range of the tensors' precision.

    Raises:
        ShapeError: ``u``, ``x`` or a list of standard deviations does not fit the system.
        SettingError: A standard deviation is negative or not finite, or the system is frozen.
    """
    if system.is_frozen:
        raise SettingError("output_covariance needs a system of tensors, got a frozen one: pass model.system()")
    if u.ndim != 3 or u.shape[-1] != system.nu:
        raise ShapeError(f"u must have shape (B, T, nu) = (B, T, {system.nu}), got {tuple(u.shape)}")
    if not (u.is_floating_point() and x.is_floating_point()):
        raise DataError(f"u and x must hold floating-point numbers, got {u.dtype} and {x.dtype}")
    own = next(m.dtype for m in vars(system).values() if isinstance(m, Tensor))
    if not u.dtype == x.dtype == own:
        raise DataError(f"u and x must be of the system's type {own}, got {u.dtype} and {x.dtype}: convert them")
    B, T, _ = u.shape
    if x.ndim != 3 or x.shape[0] != B or x.shape[1] not in (T, T + 1) or x.shape[2] != system.nx:
        raise ShapeError(
            f"x must have shape {(B, T + 1, system.nx)}, got {tuple(x.shape)}: pass what simulate returned"
        )
    S = deviations("input_std", input_std, system.nu, u)
    Q = deviations("state_std", state_std, system.nx, u).square().diag()
    # The Jacobians of all samples of all runs in one call.
    at = x[:, :T].reshape(B * T, -1), u.reshape(B * T, -1)
    (F, G), (C, D) = (
        [J.reshape(B, T, *J.shape[1:]) for J in torch.func.vmap(torch.func.jacrev(map_, argnums=(0, 1)))(*at)]
        for map_ in (system.step, system.output)
    )
    pushed, passed = ((M * S) @ (M * S).mT for M in (G, D))
    P = deviations("initial_std", initial_std, system.nx, u).square().diag().expand(B, -1, -1)
    spread = []
    # Unbound beforehand: the gradient of indexing at every step would fill the whole tensor each time.
    for step, noise in zip(F.unbind(1), (pushed + Q).unbind(1), strict=True):
        spread.append(P)
        P = step @ P @ step.mT + noise
    R: Tensor = C @ torch.stack(spread, dim=1) @ C.mT + passed
    return R


@dataclass(frozen=True)
@typed()
class NoiseCovariance(Term):
    """Mean trace of the linearised output covariance: the noise that the model passes on along its own run.

    Args:
        input_std: Standard deviation of the noise on the inputs in scaled units, where 1 is the input's own spread;
            one number or one a channel.
        state_std: Standard deviation of the noise on every next state.
        initial_std: Standard deviation of the noise on the states at the start of a window.
        washout: Samples at the start of each window that do not count.
        windows: Number of windows of each batch to use, which are a random choice already; None for all.

    Raises:
        SettingError: A number is out of range.
    """

    input_std: Std
    state_std: Std = 0.0
    initial_std: Std = 0.0
    washout: int = 0
    windows: int | None = None

    def __post_init__(self) -> None:
        check_deviations(self)
        count("washout", self.washout, least=0)
        if self.windows is not None:
            count("windows", self.windows)

    def __call__(self, system: System, batch: Batch, simulation: Simulation) -> Tensor:
        """Mean over windows and samples."""
        R = output_covariance(
            system,
            batch.u[: self.windows],
            simulation.x[: self.windows],
            input_std=self.input_std,
            state_std=self.state_std,
            initial_std=self.initial_std,
        )
        return R.diagonal(dim1=-2, dim2=-1).sum(-1)[:, self.washout :].mean()


def check_deviations(term: object) -> None:
    """Check that the fields ``*_std`` of a term are standard deviations, and turn lists into tuples."""
    for name in ("input_std", "state_std", "initial_std"):
        value = numbers(name, getattr(term, name))
        _in_range(name, value)
        object.__setattr__(term, name, tuple(value.tolist()) if value.ndim else float(value))


def deviations(name: str, std: Std, n: int, like: Tensor) -> Tensor:
    """Standard deviations of n channels as a tensor (n,), from one number or one a channel."""
    value = numbers(name, std)
    if value.shape not in ((), (n,)):
        raise ShapeError(f"{name} must be one number or {n}, got shape {value.shape}: give one a channel")
    _in_range(name, value)
    return torch.as_tensor(value, dtype=like.dtype, device=like.device).expand(n)


def _in_range(name: str, value: np.ndarray) -> None:
    """Refuse numbers that are not standard deviations."""
    if value.ndim > 1 or not np.isfinite(value).all() or (value < 0).any():
        raise SettingError(f"{name} must be one standard deviation >= 0 or one a channel, got {value}")
