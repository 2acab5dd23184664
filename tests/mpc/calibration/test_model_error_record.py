"""What a calibrated bound says of itself, and that coverage is measured as the bound was calibrated."""

from dataclasses import replace

import numpy as np
import pytest
from record_cases import model_error, record, records

from controlrnn.errors import DataError, SettingError
from mpc import Coverage, DisturbanceFilter, Operation, Washout, calibrate, calibration_errors, coverage_of
from mpc.calibration.residuals import RecordErrors
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
                  {"disturbance_gain": 1.5}, {"bounds": -good.bounds}, {"loop": "ajar"}, {"unit": "day"},
                  {"measured": 0.0}, {"measured": -0.5}, {"measured": 1.5}, {"sources": 0},
                  {"sources": good.n + 1}):  # fmt: skip
        with pytest.raises(SettingError):
            replace(good, **wrong)


def test_what_the_records_lack_is_said(system):
    good = replace(model_error(system), n=10)
    gaps = "; 62.5 % of the outputs were measured, and errors of the others are not covered"
    pieces = (
        "; the 10 trajectories are pieces of 4 experiment(s): this is a promise for further pieces of such a record, "
        "cut alike, if the order of pieces says nothing (a stationary process that forgets within the gap between "
        "them), and none for another experiment"
    )
    for fields, words in (({"measured": 0.625}, gaps), ({"sources": 4}, pieces), ({"sources": 10}, ""),
                          ({"measured": 0.625, "sources": 4}, gaps + pieces)):  # fmt: skip
        lacking = replace(good, **fields)
        assert lacking.promise == good.promise + words
        assert lacking.promise_over(500) == good.promise_over(500) + words


def test_pieces_and_gaps_of_the_records_are_counted(system):
    made = records(system, range(16), steps=30)
    whole = records(system, [99], steps=290)[0]
    pieces = [whole[30 * i : 30 * i + 25] for i in range(9)]
    found = calibrate(system, [*pieces, made[0]], scale_trajectories=made[10:], **OPTIONS)
    assert (found.n, found.sources, found.measured) == (10, 2, 1.0)
    with pytest.raises(DataError, match="confidence needs independent records"):
        calibrate(system, [*pieces, *made[:10]], scale_trajectories=made[10:], coverage=0.5, confidence=0.5, **OPTIONS)
    sure = calibrate(system, made[:10], scale_trajectories=made[10:], coverage=0.5, confidence=0.5, **OPTIONS)
    assert (sure.sources, sure.confidence) == (10, 0.5)
    gaps = [replace(r, y=np.where(np.arange(30)[:, None] % 5 == [0, 5], np.nan, r.y)) for r in made[:10]]
    assert calibrate(system, gaps, scale_trajectories=made[10:], **OPTIONS).measured == pytest.approx(0.9)


def test_readings_for_the_scale_are_hidden_on_their_own(system):
    """With the gaps of the calibration records the bound would know something of them, and not of a new one's."""
    made, operation = records(system, range(16), steps=30), Operation(missing=0.4, seed=3)
    found = calibrate(system, made[:10], scale_trajectories=made[10:], disturbance=GAIN, operation=operation, **OPTIONS)
    ratios = []
    for own in (True, False):
        parts = RecordErrors(system, 3, 8, GAIN, None, None).of(made[10:], operation, scale=own).errors
        rms = np.sqrt(np.mean(np.concatenate(parts) ** 2, axis=0))
        ratio = found.bounds / np.maximum(rms, 1e-3 * rms.max(axis=0))
        ratios.append(ratio.max() / ratio.min() - 1)
    assert ratios[0] < 1e-9 < ratios[1]


def test_what_was_not_measured_neither_counts_nor_stops_a_calibration(system):
    errors = [np.array([[[0.5, np.nan], [2.0, 0.5]], [[np.nan, np.nan], [0.5, 0.5]]])]
    met = coverage_of(np.ones((2, 2)), errors)
    assert (met.trajectories, met.steps) == (0.0, 2 / 3)
    with pytest.raises(DataError, match="no error that is known"):
        coverage_of(np.ones((2, 2)), [*errors, np.full((1, 2, 2), np.nan)])
    made = records(system, range(16), steps=40)
    early = np.arange(40)[:, None] < 8  # in the washout
    blind = [replace(r, y=np.where([True, False] | early, r.y, np.nan)) for r in made[10:]]
    with pytest.raises(DataError, match="never measured at some step"):
        calibrate(system, made[:10], scale_trajectories=blind, **OPTIONS)
    # A gap longer than the horizon leaves predictions without any error that is known.
    gap = [replace(r, y=np.where(np.arange(40)[:, None] // 10 == [2, 9], np.nan, r.y)) for r in made[10:]]
    assert (calibrate(system, made[:10], scale_trajectories=gap, **OPTIONS).bounds > 0).all()


def scaled(system, units):
    """The same model and records with outputs in other units."""
    units = np.asarray(units)
    made = [replace(r, y=r.y * units) for r in records(system, range(16), steps=30)]
    return replace(system, C2=system.C2 * units[:, None], by=system.by * units), made


def test_the_units_of_outputs_do_not_matter(system):
    plain = calibrate(system, (r := scaled(system, [1, 1])[1])[:10], scale_trajectories=r[10:], **OPTIONS)
    for units in ([1.0, 2.0**-50], [2.0**50, 1.0], [2.0**-60, 2.0**60]):
        other, made = scaled(system, units)
        found = calibrate(other, made[:10], scale_trajectories=made[10:], **OPTIONS)
        np.testing.assert_allclose(found.bounds / units, plain.bounds, rtol=1e-9)
        clean = [replace(r, y=other.simulate(r.u)[0] * (1 + 1e-15 * (-1.0) ** np.arange(30)[:, None])) for r in made]
        with pytest.raises(DataError, match="simulated by the model"):  # rounding, in any units
            calibrate(other, clean[:10], scale_trajectories=clean[10:], **OPTIONS)
    silent, made = scaled(system, [1.0, 0.0])
    with pytest.raises(DataError, match="simulated by the model"):
        calibrate(silent, made[:10], scale_trajectories=made[10:], **OPTIONS)


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
