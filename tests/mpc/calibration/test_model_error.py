from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import elman
from record_cases import record, records

from controlrnn.errors import DataError, FileFormatError, SettingError
from mpc import CalibrationMethod, DisturbanceFilter, ModelError, Operation, calibrate, calibration_errors, coverage_of


@pytest.mark.parametrize("disturbance", [None, DisturbanceFilter(0.5)])
def test_calibrated_bound_covers_new_trajectories_jointly(disturbance):
    """The whole pipeline, repeated on fresh records: coverage of a new trajectory at all times, steps and outputs."""
    system = elman(2, 2, 2)
    options = {"horizon": 3, "washout": 8}
    pool = records(system, range(600), steps=25)
    scale, hits = pool[:20], []
    for trial in range(58):
        part = pool[20 + 10 * trial : 30 + 10 * trial]
        found = calibrate(system, part[:9], scale_trajectories=scale, coverage=0.8, disturbance=disturbance, **options)
        hits.append(found.coverage_on(system, part[9:]).trajectories)
    share = np.mean(hits)  # rank 8 of 9: exactly 0.8 in expectation
    assert abs(share - 0.8) < 3.5 * np.sqrt(0.8 * 0.2 / len(hits))


def test_bound_scales_with_the_data_and_shows_the_growth_over_the_horizon(system):
    options = {"horizon": 6, "washout": 20, "disturbance": DisturbanceFilter(1.0)}
    made = records(system, range(40))
    found = calibrate(system, made[:20], scale_trajectories=made[20:], **options)
    assert (np.diff(found.bounds[1:], axis=0) > 0).all()  # a drifting residual is harder to foresee further ahead
    assert calibrate(system, made[:20], scale_trajectories=made[20:], inflation=2, **options).bounds == pytest.approx(
        2 * found.bounds
    )


def test_set_membership_is_the_largest_error(system):
    made = records(system, range(5))
    found = calibrate(system, made, horizon=4, washout=20, method=CalibrationMethod.SET_MEMBERSHIP, inflation=1.2)
    largest = np.max([np.abs(r.y - system.simulate(r.u)[0])[20:] for r in made], axis=(0, 1))
    np.testing.assert_allclose(found.bounds.max(axis=0), 1.2 * largest)
    assert found.coverage_on(system, made).trajectories == 1.0


def test_coverage_counts_records_and_steps():
    inside, outside = np.zeros((3, 2, 1)), np.zeros((3, 2, 1))
    outside[0, 1] = 2.0
    found = coverage_of(np.ones((2, 1)), [inside, outside])
    assert (found.trajectories, found.steps, found.n) == (0.5, 11 / 12, 2)


def test_coverage_looks_at_both_sides_and_at_the_edge():
    for edge, share in ((1.0, 1.0), (-1.0, 1.0), (1.0 + 1e-9, 0.0), (-1.0 - 1e-9, 0.0)):
        error = np.zeros((3, 2, 2))
        error[1, 0, 1] = edge
        assert coverage_of(np.ones((2, 2)), [error]).trajectories == share


def test_bound_is_that_ordered_score_and_no_other(system):
    """Of 10 scores the 9th for 0.8, the 10th for 0.9: the bound passes exactly so many records."""
    made, options = records(system, range(16)), {"horizon": 4, "washout": 20}
    errors = [calibration_errors(system, r, **options) for r in made[:10]]
    for coverage, rank in ((0.9, 10), (0.8, 9), (0.5, 6), (0.05, 1)):
        found = calibrate(system, made[:10], scale_trajectories=made[10:], coverage=coverage, **options)
        assert sum((np.abs(e) <= found.bounds).all() for e in errors) == rank
        slightly_less = [(np.abs(e) <= found.bounds * (1 - 1e-9)).all() for e in errors]
        assert sum(slightly_less) == rank - 1
        # For this very set: the promise with confidence asks for a rank of its own.
    sure = calibrate(system, made[:10], scale_trajectories=made[10:], coverage=0.5, confidence=0.9, **options)
    assert sum((np.abs(e) <= sure.bounds).all() for e in errors) == 8  # P(Bin(10, 1/2) <= 7) = 0.945, <= 6: 0.83
    assert "confidence 0.9" in sure.promise
    assert "independent" in sure.promise


