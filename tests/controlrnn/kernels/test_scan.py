"""The compiled scan against the eager path that defines it."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_system

from controlrnn.errors import ShapeError
from controlrnn.kernels import Recording, simulate
from controlrnn.kernels._engine import Arranged
from controlrnn.kernels.scan import packed_of
from controlrnn.models import ContractingR2DN, Elman, LipschitzR2DN
from controlrnn.systems import MATRICES, Activation, LureSystem

# The first run on a machine compiles.
relaxed = settings(max_examples=40)
LAYERS = [(), (4,), (1,) * 5, (1,) * 21, (3, 9, 1, 1, 20, 7), (16, 32), (40,), (2, 17, 2)]


def draw_matrices(seed: int, nx: int, nu: int, ny: int, layers: tuple[int, ...]) -> dict[str, Any]:
    rng, nv = np.random.default_rng(seed), sum(layers)
    shapes = {
        "A": (nx, nx), "B1": (nx, nv), "B2": (nx, nu), "bx": (nx,),
        "C1": (nv, nx), "D11": (nv, nv), "D12": (nv, nu), "bv": (nv,),
        "C2": (ny, nx), "D21": (ny, nv), "D22": (ny, nu), "by": (ny,),
    }  # fmt: skip
    drawn = {name: rng.normal(size=s) * 0.5 / max(1, s[-1]) ** 0.5 for name, s in shapes.items()}
    layer = np.repeat(np.arange(len(layers)), layers)
    drawn["D11"] = drawn["D11"] * (layer[:, None] > layer[None, :])
    return drawn


def tensor_system(
    seed: int, *, activation: str = "tanh", dtype: torch.dtype = torch.float64, **sizes: Any
) -> LureSystem:
    matrices = {k: torch.tensor(v, dtype=dtype, requires_grad=True) for k, v in draw_matrices(seed, **sizes).items()}
    return LureSystem(**matrices, activation=Activation(activation), layers=sizes["layers"], dt=1.0)


def leaves(system: LureSystem) -> list[torch.Tensor]:
    return [getattr(system, name) for name in MATRICES]


def assert_close(actual: Any, expected: Any, rel: float) -> None:
    actual, expected = (np.asarray(v.detach() if isinstance(v, torch.Tensor) else v) for v in (actual, expected))
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max(initial=0.0) <= rel * max(1.0, np.abs(expected).max(initial=0.0))


cases = st.fixed_dictionaries(
    {
        "nx": st.integers(1, 19),
        "nu": st.integers(1, 4),
        "ny": st.integers(1, 4),
        "layers": st.sampled_from(LAYERS),
        "activation": st.sampled_from(list(Activation)),
        "seed": st.integers(0, 10**6),
    }
)
batches = st.sampled_from([None, 1, 2, 3, 7, 8, 17, 37])


@relaxed
@given(
    case=cases, batch=batches, steps=st.integers(1, 9), single=st.booleans(), which=st.sampled_from(["y", "x", "both"])
)
def test_outputs_and_gradients_are_those_of_the_eager_path(
    case: dict[str, Any], batch: int | None, steps: int, single: bool, which: str
) -> None:
    dtype, rel = (torch.float32, 1e-4) if single else (torch.float64, 1e-10)
    system = tensor_system(dtype=dtype, **case)
    rng = torch.Generator().manual_seed(case["seed"])
    lead = () if batch is None else (batch,)
    u = torch.randn(*lead, steps, system.nu, generator=rng, dtype=dtype, requires_grad=True)
    x0 = torch.randn(*lead, system.nx, generator=rng, dtype=dtype, requires_grad=True)
    inputs, gradients = [u, x0, *leaves(system)], []
    seeds = None
    for run in (simulate, LureSystem.simulate):
        outputs = run(system, u, x0)
        seeds = seeds or [torch.randn(o.shape, generator=rng, dtype=dtype) for o in outputs]
        pairs = [p for p, name in zip(zip(outputs, seeds, strict=True), "yx", strict=True) if which in (name, "both")]
        found = torch.autograd.grad(
            [o for o, _ in pairs], inputs, [s for _, s in pairs], allow_unused=True, materialize_grads=True
        )
        gradients.append([*outputs, *found])
    for ours, eager in zip(*gradients, strict=True):
        assert_close(ours, eager, rel)


@relaxed
@given(case=cases, batch=batches, steps=st.sampled_from([1, 5, 300]))
def test_a_frozen_system_runs_as_its_numpy_path(case: dict[str, Any], batch: int | None, steps: int) -> None:
    activation, seed = case.pop("activation"), case.pop("seed")
    system = LureSystem(**draw_matrices(seed, **case), activation=activation, layers=case["layers"], dt=1.0)
    u = np.random.default_rng(seed).normal(size=(*(() if batch is None else (batch,)), steps, system.nu))
    x0 = np.linspace(-1, 1, system.nx)
    for ours, eager in zip(simulate(system, u, x0), system.simulate(u, x0), strict=True):
        assert_close(ours, eager, 1e-10)


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("batch", [1, 10])
@pytest.mark.parametrize("layers", [(3,), (1, 1, 1), (2, 1)])
def test_gradcheck(activation: Activation, batch: int, layers: tuple[int, ...]) -> None:
    system = tensor_system(3, nx=2, nu=1, ny=2, layers=layers, activation=activation)
    rng = torch.Generator().manual_seed(1)
    u = torch.randn(batch, 3, 1, generator=rng, dtype=torch.float64, requires_grad=True)
    x0 = torch.randn(batch, 2, generator=rng, dtype=torch.float64, requires_grad=True)

    def run(u: torch.Tensor, x0: torch.Tensor, *matrices: torch.Tensor) -> Any:
        values = dict(zip(MATRICES, matrices, strict=True))
        return simulate(LureSystem(**values, activation=activation, layers=layers, dt=1.0), u, x0)

    assert torch.autograd.gradcheck(run, (u, x0, *leaves(system)), fast_mode=batch > 1)


# torch warns about its own use of torch.jit inside forward mode.
@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_second_derivatives_and_forward_mode_take_the_eager_path() -> None:
    system = tensor_system(0, nx=2, nu=1, ny=1, layers=(2,))
    u = torch.randn(4, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda u: simulate(system, u)[0], (u,))
    jacobians = [torch.func.jacfwd(lambda u, run=run: run(system, u)[0])(u) for run in (simulate, LureSystem.simulate)]
    assert_close(jacobians[0], jacobians[1], 1e-12)
    reverse = torch.func.jacrev(lambda u: simulate(system, u)[0])(u)
    assert_close(reverse, jacobians[1], 1e-10)


def test_gradient_of_an_exactly_zero_matrix_is_right() -> None:
    model = Elman(nu=1, ny=1, nx=40).double()
    system = model.system()
    A = torch.zeros(40, 40, dtype=torch.float64, requires_grad=True)
    system = LureSystem(**{n: getattr(system, n) for n in MATRICES} | {"A": A}, layers=(40,), dt=1.0)
    for shape in [(30, 1), (20, 30, 1)]:
        u = torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
        ours, eager = (
            torch.autograd.grad(run(system, u)[0].square().sum(), A)[0] for run in (simulate, LureSystem.simulate)
        )
        assert eager.abs().max() > 0
        assert_close(ours, eager, 1e-10)


def test_entries_outside_the_layers_take_no_part() -> None:
    system = tensor_system(5, nx=3, nu=1, ny=1, layers=(2, 1, 4))
    with torch.no_grad():
        system.D11.add_(torch.triu(torch.full((7, 7), 1e3, dtype=torch.float64)))
    u = torch.randn(6, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    ours, eager = (run(system, u)[0] for run in (simulate, LureSystem.simulate))
    assert_close(ours, eager, 1e-10)
    found = [torch.autograd.grad(y.sum(), system.D11)[0] for y in (ours, eager)]
    assert_close(found[0], found[1], 1e-10)


def test_recording_pulls_back_without_torch_tensors() -> None:
    sizes: dict[str, Any] = {"nx": 4, "nu": 2, "ny": 3, "layers": (1,) * 6}
    frozen = LureSystem(**draw_matrices(7, **sizes), layers=sizes["layers"], dt=1.0)
    tensors = tensor_system(7, **sizes)
    rng = np.random.default_rng(0)
    u, x0, gy, gx = (rng.normal(size=s) for s in [(11, 8, 2), (11, 4), (11, 8, 3), (11, 9, 4)])
    recording = Recording(frozen, u, x0)
    tu, tx0 = torch.tensor(u, requires_grad=True), torch.tensor(x0, requires_grad=True)
    y, x = tensors.simulate(tu, tx0)
    expected = torch.autograd.grad([y, x], [tu, tx0], [torch.tensor(gy), torch.tensor(gx)])
    assert_close(recording.y, y, 1e-10)
    assert_close(recording.x, x, 1e-10)
    for ours, eager in zip(recording.pullback(gy, gx), expected, strict=True):
        assert_close(ours, eager, 1e-10)


@pytest.mark.parametrize("batch", [1, 40])
def test_results_do_not_depend_on_the_number_of_threads(batch: int) -> None:
    system = tensor_system(1, nx=9, nu=1, ny=1, layers=(32, 32), dtype=torch.float32)
    u = torch.randn(batch, 300, 1, generator=torch.Generator().manual_seed(0))
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            y, _ = simulate(system, u)
            found.append([y.detach(), *torch.autograd.grad(y.square().mean(), leaves(system))])
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


@pytest.mark.parametrize("batch", [1, 20])
def test_a_diverging_simulation_is_not_finite(batch: int) -> None:
    matrices = draw_matrices(0, 3, 1, 1, (4,)) | {"A": 40.0 * np.eye(3)}
    system = LureSystem(**matrices, layers=(4,), dt=1.0)
    y, x = simulate(system, np.ones((batch, 400, 1)))
    assert not np.isfinite(y[:, -1]).any()
    assert not np.isfinite(x[:, -1]).any()


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("layers", [(40,), (1,) * 40])
def test_nan_in_one_record_stays_there(activation: Activation, layers: tuple[int, ...]) -> None:
    system = LureSystem(**draw_matrices(0, 3, 1, 1, layers), layers=layers, activation=activation, dt=1.0)
    u = np.ones((20, 6, 1))
    u[4, 2] = np.nan
    y, _ = simulate(system, u)
    assert np.isnan(y[4, 2:]).all()
    assert np.isfinite(y[4, :2]).all()
    assert np.isfinite(np.delete(y, 4, axis=0)).all()
    y, _ = simulate(system, u[4])
    assert np.isnan(y[2:]).all()
    assert np.isfinite(y[:2]).all()


@pytest.mark.parametrize("batch", [1, 20])
def test_idle_lanes_do_not_spoil_gradients(batch: int) -> None:
    """The model diverges from zero input and state, the records do not."""
    matrices: dict[str, Any] = {
        k: torch.zeros(s, dtype=torch.float64)
        for k, s in {
            "A": (1, 1),
            "B1": (1, 0),
            "B2": (1, 1),
            "bx": (1,),
            "C1": (0, 1),
            "D11": (0, 0),
            "D12": (0, 1),
            "bv": (0,),
            "C2": (1, 1),
            "D21": (1, 0),
            "D22": (1, 1),
            "by": (1,),
        }.items()
    }
    matrices["A"] += 10.0
    matrices["bx"] += 1.0
    matrices["B2"] -= 1.0
    matrices["C2"] += 1.0
    for value in matrices.values():
        value.requires_grad_()
    system = LureSystem(**matrices, layers=(), dt=1.0)
    y, _ = simulate(system, torch.ones(batch, 400, 1, dtype=torch.float64))
    assert torch.equal(y, torch.zeros_like(y))
    assert all(
        torch.isfinite(g).all() for g in torch.autograd.grad(y.sum(dim=(0, 2))[-1], [matrices["by"], matrices["D22"]])
    )


def test_inputs_may_be_views_and_read_only() -> None:
    sizes: dict[str, Any] = {"nx": 3, "nu": 2, "ny": 1, "layers": (5,)}
    system = LureSystem(**draw_matrices(0, **sizes), layers=(5,), dt=1.0)
    u = np.random.default_rng(0).normal(size=(2, 40, 9)).T[:, ::-2, :]
    u.setflags(write=False)
    for ours, eager in zip(simulate(system, u), system.simulate(u), strict=True):
        assert_close(ours, eager, 1e-10)
    tensors = tensor_system(0, **sizes)
    v = torch.tensor(u.T.copy()).permute(2, 1, 0)
    y, _ = simulate(tensors, v)
    found, expected = (
        torch.autograd.grad(z.expand(2, *z.shape).sum(), tensors.B1)[0] for z in (y, tensors.simulate(v)[0])
    )
    assert_close(found, expected, 1e-10)


@pytest.mark.parametrize("batch", [1, 20])
def test_matrices_may_be_views(batch: int) -> None:
    sizes: dict[str, Any] = {"nx": 5, "nu": 2, "ny": 3, "layers": (2, 4)}
    drawn = draw_matrices(1, **sizes)
    base = {
        k: torch.tensor(v.T.copy() if v.ndim == 2 else np.repeat(v, 2), requires_grad=True) for k, v in drawn.items()
    }
    views = {k: v.T if v.dim() == 2 else v[::2] for k, v in base.items()}
    system = LureSystem(**views, layers=(2, 4), dt=1.0)
    u = torch.randn(batch, 20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = []
    for run in (simulate, LureSystem.simulate):
        y, x = run(system, u)
        found.append([y, *torch.autograd.grad(y.square().sum() + x.sum(), [*base.values()])])
    for ours, eager in zip(*found, strict=True):
        assert_close(ours, eager, 1e-10)


@pytest.mark.parametrize(("records", "nx", "ny"), [(16, 16, 5), (32, 21, 4), (16, 8, 17), (19, 33, 1)])
@pytest.mark.parametrize("single", [True, False])
def test_states_and_outputs_of_full_lines_arrive_where_they_belong(
    records: int, nx: int, ny: int, single: bool
) -> None:
    dtype = torch.float32 if single else torch.float64
    system = tensor_system(2, nx=nx, nu=1, ny=ny, layers=(3,), dtype=dtype)
    u = torch.randn(records, 11, 1, dtype=dtype, generator=torch.Generator().manual_seed(0))
    for ours, eager in zip(simulate(system, u), system.simulate(u), strict=True):
        assert_close(ours, eager, 1e-5 if single else 1e-10)
    frozen, long = system.frozen(), np.random.default_rng(0).normal(size=(records, 600, 1))
    for ours, eager in zip(simulate(frozen, long), frozen.simulate(long), strict=True):
        assert_close(ours, eager, 1e-10)


def test_tensors_without_numbers_take_the_eager_path() -> None:
    """Tracers pass subclasses of tensors that have shapes only."""
    from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

    system = tensor_system(0, nx=2, nu=1, ny=1, layers=(2,))
    with FakeTensorMode(allow_non_fake_inputs=True):
        y, _ = simulate(system, torch.ones(4, 1, dtype=torch.float64))
    assert isinstance(y, FakeTensor)
    assert y.shape == (4, 1)


def test_models_run_forward_on_the_compiled_scan(monkeypatch: pytest.MonkeyPatch) -> None:
    model = Elman(nu=1, ny=2, nx=4)
    u = torch.randn(3, 20, 1, generator=torch.Generator().manual_seed(0))
    expected = model.system().simulate(u)[0]
    monkeypatch.delattr(LureSystem, "simulate")
    assert_close(model(u), expected, 1e-5)


def test_what_does_not_fit_is_refused_as_by_the_eager_path() -> None:
    sizes: dict[str, Any] = {"nx": 3, "nu": 2, "ny": 1, "layers": (5,)}
    frozen, tensors = LureSystem(**draw_matrices(0, **sizes), layers=(5,), dt=1.0), tensor_system(0, **sizes)
    with pytest.raises(ShapeError, match="u must have shape"):
        simulate(frozen, np.zeros((4, 3)))
    with pytest.raises(ShapeError, match="x0 must have shape"):
        simulate(frozen, np.zeros((4, 2)), np.zeros(2))
    with pytest.raises(ShapeError, match="u must have shape"):
        simulate(tensors, torch.zeros(4, 3, dtype=torch.float64))
    with pytest.raises(RuntimeError):  # torch's own words for float32 times float64, as on the eager path
        simulate(tensors, torch.zeros(4, 2))


def test_numpy_systems_run_without_torch_and_two_processes_give_the_same_bits() -> None:
    code = (
        "import sys, numpy as np\n"
        "from controlrnn.kernels import simulate\n"
        "from controlrnn.systems import LureSystem\n"
        "r = np.random.default_rng(0).normal\n"
        "s = LureSystem(A=r(size=(2, 2)) / 4, B1=r(size=(2, 3)), B2=r(size=(2, 1)), bx=r(size=2), C1=r(size=(3, 2)),\n"
        "    D11=np.zeros((3, 3)), D12=r(size=(3, 1)), bv=r(size=3), C2=r(size=(1, 2)), D21=r(size=(1, 3)),\n"
        "    D22=r(size=(1, 1)), by=r(size=1), layers=(3,), dt=1.0)\n"
        "y, x = simulate(s, r(size=(50, 1)))\n"
        "assert 'torch' not in sys.modules\n"
        "print(y.tobytes().hex())\n"
    )
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(2)]
    assert runs[0].stdout == runs[1].stdout != ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_forked_child_can_simulate() -> None:
    code = (
        "import os, torch\n"
        "from controlrnn.kernels import simulate\n"
        "from controlrnn.models import Elman\n"
        "torch.set_num_threads(2)\n"
        "m = Elman(nu=1, ny=1, nx=32)\n"
        "u = torch.ones(64, 100, 1)\n"
        "with torch.no_grad():\n"
        "    simulate(m.system(), u)\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        simulate(m.system(), u)\n"
        "        os._exit(0)\n"
        "raise SystemExit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=120).returncode == 0


def feedforward_system(layers, seed=0, dtype=np.float64):
    """Layers in a chain: the first reads states and inputs, every other one the layer before, the last is read."""
    system = random_system(seed, nx=20, nu=2, ny=2, layers=layers)
    layer = np.repeat(np.arange(len(layers)), layers)
    first, last = layer == 0, layer == len(layers) - 1
    chain = layer[:, None] == layer[None, :] + 1
    return replace(
        system,
        C1=system.C1 * first[:, None],
        D12=system.D12 * first[:, None],
        D11=np.where(chain, system.D11, 0.0),
        B1=system.B1 * last,
        D21=system.D21 * last,
    )


def leaves_of(system, dtype=torch.float64):
    values = {n: torch.tensor(getattr(system, n), dtype=dtype, requires_grad=True) for n in MATRICES}
    return replace(system, **values)


@pytest.mark.parametrize("layers", [(30, 25, 40), (3, 20, 3), (9, 9, 9, 9), (12,), (1, 30, 1, 30)], ids=str)
@pytest.mark.parametrize("records", [1, 3, 20])
def test_layers_that_do_not_touch_are_left_out_and_change_nothing(layers, records):
    """Also gradients at entries that are zero are right, because nothing says that they stay zero."""
    system, rng = feedforward_system(layers), np.random.default_rng(1)
    u = torch.tensor(rng.normal(size=(records, 11, 2)))
    x0 = torch.tensor(rng.normal(size=(records, 20)))
    found = []
    for run in (simulate, LureSystem.simulate):
        leaves = leaves_of(system)
        y, x = run(leaves, u, x0)
        (y.square().sum() + (x * x.detach().cos()).sum()).backward()
        found.append((y.detach(), x.detach(), {n: getattr(leaves, n).grad for n in MATRICES}))
    for ours, eager in zip(found[0][:2], found[1][:2], strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-10, atol=1e-10)
    below = torch.tensor(np.repeat(np.arange(len(layers)), layers))
    mask = below[:, None] > below[None, :]
    for n in MATRICES:
        ours, eager = found[0][2][n], found[1][2][n]
        if eager is None:
            continue
        if n == "D11":
            ours, eager = ours * mask, eager * mask
        torch.testing.assert_close(ours, eager, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("make", [ContractingR2DN, LipschitzR2DN])
@pytest.mark.parametrize("records", [1, 20])
def test_a_feedforward_network_gets_the_gradients_of_its_parameters(make, records):
    settings = {"gamma": 3.0} if make is LipschitzR2DN else {"feedthrough": True}
    model = make(nu=2, ny=2, nx=12, nv=6, layers=(20, 9, 17), **settings, seed=2).double()
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=rng, dtype=torch.float64))
    u = torch.randn(records, 9, 2, generator=rng, dtype=torch.float64)
    gradients = []
    for run in (simulate, LureSystem.simulate):
        system = model.system()
        assert system.feedforward
        model.zero_grad(set_to_none=True)
        y, x = run(system, u)
        (y.square().mean() + x.cos().sum()).backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.grad is not None])
    for ours, eager in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-8, atol=1e-10)
    assert not replace(model.system(), dt=2.0).feedforward, "what is made of it by hand gets all gradients"


@pytest.mark.parametrize("by_lanes", [False, True])
def test_a_feedforward_network_costs_its_non_zeros(by_lanes):
    """Columns that the panels of both directions run over, against the entries that are not zero."""
    system = feedforward_system((87, 87, 87))
    packed = packed_of(system)
    arranged = packed.arranged(by_lanes)
    adjoint = Arranged(packed.sizes, 2, packed.dtype, arranged.M, by_lanes=by_lanes, adjoint=True)
    entries = sum(np.count_nonzero(getattr(system, n)) for n in MATRICES)
    for one in (arranged, adjoint):
        panels = one.arguments[1] if by_lanes else one.arguments[3]
        run = sum(n * (high - low - (on - skip)) for _, n, low, high, _, skip, on in panels)
        assert run < 1.1 * entries
