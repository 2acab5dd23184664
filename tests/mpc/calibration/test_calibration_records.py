"""What calibration makes of missing samples, of copies, and of pieces of one record."""

from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import switching
from random_systems import random_system

from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.errors import DataError
from mpc import (
    DisturbanceFilter,
    ModelError,
    PlausibilityLimits,
    Predictor,
    RunningOn,
    calibrate,
    calibrate_estimates,
    calibration_errors,
    learn_region,
    prediction_errors,
)
from mpc.promises.promise import CoverageUnit

SYSTEM = random_system(3, nx=2, nu=1, ny=2, feedthrough=False, dt=1.0)
INPUTS = (Signal("u", lower=-2.0, upper=2.0),)
SET = {"horizon": 4, "washout": 10}


def record(seed, T=60, share=0.0):
    rng = np.random.default_rng(seed)
    u = switching(rng, T, 1)
    y = SYSTEM.simulate(u)[0] + 0.1 * rng.gamma(2.0) * rng.standard_normal((T, 2))
    return Trajectory(u, np.where(rng.random(y.shape) < share, np.nan, y), 1.0, inputs=INPUTS, name=f"r{seed}")


def records(n, first=0, share=0.0, T=60):
    return [record(first + s, T, share) for s in range(n)]


def test_errors_are_known_where_the_output_was_measured():
    r = record(1, share=0.2)
    errors = calibration_errors(SYSTEM, r, **SET)
    seen = np.lib.stride_tricks.sliding_window_view(r.missing[10:], 5, axis=0).swapaxes(1, 2)
    np.testing.assert_array_equal(np.isnan(errors), seen)
    filtered = calibration_errors(SYSTEM, r, **SET, disturbance=DisturbanceFilter(0.5))
    np.testing.assert_array_equal(np.isnan(filtered), seen)
    observer = RunningOn(Predictor(SYSTEM, INPUTS), 10)
    for disturbance in (None, DisturbanceFilter(0.5)):
        assert not np.isnan(prediction_errors(observer, record(1), horizon=4, disturbance=disturbance)).any()
        found = prediction_errors(observer, r, horizon=4, disturbance=disturbance)
        assert np.isnan(found).mean() == pytest.approx(0.2, abs=0.08)


def test_the_promise_is_for_what_was_measured_and_says_so():
    full = calibrate(SYSTEM, records(19), scale_trajectories=records(3, 100), coverage=0.9, **SET)
    holed = calibrate(SYSTEM, records(19, share=0.2), scale_trajectories=records(3, 100, 0.2), coverage=0.9, **SET)
    assert "were measured" not in full.promise
    assert f"{100 * holed.measured:.3g} % of the outputs were measured" in holed.promise
    assert "not covered" in holed.promise
    assert "not covered" in holed.promise_over(10_000)
    assert holed.measured == pytest.approx(0.8, abs=0.02)
    assert (holed.bounds < full.bounds * 1.5).all()


def test_the_promise_holds_with_missing_samples():
    inside = []
    for trial in range(150):
        made = records(23, 1000 * trial, share=0.3, T=40)
        found = calibrate(SYSTEM, made[4:], scale_trajectories=made[1:4], coverage=0.9, **SET)
        inside.append(found.coverage_on(SYSTEM, made[:1]).trajectories)
    assert np.mean(inside) > 0.9 - 3 * np.sqrt(0.09 / 150)


def test_shifted_windows_of_one_record_are_refused():
    """Thirty of them would promise 0.95 and give 0.2."""
    whole = record(7, 400)
    windows = [whole[5 * k : 5 * k + 100] for k in range(30)]
    with pytest.raises(DataError, match="samples in common"):
        calibrate(SYSTEM, windows, scale_trajectories=records(2, 100), coverage=0.95, **SET)
    with pytest.raises(DataError, match="samples in common"):
        Dataset((record(1),), calibration=windows)
    observer = RunningOn(Predictor(SYSTEM, INPUTS), 10)
    with pytest.raises(DataError, match="samples in common"):
        learn_region(observer, windows[:9], scale_trajectories=records(2, 100), coverage=0.8)
    with pytest.raises(DataError, match="samples in common"):
        calibrate_estimates(observer, windows[:9], washout=10, coverage=0.8)
    with pytest.raises(DataError, match="samples in common"):  # also between the purposes
        calibrate(SYSTEM, records(9), scale_trajectories=[record(3)[20:]], coverage=0.9, **SET)


def test_pieces_of_one_record_are_named_in_the_promise(caplog):
    data = Dataset.from_record(record(7, 2000), (0.2, 0.1, 0.1, 0.6), gap=20, pieces=12)
    found = calibrate(SYSTEM, data.calibration, scale_trajectories=data.validation, coverage=0.9, **SET)
    assert found.sources == 1
    assert "12 trajectories are pieces of 1 experiment" in found.promise
    assert "none for another experiment" in found.promise
    assert "pieces of 1" in caplog.text
    with pytest.raises(DataError, match="confidence needs independent records"):
        calibrate(SYSTEM, data.calibration, scale_trajectories=data.validation, coverage=0.5, confidence=0.5, **SET)
    mixed = [*data.calibration[:5], *records(5)]
    again = calibrate(SYSTEM, mixed, scale_trajectories=data.validation, coverage=0.9, unit=CoverageUnit.RECORD, **SET)
    assert again.sources == 6
    whole = calibrate(SYSTEM, records(10), scale_trajectories=records(2, 100), coverage=0.9, **SET)
    assert whole.sources == 10
    assert "pieces" not in whole.promise


def test_what_is_said_of_the_evidence_is_saved(tmp_path):
    data = Dataset.from_record(record(7, 2000, 0.1), (0.2, 0.1, 0.1, 0.6), gap=20, pieces=12)
    found = calibrate(SYSTEM, data.calibration, scale_trajectories=data.validation, coverage=0.9, **SET)
    found.save(tmp_path / "e.npz")
    assert ModelError.load(tmp_path / "e.npz").promise == found.promise
    with pytest.raises(Exception, match="sources"):
        replace(found, sources=13)


def test_guards_and_regions_learn_from_what_is_there():
    observer = RunningOn(Predictor(SYSTEM, INPUTS), 10)
    sensors = [replace(s, lower=-9.0, upper=9.0) for s in record(1).outputs]
    made = [
        PlausibilityLimits.calibrated(sensors, observer, records(4, share=share), disturbance=DisturbanceFilter(0.5))
        for share in (0.0, 0.2)
    ]
    assert np.isfinite([g.rate for g in made]).all()
    assert (np.asarray(made[1].rate) <= 1.5 * np.asarray(made[0].rate)).all()
    lonely = replace(record(1), y=np.where(np.arange(60)[:, None] % 2, np.nan, record(1).y))
    with pytest.raises(DataError, match="two readings in a row"):
        PlausibilityLimits.calibrated(sensors, observer, [lonely], disturbance=DisturbanceFilter(0.5))
    region = learn_region(observer, records(9, share=0.1), scale_trajectories=records(2, 100, 0.1), coverage=0.8)
    assert np.isfinite(region.limits).all()
