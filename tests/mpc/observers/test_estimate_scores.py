"""Scores of estimates by their formulas, and what a calibrated bound on estimates says of itself."""

from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import NormContraction, signals, switching
from record_cases import records

from controlrnn.data import Trajectory
from controlrnn.errors import ControlRnnError, DataError, SettingError
from mpc import Predictor, Washout, calibrate_estimates, estimate_errors
from mpc.observers.estimate_error import EstimateError, drawn_errors

W = 4


def made(**fields):
    claim = {
        "error_scores": np.array([0.4, 0.1, 0.3, 0.0]), "jump_scores": np.array([1.0, 3.0, 0.0, 2.0]),
        "metric": np.eye(2), "coverage": 0.6, "observer_digest": 64 * "a", "data_digest": 64 * "b",
    }  # fmt: skip
    return EstimateError(**(claim | fields))


def test_bounds_are_ordered_scores():
    one = made()
    assert one.n == 4
    assert (one.error.radius, one.jump.radius) == (0.3, 2.0)
    assert (made(coverage=0.8).error.radius, made(coverage=0.01).jump.radius) == (0.4, 0.0)
    assert not one.error_scores.flags.writeable
    assert not one.jump_scores.flags.writeable
    assert one.error.metric.tolist() == np.eye(2).tolist()
    assert one.promise == (
        "with probability >= 0.6, a new trajectory of the same kind, no longer and under the same feedback as the 4 "
        "calibration trajectories keeps the error of the estimate at all its samples (and likewise, on its own, the "
        "jump)"
    )
    with pytest.raises(ValueError, match="read-only"):
        one.metric[0, 0] = 2.0


@pytest.mark.parametrize(("wrong", "words"), [
    ({"error_scores": np.array([0.4, 0.1, 0.3, -1e-9])}, "scores must be"),
    ({"jump_scores": np.array([1.0, -3.0, 0.0, 2.0])}, "scores must be"),
    ({"error_scores": np.zeros(0), "jump_scores": np.zeros(0)}, "scores must be"),
    ({"jump_scores": np.zeros(3)}, "jump_scores must have shape"),
    ({"metric": np.array([[1.0, 2.0], [2.0, 1.0]])}, "metric must be positive definite"),
    ({"metric": np.array([[1.0, 0.5], [0.0, 1.0]])}, "metric must be symmetric"),
    ({"coverage": 0.9}, "needs at least 9"),
], ids=lambda w: "-".join(w) if isinstance(w, dict) else "")  # fmt: skip
def test_scores_that_bound_nothing(wrong, words):
    with pytest.raises(ControlRnnError, match=words):
        made(**wrong)


def test_errors_and_jumps_along_a_record(predictor):
    system, start = predictor.system, np.full(predictor.system.nx, 0.5)
    observer = Washout(predictor, W, initial_state=start)
    rng = np.random.default_rng(0)
    u = switching(rng, 12, 2)
    record = Trajectory(u, system.simulate(u)[0], 1.0)
    seen = np.clip(u + 0.1 * rng.standard_normal(u.shape), -1, 1)
    for recorded in (None, seen):
        given = u if recorded is None else recorded
        for washout in (0, W, 7):
            first = max(washout, W)
            errors, jumps = estimate_errors(observer, record, washout=washout, recorded=recorded)
            x = observer.estimates(given, record.y)
            true = system.simulate(u, start)[1]
            np.testing.assert_allclose(errors, (true - x)[first:], atol=1e-13)
            wanted = [x[t + 1] - system.step(x[t], given[t]) for t in range(first, 12)]
            np.testing.assert_allclose(jumps, wanted, atol=1e-13)
    short = record[: W + 1]
    assert estimate_errors(observer, short, washout=0)[0].shape == (2, system.nx)
    with pytest.raises(DataError, match=f"more than {W} samples, got {W}"):
        estimate_errors(observer, record[:W], washout=0)
    with pytest.raises(SettingError, match="washout"):
        estimate_errors(observer, record, washout=-1)


def test_scores_are_largest_norms_under_inputs_that_are_drawn(predictor):
    system, P = predictor.system, np.diag([2.0, 1.0, 0.5, 1.0])
    bound = np.array([0.05, 0.2])
    observer = Washout(predictor, W, contraction=NormContraction.of(system), input_error=bound)
    pool = records(system, range(9), steps=20)
    for seed, arguments in ((0, {}), (3, {"seed": 3}), (0, {"metric": P})):
        found = calibrate_estimates(observer, pool, washout=6, coverage=0.9, **arguments)
        M = arguments.get("metric", np.eye(4))
        for i, child in enumerate(np.random.SeedSequence(seed).spawn(9)):
            recorded = pool[i].u + drawn_errors(bound, 20, np.random.default_rng(child))
            parts = estimate_errors(observer, pool[i], washout=6, recorded=recorded)
            errors, jumps = (np.sqrt(np.einsum("ti,ij,tj->t", e, M, e)).max() for e in parts)
            assert found.error_scores[i] == pytest.approx(errors, rel=1e-12)
            assert found.jump_scores[i] == pytest.approx(jumps, rel=1e-12)
        assert found.metric.tolist() == M.tolist()
        assert found.observer_digest == observer.digest
        assert found.coverage == 0.9
    with pytest.raises(ControlRnnError, match="metric"):
        calibrate_estimates(observer, pool, washout=6, metric=np.eye(3))


def test_the_metric_is_that_of_the_certificate_or_the_identity(predictor):
    pool = records(predictor.system, range(9), steps=20)
    assert calibrate_estimates(Washout(predictor, W), pool, washout=6).metric.tolist() == np.eye(4).tolist()
    own = replace(NormContraction.of(predictor.system), metric=3 * np.eye(4))
    certified = calibrate_estimates(Washout(predictor, W, contraction=own), pool, washout=6)
    assert certified.metric.tolist() == (3 * np.eye(4)).tolist()


def test_records_without_a_second_sample_have_no_jump(predictor):
    pool = [record[: W + 1] for record in records(predictor.system, range(9), steps=20)]
    observer = Predictor(predictor.system, signals("u", 2, 1.0), signals("y", 2, 1.0))
    found = calibrate_estimates(Washout(observer, W), pool, washout=W + 0)
    assert (found.error_scores >= 0).all()
    assert found.n == 9


def test_drawn_errors_are_uniform_or_at_a_corner():
    bound = np.array([0.5, 2.0, 0.0])
    drawn = drawn_errors(bound, 4000, np.random.default_rng(0))
    assert drawn.shape == (4000, 3)
    assert (np.abs(drawn) <= bound).all()
    edge = np.abs(drawn[:, :2]) == bound[:2]
    assert (edge[:, 0] == edge[:, 1]).all()  # all channels at once
    assert edge[:, 0].mean() == pytest.approx(0.5, abs=0.05)
    inside = drawn[~edge[:, 0], :2] / bound[:2]
    assert np.abs(inside.mean(axis=0)).max() < 0.06
    assert inside.std(axis=0) == pytest.approx(1 / np.sqrt(3), abs=0.03)
    corners = np.sign(drawn[edge[:, 0], :2])
    assert np.abs(corners.mean(axis=0)).max() < 0.08
    assert abs((corners[:, 0] * corners[:, 1]).mean()) < 0.08
    assert not drawn[:, 2].any()
