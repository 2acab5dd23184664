"""The other models: gated cells against torch's, discretisations against their equation, norms, guarantees."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.certification import certificate_from, certify_by_construction, certify_contraction, load_certificate
from controlrnn.errors import CertificationError, SettingError, ShapeError
from controlrnn.models import (
    GRU,
    LSTM,
    AntisymmetricRNN,
    CayleyRNN,
    ContractingImplicitRNN,
    ContractingR2DN,
    Elman,
    LipschitzREN,
    LipschitzRNN,
    NeuralODERNN,
    StableRNN,
)
from controlrnn.models.parts.definite import PositiveDefinite
from controlrnn.models.parts.guarantee import sector_factor
from controlrnn.models.parts.strict_contraction import STRICT, StrictContraction
from controlrnn.systems import Activation, GatedSystem


@settings(max_examples=30)
@given(
    rows=st.integers(1, 4), columns=st.integers(1, 4), seed=st.integers(0, 10**6), log=st.integers(-3, 3),
    size=st.sampled_from([1.0, 1e4]),
)  # fmt: skip
def test_strict_contractions_stay_below_one_and_start_anywhere(rows, columns, seed, log, size):
    rng = np.random.default_rng(seed)
    module = StrictContraction(rows, columns, size=size).double()
    assert not module.matrix().detach().numpy().any()
    with torch.no_grad():
        for p in module.parameters():
            p.copy_(10.0**log * size * torch.tensor(rng.normal(size=tuple(p.shape))))
    assert np.linalg.norm(module.matrix().detach().numpy(), 2) <= STRICT * (1 + 1e-12)
    N = rng.normal(size=(rows, columns))
    N *= rng.uniform(0, 0.999) / np.linalg.norm(N, 2)
    module.start_at(N)
    np.testing.assert_allclose(module.matrix().detach().numpy(), N, atol=1e-9)
    with pytest.raises(SettingError, match="norm below"):
        module.start_at(N / np.linalg.norm(N, 2))


def test_positive_definite_starts_where_told_at_any_scale():
    rng = np.random.default_rng(0)
    X = rng.normal(size=(5, 5))
    for scale in (1e-6, 1.0, 1e6):
        module = PositiveDefinite(5).double()
        H = scale * (X @ X.T + 0.1 * np.eye(5))
        module.start_at(H)
        np.testing.assert_allclose(module.matrix().detach().numpy(), H, rtol=1e-10, atol=1e-12 * scale)
    with pytest.raises(SettingError, match="room to spare"):
        module.start_at(np.diag([1.0, 1.0, 1.0, 1.0, 0.0]))


@settings(max_examples=50)
@given(alpha=st.floats(0, 0.9), width=st.floats(0.05, 1), v=st.floats(-5, 5), w=st.floats(-5, 5))
def test_sector_factor_turns_one_sector_into_another(alpha, width, v, w):
    beta = min(alpha + width, 1.0)
    c = sector_factor(alpha, beta)
    left, right = c * (w - alpha * v) * (beta * v - w), w * (v - w)
    assert left <= right + 1e-9 * (1 + c) * (v**2 + w**2)


@pytest.mark.parametrize("activation", list(Activation))
def test_guarantees_hold_for_every_activation(activation):
    for make in (ContractingR2DN, StableRNN, ContractingImplicitRNN):
        model = make(nu=1, ny=1, nx=3, rate=0.9, activation=activation)
        assert certify_by_construction(model).contraction.rate == 0.9


def test_gated_cells_are_torchs():
    u = torch.randn(4, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    model = LSTM(nu=2, ny=3, nx=5, feedthrough=True).double()
    reference = torch.nn.LSTM(2, 5, batch_first=True).double()
    order = [0, 1, 3, 2]  # torch stacks i, f, g, o
    with torch.no_grad():
        stacked = {
            n: torch.cat([p.chunk(4)[k] for k in order]) for n, p in (("W", model.W), ("U", model.U), ("b", model.b))
        }
        reference.weight_ih_l0.copy_(stacked["W"])
        reference.weight_hh_l0.copy_(stacked["U"])
        reference.bias_ih_l0.copy_(stacked["b"])
        reference.bias_hh_l0.zero_()
        expected = reference(u)[0] @ model.C.T + model.by
        torch.testing.assert_close(model(u), expected, rtol=1e-12, atol=1e-12)
    # torch multiplies the reset gate after U, Cho et al. before; with one unit of diagonal weight both agree.
    gru, other = GRU(nu=2, ny=3, nx=1, feedthrough=True).double(), torch.nn.GRU(2, 1, batch_first=True).double()
    with torch.no_grad():
        other.weight_ih_l0.copy_(gru.W)
        other.weight_hh_l0.copy_(gru.U)
        other.bias_ih_l0.copy_(gru.b)
        other.bias_hh_l0.zero_()
        torch.testing.assert_close(gru(u), other(u)[0] @ gru.C.T + gru.by, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("make", [LSTM, GRU])
def test_gated_units_remember_for_5_to_50_samples(make):
    system = make(nu=1, ny=1, nx=8, seed=2).freeze()
    n = system.units
    gate = system.b[n : 2 * n]
    memory = 1 / (1 - 1 / (1 + np.exp(-gate)))
    assert (memory > 4.9).all()
    assert (memory < 51).all()
    assert system.nx == (16 if make is LSTM else 8)
    with pytest.raises(ShapeError, match="u must have shape"):
        system.simulate(np.zeros((5, 2)))
    with pytest.raises(ShapeError, match="U must have shape"):
        GatedSystem(W=system.W, U=system.U[:-1], b=system.b, C=system.C, by=system.by, cell=system.cell, dt=1.0)


def test_discretisations_follow_the_differential_equation():
    """Halving the step halves the error against a fine Euler run of the same parameters."""
    for implicitness in (0.0, 0.25, 1.0):
        ends = {}
        for steps in (40, 80, 4000):
            model = LipschitzRNN(nu=1, ny=1, nx=4, step=2.0 / steps, implicitness=implicitness, seed=1).double()
            with torch.no_grad():
                model.M.mul_(10)
                model.V.mul_(10)
            ends[steps] = model.freeze().simulate(np.ones((steps, 1)), np.ones(4))[1][-1]
        coarse, fine = (np.linalg.norm(ends[n] - ends[4000]) for n in (40, 80))
        assert 0.4 < fine / coarse < 0.6


@pytest.mark.parametrize("implicitness", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("alpha", [0.0, 0.7])
def test_the_lipschitz_network_solves_its_step_equation(implicitness, alpha):
    """Eqs. 14 and 16: h+ = h + e s(v) + e alpha ((1 - rho) A h + rho A h+), with A from the parameters."""
    step, beta, gamma = 0.3, 0.6, 0.05
    options = {"step": step, "beta": beta, "gamma": gamma, "alpha": alpha, "implicitness": implicitness}
    model = LipschitzRNN(nu=2, ny=1, nx=4, init_std=1.0, **options).double()
    M, V, U, b = (p.detach().numpy() for p in (model.M, model.V, model.U, model.b))
    A, W = ((1 - beta) * (K + K.T) + beta * (K - K.T) - gamma * np.eye(4) for K in (M, V))
    h, u = np.random.default_rng(0).normal(size=(2, 10, 4))
    u = u[:, :2]
    after = model.freeze().step(h, u)
    slope = (1 - implicitness) * h @ A.T + implicitness * after @ A.T
    np.testing.assert_allclose(after, h + step * np.tanh(h @ W.T + u @ U.T + b) + step * alpha * slope, rtol=1e-12)


@pytest.mark.parametrize("implicitness", [0.5, 1.0])
def test_implicit_steps_of_any_length_keep_damped_poles_inside_the_circle(implicitness):
    for step in (0.1, 10.0, 1e4):
        options = {"step": step, "beta": 1.0, "gamma": 0.1, "implicitness": implicitness, "init_std": 1.0}
        poles = np.linalg.eigvals(LipschitzRNN(nu=1, ny=1, nx=6, **options).freeze().A)
        assert (np.abs(poles) < 1).all()
    explicit = LipschitzRNN(nu=1, ny=1, nx=6, step=10.0, beta=1.0, gamma=0.1, init_std=1.0).freeze()
    assert np.abs(np.linalg.eigvals(explicit.A)).max() > 1


def test_starts_have_the_spread_of_the_papers():
    lipschitz = LipschitzRNN(nu=1, ny=1, nx=200, init_std=0.1 / 200)
    for M in (lipschitz.M, lipschitz.V, NeuralODERNN(nu=1, ny=1, nx=200, decay=0.0, init_std=0.1 / 200).K):
        assert M.std().item() == pytest.approx(0.1 / 200, rel=0.02)
        assert abs(M.mean().item()) < 4 * 0.1 / 200 / 200
        assert abs(M.trace().item()) < 4 * 0.1 / 200 * 200**0.5
    for model in (NeuralODERNN(nu=1, ny=1, nx=200), AntisymmetricRNN(nu=1, ny=1, nx=200, init_std=0.3 / 200**0.5)):
        assert (model.K + 0.5 * torch.eye(200)).std().item() == pytest.approx(0.3 / 200**0.5, rel=0.02)


def test_the_uniform_start_is_torchs():
    """Same distribution as ``torch.nn.RNN``: bounds, and variances 1 / (3 n) of weights and 2 / (3 n) of biases."""
    n = 400
    model = Elman(nu=30, ny=2, nx=n, memory=None)
    reference = torch.nn.RNN(30, n)
    for own, other in ((model.W, reference.weight_hh_l0), (model.U, reference.weight_ih_l0)):
        assert own.abs().max() <= n**-0.5
        assert own.var().item() == pytest.approx(other.var().item(), rel=0.05)
        assert own.var().item() == pytest.approx(1 / (3 * n), rel=0.05)
    assert model.b.var().item() == pytest.approx(2 / (3 * n), rel=0.2)


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid"])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_cayley_weights_are_orthogonal_and_differences_never_grow(activation, scale):
    model = CayleyRNN(nu=2, ny=1, nx=6, activation=activation, init_std=scale).double()
    system = model.freeze()
    np.testing.assert_allclose(system.C1 @ system.C1.T, np.eye(6), atol=1e-12)
    assert np.linalg.eigvals(system.C1).real.min() > -1
    rng = np.random.default_rng(0)
    x, u = 2 * rng.normal(size=(2, 50, 6)), rng.normal(size=(50, 30, 2))
    (_, a), (_, b) = (system.simulate(u, start) for start in x)
    apart = np.linalg.norm(a - b, axis=-1)
    assert (np.diff(apart, axis=1) <= 1e-12).all()


@pytest.mark.parametrize("bad", [{"alpha": -1.0}, {"implicitness": 1.5}, {"implicitness": -0.1}, {"init_std": 0.0}])
def test_bad_settings_of_the_lipschitz_network_are_refused(bad):
    with pytest.raises(SettingError, match=next(iter(bad))):
        LipschitzRNN(nu=1, ny=1, nx=2, **bad)


@pytest.mark.parametrize("beta", [0.5, 0.75, 1.0])
def test_corrected_spectral_bounds_of_the_lipschitz_network(beta):
    """Proposition 2 with gamma subtracted once; as printed, twice, it does not hold."""
    gamma, step = 0.3, 0.1
    model = LipschitzRNN(nu=1, ny=1, nx=6, step=step, beta=beta, gamma=gamma).double()
    A = (model.freeze().A - np.eye(6)) / step
    M = model.M.detach().numpy()
    extremes = (1 - beta) * np.linalg.eigvalsh(M + M.T)[[0, -1]]
    real = np.linalg.eigvals(A).real
    assert extremes[0] - gamma - 1e-12 <= real.min()
    assert real.max() <= extremes[1] - gamma + 1e-12
    assert real.max() > extremes[1] - 2 * gamma or beta < 1


def test_a_hurwitz_matrix_does_not_make_the_lipschitz_network_stable():
    """The counterexample to Proposition 1: h' = -0.1 h + tanh(5 h)."""
    model = LipschitzRNN(nu=1, ny=1, nx=1, step=0.01, beta=1.0, gamma=0.1, gamma_w=0.0).double()
    with torch.no_grad():
        model.b.zero_()
        model.V.zero_()
    stable = model.freeze()
    assert certify_contraction(stable).rate < 1
    model.gamma = (0.1, -5.0)
    system = model.freeze()
    np.testing.assert_allclose(system.C1, [[5.0]])
    _, x = system.simulate(np.zeros((2000, 1)), np.array([1e-6]))
    assert abs(x[-1, 0]) > 5
    with pytest.raises(CertificationError):
        certify_contraction(system)