def test_single_steps_pool_all_starts_of_all_records(system):
    made, options = records(system, range(16)), {"horizon": 4, "washout": 20}
    scale = {"scale_trajectories": made[10:]}
    each = calibrate(system, made[:10], coverage=0.8, unit="step", **scale, **options)
    whole = calibrate(system, made[:10], coverage=0.8, **scale, **options)
    assert (each.bounds < whole.bounds).all()
    inside = [
        (np.abs(calibration_errors(system, r, **options)) <= each.bounds).all(axis=(1, 2)).mean() for r in made[:10]
    ]
    share = np.sum(inside) / 11  # one eleventh of the weight lies at infinity
    assert 0.8 <= share < 0.8 + 1 / (11 * (60 - 20 - 4)) + 1e-12


def test_promise_names_length_readings_and_loop(system):
    made, options = records(system, range(16)), {"horizon": 4, "washout": 20}
    scale = {"scale_trajectories": made[10:]}
    found = calibrate(system, [made[0][:40], *made[1:10]], **scale, **options)
    assert (found.length, found.starts, found.loop, found.missing) == (40, 40 - 20 - 4, "open", None)
    assert "open-loop" in found.promise
    assert "40 samples, 16 predictions" in found.promise
    fed = calibrate(
        system,
        made[:10],
        disturbance=DisturbanceFilter(0.5),
        operation=Operation(loop="closed", missing=0.3),
        **scale,
        **options,
    )
    assert (fed.length, fed.missing, fed.loop) == (60, 0.3, "closed")
    assert "closed-loop (under the controller of the records, unchanged)" in fed.promise
    assert "0.3 of the readings missing" in fed.promise
    assert not fed.coverage_on(system, made[10:]).differs
    differs = fed.coverage_on(system, made[10:], operation=Operation(missing=0.1)).differs
    assert "0.1 of the readings missing, calibrated with 0.3" in differs
    assert "open loop, calibrated in closed loop" in differs
    assert "records of 60 samples, calibrated on 40" in found.coverage_on(system, made[10:]).differs


def test_longer_operation_is_promised_less_and_says_why(system):
    made, options = records(system, range(16)), {"horizon": 4, "washout": 20}
    scale = {"scale_trajectories": made[10:]}
    found = calibrate(system, made[:10], **scale, **options)
    assert found.starts == 36
    assert found.coverage_over(36) == pytest.approx(0.9)
    assert found.coverage_over(37) == found.coverage_over(72) == pytest.approx(0.8)
    assert found.coverage_over(73) == pytest.approx(0.7)
    assert found.coverage_over(1000) == 0.0
    assert found.promise_over(36) == found.promise
    assert "stationary" in found.promise_over(72)
    assert "0.8" in found.promise_over(72)
    assert "nothing is promised" in found.promise_over(1000)
    each = calibrate(system, made[:10], unit="step", coverage=0.9, **scale, **options)
    assert each.coverage_over(1) == pytest.approx(0.9)
    assert each.coverage_over(3) == pytest.approx(0.7)
    assert "on average at most 10 are not" in each.promise_over(100)


