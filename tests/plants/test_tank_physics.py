"""Torricelli's law, mass balance, rims and leaks."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlrnn.errors import InfeasibleError, SettingError
from plants import CascadedTanks, MultiTank, QuadrupleTank, simulate
from plants.ops import NUMPY
from plants.tanks import head_for, spill, torricelli

TANKS = [MultiTank(), MultiTank(1), MultiTank(2), QuadrupleTank(), CascadedTanks()]


@given(st.floats(-200, 200), st.sampled_from([0.02, 0.1, 1.0]))
def test_head_for_inverts_torricelli(head, eps):
    assert head_for(torricelli(head, eps, NUMPY), eps) == pytest.approx(head, rel=1e-9, abs=1e-12)


def test_torricelli_is_the_square_root_up_to_the_documented_share():
    heads = np.array([1.0, 10.0, 60.0])
    flow = torricelli(heads, 0.1, NUMPY)
    assert (np.abs(flow / np.sqrt(heads) - 1) < (0.1 / (2 * heads)) ** 2).all()
    np.testing.assert_allclose(torricelli(-heads, 0.1, NUMPY), -flow)
    assert torricelli(1e-6, 0.1, NUMPY) == pytest.approx(1e-6 / np.sqrt(0.1))


def test_spill_starts_at_the_layer_and_takes_all_at_the_rim():
    levels = np.array([0.0, 9.0, 9.5, 10.0, 11.0])
    np.testing.assert_allclose(spill(2.0, levels, 10.0, 1.0, NUMPY), [0, 0, 1, 2, 2])
    np.testing.assert_allclose(spill(-2.0, levels, 10.0, 1.0, NUMPY), 0)


@pytest.mark.parametrize("plant", [MultiTank(), MultiTank(6)])
def test_water_is_conserved(plant):
    rng = np.random.default_rng(0)
    x = rng.uniform(0, plant.height, (200, plant.nx))
    x[:50, 0] = plant.height
    u, w = rng.uniform(0, plant.pump, (200, plant.nu)), rng.uniform(0, 1, (200, plant.nw))
    stored = (plant.dynamics(x, u, NUMPY, w) * plant.area).sum(axis=1) * 60 / 1000  # [L/min]
    last = x[:, -1]
    keep = last > 2.0  # where Torricelli's law is exact enough
    drained = plant.drain_discharge * plant.pipe * np.sqrt(2 * 981.0 * last) * 60 / 1000
    spilt = plant.overflow(x, u, w).sum(axis=1)
    np.testing.assert_allclose((u.sum(axis=1) + w.sum(axis=1) - drained - spilt)[keep], stored[keep], atol=2e-3)
    assert spilt[:50].max() > 0.1


def test_water_is_conserved_while_filling_to_the_rim():
    plant = MultiTank(dt=1.0)
    record = simulate(plant, np.tile([4.0, 4.0], (301, 1)), [50.0, 40.0, 30.0])
    drained = plant.drain_discharge * plant.pipe * np.sqrt(2 * 981.0 * record.x[:, -1]) * 60 / 1000
    surplus = (8.0 - drained - plant.overflow(record.x, record.u).sum(axis=1)) / 60 * 1000
    assert record.x[-1, 0] > 64.9
    assert (record.x[-1] - record.x[0]).sum() * plant.area == pytest.approx(np.trapezoid(surplus), rel=2e-4)


@pytest.mark.parametrize("plant", TANKS, ids=repr)
def test_levels_cannot_leave_the_tanks(plant):
    rng = np.random.default_rng(0)
    rims = np.array(plant.rims)
    for i in range(plant.nx):
        x, u = rng.uniform(0, rims, (100, plant.nx)), rng.uniform(0, 1, (100, plant.nu)) * plant.pump
        w = rng.normal(size=(100, plant.nw)) * np.array(plant.capacities)
        x[:, i] = 0.0
        assert (plant.dynamics(x, u, NUMPY, w)[:, i] >= 0).all()
        x[:, i] = rims[i]
        assert (plant.dynamics(x, u, NUMPY, w)[:, i] <= 1e-12).all()


@pytest.mark.parametrize("plant", TANKS, ids=repr)
def test_overflowing_tanks_stand_at_the_rim_and_report_it(plant):
    rims, flood = np.array(plant.rims), 100.0 * np.array(plant.capacities)
    u = np.array([s.upper for s in plant.inputs])
    x = rims.copy()
    np.testing.assert_allclose(plant.step(x, u, flood), rims, rtol=1e-9)
    assert (plant.overflow(x, u, flood) > 0).all()
    np.testing.assert_array_equal(plant.overflow(0.5 * rims, u), 0.0)


@pytest.mark.parametrize("plant", TANKS, ids=repr)
def test_empty_tanks_with_leaks_stay_empty(plant):
    u = np.array([s.lower for s in plant.inputs])
    leak = -np.array(plant.capacities)
    x = plant.step(np.zeros(plant.nx), u, leak)
    np.testing.assert_array_equal(x, 0.0)
    full = np.array([0.3 * r for r in plant.rims])
    assert (plant.step(full, u, 0.01 * leak) < plant.step(full, u)).all()
    drained = full
    for _ in range(40):
        drained = plant.step(drained, u, leak)
    np.testing.assert_allclose(drained, 0.0, atol=1e-2)
    assert (drained > -1e-8).all()


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: MultiTank(0), SettingError),
        (lambda: MultiTank(2.5), SettingError),
        (lambda: MultiTank(area=-1.0), SettingError),
        (lambda: MultiTank(dt=float("nan")), SettingError),
        (lambda: MultiTank(level_limit=66.0), InfeasibleError),
        (lambda: QuadrupleTank(split=(0.5, 1.2)), SettingError),
        (lambda: QuadrupleTank(areas=(1.0, 2.0)), SettingError),
        (lambda: QuadrupleTank(nominal=(11.0, 3.0)), InfeasibleError),
        (lambda: CascadedTanks(caught=1.5), SettingError),
        (lambda: CascadedTanks(level_limit=10.0), InfeasibleError),
    ],
)
def test_bad_constants_are_refused(make, error):
    with pytest.raises(error):
        make()
