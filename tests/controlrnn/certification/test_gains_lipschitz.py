"""Gains per lag, the single constant and local slopes: exact for linear systems, above every pair elsewhere."""

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import certify_gains, certify_horizon, certify_lipschitz, local_slopes
from controlrnn.certification.proof.slopes import slopes_on
from controlrnn.errors import SettingError
from controlrnn.systems import Activation
from controlrnn.systems.ops import NUMPY

SYSTEMS = [
    pytest.param(random_elman(1, nx=3), id="elman"),
    pytest.param(random_system(2, layers=(2, 2)), id="layered"),
    pytest.param(random_system(3, layers=(3,), activation="sigmoid"), id="sigmoid"),
    pytest.param(random_system(4, layers=(2, 1), activation="leaky_relu", norm=1.2), id="unstable"),
]
N = 5


def markov(system, lag):
    """Response of y at ``lag`` to an input at 0, for a linear system."""
    if not lag:
        return system.D22
    return system.C2 @ np.linalg.matrix_power(system.A, lag - 1) @ system.B2


def test_gains_of_a_linear_system_are_its_markov_parameters():
    system = random_system(5, layers=())
    gains = certify_gains(system, N)
    for lag in range(N + 1):
        np.testing.assert_allclose(gains.inputs[lag], np.abs(markov(system, lag)), rtol=1e-5, atol=1e-9)
        rows = system.C2 @ np.linalg.matrix_power(system.A, lag)
        np.testing.assert_allclose(gains.initial[lag], np.linalg.norm(rows, axis=1), rtol=1e-5)


def test_constant_of_a_linear_system_is_the_norm_of_its_response():
    system = random_system(5, layers=())
    response = [system.C2 @ np.linalg.matrix_power(system.A, N)] + [markov(system, lag) for lag in range(N + 1)]
    exact = np.linalg.norm(np.hstack(response), 2)
    assert exact <= certify_lipschitz(system, N).constant <= 1.002 * exact


@pytest.mark.parametrize("method", ["riccati", "sdp"])
def test_both_methods_find_the_constant_of_a_linear_system(method):
    system = random_system(6, layers=(), nu=1)
    response = [system.C2 @ np.linalg.matrix_power(system.A, 3)] + [markov(system, lag) for lag in range(4)]
    exact = np.linalg.norm(np.hstack(response), 2)
    found = certify_lipschitz(system, 3, method=method)
    assert exact <= found.constant <= (1 + 2e-5 if method == "sdp" else 1.002) * exact
    assert found.method == method


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("boxed", [False, True])
def test_the_semidefinite_program_finds_the_least_constant(system, boxed):
    """It is convex, so that our search ends above it, and close to it."""
    ends = {}
    if boxed:
        ends = {"input_range": (-np.ones(system.nu), np.ones(system.nu))}
        ends["state_range"] = (-np.ones(system.nx), np.ones(system.nx))
    least = certify_lipschitz(system, N, method="sdp", **ends)
    search = certify_lipschitz(system, N, **ends)
    least.verify(system)
    assert least.solver_status
    assert least.constant * (1 - 1e-5) <= search.constant <= 1.01 * least.constant


def test_an_unknown_method_is_refused():
    with pytest.raises(SettingError, match="method"):
        certify_lipschitz(random_elman(1), 2, method="guess")


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("size", [0.01, 3.0])
def test_no_pair_exceeds_the_sum_of_gains_or_the_constant(system, size):
    gains, constant = certify_gains(system, N, iterations=60), certify_lipschitz(system, N, iterations=60).constant
    rng = np.random.default_rng(0)
    u, x0 = rng.normal(size=(500, N + 1, system.nu)), rng.normal(size=(500, system.nx))
    # Differences of very different size per channel and step, as a plain radius could not describe.
    du = size * rng.normal(size=u.shape) * rng.choice([0.0, 0.1, 1.0], size=(500, N + 1, 1))
    dx = size * rng.normal(size=x0.shape)
    dy = np.abs(system.simulate(u + du, x0 + dx)[0] - system.simulate(u, x0)[0])
    for k in range(N + 1):
        reach = np.linalg.norm(dx, axis=1)[:, None] * gains.initial[k]
        for j in range(k + 1):
            reach = reach + np.abs(du[:, j]) @ gains.inputs[k - j].T
        assert (dy[:, k] <= reach).all()
    everything = np.sqrt((dx**2).sum(axis=1) + (du**2).sum(axis=(1, 2)))
    assert (np.linalg.norm(dy[:, N], axis=1) <= constant * everything).all()


