import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.kernels import simulate
from mpc.solvers.condensing import Condenser

SYSTEMS = {
    "elman": random_elman(2, nx=5),
    "layers": random_system(1, layers=(2, 3, 1)),
    "acyclic": random_system(4, layers=(1, 1, 1), activation="sigmoid"),
    "no feedthrough": random_system(5, layers=(4,), feedthrough=False),
    "linear": random_system(6, layers=()),
}
N = 6


@pytest.mark.parametrize("name", SYSTEMS)
def test_condensed_derivatives_are_those_of_the_outputs(name, rng):
    system, scale = SYSTEMS[name], np.array([0.5, 2.0])
    condenser, x0, u = Condenser(system, N, scale), rng.standard_normal(SYSTEMS[name].nx), rng.standard_normal((N, 2))

    def run(change=np.zeros(2 * N)):  # noqa: B008
        held = u + np.reshape(change, (-1, 2)) * scale
        held = np.vstack([held, held[-1:]])
        y, x = system.simulate(held, x0)
        return y, np.array([condenser.at(*row)[1] for row in zip(x[:-1], held, strict=True)])

    prices = rng.standard_normal((N + 1, system.ny))
    w = run()[1]
    G = condenser.condense(w).copy()
    H = condenser.curvature(w, prices)
    np.testing.assert_allclose(H, H.T, atol=1e-14)
    for i in range(2 * N):
        e = 1e-6 * np.eye(2 * N)[i]
        np.testing.assert_allclose(G[:, :, i], (run(e)[0] - run(-e)[0]) / 2e-6, atol=1e-8)
        slopes = [np.einsum("kij,ki->j", condenser.condense(run(s * e)[1]), prices) for s in (1, -1)]
        np.testing.assert_allclose(H[i], (slopes[0] - slopes[1]) / 2e-6, atol=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("inputs", [1, 3, N])
def test_derivatives_of_plans_that_end_in_a_steady_state(name, inputs, rng):
    """Few inputs, the last one held; the last sample is its steady state."""
    system, scale = SYSTEMS[name], np.array([0.5, 2.0])
    condenser = Condenser(system, N, scale, control_horizon=inputs, steady=True)
    x0, u = rng.standard_normal(system.nx), 0.5 * rng.standard_normal((inputs, 2))
    weight = rng.standard_normal(system.nx)

    def run(change=np.zeros(2 * inputs)):  # noqa: B008
        held = (u + np.reshape(change, (-1, 2)) * scale)[np.minimum(np.arange(N + 1), inputs - 1)]
        y, x = system.simulate(held, x0)
        steady = simulate(system, np.tile(held[-1], (1000, 1)), np.zeros(system.nx))[1][-1]
        gap = x[N] - steady
        y[N], x[N] = system.output(steady, held[-1]), steady
        return y, np.array([condenser.at(*row)[1] for row in zip(x[:-1], held, strict=True)]), gap

    prices = rng.standard_normal((N + 1, system.ny))
    w = run()[1]
    G = condenser.condense(w).copy()
    gap, H = condenser.gap, condenser.curvature(w, prices, weight)

    def slopes(change):
        first = condenser.condense(run(change)[1])
        return np.einsum("kij,ki->j", first, prices) + condenser.gap @ weight

    for i in range(2 * inputs):
        e = 1e-6 * np.eye(2 * inputs)[i]
        ahead, behind = run(e), run(-e)
        np.testing.assert_allclose(G[:, :, i], (ahead[0] - behind[0]) / 2e-6, atol=1e-7)
        np.testing.assert_allclose(gap[i], (ahead[2] - behind[2]) / 2e-6, atol=1e-7)
        np.testing.assert_allclose(H[i], (slopes(e) - slopes(-e)) / 2e-6, atol=1e-6)
