"""Fast simulation of gated networks of tensors, LSTM and GRU, by compiled time loops with a hand-written adjoint.

The sums over all samples, those of inputs, outputs and weights, are products of matrices in torch.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from controlrnn.kernels import _threads
from controlrnn.kernels._autograd import _supported
from controlrnn.kernels.compiled import gated as compiled
from controlrnn.systems import Cell, GatedSystem
from controlrnn.systems.ops import initial_state, run_arguments

_LOOPS: dict[Cell, tuple[Any, Any]] = {
    Cell.LSTM: (compiled.lstm_forward, compiled.lstm_backward),
    Cell.GRU: (compiled.gru_forward, compiled.gru_backward),
}


def simulate_gated(system: GatedSystem, u: Tensor, x0: Tensor | None) -> tuple[Tensor, Tensor]:
    """Simulate a gated system of tensors, compiled where that is possible; as `controlrnn.kernels.simulate`."""
    tensors = (u, system.W, system.U, system.b, system.C, system.by)
    if not _supported(tensors if x0 is None else (*tensors, x0)):
        return system.simulate(u, x0)
    u, x0 = run_arguments(system, u, x0)
    start = initial_state(system, u, x0)
    drive = u @ system.W.T + system.b
    single = u.dim() == 2
    path: Tensor = _GatedScan.apply(  # type: ignore[no-untyped-call]
        system, drive[None] if single else drive, start[None] if single else start, system.U
    )
    path = path[0] if single else path
    return system.read(path), path


class _GatedScan(torch.autograd.Function):
    """Differentiable states (drive, x0, U) -> x of a batch of records."""

    @staticmethod
    def forward(ctx: Any, system: GatedSystem, drive: Tensor, x0: Tensor, U: Tensor) -> Tensor:
        """Simulate, and keep gates and states for the gradients."""
        forward, _ = _LOOPS[system.cell]
        B, T, _ = drive.shape
        x = drive.new_empty(B, T + 1, system.nx)
        x[:, 0] = x0
        gates = torch.empty_like(drive, memory_format=torch.contiguous_format)
        _by_records(forward, B, drive.contiguous(), U.T.contiguous(), x, gates, shared=(1,))
        ctx.system = system
        ctx.save_for_backward(drive, x0, U, x, gates)
        return x

    @staticmethod
    def backward(ctx: Any, gx: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients by drive, x0 and U, from that by x."""
        drive, x0, U, x, gates = ctx.saved_tensors
        system: GatedSystem = ctx.system
        if torch.is_grad_enabled():  # with create_graph=True
            return None, *_eager_gradients(system, drive, x0, U, gx, ctx.needs_input_grad[1:])
        _, backward = _LOOPS[system.cell]
        gx, gv = gx.clone(memory_format=torch.contiguous_format), torch.empty_like(gates)
        _by_records(backward, len(x), U.contiguous(), x, gates, gx, gv, shared=(0,))
        n = system.units
        h, flat = x[:, :-1, :n].reshape(-1, n), gv.flatten(0, 1)
        if system.cell is Cell.LSTM:
            gU = flat.T @ h
        else:
            passed = gates.flatten(0, 1)[:, :n] * h
            gU = torch.cat([flat[:, : 2 * n].T @ h, flat[:, 2 * n :].T @ passed])
        return None, gv, gx[:, 0], gU


def _by_records(loop: Any, records: int, *tensors: Tensor, shared: tuple[int, ...]) -> None:
    """Run a loop over some records in each thread; the arguments in ``shared`` are the same for all records."""
    threads = min(_threads.thread_limit(), records)
    arrays = [t.detach().numpy() for t in tensors]
    ends = [records * k // max(threads, 1) for k in range(threads + 1)]
    tasks = [
        partial(loop, *(a if n in shared else a[low:high] for n, a in enumerate(arrays)))
        for low, high in pairwise(ends)
    ]
    _threads.run(tasks, threads)


def _eager_gradients(
    system: GatedSystem, drive: Tensor, x0: Tensor, U: Tensor, gx: Tensor, wants: tuple[bool, ...]
) -> tuple[Tensor | None, ...]:
    """Gradients that can be differentiated again (``create_graph=True``), by way of the eager steps."""
    same, states = replace(system, U=U), [x0]
    for driven in drive.unbind(1):
        states.append(same.advance(states[-1], driven))
    inputs = (drive, x0, U)
    wanted = [tensor for tensor, want in zip(inputs, wants, strict=True) if want]
    found = iter(torch.autograd.grad(torch.stack(states, dim=1), wanted, gx, create_graph=True, allow_unused=True))
    return tuple(next(found) if want else None for want in wants)
