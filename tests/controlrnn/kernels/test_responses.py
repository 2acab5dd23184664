import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.errors import ShapeError
from controlrnn.kernels import Responses
from controlrnn.kernels.linearisation import linearise_trajectory

SYSTEMS = {
    "elman": random_elman(2, nx=5),
    "layers": random_system(1, nx=4, nu=1, ny=3, layers=(2, 12, 3)),
    "wide": random_system(3, nx=20, nu=3, ny=1, layers=(30,), activation="relu"),
    "acyclic": random_system(4, layers=(1, 1, 1), activation="sigmoid"),
    "no feedthrough": random_system(5, nx=1, layers=(4,), feedthrough=False, activation="leaky_relu"),
    "linear": random_system(6, layers=()),
}
T = 6


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def setting(name, n, rng):
    system = SYSTEMS[name]
    by_input = rng.standard_normal((T, system.nu, n))
    by_input[rng.integers(T) :, :, : n // 2] = 0.0  # variables that move few samples, the others late ones
    by_input[: rng.integers(T), :, n // 2 :] = 0.0
    return system, by_input, rng.standard_normal((T, system.nu)), rng.standard_normal(system.nx)


@pytest.mark.parametrize("name", SYSTEMS)
def test_runs_are_those_of_the_system(name, rng):
    system, by_input, u, x0 = setting(name, 4, rng)
    responses = Responses(system, by_input)
    first = responses.run(u, x0)
    y, x = system.simulate(u, x0)
    np.testing.assert_allclose(first.y, y, atol=1e-12)
    np.testing.assert_allclose(first.x, x, atol=1e-12)
    np.testing.assert_allclose(first.w, system.neurons(x[:-1], u @ system.D12.T + system.bv), atol=1e-12)
    responses.run(-u, -x0)  # does not change what was handed out
    np.testing.assert_allclose(first.y, y, atol=1e-12)
    with pytest.raises(ShapeError, match="x0 and u must have shapes"):
        responses.run(u, np.zeros(system.nx + 1))


@pytest.mark.parametrize("n", [1, 3, 8, 21])
@pytest.mark.parametrize("name", SYSTEMS)
def test_derivatives_are_products_of_jacobians(name, n, rng):
    system, by_input, u, x0 = setting(name, n, rng)
    responses, run = Responses(system, by_input), None
    for sign in (-1, 1):  # nothing is left of the first
        run = responses.run(sign * u, x0)
        responses.follow(run.w)
    lin = linearise_trajectory(system, run.x[:-1], u)
    state = np.zeros((system.nx, n))
    for k in range(T):
        both = np.vstack([state, by_input[k]])
        np.testing.assert_allclose(responses.states[k], state, atol=1e-11)
        np.testing.assert_allclose(responses.outputs[k], lin.output[k] @ both, atol=1e-11)
        np.testing.assert_allclose(responses.neurons[k], lin.V[k] @ both, atol=1e-11)
        state = lin.state[k] @ both
    np.testing.assert_allclose(responses.states[T], state, atol=1e-11)


def test_states_may_be_replaced_on_the_way(rng):
    system, by_input, u, x0 = setting("layers", 5, rng)
    responses = Responses(system, by_input)
    run = responses.run(u, x0)
    responses.follow(run.w, 0, T - 1)
    replaced = rng.standard_normal(responses.states[T - 1].shape)
    responses.states[T - 1] = replaced
    responses.follow(run.w, T - 1)
    last = linearise_trajectory(system, run.x[T - 1 : T], u[T - 1 :])
    expected = last.output[0] @ np.vstack([replaced, by_input[T - 1]])
    np.testing.assert_allclose(responses.outputs[T - 1], expected, atol=1e-12)
