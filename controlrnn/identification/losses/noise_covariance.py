"""Covariance of the outputs under noise on inputs and states, linearised along a run, as a loss.

With white noise e on the inputs (covariance S) and v on the states (Q), independent of each other, and F = dx+/dx,
G = dx+/du, C = dy/dx, D = dy/du taken at every sample of the noise-free run,

    P[t+1] = F P[t] F' + G S G' + Q,   P[0] given,        R[t] = C P[t] C' + D S D',

R[t] is the covariance of y[t] up to terms of third order in the noise. Training keeps its trace small. For one sample k
the same sum is cheaper from its end, with ny rows L instead of the nx columns of P:

    L[k] = C,   L[t] = L[t+1] F[t],   R[k] = D S D' + sum_{t<k} (L[t+1] G[t] S G[t]' L[t+1]' + L[t+1] Q L[t+1]')
                                             + L[0] P[0] L[0]'

(Amini, Liu, Motee, "Robust learning of recurrent neural networks in presence of exogenous noise", IEEE CDC 2021,
sec. III, for the basic RNN and its last output; here for any system, sample and task.)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlrnn.checks import count, numbers
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.identification.losses.base import Batch, Simulation, Term
from controlrnn.systems import LureSystem, System
from controlrnn.systems.ops import TORCH
from controlrnn.typed import typed

Std = float | tuple[float, ...]


@typed()
def output_covariance(
    system: System, u: Tensor, x: Tensor, *, input_std: Std, state_std: Std = 0.0, initial_std: Std = 0.0
) -> Tensor:
    """Covariance of the outputs along given runs; gradients reach the system, ``u`` and ``x``.

    Without feedthrough no ``y[t]`` hangs on ``u[t]``, so that the last input of a run has no part in the result. Where
    one output has to answer for all inputs, as in classification, take `last_output_covariance`.

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
    _check_run("output_covariance", system, u, x)
    T = u.shape[1]
    S = deviations("input_std", input_std, system.nu, u)
    Q = deviations("state_std", state_std, system.nx, u).square().diag()
    (F, G), (C, D) = (_jacobians(map_, x[:, :T], u) for map_ in (system.step, system.output))
    pushed, passed = ((M * S) @ (M * S).mT for M in (G, D))
    P = deviations("initial_std", initial_std, system.nx, u).square().diag().expand(len(u), -1, -1)
    spread = []
    # Unbound beforehand: the gradient of indexing at every step would fill the whole tensor each time.
    for step, noise in zip(F.unbind(1), (pushed + Q).unbind(1), strict=True):
        spread.append(P)
        P = step @ P @ step.mT + noise
    R: Tensor = C @ torch.stack(spread, dim=1) @ C.mT + passed
    return R


@typed()
def last_output_covariance(
    system: System, u: Tensor, x: Tensor, *, input_std: Std, state_std: Std = 0.0, initial_std: Std = 0.0
) -> Tensor:
    """Covariance of the first output that all inputs have reached, by the adjoint recursion; gradients flow.

    This is ``y[T - 1]`` where the system has feedthrough, and else ``y[T]``, read from the state after the last input:
    ``system.output(x[:, -1], torch.zeros_like(u[:, -1]))``. It is the readout of a classifier, whose loss term is
    ``last_output_covariance(system, u, x, input_std=0.3).diagonal(dim1=-2, dim2=-1).sum(-1).mean()``.

    Args:
        system: A system of tensors; noise is in the units of its signals, which are scaled ones in training.
        u: Inputs, shape (B, T, nu).
        x: States of the runs, shape (B, T + 1, nx), as ``simulate`` returns them.
        input_std: Standard deviation of the noise on the inputs, one number or one a channel.
        state_std: Standard deviation of the noise that is added to every next state.
        initial_std: Standard deviation of the states at sample 0.

    Returns:
        Shape (B, ny, ny); not finite where noise grows beyond the range of the tensors' precision.

    Raises:
        ShapeError: ``u``, ``x`` or a list of standard deviations does not fit the system.
        SettingError: A standard deviation is negative or not finite, or the system is frozen.
    """
    _check_run("last_output_covariance", system, u, x, least=1)
    T = u.shape[1]
    S = deviations("input_std", input_std, system.nu, u)
    Q = deviations("state_std", state_std, system.nx, u)
    # With feedthrough the last sample is read, and T - 1 steps precede it; else all T steps precede the reading.
    steps = T - 1 if system.has_feedthrough else T
    at, last = x[:, steps : steps + 1], u[:, -1:] if system.has_feedthrough else torch.zeros_like(u[:, -1:])
    C, D = (J[:, 0] for J in _jacobians(system.output, at, last))
    factors = [D * S]  # side by side they are the root of R
    L = C
    if steps:
        before = x[:, :steps], u[:, :steps]
        pull = _LurePullback(system, *before) if isinstance(system, LureSystem) else _Pullback(system, *before)
        after, L = pull.rows(C)
        factors += [rows.transpose(1, 2).flatten(2) for rows in (pull.inputs(after) * S, after * Q)]
    root = torch.cat([*factors, L * deviations("initial_std", initial_std, system.nx, u)], dim=-1)
    R: Tensor = root @ root.mT
    return R


class _Pullback:
    """Rows L[t] = L[t+1] F[t] of any system, from the Jacobians of all its samples.

    Args:
        system: The system.
        x: States before the steps, shape (B, T, nx).
        u: Inputs of the steps, shape (B, T, nu).
    """

    def __init__(self, system: System, x: Tensor, u: Tensor) -> None:
        self._F, self._G = _jacobians(system.step, x, u)

    def rows(self, L: Tensor) -> tuple[Tensor, Tensor]:
        """Rows after every step, shape (B, T, n, nx), and before the first, (B, n, nx), from those after the last."""
        after = []
        for F in reversed(self._F.unbind(1)):
            after.append(L)
            L = L @ F
        return torch.stack(after[::-1], dim=1), L

    def inputs(self, after: Tensor) -> Tensor:
        """Rows L[t+1] G[t] of the inputs, shape (B, T, n, nu)."""
        return after @ self._G


