"""What a calibrated bound says of itself, and that coverage is measured as the bound was calibrated."""

from dataclasses import replace

import numpy as np
import pytest
from record_cases import model_error, record, records

from controlrnn.errors import DataError, SettingError
from mpc import Coverage, DisturbanceFilter, Operation, Washout, calibrate, calibration_errors, coverage_of
from mpc.promises.order_statistics import clopper_pearson
from mpc.promises.premises import record_premises

OPTIONS = {"horizon": 3, "washout": 8}
GAIN = DisturbanceFilter(0.5)


def test_the_bound_names_what_it_was_calibrated_with(system, predictor):
    made = records(system, range(16), steps=30)
    plain = calibrate(system, made[:10], scale_trajectories=made[10:], **OPTIONS)
    assert (plain.disturbance_gain, plain.observer_digest, plain.washout) == (None, "", 8)
    assert plain.premises.digest == record_premises(system, made[:10]).digest
    observer = Washout(predictor, 8)
    fed = calibrate(system, made[:10], scale_trajectories=made[10:], disturbance=GAIN, observer=observer, **OPTIONS)
    assert (fed.disturbance_gain, fed.observer_digest) == (0.5, observer.digest)
    own = calibrate(system, made[:10], scale_trajectories=made[10:], disturbance=GAIN, **OPTIONS)
    assert np.abs(fed.bounds / own.bounds - 1).max() > 1e-6  # the disturbance is that of the observer's estimates
    short = calibrate(system, made[:10], scale_trajectories=made[10:], horizon=3, washout=0)
    assert short.washout == 0


def test_runs_start_where_they_are_told_to(system):
    made, start = records(system, range(16), steps=20), np.full(system.nx, 0.7)
    options = {"horizon": 2, "washout": 1, "initial_state": start}
    found = calibrate(system, made[:10], scale_trajectories=made[10:], **options)
    errors = [calibration_errors(system, r, **options) for r in made[:10]]
    assert sum((np.abs(e) <= found.bounds).all() for e in errors) == 10
    assert sum((np.abs(e) <= found.bounds * (1 - 1e-9)).all() for e in errors) == 9
    other = calibrate(system, made[:10], scale_trajectories=made[10:], horizon=2, washout=1)
    assert np.abs(found.bounds / other.bounds - 1).max() > 1e-6


def test_coverage_is_measured_as_the_bound_was_calibrated(system, predictor):
    made = records(system, range(16), steps=30)
    observer, start = Washout(predictor, 3), np.full(system.nx, 0.7)
    for arguments in ({}, {"observer": observer}, {"initial_state": start}):
        bound = replace(model_error(system, gain=0.5), bounds=np.zeros((4, 2)), washout=3)
        errors = [calibration_errors(system, r, horizon=3, washout=3, disturbance=GAIN, **arguments) for r in made]
        middle = np.median(np.abs(np.concatenate(errors)), axis=0)
        for size in (middle, 3 * middle):
            wanted = coverage_of(size, errors)
            found = replace(bound, bounds=size).coverage_on(system, made, **arguments)
            assert 0 < wanted.steps < 1
            assert (found.trajectories, found.steps, found.n) == (wanted.trajectories, wanted.steps, wanted.n)


def test_coverage_has_an_interval():
    found = Coverage(0.9, 0.99, 20)
    assert found.interval() == clopper_pearson(18, 20, 0.95)
    assert found.interval(0.5) == clopper_pearson(18, 20, 0.5)


def test_differences_are_named_one_after_the_other(system):
    bound = replace(model_error(system), missing=0.0, length=20)
    differs = bound.coverage_on(
        system, records(system, range(2), steps=40), operation=Operation(loop="closed", missing=0.25)
    ).differs
    assert differs == (
        "records of 40 samples, calibrated on 20; 0.25 of the readings missing, calibrated with 0; "
        "closed loop, calibrated in open loop"
    )


def test_a_bound_by_set_membership_says_what_follows(system):
    sure = model_error(system)
    text = "holds as long as the residuals stay within the (inflated) largest ones of 10 trajectories; "
    assert replace(sure, coverage=0.0).promise == f"{text}with what probability they do, so few trajectories do not say"
    some = replace(sure, coverage=0.25).promise
    assert some.startswith(f"{text}with probability >= 0.25, a new open-loop (not under feedback) trajectory of")
    assert some.endswith(" (order statistics)")


def test_bounds_are_made_of_what_makes_sense(system):
    good = model_error(system)
    made = replace(good, loop="closed", unit="step", n=np.int64(3), washout=0, confidence=0.5)
    assert (str(made.loop), str(made.unit), made.n, made.washout) == ("closed", "step", 3, 0)
    assert type(made.n) is int
    assert not made.bounds.flags.writeable
    for wrong in ({"n": 0}, {"length": 0}, {"starts": 0}, {"washout": -1}, {"confidence": 0.0}, {"confidence": 1.0},
                  {"coverage": 1.1}, {"coverage": -0.1}, {"missing": 1.5}, {"missing": -0.1}, {"disturbance_gain": 0.0},
                  {"disturbance_gain": 1.5}, {"bounds": -good.bounds}, {"loop": "ajar"}, {"unit": "day"}):  # fmt: skip
        with pytest.raises(SettingError):
            replace(good, **wrong)


def test_the_shape_of_a_bound_is_that_of_the_root_mean_square_errors(system):
    """Step by step and output by output, but no less than a thousandth of an output's largest."""
    made = records(system, range(16), steps=30)
    large = [replace(r, y=r.y * np.array([1.0, 1e4])) for r in made]
    for pool in (made, large):
        found = calibrate(
            system, pool[:10], scale_trajectories=pool[10:], disturbance=DisturbanceFilter(1.0), **OPTIONS
        )
        errors = [calibration_errors(system, r, disturbance=DisturbanceFilter(1.0), **OPTIONS) for r in pool[10:]]
        rms = np.sqrt(np.mean(np.concatenate(errors) ** 2, axis=0))
        assert (rms[0] < 1e-12 * np.abs(pool[0].y).max()).all()  # the present is corrected in full
        shape = np.maximum(rms, 1e-3 * rms.max(axis=0))
        ratio = found.bounds / shape
        np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-9)


def test_outputs_that_the_model_knows_in_advance_are_refused(system):
    clean = [record(system, s, steps=30) for s in range(16)]
    for factor in (1.0, 1e6):
        for output in (0, 1):
            off = np.where(np.arange(2) == output, 0.0, 0.1) * np.random.default_rng(0).standard_normal((30, 2))
            one = [replace(r, y=r.y + factor * off) for r in clean]
            with pytest.raises(DataError, match="simulated by the model"):
                calibrate(system, one[:10], scale_trajectories=one[10:], **OPTIONS)
    hardly = [replace(r, y=r.y + 1e-9 * np.random.default_rng(i).standard_normal((30, 2))) for i, r in enumerate(clean)]
    assert (calibrate(system, hardly[:10], scale_trajectories=hardly[10:], **OPTIONS).bounds > 0).all()
