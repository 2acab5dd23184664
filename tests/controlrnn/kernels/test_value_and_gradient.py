"""Mean squared error and its gradient in one pass, against torch's graph and against differences."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import torch
from random_systems import random_system

from controlrnn.checks import put
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.identification.losses.base import Batch, Simulation, SimulationError
from controlrnn.kernels import simulate, squared_error, value_and_gradient
from controlrnn.models import LSTM, ContractingR2DN, ContractingREN, Elman, Model
from controlrnn.systems import MATRICES, LureSystem

MODELS: dict[str, Model] = {
    "Elman": Elman(nu=2, ny=2, nx=5, seed=0),
    "REN": ContractingREN(nu=2, ny=2, nx=3, nv=6, seed=0),
    "R2DN": ContractingR2DN(nu=2, ny=2, nx=3, nv=4, layers=(5, 6), seed=0),
}


def leaves_of(model: Model) -> LureSystem:
    """System of a model, with matrices that are leaves where the model trains them."""
    system = model.system()
    values = {n: getattr(system, n).detach().clone() for n in MATRICES}
    for name, value in values.items():
        value.requires_grad_(getattr(system, name).requires_grad)
    leaves = LureSystem(**values, activation=system.activation, layers=system.layers, dt=1.0)
    put(leaves, feedforward=system.feedforward)
    return leaves


def drawn(records: int, steps: int, missing: bool) -> tuple[torch.Tensor, ...]:
    rng = torch.Generator().manual_seed(1)
    u, y = (torch.randn(records, steps, 2, generator=rng) for _ in range(2))
    if missing:
        y[0, 3:6], y[-1, 0, 1] = torch.nan, torch.nan
    return u, y


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("records", [1, 20])
@pytest.mark.parametrize("missing", [False, True])
def test_gradients_are_those_of_torchs_graph_to_the_bit(kind: str, records: int, missing: bool) -> None:
    system, (u, y) = leaves_of(MODELS[kind]), drawn(records, 30, missing)
    x0 = 0.1 * torch.ones(records, system.nx)
    loss = SimulationError(washout=4)(system, Batch(u, y, x0, 0), Simulation(*simulate(system, u, x0)))
    loss.backward()  # type: ignore[no-untyped-call]
    value, gradients = value_and_gradient(system, u, y, x0, washout=4)
    assert value == pytest.approx(float(loss.detach()), rel=1e-5)
    assert gradients.keys() == {n for n in MATRICES if getattr(system, n).requires_grad}
    for name, gradient in gradients.items():
        assert torch.equal(gradient, getattr(system, name).grad), name


@pytest.mark.parametrize("records", [1, 20])
def test_gradients_of_a_frozen_system_are_those_of_differences(records: int) -> None:
    system = random_system(3, layers=(4, 3))
    rng = np.random.default_rng(0)
    u, y = rng.normal(size=(records, 12, system.nu)), rng.normal(size=(records, 12, system.ny))
    y[0, 2] = np.nan

    def error(moved: LureSystem) -> float:
        run = moved.simulate(u)[0]
        return float(np.nanmean((run - y)[:, 3:] ** 2))

    value, gradients = value_and_gradient(system, u, y, washout=3)
    assert value == pytest.approx(error(system), rel=1e-12)
    for name in MATRICES:
        direction = rng.normal(size=getattr(system, name).shape)
        if name == "D11":
            direction[np.asarray(system.D11) == 0] = 0.0
        values: list[float] = []
        for step in (1e-5, -1e-5):
            matrices = {n: np.array(getattr(system, n)) for n in MATRICES}
            matrices[name] = matrices[name] + step * direction
            values.append(error(LureSystem(**matrices, activation=system.activation, layers=system.layers, dt=1.0)))
        slope = (values[0] - values[1]) / 2e-5
        assert float(np.sum(gradients[name] * direction)) == pytest.approx(slope, rel=1e-5, abs=1e-8), name


def moved(system: LureSystem, seed: int, *, sparse: bool) -> LureSystem:
    """The same system with other numbers; ``sparse`` sets half of them to zero, which changes what is computed."""
    rng = torch.Generator().manual_seed(seed)
    values: dict[str, torch.Tensor] = {}
    for name in MATRICES:
        old = getattr(system, name).detach()
        new = old + 0.1 * torch.randn(old.shape, generator=rng) * (old != 0)
        values[name] = (new * (torch.rand(old.shape, generator=rng) < 0.5) if sparse else new).requires_grad_()
    return LureSystem(**values, activation=system.activation, layers=system.layers, dt=1.0)


def graph(system: LureSystem, u: torch.Tensor, y: torch.Tensor) -> dict[str, torch.Tensor]:
    """Gradients through torch's graph."""
    (simulate(system, u)[0] - y).square().mean().backward()
    return {name: getattr(system, name).grad for name in MATRICES}


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("records", [1, 20])
def test_memory_of_an_earlier_call_leaves_no_trace(kind: str, records: int) -> None:
    """Numbers that diverge, zeros, and other numbers again, all in the same memory."""
    (u, y), system = drawn(records, 30, False), leaves_of(MODELS[kind])
    for seed, sparse, scale in (
        (0, False, 1.0),
        (1, True, 1.0),
        (2, False, torch.inf),
        (3, True, 1.0),
        (4, False, 1.0),
    ):
        other = moved(system, seed, sparse=sparse)
        _, gradients = value_and_gradient(other, scale * u, y)
        for name, gradient in graph(other, scale * u, y).items():
            assert torch.equal(gradient.nan_to_num(7.0), gradients[name].nan_to_num(7.0)), (seed, name)


