from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from mpc_networks import LurePlant, NormContraction, NormHorizon, declared_error, elman, signals

from controlrnn.errors import FileFormatError, SettingError, ShapeError
from mpc import (
    ClosedLoopResult,
    ClosedLoopSetup,
    Fallback,
    Predictor,
    Status,
    TightenedMPC,
    Tracking,
    Washout,
    monte_carlo,
    no_tightening,
    run_closed_loop,
    tighten,
)
from mpc.loops.settings import loop_settings

N = 8
REFERENCE = [0.6, 0.0]  # output 1 is asked to stay at its limit


def wander(rng):
    """Output disturbances of the plant, within 0.05."""
    return 0.05 * rng.choice([-1.0, 1.0], (60, 2))


def build(tightened=True, *, steps=40, disturbance=wander, **options):
    system = elman()
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 0.6))
    observer = Washout(predictor, 20, contraction=NormContraction.of(system))
    plan = no_tightening(system.digest, N, 2)
    if tightened:
        error = declared_error(system, 0.0501 * np.ones((N + 1, 2)))
        plan = tighten(error, NormHorizon.of(system, N, observer.error.euclidean), observer=observer)
    controller = TightenedMPC(predictor, observer, plan, Tracking(output_weight=1.0, input_move_weight=0.01))
    plant = LurePlant(system, predictor.inputs, predictor.outputs)
    return ClosedLoopSetup(
        plant, controller, {"reference": REFERENCE, "steps": steps, "disturbance": disturbance} | options
    )


def run(setup, seed=0, **options):
    return run_closed_loop(setup.plant, setup.controller, seed=seed, **loop_settings(dict(setup.options) | options))


@pytest.fixture(scope="module")
def tightened():
    return build()


@pytest.fixture(scope="module")
def untightened():
    return build(tightened=False)


def test_tightened_keeps_the_limits_that_nominal_violates(tightened, untightened):
    safe = monte_carlo(lambda: tightened, range(4))
    plain = monte_carlo(lambda: untightened, range(4))
    assert plain.runs_with_violation == 4
    assert safe.runs_with_violation == 0
    assert safe.summary()["max_violation"] == 0.0
    assert safe.summary()["failed_solves"] == 0
    assert safe.summary()["inside_bound"] == 1.0
    assert max(np.abs(r.errors[:, 1:][~np.isnan(r.errors[:, 1:])]).max() for r in safe.results) > 0.04
    assert safe.summary()["steps"] == 160
    for result in safe.results:  # safe, not timid: as near to the limit as the tightening allows
        assert result.y[20:, 0].mean() > 0.6 - 1.5 * result.bounds[1, 0] - 0.05


def test_perfect_model_is_tracked_without_offset(untightened):
    result = run(untightened, reference=[0.2, 0.1], disturbance=None, steps=60)
    np.testing.assert_allclose(result.y[-10:], np.tile([0.2, 0.1], (10, 1)), atol=1e-4)
    assert result.violations == 0
    assert set(result.status) == {Status.SOLVED}
    assert set(result.fallback) == {Fallback.NONE}


def test_constant_disturbance_leaves_no_offset(untightened):
    result = run(untightened, reference=[0.2, 0.1], disturbance=[[0.05, -0.05]], steps=80)
    np.testing.assert_allclose(result.y[-5:], np.tile([0.2, 0.1], (5, 1)), atol=1e-4)


def test_violations_and_cost_are_those_of_the_true_outputs(untightened):
    result = run(untightened, noise_std=0.02)
    outside = (np.abs(result.y) > 0.6).any(axis=1)
    assert result.violations == outside.sum() > 0
    np.testing.assert_allclose(result.max_violation, np.abs(result.y).max() - 0.6)
    moves = np.diff(np.vstack([result.u_before, result.u]), axis=0)
    expected = ((result.y[1:] - REFERENCE) ** 2).sum() + 0.01 * (moves**2).sum()
    np.testing.assert_allclose(result.cost, expected)
    assert result.readings.std() > 0
    assert not np.array_equal(result.readings, result.y[:-1])


def test_excess_is_the_larger_distance_on_either_side_and_after_the_input():
    result = run(build(tightened=False), steps=12)
    for middle, sign in ((np.median(result.y, axis=0), 1.0), (np.median(result.y, axis=0), -1.0)):
        ends = (
            {"lower": middle, "upper": np.full(2, np.inf)}
            if sign > 0
            else {"lower": np.full(2, -np.inf), "upper": middle}
        )
        one = replace(result, **ends)
        expected = np.maximum(sign * (middle - one.y), 0.0)
        np.testing.assert_array_equal(one.excess, expected)
        assert one.violations == (expected > 0).any(axis=1).sum() > 0
        assert one.max_violation == expected.max()
        np.testing.assert_array_equal(one.steps_kept(), (expected[1:] == 0).all(axis=1))
        jumped = replace(one, after=one.y[:-1] - sign)  # outputs that answer at once
        expected[:-1] = np.maximum(expected[:-1], sign * (middle - jumped.after))
        np.testing.assert_allclose(jumped.excess, np.maximum(expected, 0.0))


