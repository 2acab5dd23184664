"""What `check_data` states is so: gains, delays, time constants, order, feedback; without a cause it is silent."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.data import Dataset, Level, Timing, Trajectory, check_data
from controlrnn.data.checking.excitation import excitation_orders, power_shares, still_inputs, unmoved_directions
from controlrnn.data.checking.readings import quantum
from controlrnn.errors import DataError, SettingError
from plants import PLANTS, excitation, simulate


def steps(rng, T, nu, hold=(3, 15)):
    u = np.empty((T, nu))
    for j in range(nu):
        t = 0
        while t < T:
            n = int(rng.integers(*hold))
            u[t : t + n, j] = rng.uniform(-1, 1)
            t += n
    return u


def first_order(rng, pole, gains, dead=0, noise=0.01, T=800, through=0.0):
    """Record of y = sum of gains of first-order lags, late by ``dead`` samples."""
    u = steps(rng, T, len(gains))
    x, y = 0.0, np.zeros(T)
    for t in range(T):
        y[t] = x + through * u[t, 0]
        if t >= dead:
            x = pole * x + (1 - pole) * float(u[t - dead] @ gains)
    return Trajectory(u, (y + noise * rng.standard_normal(T))[:, None], 0.5)


@settings(max_examples=25)
@given(
    pole=st.floats(0.2, 0.95), gains=st.lists(st.sampled_from([-3.0, -1.0, 0.5, 2.0]), min_size=1, max_size=3),
    dead=st.integers(0, 5), seed=st.integers(0, 2**20),
)  # fmt: skip
def test_a_plant_of_first_order_is_seen_as_it_is(pole, gains, dead, seed):
    rng = np.random.default_rng(seed)
    report = check_data([first_order(rng, pole, gains, dead) for _ in range(4)])
    found = report.dynamics
    assert found.order <= 1 + dead + 2
    np.testing.assert_allclose(found.gains[0], gains, atol=0.1)
    tau = -0.5 / np.log(pole)
    assert (np.abs(found.time_constants[0] - tau) < 0.3 * tau + 0.5).all()
    assert (np.abs(found.delays[0] - dead) <= (1 if pole < 0.8 else 2)).all()
    assert not found.direct.any()
    assert not found.feedback.any()
    assert not found.integrating.any()
    assert not report.faults
    assert found.noise[0] == pytest.approx(0.01, rel=0.3)


def test_no_alarm_without_cause():
    """Of 60 open-loop sets none is said to be under feedback, to have feedthrough, or to bend."""
    for seed in range(60):
        rng = np.random.default_rng([seed, 5])
        found = check_data([first_order(rng, 0.8, [1.0, -2.0], noise=0.3, T=300) for _ in range(3)]).dynamics
        assert not found.feedback.any()
        assert not found.direct.any()
        assert (found.bent < 0.05).all()


@pytest.mark.parametrize("name", sorted(PLANTS))
def test_reports_on_plants_fit_on_a_screen_and_name_no_fault(name):
    plant = PLANTS[name]()
    u = np.stack([excitation.random_steps(300, plant.inputs, hold=(4, 20), seed=s) for s in range(5)])
    report = check_data(simulate(plant, u, noise_std=0.01, seed=0))
    assert not report.faults, report
    assert not report.dynamics.feedback.any()
    assert len(str(report).splitlines()) <= 20
    assert report.advice.washout >= 1
    assert report.advice.horizon >= report.advice.control_horizon >= 2
    assert len(report.plot().axes) == len(plant.inputs) * len(plant.outputs)


def test_feedthrough_is_told_from_feedback():
    for seed in range(10):
        rng = np.random.default_rng(seed)
        direct = check_data([first_order(rng, 0.8, [1.0], through=0.4) for _ in range(3)])
        assert direct.dynamics.direct[0, 0]
        assert not direct.dynamics.feedback[0]
        assert direct.faults
        records = []
        for _ in range(3):
            goal, u, y, x = steps(rng, 600, 1)[:, 0], np.zeros(600), np.zeros(600), 0.0
            for t in range(600):
                y[t] = x + 0.05 * rng.standard_normal()
                u[t] = 2 * (goal[t] - y[t])
                x = 0.8 * x + 0.2 * u[t]
            records.append(Trajectory(u[:, None], y[:, None], 1.0))
        loop = check_data(records)
        assert loop.dynamics.feedback[0]
        assert not loop.faults


def test_input_first_is_believed():
    rng = np.random.default_rng(0)
    r = first_order(rng, 0.8, [1.0], through=0.4)
    report = check_data(Trajectory(r.u, r.y, r.dt, timing=Timing.INPUT_FIRST))
    assert report.dynamics.direct[0, 0]
    assert not report.faults


@given(st.integers(1, 4), st.integers(0, 3), st.integers(0, 2**20))
def test_unmoved_directions_are_those_that_were_left_out(moving, mixes, seed):
    rng = np.random.default_rng(seed)
    base = rng.standard_normal((80, moving))
    u = np.hstack([base, base @ rng.standard_normal((moving, mixes))])
    records = [Trajectory(u[:40], u[:40, :1], 1.0), Trajectory(u[40:], u[40:, :1], 1.0)]
    directions = unmoved_directions(records)
    assert directions.shape == (moving + mixes, mixes)
    np.testing.assert_allclose(directions.T @ directions, np.eye(mixes), atol=1e-9)
    scaled = (u - u.mean(axis=0)) / u.std(axis=0)
    np.testing.assert_allclose(scaled @ directions, 0, atol=1e-9)


def test_still_inputs_are_relative_to_their_size():
    u = np.stack([np.full(50, 3.0), 1e-12 * np.random.default_rng(0).standard_normal(50), np.zeros(50)], axis=1)
    r = Trajectory(u, u[:, 1:2], 1.0)
    assert still_inputs([r]).tolist() == [True, False, True]
    assert unmoved_directions([r]).shape == (3, 2)
    few = Trajectory(u[:2], u[:2, 1:2], 1.0)
    assert unmoved_directions([few]).shape == (3, 2)


def test_orders_of_excitation():
    t = np.arange(800)
    rng = np.random.default_rng(0)
    u = np.stack([np.sin(0.3 * t), np.sin(0.3 * t) + np.sin(1.1 * t), rng.choice([-1, 1], 800), 0 * t], axis=1)
    assert excitation_orders([Trajectory(u, u[:, :1], 1.0)]).tolist() == [2, 4, 40, 0]


def test_power_is_shared_out():
    t = np.arange(1000) * 0.1
    u = (np.sin(2 * np.pi * 0.5 * t) + 2 * np.sin(2 * np.pi * 2.0 * t))[:, None]
    shares = power_shares([Trajectory(u, u, 0.1)], np.array([0.1, 1.0]))
    np.testing.assert_allclose(shares[:, 0], [0, 0.2, 0.8], atol=1e-6)


def test_steps_of_readings():
    rng = np.random.default_rng(0)
    assert quantum(0.3 + 0.25 * rng.integers(0, 20, 500)) == pytest.approx(0.25)
    assert quantum(rng.standard_normal(500)) == 0.0
    assert quantum(rng.choice([0.0, 0.1, 0.37, 1.0], 500)) == 0.0
    assert quantum(np.ones(9)) == 0.0


def test_data_sets_are_looked_at_without_their_test_records():
    rng = np.random.default_rng(0)
    records = [first_order(rng, 0.8, [1.0]) for _ in range(4)]
    report = check_data(Dataset(tuple(records[:2]), (records[2],), (records[3],)))
    assert report.samples == (800,) * 3
    assert check_data(records[0]).samples == (800,)


def test_what_cannot_be_looked_at_is_refused_or_said():
    rng = np.random.default_rng(0)
    r = first_order(rng, 0.8, [1.0])
    still = check_data(Trajectory(r.u, np.full_like(r.y, 2.0), 1.0))
    assert [f.level for f in still.findings] == [Level.FAULT]
    assert still.dynamics is still.advice is None
    with pytest.raises(SettingError, match="no dynamics to draw"):
        still.plot()
    with pytest.raises(DataError, match="record more"):
        check_data(r[:15])
    with pytest.raises(SettingError, match="data must"):
        check_data(r.u)
    copies = check_data([r, r])
    assert "share 800 samples" in str(copies)