def test_gradients_stay_when_the_memory_is_used_again() -> None:
    (u, y), system = drawn(1, 30, False), leaves_of(MODELS["Elman"])
    _, first = value_and_gradient(system, u, y)
    kept = {name: g.clone() for name, g in first.items()}
    value_and_gradient(moved(system, 1, sparse=False), u, y)
    assert all(torch.equal(first[name], g) for name, g in kept.items())


@pytest.mark.parametrize("records", [1, 20])
def test_threads_do_not_share_memory(records: int) -> None:
    (u, y), system = drawn(records, 400, False), leaves_of(MODELS["REN"])
    systems = [moved(system, seed, sparse=False) for seed in range(4)]
    alone = [value_and_gradient(s, u, y) for s in systems]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda k: value_and_gradient(systems[k % 4], u, y), range(200)))
    for k, (value, gradients) in enumerate(together):
        assert value == alone[k % 4][0]
        assert all(torch.equal(g, alone[k % 4][1][name]) for name, g in gradients.items())


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize(("records", "steps"), [(2, 20_000), (400, 100)])
def test_several_threads_find_the_same_gradients_to_the_bit(records: int, steps: int) -> None:
    (u, y), system = drawn(records, steps, True), leaves_of(MODELS["R2DN"])  # long enough to be worth a second thread
    value, gradients = value_and_gradient(system, u, y)
    torch.set_num_threads(2)  # the fixture sets it back
    shared, others = value_and_gradient(system, u, y)
    assert shared == value
    assert all(torch.equal(others[name], g) for name, g in gradients.items())


@pytest.mark.parametrize("threads", [1, 8])
def test_little_memory_is_kept_however_many_kinds_and_threads_there_are(threads: int) -> None:
    system = leaves_of(MODELS["Elman"])
    data = [drawn(1, steps, False) for steps in range(100, 4000, 60)]
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(lambda pair: value_and_gradient(system, *pair), data * threads))
    kept = [work for waiting in squared_error.idle.values() for work in waiting]
    assert 0 < sum(work.bytes for work in kept) < 2**26
    assert len(squared_error.idle) < len(data)


