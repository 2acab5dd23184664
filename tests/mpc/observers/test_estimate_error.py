import numpy as np
import pytest
from mpc_networks import NormContraction, elman, switching

from controlrnn.data import Trajectory
from controlrnn.errors import DataError, FileFormatError
from mpc import EstimateError, RunningOn, Washout, calibrate_estimates, estimate_errors


def make_records(n, length=90, seed=0):
    system, found = elman(), []
    for child in np.random.SeedSequence(seed).spawn(n):
        rng = np.random.default_rng(child)
        u = switching(rng, length, 2)
        found.append(Trajectory(u=u, y=system.simulate(u)[0], dt=1.0, name=f"{seed}"))
    return found


@pytest.fixture(scope="module")
def records():
    return make_records(19)


def test_errors_and_jumps_are_those_of_the_run(predictor, records):
    observer, record = Washout(predictor, 5), records[0]
    recorded = record.u + 0.01
    errors, jumps = estimate_errors(observer, record, washout=40, recorded=recorded)
    x = predictor.system.simulate(record.u, observer.initial_state)[1]
    rows = observer.estimates(recorded, record.y)
    assert errors.shape == (51, 4)
    assert jumps.shape == (50, 4)
    np.testing.assert_allclose(errors[3], x[43] - rows[43], atol=1e-13)
    np.testing.assert_allclose(jumps[3], rows[44] - predictor.system.step(rows[43], recorded[43]), atol=1e-13)


def test_the_calibrated_bounds_cover_new_trajectories_as_often_as_promised(predictor):
    observer = Washout(predictor, 3, input_error=0.02)
    inside = []
    for seed in range(40):
        pool = make_records(10, 60, seed)
        bound = calibrate_estimates(observer, pool[:9], washout=40, coverage=0.8, seed=seed)
        new = calibrate_estimates(
            observer, [*pool[9:], *make_records(3, 60, 1000 + seed)], washout=40, coverage=0.5, seed=seed + 500
        )
        inside.append((new.error_scores[0] <= bound.error.radius, new.jump_scores[0] <= bound.jump.radius))
    # Binomial(40, 0.8) is below 24 with probability 0.0008.
    assert (np.sum(inside, axis=0) >= 24).all()


@pytest.mark.parametrize(("coverage", "rank"), [(0.9, 9), (0.8, 8), (0.5, 5), (0.05, 1)])
def test_bounds_are_that_ordered_score_and_no_other(coverage, rank):
    scores = np.random.default_rng(0).permutation(np.arange(1.0, 10.0))
    bound = EstimateError(
        error_scores=scores,
        jump_scores=10 * scores,
        metric=np.eye(2),
        coverage=coverage,
        observer_digest=64 * "a",
        data_digest=64 * "b",
    )
    assert (bound.error.radius, bound.jump.radius) == (rank, 10 * rank)


def test_a_certificate_is_never_below_what_calibration_sees(predictor, records):
    contraction = NormContraction.of(predictor.system)
    for observer in (
        Washout(predictor, 4, contraction=contraction, input_error=0.05),
        RunningOn(predictor, 4, contraction=contraction, input_error=0.05),
    ):
        seen = calibrate_estimates(observer, records, washout=40)
        assert 0 < seen.error.radius <= observer.error.radius
        assert seen.jump.radius <= observer.jump.radius + 1e-12
        np.testing.assert_array_equal(seen.metric, contraction.metric)


def test_it_survives_its_file_and_plots(predictor, records, tmp_path):
    bound = calibrate_estimates(Washout(predictor, 4), records, washout=40, coverage=0.9)
    bound.save(tmp_path / "bound.npz")
    again = EstimateError.load(tmp_path / "bound.npz")
    assert again.error.radius == bound.error.radius
    assert again.promise == bound.promise
    assert "19" in bound.promise
    assert len(bound.plot().axes[0].lines) == 4
    (tmp_path / "other.npz").write_bytes(b"no record")
    with pytest.raises(FileFormatError):
        EstimateError.load(tmp_path / "other.npz")


def test_bad_records_are_refused(predictor, records):
    observer = Washout(predictor, 4)
    with pytest.raises(DataError, match="at least"):
        calibrate_estimates(observer, records[:3], washout=40, coverage=0.9)
    with pytest.raises(DataError, match="once"):
        calibrate_estimates(observer, [*records, records[0]], washout=40)
    with pytest.raises(DataError, match="samples"):
        calibrate_estimates(observer, records, washout=90)
