from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import elman
from test_residuals import record

from controlrnn.errors import DataError, FileFormatError, SettingError
from mpc import CalibrationMethod, DisturbanceFilter, ModelError, calibrate, coverage_of
from mpc.model_error import conformal_rank


def records(system, seeds, **options):
    """Exchangeable trajectories: each has an amplitude of its own, and errors correlated in time."""
    made = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        clean = record(system, seed, **options)
        drift = rng.gamma(2.0) * np.cumsum(rng.standard_normal((len(clean), 2)), axis=0) / 30
        made.append(replace(clean, y=clean.y + drift))
    return made


def test_rank_is_the_textbook_one():
    assert conformal_rank(9, 0.9) == 9
    assert conformal_rank(19, 0.9) == 18
    assert conformal_rank(99, 0.95) == 95
    assert conformal_rank(100, 0.95) == 96


@pytest.mark.parametrize(("coverage", "least"), [(0.9, 9), (0.95, 19), (0.5, 1), (0.99, 99)])
def test_too_few_records_say_how_many_are_needed(coverage, least):
    assert conformal_rank(least, coverage) <= least
    with pytest.raises(DataError, match=f"at least {least} "):
        conformal_rank(least - 1, coverage)


def test_quantile_covers_a_new_score_as_often_as_promised(rng):
    """n + 1 exchangeable scores: P(new <= bound) = rank / (n + 1) exactly, for continuous scores."""
    n, trials = 19, 20000
    scores = rng.lognormal(size=(trials, n + 1)) * rng.gamma(0.5, size=(trials, 1))
    for coverage in (0.7, 0.9):
        rank = conformal_rank(n, coverage)
        hit = np.mean(scores[:, -1] <= np.sort(scores[:, :-1], axis=1)[:, rank - 1])
        spread = 4 * np.sqrt(coverage * (1 - coverage) / trials)
        assert coverage - spread <= hit <= coverage + 1 / (n + 1) + spread


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
