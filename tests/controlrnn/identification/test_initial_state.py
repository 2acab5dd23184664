from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.identification import estimate_initial_state
from controlrnn.identification.linear.regression import lti
from controlrnn.models import GRU, ContractingR2DN


def r2dn(seed):
    model = ContractingR2DN(nu=1, ny=2, nx=2, nv=3, layers=(5,), seed=seed)
    with torch.no_grad():
        model.B.normal_(generator=torch.Generator().manual_seed(seed))
    return model.freeze()


@settings(max_examples=10)
@given(st.integers(0, 10**6))
def test_recovers_the_true_state_of_a_nonlinear_system(seed):
    rng = np.random.default_rng(seed)
    system, x0 = r2dn(seed), rng.normal(size=2)
    u = rng.normal(size=(40, 1))
    y, _ = system.simulate(u, x0)
    found = estimate_initial_state(system, u, y, 30)
    again, _ = system.simulate(u, found)
    np.testing.assert_allclose(again[:30], y[:30], atol=1e-5)


def test_equals_the_closed_form_for_a_linear_system_under_noise():
    rng = np.random.default_rng(0)
    A, C = np.array([[0.9, 0.3], [-0.2, 0.7]]), np.array([[1.0, 0.5]])
    system = lti(A, np.ones((2, 1)), C, np.zeros((1, 1)), 1.0)
    u, n = rng.normal(size=(25, 1)), 25
    y = system.simulate(u, np.array([2.0, -1.0]))[0] + 0.1 * rng.normal(size=(25, 1))
    observability = np.concatenate([C @ np.linalg.matrix_power(A, t) for t in range(n)])
    expected = np.linalg.lstsq(observability, (y - system.simulate(u)[0]).ravel(), rcond=None)[0]
    np.testing.assert_allclose(estimate_initial_state(system, u, y, n), expected, atol=1e-7)


def test_unobservable_directions_stay_at_zero():
    system = lti(np.diag([0.9, 0.5]), np.zeros((2, 1)), np.array([[1.0, 0.0]]), np.zeros((1, 1)), 1.0)
    y = 3.0 * 0.9 ** np.arange(20)[:, None]
    np.testing.assert_allclose(estimate_initial_state(system, np.zeros((20, 1)), y, 20), [3.0, 0.0], atol=1e-8)


def test_an_unstable_system_gives_a_finite_state():
    system = lti(np.array([[1e30]]), np.ones((1, 1)), np.ones((1, 1)), np.zeros((1, 1)), 1.0)
    assert np.isfinite(estimate_initial_state(system, np.ones((30, 1)), np.ones((30, 1)), 30)).all()


def test_bad_input_is_refused():
    system, u, y = r2dn(0), np.zeros((10, 1)), np.zeros((10, 2))
    with pytest.raises(DataError, match="at least n = 11"):
        estimate_initial_state(system, u, y, 11)
    with pytest.raises(ShapeError, match="y must have shape"):
        estimate_initial_state(system, u, y[:, :1], 5)
    with pytest.raises(SettingError, match="frozen"):
        estimate_initial_state(ContractingR2DN(nu=1, ny=2, nx=2).system(), u, y, 5)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e8])
def test_the_units_of_the_states_do_not_matter(size):
    """Each state in a unit of its own: the run is the same, the state found is that of the other units."""
    rng, system = np.random.default_rng(0), r2dn(3)
    units = np.array([size, 1.0])
    other = replace(
        system,
        A=system.A * units / units[:, None],
        B1=system.B1 / units[:, None],
        B2=system.B2 / units[:, None],
        bx=system.bx / units,
        C1=system.C1 * units,
        C2=system.C2 * units,
    )
    u, x0 = rng.normal(size=(40, 1)), rng.normal(size=2)
    y, _ = system.simulate(u, x0)
    np.testing.assert_allclose(estimate_initial_state(other, u, y, 30) * units, x0, rtol=1e-6)


def test_gated_systems_are_supported():
    system = GRU(nu=1, ny=2, nx=2, seed=1).freeze()
    rng = np.random.default_rng(0)
    u, x0 = rng.normal(size=(40, 1)), np.array([0.4, -0.3])
    y, _ = system.simulate(u, x0)
    np.testing.assert_allclose(estimate_initial_state(system, u, y, 30), x0, atol=1e-5)
