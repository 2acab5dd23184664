"""What every plant promises, checked for every plant in the registry."""

import casadi
import numpy as np
import pytest
from scipy.integrate import solve_ivp

from controlrnn.errors import DataError, InfeasibleError, ShapeError
from plants import PLANTS, excitation, simulate, to_casadi
from plants.base import limits
from plants.ops import CASADI, NUMPY

pytestmark = pytest.mark.parametrize("plant", [make() for make in PLANTS.values()], ids=list(PLANTS))


def random_points(plant, n, seed=0):
    """States anywhere (also near the bottom and the rim), inputs within limits, disturbances of both signs."""
    rng = np.random.default_rng(seed)
    low, high = limits(plant.states)
    low, high = np.where(np.isfinite(low), low, -4.0), np.where(np.isfinite(high), high, 4.0)
    share = np.clip(rng.uniform(-0.1, 1.1, (n, plant.nx)), 0.0, 1.0)
    u = rng.uniform(*limits(plant.inputs), (n, plant.nu))
    w = rng.normal(size=(n, plant.nw)) * 0.2 * np.abs(plant.dynamics(low, limits(plant.inputs)[1])).max()
    return low + share * (high - low), u, w


def test_signals_have_units_and_limits(plant):
    for signal in (*plant.inputs, *plant.outputs, *plant.states, *plant.disturbances):
        assert signal.unit
    for signal in (*plant.inputs, *plant.outputs):
        assert np.isfinite([signal.lower, signal.upper]).all()
    assert len({s.name for s in plant.states}) == plant.nx
    assert plant.initial_state().shape == (plant.nx,)
    plant.checked_state(plant.initial_state())
    plant.checked_input(plant.nominal_input)


def test_plants_are_immutable_and_compare_by_constants(plant):
    with pytest.raises(AttributeError):
        plant.dt = 1.0
    assert plant == type(plant)(**{name: getattr(plant, name) for name in plant.__dataclass_fields__})