def test_tensors_that_are_negative_by_a_flag_count_as_what_they_say() -> None:
    (u, y), system = drawn(1, 9, False), leaves_of(MODELS["Elman"])
    negative = torch.complex(torch.zeros(2, 5), -system.C2.detach()).conj().imag
    assert negative.is_neg()
    values = {n: getattr(system, n).detach() for n in MATRICES} | {"C2": negative}
    flagged = LureSystem(**values, activation=system.activation, layers=system.layers, dt=1.0)
    assert torch.equal(simulate(flagged, u)[0], flagged.simulate(u)[0])
    with pytest.raises(SettingError, match="ordinary CPU tensors"):
        value_and_gradient(flagged, u, y)


def test_systems_without_states_or_inputs_have_gradients_too() -> None:
    system = random_system(3, nu=0)
    value, gradients = value_and_gradient(system, np.zeros((2, 7, 0)), np.zeros((2, 7, system.ny)))
    assert value == pytest.approx(float((system.simulate(np.zeros((2, 7, 0)))[0] ** 2).mean()))
    assert gradients["B2"].shape == (system.nx, 0)
    stateless = random_system(3, nx=0)
    tensors = {n: torch.tensor(getattr(stateless, n)) for n in MATRICES}
    free = LureSystem(**tensors, activation=stateless.activation, layers=stateless.layers, dt=1.0)
    u, x0 = torch.ones(2, 7, free.nu).double(), torch.zeros(2, 0).double()
    assert torch.allclose(simulate(free, u, x0)[0], free.simulate(u, x0)[0])
    assert torch.allclose(simulate(free, u[0], x0[0])[0], free.simulate(u[0], x0[0])[0])


@pytest.mark.parametrize("washout", [3.0, np.int8(3), np.array(3), torch.tensor(3)])
def test_a_whole_number_may_be_written_in_any_way(washout: Any) -> None:
    (u, y), system = drawn(1, 9, False), leaves_of(MODELS["Elman"])
    assert value_and_gradient(system, u, y, washout=washout)[0] == value_and_gradient(system, u, y, washout=3)[0]


def test_without_any_measurement_there_is_no_error() -> None:
    system, u = leaves_of(MODELS["Elman"]), torch.ones(2, 5, 2)
    value, gradients = value_and_gradient(system, u, torch.full((2, 5, 2), torch.nan))
    assert value == 0
    assert all(not g.any() for g in gradients.values())


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"u": torch.ones(5, 2)}, "u and y must have shapes"),
        ({"u": torch.ones(2, 5, 3)}, "nu = 2"),
        ({"y": torch.ones(2, 4, 2)}, "ny = 2"),
        ({"u": torch.ones(2, 0, 2), "y": torch.ones(2, 0, 2)}, "u and y must have shapes"),
        ({"x0": torch.ones(3)}, "x0 must have shape"),
        ({"washout": 5}, "washout"),
        ({"washout": -1}, "washout"),
        ({"y": torch.ones(2, 5, 2).double()}, "one precision"),
        ({"system": MODELS["Elman"]}, "LureSystem"),
        ({"u": np.ones((2, 5, 2))}, "tensors for one of tensors"),
        ({"u": [[[1.0, 2.0]]]}, "tensors for one of tensors"),
        ({"system": random_system(3)}, "one precision"),
        ({"system": random_system(3), "u": np.ones((2, 5, 2)), "y": np.full((2, 5, 2), np.inf)}, "infinite"),
        ({"system": LSTM(nu=2, ny=2, nx=3, seed=0).system()}, "LureSystem"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], words: str) -> None:
    given: dict[str, Any] = {"system": leaves_of(MODELS["Elman"]), "u": torch.ones(2, 5, 2), "y": torch.ones(2, 5, 2)}
    with pytest.raises((DataError, ShapeError, SettingError), match=words):
        value_and_gradient(**(given | change))
