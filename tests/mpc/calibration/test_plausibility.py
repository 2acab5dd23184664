"""Plausibility limits find what is wrong, let good readings through, and tell a changed plant from a bad sensor."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from mpc_networks import LurePlant, NormContraction, elman, signals, switching

from controlrnn.data import Signal, Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from mpc import (
    DisturbanceFilter,
    Disturbances,
    DropOut,
    FrozenSensor,
    Outlier,
    PlausibilityLimits,
    Predictor,
    SaturatedSensor,
    TightenedMPC,
    Tracking,
    Verdict,
    Washout,
    Watching,
    no_tightening,
    run_closed_loop,
)

SENSORS = (Signal("y1", "m", -2.0, 2.0), Signal("y2", "m", -2.0, 2.0))


def verdicts(limits, readings, expected=None):
    checks = limits.start()
    found = [checks.check(y, None if expected is None else expected[t]) for t, y in enumerate(readings)]
    return np.array([y for y, _ in found]), np.array([v for _, v in found])


def test_each_check_finds_its_fault():
    limits = PlausibilityLimits(sensors=SENSORS, rate=[0.5, 0.5], residual=[0.3, 0.3], repeats=2)
    readings = [
        [0.0, 0.1],
        [0.1, np.nan],
        [0.2, 0.2],
        [0.3, 2.0],  # at the end of the sensor's range
        [0.9, 0.25],  # faster than 0.5 a sample
        [0.35, 0.25],
        [0.4, 0.25],  # the third of the same
        [0.45, 0.30],
        [0.85, 0.31],  # not too fast, but not expected either
        [-np.inf, 0.32],
    ]
    expected = [[y if np.isfinite(y) and abs(y) < 0.5 else 0.45 for y in row] for row in readings]
    kept, found = verdicts(limits, readings, expected)
    wrong = {(1, 1): Verdict.MISSING, (3, 1): Verdict.OUT_OF_RANGE, (4, 0): Verdict.TOO_FAST, (6, 1): Verdict.STUCK,
             (8, 0): Verdict.UNEXPECTED, (9, 0): Verdict.MISSING}  # fmt: skip
    for (t, i), verdict in wrong.items():
        assert found[t, i] == verdict
    assert (found != 0).sum() == len(wrong)
    np.testing.assert_array_equal(np.isnan(kept), found != 0)
    good = found == 0
    np.testing.assert_array_equal(kept[good], np.array(readings)[good])


def test_the_rate_grows_with_the_gap():
    limits = PlausibilityLimits(sensors=SENSORS[:1], rate=[0.1])
    gap = [[0.0], [np.nan], [np.nan], [0.29]]
    assert verdicts(limits, gap)[1][-1] == Verdict.FINE
    assert verdicts(limits, [*gap[:-1], [0.31]])[1][-1] == Verdict.TOO_FAST


def test_a_lasting_change_is_believed_after_a_while_and_an_isolated_one_never():
    limits = PlausibilityLimits(sensors=SENSORS[:1], residual=[0.2], patience=4)
    changed = [[0.0]] * 3 + [[1.0]] * 10
    _, found = verdicts(limits, changed, [[0.0]] * 13)
    assert found[:, 0].tolist() == [0, 0, 0, *[Verdict.UNEXPECTED] * 4, *[0] * 6]
    isolated = [[0.0 if t % 3 else 1.0] for t in range(30)]
    _, found = verdicts(limits, isolated, [[0.0]] * 30)
    np.testing.assert_array_equal(found[:, 0] == Verdict.UNEXPECTED, np.array(isolated)[:, 0] == 1.0)
    strict = PlausibilityLimits(sensors=SENSORS[:1], residual=[0.2], patience=None)
    assert (verdicts(strict, changed, [[0.0]] * 13)[1][3:] == Verdict.UNEXPECTED).all()


def test_without_limits_only_what_is_no_reading_is_rejected():
    rng = np.random.default_rng(0)
    readings = rng.uniform(-1.9, 1.9, (50, 2))
    assert not verdicts(PlausibilityLimits(sensors=SENSORS), readings, np.zeros((50, 2)))[1].any()
    same = np.ones((50, 2))
    assert not verdicts(PlausibilityLimits(sensors=SENSORS), same)[1].any()


def loop():
    system = elman()
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 0.6))
    observer = Washout(predictor, 12, contraction=NormContraction.of(system))
    controller = TightenedMPC(
        predictor, observer, no_tightening(system.digest, 6, 2), Tracking(output_weight=1.0, input_move_weight=0.01)
    )
    return LurePlant(system, predictor.inputs, predictor.outputs), controller


def record(system, rng, noise=0.02):
    u = switching(rng, 120, 2)
    return Trajectory(u, system.simulate(u)[0] + noise * rng.standard_normal((120, 2)), 1.0)


@pytest.fixture(scope="module")
def calibrated():
    plant, controller = loop()
    rng = np.random.default_rng(5)
    records = [record(plant.system, rng) for _ in range(5)]
    limits = PlausibilityLimits.calibrated(SENSORS, controller.observer, records, disturbance=controller.filter)
    return plant, controller, limits


def test_calibrated_limits_are_those_of_the_records(calibrated):
    plant, controller, limits = calibrated
    rng = np.random.default_rng(5)
    records = [record(plant.system, rng) for _ in range(5)]
    np.testing.assert_allclose(
        limits.rate, 1.5 * np.max([np.abs(np.diff(r.y, axis=0)).max(0) for r in records], axis=0)
    )
    assert limits.repeats == 3
    # Noise of 0.02, less its filtered self: the largest of 1000 is some four standard deviations.
    assert (limits.residual > 1.5 * 0.05).all()
    assert (limits.residual < 1.5 * 0.13).all()
    quantised = [Trajectory(r.u, np.round(r.y, 1), r.dt) for r in records]
    coarse = PlausibilityLimits.calibrated(SENSORS, controller.observer, quantised, disturbance=controller.filter)
    assert coarse.repeats > 3


def run(calibrated, faults, *, checked=True, seed=1):
    plant, controller, limits = calibrated
    controller = copy.deepcopy(controller)
    if checked:
        controller.change(watching=Watching(plausibility=limits))
    return run_closed_loop(
        plant,
        controller,
        reference=np.repeat([[0.3, 0.1], [-0.2, 0.1]], 30, axis=0),
        steps=60,
        seed=seed,
        faults=faults,
        disturbances=Disturbances(noise_std=0.02),
    )


def test_good_readings_pass(calibrated):
    assert run(calibrated, ()).rejected == {}


def test_faults_are_detected_and_kept_from_the_controller(calibrated):
    outliers = run(calibrated, [Outlier(size=0.8, start=5, probability=0.2)])
    off = outliers.faults[:, 0]
    hit = np.abs(outliers.readings - outliers.y[:-1]) > 0.5
    assert hit.sum() > 5
    assert (outliers.verdicts[hit] >= Verdict.OUT_OF_RANGE).all()
    assert (outliers.verdicts[~hit & ~off[:, None]] == 0).all()
    blind = run(calibrated, [Outlier(size=0.8, start=5, probability=0.2)], checked=False)
    assert np.abs(outliers.disturbance).max() < 0.06 < 0.1 < np.abs(blind.disturbance).max()

    frozen = run(calibrated, [FrozenSensor(start=10, stop=25, channel=0)])
    assert (frozen.verdicts[13:25, 0] == Verdict.STUCK).all()
    assert (frozen.verdicts[25:, 0] == 0).all()
    saturated = run(calibrated, [SaturatedSensor(upper=0.1, start=10, stop=25, channel=0)])
    assert (saturated.verdicts[13:25, 0] == Verdict.STUCK).all()
    gone = run(calibrated, [DropOut(start=10, stop=25, channel=0)])
    assert gone.rejected == {"missing": 15}


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: PlausibilityLimits(sensors=()), SettingError),
        (lambda: PlausibilityLimits(sensors=SENSORS, rate=[1.0]), ShapeError),
        (lambda: PlausibilityLimits(sensors=SENSORS, residual=[0.0, 1.0]), SettingError),
        (lambda: PlausibilityLimits(sensors=SENSORS, repeats=0), SettingError),
        (lambda: PlausibilityLimits(sensors=SENSORS, patience=0), SettingError),
        (lambda: PlausibilityLimits(sensors=SENSORS).start().check([0.0]), ShapeError),
        (lambda: limits_from([]), DataError),
        (lambda: limits_from([Trajectory(np.zeros((13, 2)), np.zeros((13, 2)), 1.0)]), DataError),
        (lambda: limits_from([record(elman(), np.random.default_rng(0))], factor=0.9), SettingError),
    ],
)
def test_bad_settings_are_refused(make, error):
    with pytest.raises(error):
        make()


def limits_from(records, **options):
    _, controller = loop()
    return PlausibilityLimits.calibrated(
        SENSORS, controller.observer, records, disturbance=DisturbanceFilter(0.2), **options
    )
