"""What is known of each plant from its paper or from its physics."""

import os
from pathlib import Path

import numpy as np
import pytest

from controlrnn.errors import InfeasibleError, SettingError
from plants import (
    CascadedTanks,
    MassSpringDamperChain,
    MultiTank,
    Pendulum,
    QuadrupleTank,
    ReactionDiffusion,
    simulate,
)
from plants.ops import NUMPY


def jacobians(plant, x, u):
    """A, B of dx/dt and C of y at (x, u), by central differences."""
    h = 1e-6
    A = np.stack([(plant.dynamics(x + h * e, u) - plant.dynamics(x - h * e, u)) / (2 * h) for e in np.eye(plant.nx)]).T
    B = np.stack([(plant.dynamics(x, u + h * e) - plant.dynamics(x, u - h * e)) / (2 * h) for e in np.eye(plant.nu)]).T
    C = np.stack([(plant.output(x + h * e, u) - plant.output(x - h * e, u)) / (2 * h) for e in np.eye(plant.nx)]).T
    return A, B, C


def test_three_tank_time_constants_fit_the_sample_time():
    plant = MultiTank()
    A, _, _ = jacobians(plant, plant.initial_state(), plant.nominal_input)
    slowest = np.max(-1 / np.linalg.eigvals(A).real)
    assert 10 <= slowest / plant.dt <= 25


def test_multi_tank_steady_levels_fall_by_equal_steps():
    plant = MultiTank(5)
    x = plant.equilibrium([1.0, 2.0])
    steps = -np.diff(x)
    np.testing.assert_allclose(steps, steps[0])
    joint = plant.joint_discharge * plant.pipe * np.sqrt(2 * 981 * steps[0]) * 60 / 1000
    assert joint == pytest.approx(1.0, rel=1e-3)
    with pytest.raises(InfeasibleError, match="no constant input"):
        plant.equilibrium_input(x + np.eye(5)[1])


def test_multi_tank_can_break_its_level_limit_below_the_rim():
    plant = MultiTank()
    record = simulate(plant, np.tile([3.0, 2.0], (100, 1)))
    assert plant.level_limit < record.x[:, 0].max() < plant.height + 1e-8


def test_quadruple_tank_has_johanssons_time_constants():
    # T_i = A_i / a_i sqrt(2 h_i / g), so they are checked at the levels of the paper.
    settings = [
        (QuadrupleTank(), (12.4, 12.7, 1.8, 1.4), (62, 90, 23, 30)),
        (QuadrupleTank.nonminimum_phase(), (12.6, 13.0, 4.8, 4.9), (63, 91, 39, 56)),
    ]
    for plant, levels, published in settings:
        A, _, _ = jacobians(plant, np.array(levels), plant.nominal_input)
        np.testing.assert_allclose(-1 / np.diag(A), published, rtol=0.04)
        np.testing.assert_allclose(plant.initial_state(), levels, rtol=0.1)


def test_quadruple_tank_has_johanssons_zeros():
    for plant, zeros in [(QuadrupleTank(), (-0.060, -0.018)), (QuadrupleTank.nonminimum_phase(), (-0.057, 0.013))]:
        A, B, C = jacobians(plant, plant.initial_state(), plant.nominal_input)

        def determinant(s, A=A, B=B, C=C):
            return np.linalg.det(C @ np.linalg.solve(s * np.eye(4) - A, B)) * np.linalg.det(s * np.eye(4) - A)

        # det G(s) det(sI - A) is a polynomial of degree 2; three samples give it.
        s = np.array([0.0, 0.1, 0.2])
        found = np.sort(np.roots(np.polyfit(s, [determinant(v) for v in s], 2)))
        np.testing.assert_allclose(found, zeros, rtol=0.1)


def test_quadruple_tank_without_a_free_choice_of_levels_says_so():
    with pytest.raises(InfeasibleError, match="split"):
        QuadrupleTank(split=(0.5, 0.5)).equilibrium_input([10.0, 10.0])


def test_cascaded_tanks_overflow_reaches_the_lower_tank():
    x, u = np.array([12.47, 5.0]), np.array([8.0])
    caught, lost = CascadedTanks(), CascadedTanks(caught=0.0)
    spilt = caught.overflow(x, u)[0]
    difference = caught.dynamics(x, u) - lost.dynamics(x, u)
    np.testing.assert_allclose(difference, [0.0, 0.88 * spilt])
    assert spilt > 0.1


def test_cascaded_tanks_pump_has_a_dead_zone():
    plant = CascadedTanks()
    np.testing.assert_array_equal(plant.equilibrium([0.7]), 0.0)


@pytest.mark.skipif("CONTROLRNN_DATA" not in os.environ, reason="needs the measured records in $CONTROLRNN_DATA")
def test_cascaded_tanks_resemble_the_measured_rig():
    root = Path(os.environ["CONTROLRNN_DATA"])
    data = np.genfromtxt(root / "cascaded_tanks" / "dataBenchmark.csv", delimiter=",", names=True)
    for part, rmse in (("Est", 0.26), ("Val", 0.34)):
        record = simulate(CascadedTanks(), data[f"u{part}"][:, None], [6.79, 5.24])
        error = record.y[50:, 0] - data[f"y{part}"][50:]
        assert np.sqrt(np.mean(error**2)) == pytest.approx(rmse, abs=0.01)


