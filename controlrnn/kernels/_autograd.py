"""The scan as a torch function with a hand-written adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad

from controlrnn.kernels._engine import Packed
from controlrnn.systems import MATRICES, LureSystem


def simulate_tensors(system: LureSystem, u: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor]:
    """`controlrnn.kernels.simulate` for tensors."""
    matrices = [getattr(system, name) for name in MATRICES]
    if not _supported([*matrices, u] if x0 is None else [*matrices, u, x0]):
        return system.simulate(u, x0)
    start = system._initial_state(u, x0)
    batch = u if u.dim() == 3 else u[None]
    y, x = _Scan.apply(system, batch, start.reshape(batch.shape[0], system.nx), *matrices)  # type: ignore[no-untyped-call]
    return (y, x) if u.dim() == 3 else (y[0], x[0])


def _supported(tensors: list[Any]) -> bool:
    """Whether these are ordinary CPU tensors of one precision, outside of torch.func and forward-mode transforms."""
    # torch has no public way to ask; autograd.Function itself asks the first of these.
    if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
        return False
    kind = getattr(tensors[0], "dtype", None)
    return kind in (torch.float32, torch.float64) and all(
        isinstance(t, Tensor) and t.dtype == kind and t.is_cpu and t.layout == torch.strided for t in tensors
    )


class _Scan(torch.autograd.Function):
    """(u, x0, matrices) -> (y, x) for a batch of records."""

    @staticmethod
    def forward(ctx: Any, system: LureSystem, u: Tensor, x0: Tensor, *matrices: Tensor) -> tuple[Tensor, Tensor]:
        packed = Packed([m.detach().numpy() for m in matrices], system.activation, system.layers)
        wanted = any(ctx.needs_input_grad)
        run = packed.run(u.detach().numpy(), x0.detach().numpy(), keep=wanted)
        if wanted:
            ctx.set_materialize_grads(False)
            ctx.run, ctx.system = run, system
            ctx.save_for_backward(u, x0, *matrices)
        return torch.from_numpy(run.y), torch.from_numpy(run.x)

    @staticmethod
    def backward(ctx: Any, gy: Tensor | None, gx: Tensor | None) -> tuple[Tensor | None, ...]:
        wants = ctx.needs_input_grad[1:]
        if torch.is_grad_enabled():
            return None, *_eager_gradients(ctx, gy, gx)
        names = [name for name, want in zip(MATRICES, wants[2:], strict=True) if want]
        seeds = [None if g is None else g.numpy() for g in (gy, gx)]
        gu, gx0, gradients = ctx.run.pullback(*seeds, with_input=wants[0], matrices=names)
        return (
            None,
            torch.from_numpy(gu) if wants[0] else None,
            torch.from_numpy(gx0) if wants[1] else None,
            *(torch.from_numpy(gradients[name]) if name in gradients else None for name in MATRICES),
        )


def _eager_gradients(ctx: Any, gy: Tensor | None, gx: Tensor | None) -> tuple[Tensor | None, ...]:
    """With ``create_graph=True`` the gradients themselves need a graph: differentiate the eager path."""
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