def test_realised_errors_are_recomputed_from_the_estimates(tightened):
    result, setup = run(tightened, steps=20), tightened
    t, k = 5, 3
    predicted = setup.controller.predictor.predict(result.x[t], result.u[t : t + k])
    np.testing.assert_allclose(result.errors[t, k], result.y[t + k] - predicted[k], atol=1e-12)
    assert np.isnan(result.errors[-1, 2:]).all()
    assert not np.isnan(result.errors[-1, :2]).any()


def test_same_seed_same_run_and_other_seed_another(untightened):
    options = {"noise_std": 0.01, "input_error": 0.02, "missing": 0.1, "steps": 15}
    first, again, other = (run(untightened, seed, **options) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.y, again.y)
    np.testing.assert_array_equal(first.u, again.u)
    assert not np.array_equal(first.y, other.y)
    assert np.isnan(first.readings).any()
    assert 0 < np.abs(first.applied - first.u).max() <= 0.02 + 1e-12
    assert (np.abs(first.applied) <= 1).all()


def test_causes_are_drawn_independently(tightened):
    """Adding noise does not change which samples are missing."""
    quiet, noisy = (run(tightened, 3, missing=0.3, noise_std=s, steps=15) for s in (0.0, 0.02))
    np.testing.assert_array_equal(np.isnan(quiet.readings), np.isnan(noisy.readings))


def test_result_survives_its_file(tightened, tmp_path):
    result = run(tightened, steps=10, missing=0.2)
    result.save(tmp_path / "run.npz")
    again = ClosedLoopResult.load(tmp_path / "run.npz")
    assert again.status == result.status
    assert again.names == result.names
    np.testing.assert_array_equal(again.errors, result.errors)
    assert (again.cost, again.seed, again.violations) == (result.cost, result.seed, result.violations)
    assert not again.y.flags.writeable
    (tmp_path / "run.npz").write_bytes((tmp_path / "run.npz").read_bytes()[:-200])
    with pytest.raises(FileFormatError):
        ClosedLoopResult.load(tmp_path / "run.npz")
    assert len(result.plot().axes) == 4


def test_reference_programme_and_short_warm_up(tightened):
    programme = np.repeat([[0.1, 0.0], [-0.2, 0.1]], 8, axis=0)
    result = run(tightened, reference=programme, steps=16, disturbance=None, warm_up=5)
    np.testing.assert_array_equal(result.reference[:16], programme)
    assert result.status.count(Status.WARMING_UP) == 15
    assert result.failed_solves == 0


def test_progress_is_reported(tightened):
    seen = []
    setup = ClosedLoopSetup(tightened.plant, tightened.controller, dict(tightened.options) | {"steps": 2})
    monte_carlo(lambda: setup, [3, 4], progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.slow
def test_processes_give_the_results_of_one(tightened):
    make = partial(build, steps=5)
    alone, together = (monte_carlo(make, [0, 1, 2], workers=n) for n in (1, 2))
    for a, b in zip(alone.results, together.results, strict=True):
        np.testing.assert_array_equal(a.y, b.y)
        np.testing.assert_array_equal(a.u, b.u)
        assert a.seed == b.seed


@pytest.mark.slow
def test_a_cluster_gives_the_results_of_one_process(cluster_client, tightened):
    make, seen = partial(build, steps=5), []
    alone = monte_carlo(make, [0, 1, 2])
    there = monte_carlo(make, [0, 1, 2], client=cluster_client, progress=lambda *done: seen.append(done))
    for a, b in zip(alone.results, there.results, strict=True):
        np.testing.assert_array_equal(a.y, b.y)
        np.testing.assert_array_equal(a.u, b.u)
        assert a.seed == b.seed
    assert seen == [(1, 3), (2, 3), (3, 3)]
    with pytest.raises(SettingError, match="workers of its client, got 2"):
        monte_carlo(make, [0], client=cluster_client, workers=2)
    with pytest.raises(SettingError, match="client must be"):
        monte_carlo(make, [0], client="tcp://127.0.0.1:8786")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"steps": 0}, SettingError),
        ({"reference": [0.1]}, ShapeError),
        ({"reference": np.zeros((0, 2))}, ShapeError),
        ({"noise_std": -1.0}, SettingError),
        ({"noise_std": [0.1, 0.1, 0.1]}, ShapeError),
        ({"input_error": -0.1}, SettingError),
        ({"missing": 1.5}, SettingError),
        ({"disturbance": [0.1, 0.1]}, ShapeError),
        ({"disturbance": np.zeros((3, 3))}, ShapeError),  # the plant has two
        ({"x0": np.zeros(3)}, ShapeError),
        ({"warm_up": -1}, SettingError),
        ({"warm_up_input": [0.0]}, ShapeError),
    ],
)
def test_bad_input_is_refused(tightened, options, error):
    with pytest.raises(error):
        run(tightened, **options)


def test_a_plant_of_other_channels_and_no_seeds_are_refused(tightened):
    other = LurePlant(elman(nu=1), signals("u", 1, 1.0), signals("y", 2, 1.0))
    with pytest.raises(SettingError, match="nu, ny, dt"):
        run_closed_loop(other, tightened.controller, reference=REFERENCE, steps=3, seed=0)
    with pytest.raises(SettingError, match="at least one seed"):
        monte_carlo(lambda: tightened, [])
