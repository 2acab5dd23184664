import numpy as np
import pytest

from controlrnn.data import Timing, Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.identification import free_run, identify_arx, identify_subspace, initial_states, rmse, select_arx
from controlrnn.identification.linear.regression import lti
from controlrnn.identification.linear.subspace import order_from_gap, subspace_models

A = np.array([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.1], [0.0, 0.0, 0.7]])
B = np.array([[0.3, 0.0], [0.0, 0.5], [1.0, -0.4]])
C = np.array([[1.0, 0.0, 0.5], [0.0, 2.0, 0.0]])
D = np.array([[0.1, 0.0], [0.0, -0.3]])


def records(through, lengths=(400, 250), noise=0.0, seed=0):
    """Records of a known system with offsets in input and output and non-zero initial states."""
    rng = np.random.default_rng(seed)
    system = lti(A, B, C, D if through else np.zeros((2, 2)), 0.5, by=np.array([5.0, -40.0]))
    for T in lengths:
        u = 3.0 + 2.0 * rng.normal(size=(T, 2))
        y, _ = system.simulate(u, rng.normal(size=3))
        timing = Timing.INPUT_FIRST if through else Timing.MEASURED_FIRST
        yield Trajectory(u, y + noise * rng.normal(size=y.shape), 0.5, timing=timing)


def markov(system, n=20):
    """Impulse response: does not depend on the coordinates of the state."""
    return np.array([system.D22] + [system.C2 @ np.linalg.matrix_power(system.A, k) @ system.B2 for k in range(n)])


def truth(through):
    return markov(lti(A, B, C, D if through else np.zeros((2, 2)), 0.5))


@pytest.mark.parametrize("through", [True, False])
def test_subspace_recovers_a_known_system_exactly_without_noise(through):
    data = list(records(through))
    model = identify_subspace(data, 3, strictly_proper=not through)
    poles, expected = (np.sort_complex(np.linalg.eigvals(M)) for M in (model.A, A))
    np.testing.assert_allclose(poles, expected, atol=1e-6)
    np.testing.assert_allclose(markov(model.system), truth(through), atol=1e-6)
    runs, _ = free_run(model.system, data, model.x0)
    for run, record in zip(runs, data, strict=True):  # offsets and initial states as well
        np.testing.assert_allclose(run, record.y, atol=1e-5)


def test_subspace_finds_the_order_by_itself():
    assert identify_subspace(list(records(True))).nx == 3
    assert order_from_gap(np.array([5.0, 4.0, 3.0, 1e-9, 5e-10])) == 3


def test_subspace_is_consistent_under_noise():
    errors = []
    for T in (400, 6400):
        model = identify_subspace(list(records(False, (T,), noise=0.5, seed=1)), 3, strictly_proper=True)
        errors.append(np.abs(markov(model.system) - truth(False)).max())
    assert errors[1] < errors[0] / 2
    assert errors[1] < 0.05


@pytest.mark.parametrize("strictly_proper", [True, False])
def test_models_of_several_orders_are_those_of_each_order_alone(strictly_proper):
    data, orders = list(records(not strictly_proper, noise=0.1)), [3, 1, 2]
    for order, model in zip(orders, subspace_models(data, orders, 20, strictly_proper), strict=True):
        alone = identify_subspace(data, order, horizon=20, strictly_proper=strictly_proper)
        assert model.system.digest == alone.system.digest
    with pytest.raises(SettingError, match="raise horizon"):
        list(subspace_models(data, [99], 20, strictly_proper))


def test_subspace_keeps_poles_inside_a_given_radius():
    model = identify_subspace(list(records(False)), 3, max_radius=0.8)
    assert np.abs(np.linalg.eigvals(model.A)).max() <= 0.8 + 1e-12


def test_subspace_scales_its_states_to_order_one():
    data = list(records(True))
    model = identify_subspace(data, 3)
    _, states = free_run(model.system, data, model.x0)
    np.testing.assert_allclose(np.sqrt(np.mean(np.concatenate(states) ** 2, axis=0)), 1.0, rtol=0.2)


def test_subspace_refuses_bad_input():
    with pytest.raises(DataError, match="stretches"):
        identify_subspace(list(records(True, (40,))), 3)
    (record,) = records(True, (400,))
    sine = Trajectory(np.column_stack([np.sin(0.3 * np.arange(400)), np.ones(400)]), record.y, 0.5)
    with pytest.raises(DataError, match="excite"):
        identify_subspace([sine], 3)
    with pytest.raises(SettingError, match="horizon"):
        identify_subspace([record], 9, horizon=4)
    with pytest.raises(DataError, match="at least one record"):
        identify_subspace([], 3)


@pytest.mark.parametrize("through", [True, False])
def test_arx_recovers_an_arx_system_from_several_records(through):
    rng = np.random.default_rng(2)
    a = [np.array([[1.2, 0.1], [0.0, 0.8]]), np.array([[-0.4, 0.0], [0.1, -0.2]])]
    b = [np.array([[0.5], [0.0]]) * through, np.array([[1.0], [-2.0]]), np.array([[0.3], [0.7]])]

    def record(T):
        u, y = rng.normal(size=(T, 1)) + 2, np.zeros((T, 2))
        for t in range(2, T):
            y[t] = sum(M @ y[t - 1 - k] for k, M in enumerate(a)) + sum(M @ u[t - k] for k, M in enumerate(b)) + 7
        return Trajectory(u[2:], y[2:], 1.0, timing=Timing.INPUT_FIRST if through else Timing.MEASURED_FIRST)

    data = [record(150), record(90)]
    model = identify_arx(data, 2, 2, strictly_proper=not through)
    x0 = initial_states(model.system, data, 20)
    runs, _ = free_run(model.system, data, x0)
    for run, r in zip(runs, data, strict=True):
        np.testing.assert_allclose(run, r.y, atol=1e-6)
    poles = np.linalg.eigvals(np.block([[a[0], a[1]], [np.eye(2), np.zeros((2, 2))]]))
    found = np.linalg.eigvals(model.system.A)
    np.testing.assert_allclose(np.sort_complex(found), np.sort_complex(poles), atol=1e-6)


def test_arx_is_consistent_under_equation_noise_and_selection_finds_a_good_order():
    rng = np.random.default_rng(3)
    T = 20000
    u, y, e = rng.normal(size=(T, 1)), np.zeros((T, 1)), 0.3 * rng.normal(size=T)
    for t in range(2, T):
        y[t] = 1.5 * y[t - 1] - 0.7 * y[t - 2] + u[t - 1] + 0.5 * u[t - 2] + e[t]
    record = Trajectory(u, y, 1.0)
    model = identify_arx([record], 2, 2, strictly_proper=True)
    np.testing.assert_allclose(model.A.ravel(), [1.5, -0.7], atol=0.01)
    chosen = select_arx([record[:3000]], [record[3000:4000]], orders=range(1, 5), skip=20, strictly_proper=True)
    assert chosen.na >= 2
    x0 = initial_states(chosen.system, [record[4000:5000]], 20)
    (run,), _ = free_run(chosen.system, [record[4000:5000]], x0)
    clean, _ = model.system.simulate(u[4000:5000], initial_states(model.system, [record[4000:5000]], 20)[0])
    assert rmse(clean, run, skip=20)[0] < 0.2


def test_arx_refuses_too_short_records():
    with pytest.raises(DataError, match=r"ARX\(8, 8\) needs"):
        identify_arx(list(records(True, (20,))), 8, 8)
