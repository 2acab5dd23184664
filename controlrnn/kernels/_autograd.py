"""The compiled simulation as a torch function with a hand-written adjoint."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import Parameter

from controlrnn.errors import SettingError
from controlrnn.kernels._engine import Packed, Run, sizes_of
from controlrnn.kernels.squared_error import squared_error
from controlrnn.systems import MATRICES, LureSystem

_DENSE = torch.strided
_matrices_of = attrgetter(*MATRICES)
_DTYPES: dict[torch.dtype, np.dtype[Any]] = {torch.float32: np.dtype(np.float32), torch.float64: np.dtype(np.float64)}


def simulate_tensors(system: LureSystem, u: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Simulate a system of tensors, compiled where that is possible; arguments as in `controlrnn.kernels.simulate`."""
    matrices = _matrices_of(system)
    if not _supported((u, *matrices) if x0 is None else (u, x0, *matrices)):
        return system.simulate(u, x0)
    start = x0
    if x0 is not None or u.dim() not in (2, 3) or u.shape[-1] != system.nu or u.shape[-2] < 1:
        start = system._initial_state(u, x0)  # raises where the shapes do not fit
        start = start if u.dim() == 3 else start[None]
    batch = u if u.dim() == 3 else u[None]
    y, x = _apply(system, batch, start, *matrices)
    return (y, x) if u.dim() == 3 else (y[0], x[0])


def value_and_gradient_of_tensors(
    system: LureSystem, u: Tensor, y: Tensor, x0: Tensor | None, washout: int
) -> tuple[float, dict[str, Tensor]]:
    """Mean squared error and its gradients for tensors; as `controlrnn.kernels.value_and_gradient`.

    Raises:
        SettingError: They are not ordinary CPU tensors of one precision.
    """
    matrices = _matrices_of(system)
    given = (u, y, *matrices) if x0 is None else (u, y, x0, *matrices)
    if not _supported(given):
        raise SettingError(
            "system, u, y and x0 must be ordinary CPU tensors of one precision, outside of torch's transforms"
        )
    start = None if x0 is None else system._initial_state(u, x0).detach().numpy()
    packed, _plain = _packed(system, u.dtype, matrices)
    wanted = tuple([m.requires_grad for m in matrices])
    pairs = zip(packed.sizes.shapes, wanted, strict=True)
    found = [torch.from_numpy(np.empty(shape, packed.dtype)) if want else None for shape, want in pairs]
    targets = [0 if g is None else g.data_ptr() for g in found]
    data = u.detach().numpy(), y.detach().numpy(), washout
    value = squared_error(packed, data, start, (wanted, system.feedforward), targets)
    return value, {name: g for name, g in zip(MATRICES, found, strict=True) if g is not None}


def _compiled(system: LureSystem, u: Tensor, x0: Tensor | None, matrices: Sequence[Tensor], *, keep: bool) -> Run:
    """Compiled run of a batch."""
    packed, _plain = _packed(system, u.dtype, matrices)
    return packed.run(u.detach().numpy(), None if x0 is None else x0.detach().numpy(), keep=keep)


def _packed(system: LureSystem, dtype: torch.dtype, matrices: Sequence[Tensor]) -> tuple[Packed, list[Tensor]]:
    """Packed system, and the tensors that must live for as long as runs are started."""
    plain = [m if m.is_contiguous() else m.contiguous() for m in matrices]
    sizes = sizes_of(system.nx, system.nu, system.ny, system.layers)
    return Packed(sizes, system.activation, _DTYPES[dtype], [m.data_ptr() for m in plain]), plain


def _supported(tensors: tuple[Any, ...]) -> bool:
    """Whether these are ordinary CPU tensors of one precision, outside of torch.func, forward mode and tracing."""
    # torch has no public way to ask; autograd.Function itself asks the first of these.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0 or torch.compiler.is_compiling():
        return False
    kind = getattr(tensors[0], "dtype", None)
    if kind not in _DTYPES:
        return False
    for t in tensors:  # a loop, because it runs at every call and all(...) takes longer
        plain = type(t) is Tensor or type(t) is Parameter  # torch traces by subclasses of Tensor
        if not plain or t.dtype is not kind or not t.is_cpu or t.layout is not _DENSE or t.is_neg():
            return False  # (is_neg: the numbers in memory have the other sign)
    return True


class _Scan(torch.autograd.Function):
    """Differentiable simulation (u, x0, matrices) -> (y, x) of a batch of records."""

    @staticmethod
    def forward(ctx: Any, system: LureSystem, u: Tensor, x0: Tensor | None, *matrices: Tensor) -> tuple[Tensor, Tensor]:
        """Simulate, and keep what the gradients need where some are wanted."""
        wanted = any(ctx.needs_input_grad)
        run = _compiled(system, u, x0, matrices, keep=wanted)
        if wanted:
            ctx.set_materialize_grads(False)  # an output that is not used gets None, not zeros
            ctx.run = run
            ctx.system = system
            ctx.save_for_backward(u, x0, *matrices)
        return torch.from_numpy(run.y), torch.from_numpy(run.x)

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gx: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients by the arguments of `forward`, from those by y and x."""
        wants = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():  # with create_graph=True
            return None, *_eager_gradients(ctx, gy, gx)
        run, wanted = ctx.run, wants[2:]
        seeds = (None if g is None else g.numpy() for g in (gy, gx))
        gu, gx0, sums = run.pullback(*seeds, with_input=wants[0], wanted=wanted, feedforward=ctx.system.feedforward)
        gradients = [None if g is None else torch.from_numpy(g) for g in run.matrix_gradients(sums, wanted)]
        return (
            None,
            torch.from_numpy(gu) if wants[0] else None,
            torch.from_numpy(gx0) if wants[1] else None,
            *gradients,
        )


# The public `apply` looks through all arguments for leftovers of torch.func before it calls this one.
_apply: Any = super(torch.autograd.Function, _Scan).apply


def _eager_gradients(ctx: Any, gy: Tensor | None, gx: Tensor | None) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again (``create_graph=True``), by way of the eager simulation."""
    u, x0, *matrices = ctx.saved_tensors
    values = dict(zip(MATRICES, matrices, strict=True))
    system = ctx.system
    same = LureSystem(**values, activation=system.activation, layers=system.layers, dt=system.dt)
    pairs = [(value, g) for value, g in zip(same.simulate(u, x0), (gy, gx), strict=True) if g is not None]
    inputs, wants = [u, x0, *matrices], ctx.needs_input_grad[1:]
    wanted = [tensor for tensor, want in zip(inputs, wants, strict=True) if want]
    found = iter(
        torch.autograd.grad([p[0] for p in pairs], wanted, [p[1] for p in pairs], create_graph=True, allow_unused=True)
    )
    return tuple(next(found) if want else None for want in wants)
