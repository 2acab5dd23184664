"""The compiled loops of gated networks against the eager path that defines them."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from controlrnn.errors import ShapeError
from controlrnn.kernels import simulate
from controlrnn.models import GRU, LSTM
from controlrnn.systems import GatedSystem

CASES = list(product((LSTM, GRU), (False, True), (1, 5)))


def drawn(kind, feedthrough, units, *, dtype=torch.float64, seed=0):
    """A system of leaves with weights of about unit size, and records."""
    made = kind(nu=2, ny=3, nx=units, feedthrough=feedthrough, seed=seed).system()
    rng = torch.Generator().manual_seed(seed)
    leaves = {
        name: torch.randn(getattr(made, name).shape, generator=rng, dtype=dtype).requires_grad_()
        for name in ("W", "U", "b", "C", "by")
    }
    u = torch.randn(4, 9, 2, generator=rng, dtype=dtype).requires_grad_()
    x0 = (0.5 * torch.randn(4, made.nx, generator=rng, dtype=dtype)).requires_grad_()
    return GatedSystem(**leaves, cell=made.cell, feedthrough=feedthrough, dt=1.0), u, x0


def gradients(run, system, u, x0):
    """Outputs and gradients of a cost of outputs and states, by everything."""
    y, x = run(system, u, x0)
    leaves = [system.W, system.U, system.b, system.C, system.by, u] + ([] if x0 is None else [x0])
    weights = [torch.randn(v.shape, generator=torch.Generator().manual_seed(7), dtype=v.dtype) for v in (y, x)]
    cost = (weights[0] * y).sum() + (weights[1] * x).square().sum()
    return [y.detach(), x.detach(), *torch.autograd.grad(cost, leaves)]


@pytest.mark.parametrize(("kind", "feedthrough", "units"), CASES)
@pytest.mark.parametrize("start", [False, True])
def test_values_and_gradients_are_those_of_the_eager_path(kind, feedthrough, units, start):
    system, u, x0 = drawn(kind, feedthrough, units)
    x0 = x0 if start else None
    found, wanted = (gradients(run, system, u, x0) for run in (simulate, GatedSystem.simulate))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_single_precision_stays_single_and_one_record_stays_one(kind):
    system, u, x0 = drawn(kind, False, 6, dtype=torch.float32)
    for one, other in zip(
        gradients(simulate, system, u, x0), gradients(GatedSystem.simulate, system, u, x0), strict=True
    ):
        assert one.dtype == torch.float32
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-3)
    y, x = simulate(system, u[0], x0[0])
    assert (y.shape, x.shape) == ((9, 3), (10, system.nx))
    torch.testing.assert_close(x, simulate(system, u, x0)[1][0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_threads_change_no_bit(kind):
    system, u, x0 = drawn(kind, False, 5)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 3):
            torch.set_num_threads(threads)
            found.append(simulate(system, u, x0)[1].detach())
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_gradients_can_be_differentiated_again(kind):
    system, u, x0 = drawn(kind, False, 2)
    second = []
    for run in (simulate, GatedSystem.simulate):
        (g,) = torch.autograd.grad(run(system, u[:, :4], x0)[0].square().sum(), system.U, create_graph=True)
        second.append(torch.autograd.grad(g.square().sum(), [system.U, u], allow_unused=True))
    for one, other in zip(*second, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_what_is_not_supported_takes_the_eager_path_and_bad_shapes_are_refused():
    system, u, x0 = drawn(LSTM, False, 3)
    mixed = simulate(system, u, x0)[0]
    through_vmap = torch.func.vmap(lambda one: simulate(system, one)[0])(u)
    torch.testing.assert_close(through_vmap, simulate(system, u)[0])
    assert mixed.requires_grad
    with pytest.raises(ShapeError, match="u"):
        simulate(system, u[..., :1], x0)
    with pytest.raises(ShapeError, match="x0"):
        simulate(system, u, x0[:, :2])


EXTREMES = {  # what, where, factor, and what is added
    "open gates": ("b", ..., 1.0, 300.0),
    "closed gates": ("b", ..., 1.0, -300.0),
    "nearly closed gates": ("b", ..., 1.0, -36.0),
    "huge input": ("u", (0, 3), 1.0, -1e300),
    "infinite input": ("u", (0, 3), 1.0, float("inf")),
    "huge states": ("x0", ..., 1e300, 0.0),
    "huge weights": ("W", ..., 1e150, 0.0),
    "small weights": ("U", ..., 1e-200, 0.0),
    "subnormal weights": ("W", ..., 1e-310, 0.0),
    "missing input": ("u", (1, 5), 1.0, float("nan")),
}


@pytest.mark.parametrize("kind", [LSTM, GRU])
@pytest.mark.parametrize("name", EXTREMES)
def test_gradients_of_extremes_are_those_of_the_eager_path(name, kind):
    """Also where they are not finite; gates that are shut but for 1e-16 differ by that."""
    system, u, x0 = drawn(kind, False, 4)
    what, where, factor, more = EXTREMES[name]
    with torch.no_grad():
        ({"u": u, "x0": x0} | vars(system))[what][where].mul_(factor).add_(more)
    results = []
    for run in (simulate, GatedSystem.simulate):
        y, _ = run(system, u, x0)
        seen = torch.ones_like(y).masked_fill(y.isnan(), 0.0)  # what no loss counts
        leaves = [system.W, system.U, system.b, system.C, system.by, u, x0]
        results.append([y.detach(), *torch.autograd.grad((seen * torch.where(y.isnan(), 0.0, y)).sum(), leaves)])
    for one, other in zip(*results, strict=True):
        size = other[other.isfinite()].abs().max().item() if other.isfinite().any() else 1.0
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-12 * size + 1e-15, equal_nan=True)
