"""Eager simulation, the path that CUDA takes: its backward pass costs what its samples cost, and no more."""

import time

import numpy as np
import pytest
import torch
from random_systems import random_elman

from controlrnn.systems import MATRICES, GatedSystem, LureSystem
from controlrnn.systems.ops import CASADI, NUMPY, TORCH

UNITS, RUNS = 64, 32


def lure() -> LureSystem:
    system = random_elman(0, nx=UNITS, nu=8)
    tensors = {n: torch.tensor(getattr(system, n), dtype=torch.float32, requires_grad=True) for n in MATRICES}
    return LureSystem(**tensors, layers=system.layers, dt=1.0)


def gated(cell: str) -> GatedSystem:
    rows = UNITS * (4 if cell == "lstm" else 3)
    draw = lambda *shape: (0.1 * torch.randn(*shape)).requires_grad_()  # noqa: E731
    with torch.random.fork_rng():
        torch.manual_seed(0)
        arrays = {"W": draw(rows, 8), "U": draw(rows, UNITS), "b": draw(rows), "C": draw(2, UNITS), "by": draw(2)}
    return GatedSystem(**arrays, cell=cell, dt=1.0)


def backward_time(system, steps: int) -> float:
    """Processor time of a backward pass."""
    u = torch.randn(RUNS, steps, 8, generator=torch.Generator().manual_seed(1))
    loss = system.simulate(u)[0].square().mean()
    begin = time.process_time()
    loss.backward()
    return time.process_time() - begin


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("system", [lure(), gated("gru")], ids=["lure", "gru"])
def test_backward_is_linear_in_the_number_of_samples(system):
    """Both lengths in turns, the least of each: a machine changes its pace."""
    backward_time(system, 8)
    short, long = zip(*((backward_time(system, 392), backward_time(system, 784)) for _ in range(8)), strict=True)
    assert min(long) < 3 * min(short)


@pytest.mark.parametrize("ops", [NUMPY, TORCH], ids=["numpy", "torch"])
def test_samples_undo_stack(ops):
    path = np.random.default_rng(0).normal(size=(3, 5, 2))
    path = torch.tensor(path) if ops is TORCH else path
    samples = list(ops.samples(path))
    assert len(samples) == 5
    assert (samples[2] == path[:, 2]).all()
    assert (ops.stack(samples) == path).all()


def test_samples_of_symbols_are_rows():
    import casadi

    path = casadi.DM(np.arange(6.0).reshape(3, 2))
    assert [s.shape for s in CASADI.samples(path)] == [(1, 2)] * 3
    assert (CASADI.stack(list(CASADI.samples(path))).full() == path.full()).all()