def test_four_carts_have_the_papers_constants():
    plant = MassSpringDamperChain()
    np.testing.assert_allclose(plant.masses, [1 / 4, 1 / 3, 5 / 12, 1 / 2])
    np.testing.assert_allclose(plant.dampers, plant.masses)
    np.testing.assert_allclose(plant.springs, [1, 5 / 6, 2 / 3, 1 / 2])
    # One cart's acceleration, written out: cart 2 moved by 2, all else at rest.
    x = np.zeros(8)
    x[1] = 2.0
    pull, push = 5 / 6 * (2 - 0.75), 2 / 3 * (-2 + 0.75)
    np.testing.assert_allclose(plant.dynamics(x, np.zeros(1))[4:], [pull * 4, (push - pull) * 3, -push * 12 / 5, 0])


@pytest.mark.parametrize("n", [1, 4, 7])
def test_chain_energy_balance(n):
    plant = MassSpringDamperChain(n)
    rng = np.random.default_rng(0)
    x, u, w = rng.normal(size=(20, 2 * n)) * 2, rng.uniform(-6, 6, (20, 1)), rng.normal(size=(20, n))
    h = 1e-5
    rate = plant.dynamics(x, u, NUMPY, w)
    growth = (plant.energy(x + h * rate) - plant.energy(x - h * rate)) / (2 * h)
    velocity = x[:, n:]
    damped = (plant.dampers * np.diff(velocity, axis=1, prepend=0.0) ** 2).sum(axis=1)
    power = u[:, 0] * velocity[:, 0] + (w * velocity).sum(axis=1) - damped
    np.testing.assert_allclose(growth, power, atol=2e-4)


def test_unforced_chain_loses_energy():
    plant = MassSpringDamperChain()
    x = np.random.default_rng(1).normal(size=(10, 8)) * 3
    energy = plant.energy(x)
    for _ in range(60):
        x = plant.step(x, np.zeros(1))
        assert (plant.energy(x) <= energy * (1 + 1e-9)).all()
        energy = plant.energy(x)


def test_chain_is_odd():
    plant = MassSpringDamperChain(3)
    x, u = np.random.default_rng(2).normal(size=6) * 3, np.array([2.0])
    np.testing.assert_allclose(plant.step(-x, -u), -plant.step(x, u))


def test_a_pendulum_swings_as_an_ellipse_integral_says():
    """Undamped from rest at angle a the period is 4 sqrt(l / g) K(sin(a / 2)^2)."""
    from scipy.special import ellipk

    for start in (0.1, 2.0, 3.0):
        period = 4 * np.sqrt(0.7 / 9.81) * ellipk(np.sin(start / 2) ** 2)
        plant = Pendulum(dt=period / 4, length=0.7, damping=1e-12)
        x = np.array([start, 0.0])
        for expected in ([0.0, np.nan], [-start, 0.0], [0.0, np.nan], [start, 0.0]):
            x = plant.step(x, np.zeros(1))
            np.testing.assert_allclose(x, np.where(np.isnan(expected), x, expected), atol=1e-6)


def test_energy_of_a_pendulum_never_grows_without_torque():
    plant = Pendulum()
    x = np.random.default_rng(0).normal(scale=3.0, size=(40, 2))
    for _ in range(30):
        new = plant.step(x, np.zeros(1))
        assert (plant.energy(new) <= plant.energy(x) * (1 + 1e-7)).all()
        x = new
    with pytest.raises(SettingError, match="strength"):
        Pendulum(strength=1.0)


def test_without_reaction_the_line_solves_the_heat_equation():
    """A sine decays with the eigenvalue of the cut line, which tends to (pi / L)^2."""
    plant = ReactionDiffusion(reaction=1e-12, dt=1.0, length=2.0)
    z = plant.distance * np.arange(1, 52)
    x = np.sin(np.pi * z / 2.0)
    rate = (2 - 2 * np.cos(np.pi / 52)) / plant.distance**2
    assert rate == pytest.approx((np.pi / 2) ** 2, rel=1e-3)
    np.testing.assert_allclose(plant.step(x, np.zeros(1)), np.exp(-rate) * x, atol=1e-7)


def test_concentrations_stay_between_those_at_the_ends_and_at_the_start():
    """The maximum principle, with 0 and 1 as equilibria of the reaction."""
    plant = ReactionDiffusion()
    rng = np.random.default_rng(0)
    x = rng.uniform(0, 1, (20, plant.nx))
    for _ in range(50):
        x = plant.step(x, rng.uniform(0, 1, (20, 1)))
        assert x.min() >= -1e-9
        assert x.max() <= 1 + 1e-9


def test_a_long_line_has_a_side_to_decide_for_and_a_short_one_has_none():
    """The profile 1 / 2 is an equilibrium for ends of 1 / 2, unstable where L > 2 pi sqrt(2)."""
    for length, splits in ((8.0, False), (10.0, True)):
        plant = ReactionDiffusion(length=length)
        half = np.full(plant.nx, 0.5)
        assert not plant.dynamics(half, [0.5]).any()
        A, _, _ = jacobians(plant, half, np.array([0.5]))
        assert (np.linalg.eigvals(A).real.max() > 0) == splits
        low = plant.equilibrium([0.5])
        assert (low[25] < 0.45) == splits
        for u in (0.1, 0.45):
            A, _, _ = jacobians(plant, plant.equilibrium([u]), np.array([u]))
            assert np.linalg.eigvals(A).real.max() < 0
        np.testing.assert_allclose(plant.equilibrium([0.7]), 1 - plant.equilibrium([0.3]), atol=1e-9)
    assert ReactionDiffusion().nx == 51
    with pytest.raises(InfeasibleError, match="no constant input"):
        ReactionDiffusion().equilibrium_input([0.5])
    with pytest.raises(SettingError, match="odd"):
        ReactionDiffusion(points=50)