def test_missing_readings_make_the_estimate_stale_and_the_bound_larger(system):
    made, options = records(system, range(30)), {"horizon": 4, "washout": 20, "disturbance": DisturbanceFilter(0.8)}
    settings = {"scale_trajectories": made[20:], "coverage": 0.7, "unit": "step"} | options
    sizes = [calibrate(system, made[:20], operation=Operation(missing=m), **settings).bounds[0] for m in (0, 0.3, 0.6)]
    assert (sizes[0] < sizes[1]).all()
    assert (sizes[1] < sizes[2]).all()
    gaps = np.zeros((60, 2), dtype=bool)
    gaps[31:] = True  # from here on nothing is read: the estimate stays
    plain = calibration_errors(system, made[0], **options)
    stale = calibration_errors(system, made[0], gaps=gaps, **options)
    np.testing.assert_array_equal(stale[:11], plain[:11])
    held = stale[11:, 0] - (made[0].y - system.simulate(made[0].u)[0])[31:56]
    np.testing.assert_allclose(held, np.tile(held[:1], (25, 1)), atol=1e-12)


def test_set_membership_says_what_order_statistics_leave(system):
    made, options = records(system, range(39)), {"horizon": 4, "washout": 20, "method": "set_membership"}
    found = calibrate(system, made, **options)
    assert found.coverage == pytest.approx(1 - 2 / 40)  # two outputs, one number each
    assert (found.bounds == found.bounds[0]).all()
    drift = calibrate(system, made, disturbance=DisturbanceFilter(1.0), **options)
    assert drift.coverage == pytest.approx(1 - 10 / 40)
    few = calibrate(system, made[:5], disturbance=DisturbanceFilter(1.0), **options)
    assert few.coverage == 0.0
    assert "do not say" in few.promise
    for wrong in ({"confidence": 0.9}, {"unit": "step"}):
        with pytest.raises(SettingError, match="conformal"):
            calibrate(system, made, **wrong, **options)
    with pytest.raises(SettingError, match="whole records"):
        calibrate(system, made[:20], scale_trajectories=made[20:], horizon=4, washout=20, unit="step", confidence=0.9)


def test_saved_bound_is_restored_and_a_changed_file_refused(system, tmp_path):
    made = records(system, range(20))
    found = calibrate(system, made[:10], scale_trajectories=made[10:], horizon=4, washout=20)
    found.save(tmp_path / "error.npz")
    again = ModelError.load(tmp_path / "error.npz")
    assert again.digest == found.digest
    np.testing.assert_array_equal(again.bounds, found.bounds)
    assert again.promise == found.promise
    assert "0.9" in found.promise
    content = bytearray((tmp_path / "error.npz").read_bytes())
    content[content.index(found.bounds.tobytes())] ^= 1
    (tmp_path / "error.npz").write_bytes(bytes(content))
    with pytest.raises(FileFormatError):
        ModelError.load(tmp_path / "error.npz")
    assert len(found.plot().axes) == 1


def test_bad_input_is_refused(system):
    made = records(system, range(20))
    options = {"horizon": 4, "washout": 20}
    with pytest.raises(DataError, match="serve once"):
        calibrate(system, made[:10], scale_trajectories=made[9:], **options)
    with pytest.raises(DataError, match="serve once"):
        calibrate(system, [*made[:9], replace(made[0])], scale_trajectories=made[10:], **options)
    with pytest.raises(DataError, match="scale_trajectories"):
        calibrate(system, made[:10], **options)
    with pytest.raises(DataError, match="needs at least 9"):
        calibrate(system, made[:8], scale_trajectories=made[10:], **options)
    with pytest.raises(DataError):
        calibrate(system, [], method=CalibrationMethod.SET_MEMBERSHIP, **options)
    for wrong in ({"coverage": 1.0}, {"coverage": -0.1}, {"inflation": 0.9}, {"inflation": np.nan}, {"washout": -1}):
        with pytest.raises(SettingError):
            calibrate(system, made[:10], scale_trajectories=made[10:], **(options | wrong))
    with pytest.raises(SettingError, match="not the model"):
        calibrate(system, made[:10], scale_trajectories=made[10:], **options).coverage_on(elman(seed=5), made)
    clean = [record(system, s) for s in range(20)]
    with pytest.raises(DataError, match="simulated by the model"):
        calibrate(system, clean[:10], scale_trajectories=clean[10:], **options)