@pytest.mark.parametrize("system", SYSTEMS[:3])
def test_adding_gains_up_is_looser_than_the_joint_bound(system):
    joint = certify_horizon(system, N, initial_radius=0.5, input_radius=0.1)
    assert (certify_gains(system, N).bounds(0.5, 0.1)[-1] >= joint.bounds[-1]).all()


@pytest.mark.parametrize("activation", list(Activation))
def test_slopes_hold_for_all_difference_quotients(activation):
    rng = np.random.default_rng(1)
    ends = np.sort(rng.normal(scale=2.0, size=(2, 200)), axis=0)
    alpha, beta = slopes_on(activation, (ends[0], ends[1]))
    a, b = (ends[0] + (ends[1] - ends[0]) * rng.random((50, 200)) for _ in range(2))
    quotient = (activation.apply(NUMPY, a) - activation.apply(NUMPY, b)) / (a - b)
    assert (alpha <= quotient + 1e-7).all()
    assert (quotient - 1e-7 <= beta).all()
    low, high = activation.slope
    assert (alpha >= low).all()
    assert (beta <= high).all()


@pytest.mark.parametrize("system", SYSTEMS)
def test_known_boxes_tighten_the_constant_and_hold_inside(system):
    u_box = -0.2 * np.ones(system.nu), 0.2 * np.ones(system.nu)
    x_box = -0.2 * np.ones(system.nx), 0.2 * np.ones(system.nx)
    free = certify_lipschitz(system, N)
    boxed = certify_lipschitz(system, N, input_range=u_box, state_range=x_box)
    assert boxed.constant <= 1.01 * free.constant
    rng = np.random.default_rng(2)
    u, v = (rng.uniform(*u_box, (300, N + 1, system.nu)) for _ in range(2))
    a, b = (rng.uniform(*x_box, (300, system.nx)) for _ in range(2))
    dy = system.simulate(u, a)[0][:, N] - system.simulate(v, b)[0][:, N]
    everything = np.sqrt(((a - b) ** 2).sum(axis=1) + ((u - v) ** 2).sum(axis=(1, 2)))
    assert (np.linalg.norm(dy, axis=1) <= boxed.constant * everything).all()


def test_intervals_that_explode_leave_the_activations_own_slope():
    system = random_system(4, layers=(2, 1), activation="leaky_relu", norm=40.0)
    alpha, beta = local_slopes(system, (-np.ones(2), np.ones(2)), (-np.ones(3), np.ones(3)), 400)
    np.testing.assert_array_equal(alpha, 0.01)
    np.testing.assert_array_equal(beta, 1.0)


def test_one_box_without_the_other_is_refused():
    with pytest.raises(SettingError, match="together"):
        certify_lipschitz(random_elman(1), 2, input_range=(-np.ones(2), np.ones(2)))


@pytest.mark.parametrize("norm", [0.9, 0.999])
def test_the_constant_of_a_long_sequence_is_not_lost_on_the_way(norm):
    """A contracting network forgets: from some length on nothing may grow, least of all by what a search adds up."""
    system = random_elman(0, nx=5, norm=norm)
    short, long = (certify_lipschitz(system, n, iterations=60).constant for n in (30, 120))
    assert long <= 1.02 * short
