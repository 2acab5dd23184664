"""A model starts at the linear model that it is given, whatever units and coordinates the state of that has."""

import logging

import numpy as np
import pytest
import torch

from controlrnn import models
from controlrnn.certification import certify_by_construction
from controlrnn.errors import DataError, SettingError
from controlrnn.kernels import simulate
from controlrnn.models import LTI, ContractingR2DN, ContractingREN
from controlrnn.models.parts.linear_start import Linear

BUILD = {
    "LTI": lambda **k: LTI(nu=1, ny=1, nx=2, **k),
    "ContractingR2DN": lambda **k: ContractingR2DN(nu=1, ny=1, nx=2, **k),
    "ContractingREN": lambda **k: ContractingREN(nu=1, ny=1, nx=2, nv=4, **k),
    "LipschitzREN": lambda **k: models.LipschitzREN(nu=1, ny=1, nx=2, nv=4, gamma=5.0, **k),
    "LipschitzR2DN": lambda **k: models.LipschitzR2DN(nu=1, ny=1, nx=2, gamma=5.0, **k),
    "RobustRNN": lambda **k: models.RobustRNN(nu=1, ny=1, nx=2, nv=4, gamma=5.0, **k),
    "RobustRNN, free gain": lambda **k: models.RobustRNN(nu=1, ny=1, nx=2, nv=4, **k),
    "DissipativeREN": lambda **k: models.DissipativeREN(nu=1, ny=1, nx=2, nv=3, Q=[[-1.0]], S=[[0.0]], R=[[25.0]], **k),
    "ResidualRNN": lambda **k: models.ResidualRNN(nu=1, ny=1, nx=2, nv=3, **k),
}


def linear():
    """Two states in a row, steady gain one."""
    A, B, C = np.array([[0.9, 0.1], [0.0, 0.8]]), np.array([[0.0], [1.0]]), np.array([[1.0, 0.0]])
    return A, B, C / (C @ np.linalg.solve(np.eye(2) - A, B))


def response(system, T=80):
    return simulate(system, np.ones((T, 1)))[0]


@pytest.mark.parametrize("size", [1.0, 100.0, 1e3, 1e6])
@pytest.mark.parametrize("name", BUILD)
def test_units_of_the_states_do_not_change_the_start(name, size):
    A, B, C = linear()
    T = np.diag([size, 1.0])
    model = BUILD[name]().double()
    model.start_linear(T @ A @ np.linalg.inv(T), T @ B, C @ np.linalg.inv(T))
    y, steady = response(model.freeze()), np.ones(1)
    x, expected = np.zeros(2), []
    for _ in range(80):
        expected.append(C @ x)
        x = A @ x + B[:, 0]
    np.testing.assert_allclose(y, expected, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(y[-1], steady, atol=1e-2)


def test_states_that_are_nearly_parallel_and_states_that_no_input_reaches_are_balanced():
    A, B, C = linear()
    T = np.array([[1.0, 1.0], [1.0, 1.0 + 1e-5]])
    model = LTI(nu=1, ny=1, nx=2).double()
    model.start_linear(T @ A @ np.linalg.inv(T), T @ B, C @ np.linalg.inv(T))
    np.testing.assert_allclose(response(model.freeze())[-1], 1.0, atol=1e-2)
    still = Linear(np.diag([0.9, 0.5]), np.array([[1e4], [0.0]]), np.ones((1, 2)), np.zeros((1, 1)))
    new = still.balanced()
    assert new.steady_gain() == pytest.approx(still.steady_gain())
    np.testing.assert_allclose(new.reach()[0, 0], 1.0, rtol=1e-3)


def test_a_start_that_is_another_model_is_warned_of(caplog):
    A, B, C = linear()
    with caplog.at_level(logging.WARNING, "controlrnn"):
        LTI(nu=1, ny=1, nx=2).start_linear(A, B, C)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "controlrnn"):
        LTI(nu=1, ny=1, nx=2, rate=0.85).start_linear(A, B, C)
    assert "another model" in caplog.text
    assert "raise the rate" in caplog.text


def test_a_state_map_is_shrunk_a_little_with_a_warning_or_refused(caplog):
    """A chain of lags has transients that are too large for a rate next to its poles, in any coordinates."""
    n = 6

    def start(pole, rate, coupling):
        model = ContractingR2DN(nu=1, ny=1, nx=n, rate=rate).double()
        model.start_linear(pole * np.eye(n) + coupling * np.eye(n, k=1), np.eye(n)[:, -1:], np.eye(n)[:1])
        return Linear(*(getattr(model.freeze(), name) for name in ("A", "B2", "C2", "D22"))).steady_gain()

    with caplog.at_level(logging.WARNING, "controlrnn"):
        assert start(0.7, 0.9, 0.3) == pytest.approx(1 / 0.3, rel=1e-4)
    assert not caplog.records
    with caplog.at_level(logging.WARNING, "controlrnn"), pytest.raises(SettingError, match=r"raise the rate|room"):
        start(0.88, 0.9, 0.1)  # a shrink that the rate allows would lose most of the gain


@pytest.mark.parametrize(
    "build",
    [
        lambda: models.RobustRNN(nu=1, ny=1, nx=2, nv=3, gamma=2.0),
        lambda: models.LipschitzREN(nu=1, ny=1, nx=2, nv=3, gamma=2.0),
        lambda: models.LipschitzR2DN(nu=1, ny=1, nx=2, nv=3, layers=(3,), gamma=2.0),
    ],
    ids=["RobustRNN", "LipschitzREN", "LipschitzR2DN"],
)
def test_a_refused_start_leaves_the_model_as_it_was(build):
    model, fresh = build(), build()
    with pytest.raises(SettingError):
        model.start_linear(np.diag([0.95, 0.9]), np.ones((2, 1)), np.ones((1, 2)))
    for name, value in model.state_dict().items():
        assert (value == fresh.state_dict()[name]).all(), name


@pytest.mark.parametrize("name", [n for n in BUILD if "Robust" not in n])
def test_zero_parameters_make_a_system_with_its_guarantee(name):
    model = BUILD[name]()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    loss = model(torch.ones(1, 5, 1)).square().sum()
    loss.backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)
    system = model.freeze()
    assert np.isfinite(simulate(system, np.ones((5, 1)))[0]).all()
    if model.guarantee() is not None:
        certify_by_construction(model)


def test_parameters_that_make_no_system_are_named():
    model = BUILD["RobustRNN"]()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    with pytest.raises(DataError, match=r"RobustRNN make no system.*other parameters"):
        model.freeze()
    with pytest.raises(DataError, match="RobustRNN make no system"):
        model.guarantee()
