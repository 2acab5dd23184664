"""The convex sets of 2020: barrier, halved steps, exact and nearest linear starts."""

import numpy as np
import pytest
import torch
from attacks import worst_gain

from controlrnn.certification import certify_by_construction
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import CertificationError, SettingError
from controlrnn.identification import identify
from controlrnn.identification.training.robust_start import start_robust_rnn
from controlrnn.models import RobustRNN

A = np.array([[0.9, 0.2], [-0.2, 0.85]])
B, C = np.array([[0.0], [0.5]]), np.array([[1.0, 0.0]])


def wild_step(model, seed, size=0.5):
    rng = torch.Generator().manual_seed(seed)
    before = [p.detach().clone() for p in model.parameters()]
    with torch.no_grad():
        for p in model.parameters():
            p.add_(size * torch.randn(p.shape, generator=rng, dtype=torch.float64).to(p))
    return before


@pytest.mark.parametrize("gamma", [None, 3.0])
@pytest.mark.parametrize("rate", [0.98, 1.0])
def test_steps_end_inside_and_the_promise_holds(gamma, rate):
    model = RobustRNN(nu=2, ny=2, nx=3, nv=4, gamma=gamma, rate=rate, feedthrough=True)
    assert model.is_feasible()
    assert torch.isfinite(model.barrier())
    halved = 0
    for seed in range(20):
        before = wild_step(model, seed)
        halved += not model.is_feasible()
        model.after_step(before)
        assert model.is_feasible()
        construction = certify_by_construction(model)
        assert construction.contraction.rate <= rate
        assert (construction.dissipation is None) == (gamma is None)
    assert halved > 3, "no step left the set, so nothing was tested"
    if gamma is not None:
        assert worst_gain(model.freeze(), np.ones(2), np.ones(2)) <= gamma


def test_outside_the_set_nothing_is_promised():
    model = RobustRNN(nu=1, ny=1, nx=2, gamma=1.0)
    with torch.no_grad():
        model.F.mul_(5)
    assert not model.is_feasible()
    assert model.guarantee() is None
    assert model.barrier() == torch.inf


def test_the_barrier_pushes_inside():
    model = RobustRNN(nu=1, ny=1, nx=2, nv=3, gamma=2.0).double()
    size = torch.linalg.eigvalsh(model.inequality())[0].item()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(50):
        optimiser.zero_grad()
        model.penalty(0.0).backward()
        optimiser.step()
    assert torch.linalg.eigvalsh(model.inequality())[0].item() > size
    assert model.penalty(1.0).item() == pytest.approx(1e-4 * model.penalty(0.0).item())


def test_linear_start_is_exact_up_to_the_gain():
    model = RobustRNN(nu=1, ny=1, nx=2, nv=3, gamma=10.0, rate=0.99).double()
    model.start_linear(A, B, C)
    system = model.freeze()
    for found, expected in ((system.A, A), (system.B2, B), (system.C2, C)):
        np.testing.assert_allclose(found, expected, atol=1e-10)
    with pytest.raises(SettingError, match="gain"):
        RobustRNN(nu=1, ny=1, nx=2, gamma=0.5).start_linear(A, B, C)


def test_nearest_start_is_close_inside_and_best_effort_outside():
    u = np.random.default_rng(0).normal(size=(200, 1))
    errors = {}
    for gamma in (None, 10.0, 1.0):
        model = RobustRNN(nu=1, ny=1, nx=2, nv=3, gamma=gamma).double()
        start_robust_rnn(model, A, B, C, samples=300)
        x, y = np.zeros(2), []
        for v in u:
            y.append(C @ x)
            x = A @ x + B @ v
        y = np.array(y)
        errors[gamma] = np.std(model.freeze().simulate(u)[0] - y) / np.std(y)
        construction = certify_by_construction(model)
        if gamma:
            assert worst_gain(construction.system, np.ones(1), np.ones(1)) <= gamma
    assert errors[None] < 0.05
    assert errors[10.0] < 0.05
    assert 0.1 < errors[1.0] < 1.0


def test_identify_keeps_the_model_inside():
    rng = np.random.default_rng(1)
    u = rng.normal(size=(600, 1))
    y = np.convolve(u[:, 0], 0.2 * 0.8 ** np.arange(30))[:600, None]
    data = Dataset((Trajectory(u[:300], y[:300], 0.1),), (Trajectory(u[300:], y[300:], 0.1),))
    model = RobustRNN(nu=1, ny=1, nx=2, nv=3, gamma=2.0)
    fit = identify(model, data, steps=60, window=100, validate_every=30, learning_rate=3e-2)
    assert fit.best_validation <= fit.history["validation"][0]
    assert certify_by_construction(fit.model).dissipation.gamma == 2.0


@pytest.mark.parametrize("gamma", [0.0, -1.0, np.nan, np.inf, 1.7e308, 1e101])
def test_gains_without_a_square_are_refused(gamma):
    with pytest.raises(SettingError, match="gamma must be"):
        RobustRNN(nu=1, ny=1, nx=2, gamma=gamma)


@pytest.mark.parametrize("name", ["A", "B", "C", "D"])
def test_starts_beyond_float64_are_refused_and_leave_the_model(name):
    model = RobustRNN(nu=1, ny=1, nx=2, nv=3, feedthrough=True)
    before = [p.detach().clone() for p in model.parameters()]
    linear = {"A": 0.5 * np.eye(2), "B": np.ones((2, 1)), "C": np.ones((1, 2)), "D": np.zeros((1, 1))}
    with pytest.raises(CertificationError):
        start_robust_rnn(model, **linear | {name: np.full_like(linear[name], 1.7e308)}, samples=20)
    assert all(torch.equal(p, old) for p, old in zip(model.parameters(), before, strict=True))
