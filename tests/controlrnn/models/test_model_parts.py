"""What the models are built of: the contracting core, the sandwich network, the linear start, the common base."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.data import Scaler
from controlrnn.errors import SettingError, ShapeError
from controlrnn.models import LTI, ContractingR2DN, Elman
from controlrnn.models.parts.contracting_linear import ContractingLinear, inside_disc
from controlrnn.models.parts.sandwich import CayleyPair, SandwichNetwork


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), rate=st.sampled_from([0.5, 0.9, 1.0]), log=st.integers(-3, 3), n=st.integers(1, 5))
def test_core_contracts_in_its_metric_for_any_parameters(seed, rate, log, n):
    core = ContractingLinear(n, rate, rng()).double()
    with torch.no_grad():
        for p in core.parameters():
            p.copy_(10.0**log * torch.randn(p.shape, generator=rng(seed), dtype=torch.float64))
    E, F, P = (m.detach().numpy() for m in core.implicit())
    M = E.T @ np.linalg.solve(P, E)
    A = np.linalg.solve(E, F)
    gap = rate**2 * M - A.T @ M @ A
    assert np.linalg.eigvalsh(0.5 * (gap + gap.T))[0] > -1e-9 * np.linalg.norm(M, 2)


@settings(max_examples=30)
@given(
    seed=st.integers(0, 10**6),
    rate=st.sampled_from([0.6, 0.95, 1.0]),
    n=st.integers(1, 6),
    room=st.sampled_from([0, 1e-3, 1e3]),
)
def test_core_starts_exactly_at_a_stable_state_map(seed, rate, n, room):
    draw = np.random.default_rng(seed)
    A = draw.normal(size=(n, n))
    A *= draw.uniform(0, 0.95) * rate / np.abs(np.linalg.eigvals(A)).max()
    G = draw.normal(size=(n, n))
    G = room * G @ G.T
    core = ContractingLinear(n, rate, rng()).double()
    np.testing.assert_array_equal(core.start_at(A, G), A)
    E, F, _ = (m.detach().numpy() for m in core.implicit(torch.block_diag(torch.tensor(G), torch.zeros(n, n))))
    np.testing.assert_allclose(np.linalg.solve(E, F), A, atol=1e-8)


def test_unstable_maps_are_moved_inside():
    A = np.diag([1.5, 0.3])
    moved = inside_disc(A, 0.9)
    assert np.abs(np.linalg.eigvals(moved)).max() == pytest.approx(0.995 * 0.9)
    inside = np.diag([0.5, 0.3])
    assert inside_disc(inside, 0.9) is inside
    slow = np.diag([0.999, 0.3])
    assert inside_disc(slow, 1.0) is slow
    assert np.abs(np.linalg.eigvals(inside_disc(np.diag([0.9999, 0.3]), 1.0))).max() == pytest.approx(0.995)
    for rate in (0.0, -1.0, 1.1, np.nan):
        with pytest.raises(SettingError, match="rate"):
            ContractingLinear(2, rate, rng())


@settings(max_examples=30)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e3]), n=st.integers(1, 5), m=st.integers(1, 5))
def test_cayley_pair_is_orthogonal(seed, scale, n, m):
    cayley = CayleyPair(m, n, rng(seed)).double()
    with torch.no_grad():
        cayley.a.mul_(scale)
        A, B = cayley.pair()
    assert (A.shape, B.shape) == ((n, n), (n, m))
    np.testing.assert_allclose((A @ A.T + B @ B.T).numpy(), np.eye(n), atol=1e-8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("scale", [1e-2, 1.0, 1e2])
def test_sandwich_network_is_nonexpansive(seed, scale):
    net = SandwichNetwork(3, 2, (5, 4), rng(seed)).double()
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(scale)
        for d in net.d:
            d.copy_(torch.randn(d.shape, generator=rng(seed), dtype=torch.float64))
    h = torch.randn(2000, 3, generator=rng(seed), dtype=torch.float64)
    jacobians = torch.func.vmap(torch.func.jacrev(net))(h)
    assert torch.linalg.matrix_norm(jacobians, ord=2).max() <= 1 + 1e-9


def test_scalers_and_settings_are_checked():
    model = LTI(nu=2, ny=1, nx=3)
    with pytest.raises(ShapeError, match="inputs must have 2"):
        model.set_units(Scaler.identity(1), Scaler.identity(1), 1.0)
    with pytest.raises(SettingError):
        model.set_units(Scaler.identity(2), Scaler.identity(1), 0.0)
    with pytest.raises(SettingError, match="hidden layer"):
        ContractingR2DN(nu=1, ny=1, nx=1, layers=())
    with pytest.raises(SettingError, match="feedthrough"):
        LTI(nu=1, ny=1, nx=1).start_linear(np.eye(1) / 2, np.ones((1, 1)), np.ones((1, 1)), np.ones((1, 1)))
    with pytest.raises(ValueError, match="softplus"):
        Elman(nu=1, ny=1, nx=1, activation="softplus")


def test_counts_of_parameters():
    assert Elman(nu=2, ny=3, nx=4).n_parameters == 16 + 8 + 4 + 12 + 3
