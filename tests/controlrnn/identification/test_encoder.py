"""The learned encoder: exact where a linear map is, better than a short washout elsewhere, and saved bit for bit."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.identification import StateEncoder, fit_encoder


def records(system, count, seed, noise=0.0, length=400):
    """Runs of the system with held random inputs."""
    rng = np.random.default_rng(seed)
    made = []
    for _ in range(count):
        u = np.repeat(rng.uniform(-1, 1, (length // 5, system.nu)), 5, axis=0)
        y = system.simulate(u)[0]
        made.append(Trajectory(u, y + noise * rng.normal(size=y.shape), system.dt))
    return made


def windows_and_states(system, record, past, start):
    x = system.simulate(record.u)[1]
    t = np.arange(start, len(record))
    rows = t[:, None] + np.arange(-past, 0)
    return record.u[rows], record.y[rows], x[t]


def test_an_observable_linear_system_is_decoded_exactly():
    system = random_system(0, nx=3, layers=(), norm=0.95)
    encoder = fit_encoder(system, records(system, 3, 1), past=6, washout=60, hidden=0, ridge=1e-12)
    u, y, x = windows_and_states(system, records(system, 1, 2)[0], 6, 80)
    np.testing.assert_allclose(encoder.estimate(u, y), x, atol=1e-5 * np.abs(x).max())


@pytest.mark.parametrize("hidden", [0, 16])
def test_it_beats_a_washout_over_the_same_window(hidden):
    slow = random_system(0, nx=3, layers=(4,), coupling=0.1)
    system = replace(slow, A=0.97 * np.eye(3))
    past = 5
    encoder = fit_encoder(system, records(system, 6, 1, noise=0.01), past=past, washout=200, hidden=hidden)
    u, y, x = windows_and_states(system, records(system, 1, 2, noise=0.01)[0], past, 220)
    washed = system.simulate(u)[1][:, -1]
    assert np.linalg.norm(encoder.estimate(u, y) - x) < 0.5 * np.linalg.norm(washed - x)


def test_the_hidden_layer_helps_where_the_system_bends():
    system = random_elman(3, nx=4, norm=0.98)
    system_records = records(system, 6, 1)
    u, y, x = windows_and_states(system, records(system, 1, 2)[0], 4, 120)
    errors = [
        np.linalg.norm(fit_encoder(system, system_records, past=4, washout=100, hidden=h, steps=800).estimate(u, y) - x)
        for h in (0, 24)
    ]
    assert errors[1] < errors[0]


def test_same_seed_same_encoder_and_a_saved_one_is_the_same(tmp_path):
    system = random_elman(0, nx=3)
    data = records(system, 2, 1, length=200)
    first, second = (fit_encoder(system, data, past=4, washout=50, steps=20, seed=3) for _ in range(2))
    first.save(tmp_path / "e.npz")
    loaded = StateEncoder.load(tmp_path / "e.npz")
    u, y, _ = windows_and_states(system, data[0], 4, 60)
    np.testing.assert_array_equal(first.estimate(u, y), second.estimate(u, y))
    np.testing.assert_array_equal(first.estimate(u, y), loaded.estimate(u, y))
    assert loaded.system_digest == system.digest


def test_bad_input():
    system = random_elman(0, nx=3)
    data = records(system, 1, 1, length=100)
    with pytest.raises(SettingError, match="washout >= past"):
        fit_encoder(system, data, past=20, washout=10)
    with pytest.raises(DataError, match="longer than washout"):
        fit_encoder(system, data, past=20, washout=200)
    for wrong in (-1, 2**31, 0.5):
        with pytest.raises(SettingError, match="steps"):
            fit_encoder(system, data, past=4, washout=50, steps=wrong)
    encoder = fit_encoder(system, data, past=4, washout=50, steps=2)
    with pytest.raises(ShapeError, match="last 4 samples"):
        encoder.estimate(np.zeros((3, 2)), np.zeros((3, 2)))
