"""What the data do not hold gets no gain: inputs that never move or move together. One short record sets no window."""

import numpy as np
import pytest

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import DataError
from controlrnn.identification import SimulationError, identify, identify_arx, identify_subspace
from controlrnn.models import LTI, ContractingREN, Elman


def steady(system, at, step=1e-3):
    """Steady gains of a frozen system around an input, by settling runs."""
    rows = np.concatenate([[at], at + step * np.eye(system.nu)])
    y = system.simulate(np.repeat(rows[:, None], 400, axis=1))[0][:, -1]
    return (y[1:] - y[0]).T / step


def record(seed, kind, eps=0.0, T=300):
    """First-order plant of gains 1 and 1 (2 where it never moves in the data)."""
    rng = np.random.default_rng(seed)
    u1 = np.repeat(rng.uniform(-1, 1, T // 5), 5)
    u2 = np.full(T, 3.0) if kind == "still" else 2 * u1 + eps * rng.standard_normal(T)
    x, y = 0.0, np.zeros(T)
    for t in range(T):
        y[t] = x
        x = 0.6 * x + 0.4 * (u1[t] + (0.0 if kind == "still" else u2[t]))
    y += 0.02 * rng.standard_normal(T)
    return Trajectory(np.stack([u1, u2], axis=1), y[:, None], 1.0, name=f"r{seed}")


def linear(records):
    return (identify_subspace(records, 1).system, identify_arx(records, 1, 1).system)


def test_an_input_that_never_moves_has_no_gain_in_linear_models(caplog):
    for model in linear([record(s, "still") for s in range(3)]):
        gains = steady(model, np.array([0.0, 3.0]))
        assert gains[0, 0] == pytest.approx(1.0, abs=0.05)
        assert gains[0, 1] == 0.0
    assert "u2" in caplog.text
    assert "gain zero" in caplog.text


@pytest.mark.parametrize("eps", [0.0, 1e-9, 1e-4])
def test_inputs_that_move_together_share_their_gain(eps):
    for model in linear([record(s, "together", eps) for s in range(3)]):
        gains = steady(model, np.zeros(2))
        assert gains @ [1, 2] == pytest.approx(3.0, abs=0.05)
        assert np.abs(gains).max() < 3


def test_inputs_that_move_apart_keep_their_gains():
    for model in linear([record(s, "together", 0.5) for s in range(3)]):
        np.testing.assert_allclose(steady(model, np.zeros(2)), [[1.0, 1.0]], atol=0.05)


MODELS = (
    LTI(nu=2, ny=1, nx=1, seed=0),
    Elman(nu=2, ny=1, nx=4, seed=0),
    ContractingREN(nu=2, ny=1, nx=2, nv=3, seed=0),
)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_an_input_that_never_moves_has_no_gain_in_trained_models(model, caplog):
    data = Dataset(tuple(record(s, "still") for s in range(3)), (record(3, "still"),))
    fit = identify(model, data, loss=SimulationError(washout=20), steps=60, window=80)
    gains = steady(fit.system, np.array([0.1, 3.0]), step=1.0)
    assert abs(gains[0, 1]) < 1e-6
    assert "no gain for them" in caplog.text


def test_records_without_any_move_are_refused():
    r = record(0, "still")
    still = Trajectory(np.ones_like(r.u), r.y, 1.0)
    for method in (lambda: identify_subspace([still], 1), lambda: identify_arx([still], 1, 1)):
        with pytest.raises(DataError, match="never move in these records"):
            method()


def test_one_short_record_does_not_set_the_window_of_all(caplog):
    records = (*(record(s, "together", 0.5) for s in range(4)), record(9, "together", 0.5, T=25))
    data = Dataset(records, (record(5, "together", 0.5),))
    fit = identify(LTI(nu=2, ny=1, nx=1, seed=0), data, loss=SimulationError(washout=20), steps=5)
    assert "1 training records are shorter than a window of 270" in caplog.text
    assert fit.scores["train"].rmse[0] < 0.1
    with pytest.raises(DataError, match="hold a window of 100"):
        identify(LTI(nu=2, ny=1, nx=1, seed=0), data, loss=SimulationError(washout=20), steps=5, window=100)