def test_antisymmetric_weights_are_skew_up_to_damping():
    model = AntisymmetricRNN(nu=1, ny=1, nx=5, gamma=0.2, step=0.05)
    W = model.freeze().C1
    np.testing.assert_allclose(W + W.T, -0.4 * np.eye(5), atol=1e-12)
    np.testing.assert_array_equal(NeuralODERNN(nu=1, ny=1, nx=5, step=0.05).freeze().B1, 0.05 * np.eye(5))


def test_the_clamp_brings_the_norm_back_and_only_then_promises():
    model = StableRNN(nu=1, ny=1, nx=4, rate=0.9, clamp=True)
    with torch.no_grad():
        model.W.mul_(3)
    assert model.guarantee() is None
    model.after_step([])
    assert np.linalg.norm(model.freeze().C1, 2) == pytest.approx(0.9, rel=1e-3)
    assert certify_by_construction(model).contraction.rate == 0.9


def test_gain_certificates_save_themselves_and_refuse_other_claims(tmp_path):
    model = LipschitzREN(nu=1, ny=2, nx=3, gamma=2.0)
    construction = certify_by_construction(model)
    certificate, system = construction.dissipation, construction.system
    certificate.save(tmp_path / "gain.npz")
    again = load_certificate(tmp_path / "gain.npz")
    assert again.verify(system) == certificate.margin
    assert again.gamma == 2.0
    assert "at most 2" in again.summary()
    model.C2.data.mul_(1.001)
    with pytest.raises(CertificationError, match="weights differ"):
        certificate.verify(model.freeze())
    claim = {"metric": certificate.metric, "multipliers": certificate.multipliers, "input_scale": np.ones(1)}
    with pytest.raises(CertificationError, match="not proven"):
        type(certificate).prove_gain(system, 0.05, output_scale=np.ones(2), **claim)
    with pytest.raises(CertificationError, match="prove no"):
        certificate_from(system, np.diag([1.0, 1e-9, 1.0]), np.zeros(system.nv))