def test_numpy_and_casadi_share_the_dynamics(plant):
    x, u, w = random_points(plant, 50)
    symbols = [casadi.SX.sym(n, 1, k) for n, k in (("x", plant.nx), ("u", plant.nu), ("w", plant.nw))]
    sx, su, sw = symbols
    undisturbed = casadi.Function("f", [sx, su], [plant.dynamics(sx, su, CASADI), plant.output(sx, su, CASADI)])
    disturbed = casadi.Function("f", symbols, [plant.dynamics(sx, su, CASADI, sw)])
    for xi, ui, wi in zip(x, u, w, strict=True):
        rate, y = undisturbed(xi, ui)
        np.testing.assert_allclose(rate.full().ravel(), plant.dynamics(xi, ui), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(y.full().ravel(), plant.output(xi, ui), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(
            disturbed(xi, ui, wi).full().ravel(), plant.dynamics(xi, ui, NUMPY, wi), rtol=1e-12, atol=1e-13
        )


def test_dynamics_and_step_take_any_batch(plant):
    x, u, w = (v.reshape(2, 3, -1) for v in random_points(plant, 6))
    one = np.array([[plant.dynamics(x[i, j], u[i, j], NUMPY, w[i, j]) for j in range(3)] for i in range(2)])
    np.testing.assert_allclose(plant.dynamics(x, u, NUMPY, w), one, rtol=1e-12, atol=1e-13)
    one = np.array([[plant.step(x[i, j], u[i, j], w[i, j]) for j in range(3)] for i in range(2)])
    np.testing.assert_allclose(plant.step(x, u, w), one, rtol=1e-9, atol=1e-7)
    np.testing.assert_array_equal(plant.step(x, u[0, 0])[0, 1], plant.step(x, np.broadcast_to(u[0, 0], u.shape))[0, 1])


def test_step_agrees_with_an_implicit_integrator(plant):
    x, u, w = random_points(plant, 6, seed=1)
    got = plant.step(x, u, w)
    for i in range(len(x)):
        solution = solve_ivp(
            lambda _, s, i=i: plant.dynamics(s, u[i], NUMPY, w[i]),
            (0.0, plant.dt),
            x[i],
            method="LSODA",
            rtol=1e-11,
            atol=1e-12,
            max_step=plant.dt / 40,
        )
        np.testing.assert_allclose(got[i], solution.y[:, -1], rtol=1e-6, atol=2e-5)


def test_step_agrees_with_casadi_step(plant):
    step, output = to_casadi(plant)
    x, u, w = random_points(plant, 20, seed=2)
    span = np.ptp(x, axis=0).max()
    got = np.array([step(*point).full().ravel() for point in zip(x, u, w, strict=True)])
    assert np.abs(got - plant.step(x, u, w)).max() < 2e-4 * span  # at corners a fixed step is of low order
    near, usual = plant.initial_state() + 1e-2 * (x - x.mean(axis=0)), 0.95 * plant.nominal_input
    got = np.array([step(point, usual, 0.0).full().ravel() for point in near])
    assert np.abs(got - plant.step(near, usual)).max() < 1e-7 * span
    np.testing.assert_allclose(output(x[0], u[0]).full().ravel(), plant.output(x[0], u[0]))


def test_states_stay_within_physical_limits(plant):
    x, u, w = random_points(plant, 50, seed=3)
    for _ in range(5):
        x = plant.step(x, u, w)
    plant.checked_state(x)


def test_equilibrium_rests(plant):
    rng = np.random.default_rng(4)
    low, high = limits(plant.inputs)
    for u in (low, high, plant.nominal_input, *rng.uniform(low, high, (10, plant.nu))):
        x = plant.equilibrium(u)
        plant.checked_state(x)
        scale = np.abs(plant.dynamics(np.zeros(plant.nx), high)).max()
        assert np.abs(plant.dynamics(x, u)).max() < 1e-11 * scale
        np.testing.assert_allclose(plant.step(x, u), x, rtol=1e-8, atol=1e-8)


def test_equilibrium_attracts(plant):
    u = plant.nominal_input
    x = plant.initial_state() * 0.9
    start = np.abs(x - plant.initial_state()).max() + 1e-9
    for _ in range(150):
        x = plant.step(x, u)
    assert np.abs(x - plant.initial_state()).max() < 0.1 * start + 1e-8


def test_equilibrium_input_inverts_equilibrium(plant):
    rng = np.random.default_rng(5)
    middle, half = plant.nominal_input, 0.3 * np.ptp(np.stack(limits(plant.inputs)), axis=0)
    low, high = limits(plant.inputs)
    inverted = 0
    for u in np.clip(middle + half * rng.uniform(-1, 1, (20, plant.nu)), low + 0.1 * (high - low), high):
        x = plant.equilibrium(u)
        y = plant.output(x, u)
        if (y < limits(plant.outputs)[1]).all() and (x < limits(plant.states)[1]).all():
            np.testing.assert_allclose(plant.equilibrium_input(y), u, rtol=1e-7, atol=1e-9)
            inverted += 1
    assert inverted >= 5
    with pytest.raises(InfeasibleError, match=r"choose another set point|no constant input"):
        plant.equilibrium_input(np.full(plant.ny, 1e3))


def test_simulate_chains_steps_and_fills_the_record(plant):
    u = excitation.random_steps(8, plant.inputs, hold=(1, 3), seed=0)
    w = random_points(plant, 8)[2]
    record = simulate(plant, u, disturbance=w)
    x = plant.initial_state()
    for t in range(8):
        np.testing.assert_allclose(record.x[t], x, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(record.y[t], plant.output(x, u[t]), rtol=1e-9, atol=1e-9)
        x = plant.step(x, u[t], w[t])
    assert (record.dt, record.inputs, record.outputs) == (plant.dt, plant.inputs, plant.outputs)


def test_batch_of_experiments_equals_single_ones(plant):
    u = np.stack([excitation.random_steps(8, plant.inputs, hold=(1, 5), seed=s) for s in range(4)])
    x0 = random_points(plant, 4)[0]
    for record, ui, xi in zip(simulate(plant, u, x0), u, x0, strict=True):
        np.testing.assert_allclose(record.x, simulate(plant, ui, xi).x, rtol=1e-8, atol=2e-6)


def test_noise_is_seeded_and_of_the_right_size(plant):
    # At rest the integration is cheap, and the noise is all there is to see.
    u = np.broadcast_to(plant.nominal_input, (60, 50, plant.nu))
    std = 0.1 + 0.1 * np.arange(plant.ny)
    records = simulate(plant, u, noise_std=std, seed=1)
    noise = np.stack([r.y - plant.output(r.x, r.u) for r in records])
    np.testing.assert_allclose(noise.std(axis=(0, 1)), std, rtol=0.06)
    assert np.abs(noise.mean(axis=(0, 1)) / std).max() < 0.1
    again = simulate(plant, u, noise_std=std, seed=1)
    np.testing.assert_array_equal(again[7].y, records[7].y)
    assert not np.array_equal(simulate(plant, u, noise_std=std, seed=2)[7].y, records[7].y)
    assert not np.array_equal(records[0].y, records[1].y)


def test_bad_input_is_refused_before_any_work(plant):
    x, u = plant.initial_state(), np.array(plant.nominal_input)
    with pytest.raises(ShapeError, match=r"u must have shape"):
        plant.step(x, np.zeros(plant.nu + 1))
    with pytest.raises(ShapeError, match=r"x must have shape"):
        plant.step(np.zeros(plant.nx + 1), u)
    with pytest.raises(DataError, match="finite"):
        plant.step(x, np.full(plant.nu, np.nan))
    with pytest.raises(DataError, match="broadcast"):
        plant.step(np.tile(x, (2, 1)), np.tile(u, (3, 1)))
    with pytest.raises(ShapeError, match="y must have shape"):
        plant.equilibrium_input(np.zeros(plant.ny + 1))
    record = np.tile(u, (10, 1))
    record[7, 0] = plant.inputs[0].upper + 0.5
    with pytest.raises(DataError, match=r"u\[7, 0\] must lie in"):
        simulate(plant, record)
    with pytest.raises(DataError, match=r"u\[2, 7, 0\] must lie in"):
        simulate(plant, np.stack([np.tile(u, (10, 1))] * 2 + [record]))