class _LurePullback:
    """The same for a `LureSystem`, whose rows take the slopes of its neurons in turn and need no Jacobian.

    Args:
        system: The system.
        x: States before the steps, shape (B, T, nx).
        u: Inputs of the steps, shape (B, T, nu).
    """

    def __init__(self, system: LureSystem, x: Tensor, u: Tensor) -> None:
        self._system = system
        drive = u @ system.D12.T + system.bv
        w = system.neurons(x, drive)
        v = x @ system.C1.T + w @ system.D11.T + drive
        # Elementwise, so that a pullback of ones is the slope of each neuron.
        (self._slopes,) = torch.func.vjp(lambda z: system.activation.apply(TORCH, z), v)[1](torch.ones_like(v))

    def rows(self, L: Tensor) -> tuple[Tensor, Tensor]:
        """Rows after every step and before the first, as of any system."""
        s, after = self._system, []
        for slopes in reversed(self._slopes.unbind(1)):
            after.append(L)
            L = L @ s.A + self._neurons(L, slopes) @ s.C1
        return torch.stack(after[::-1], dim=1), L

    def inputs(self, after: Tensor) -> Tensor:
        """Rows of the inputs, as of any system."""
        rows: Tensor = after @ self._system.B2 + self._neurons(after, self._slopes) @ self._system.D12
        return rows

    def _neurons(self, L: Tensor, slopes: Tensor) -> Tensor:
        """Rows m = (L B1 + m D11) diag(slopes) on the neurons' inputs, shape (..., n, nv)."""
        s, scale = self._system, slopes[..., None, :]
        m: Tensor = (L @ s.B1) * scale
        if len(s.layers) > 1:
            one = torch.eye(s.nv, dtype=m.dtype, device=m.device)
            m = torch.linalg.solve_triangular(one - s.D11 * scale, m, upper=False, left=False, unitriangular=True)
        return m


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
        last: Take only the first output that a whole window has reached, as for classification
            (`last_output_covariance`), instead of the mean over all outputs.

    Raises:
        SettingError: A number is out of range, or ``last`` comes with a washout.
    """

    input_std: Std
    state_std: Std = 0.0
    initial_std: Std = 0.0
    washout: int = 0
    windows: int | None = None
    last: bool = False

    def __post_init__(self) -> None:
        check_deviations(self)
        check_last(self)
        if self.windows is not None:
            count("windows", self.windows)

    def __call__(self, system: System, batch: Batch, simulation: Simulation) -> Tensor:
        """Mean over windows and samples."""
        R = (last_output_covariance if self.last else output_covariance)(
            system,
            batch.u[: self.windows],
            simulation.x[: self.windows],
            input_std=self.input_std,
            state_std=self.state_std,
            initial_std=self.initial_std,
        )
        traces = R.diagonal(dim1=-2, dim2=-1).sum(-1)
        return (traces if self.last else traces[:, self.washout :]).mean()


def _check_run(caller: str, system: System, u: Tensor, x: Tensor, least: int = 0) -> None:
    """Refuse runs that do not fit the system; ``x`` has ``least`` or one state more than ``u`` has samples."""
    if system.is_frozen:
        raise SettingError(f"{caller} needs a system of tensors, got a frozen one: pass model.system()")
    if u.ndim != 3 or u.shape[-1] != system.nu or not u.shape[1]:
        raise ShapeError(f"u must have shape (B, T, nu) = (B, T, {system.nu}), got {tuple(u.shape)}")
    if not (u.is_floating_point() and x.is_floating_point()):
        raise DataError(f"u and x must hold floating-point numbers, got {u.dtype} and {x.dtype}")
    own = next(m.dtype for m in vars(system).values() if isinstance(m, Tensor))
    if not u.dtype == x.dtype == own:
        raise DataError(f"u and x must be of the system's type {own}, got {u.dtype} and {x.dtype}: convert them")
    B, T, _ = u.shape
    if x.ndim != 3 or x.shape[0] != B or x.shape[1] not in (T + least, T + 1) or x.shape[2] != system.nx:
        raise ShapeError(
            f"x must have shape {(B, T + 1, system.nx)}, got {tuple(x.shape)}: pass what simulate returned"
        )


def _jacobians(map_: Callable[[Tensor, Tensor], Tensor], x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobians (B, T, n, nx) and (B, T, n, nu) of a map at all samples of all runs, in one call."""
    B, T, _ = u.shape
    J = torch.func.vmap(torch.func.jacrev(map_, argnums=(0, 1)))(x.reshape(B * T, -1), u.reshape(B * T, -1))
    by_x, by_u = (part.reshape(B, T, *part.shape[1:]) for part in J)
    return by_x, by_u


def check_deviations(term: object) -> None:
    """Check that the fields ``*_std`` of a term are standard deviations, and turn lists into tuples."""
    for name in ("input_std", "state_std", "initial_std"):
        value = numbers(name, getattr(term, name))
        _in_range(name, value)
        object.__setattr__(term, name, tuple(value.tolist()) if value.ndim else float(value))


def check_last(term: Any) -> None:
    """Check the fields ``washout`` and ``last`` of a term, of which only one may be used."""
    if count("washout", term.washout, least=0) and term.last:
        raise SettingError(f"last counts one output of a window, got washout = {term.washout}: leave one of them out")


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
