"""Faults do what they say, where they say, and nothing else; the controller gets through all of them."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from mpc_networks import LurePlant, NormContraction, elman, signals
from PIL import Image

from controlrnn.errors import SettingError, ShapeError
from mpc import (
    ActuatorOffset,
    ClosedLoopSetup,
    DropOut,
    Fallback,
    FrozenSensor,
    Late,
    MonteCarloResult,
    Outlier,
    Predictor,
    RandomFaults,
    RandomSteps,
    SaturatedActuator,
    SaturatedSensor,
    Status,
    StuckActuator,
    TightenedMPC,
    TimeOut,
    Tracking,
    Wandering,
    Washout,
    animate,
    monte_carlo,
    no_tightening,
    run_closed_loop,
    staircase,
)
from mpc.loops.fault_run import FaultRun
from mpc.loops.settings import loop_settings

N, STEPS = 6, 30
EVERY = (
    DropOut(probability=0.5), Outlier(size=1.0), FrozenSensor(channel=0), SaturatedSensor(upper=0.1), Late(delay=2),
    Late(stamped=True), StuckActuator(channel=1), SaturatedActuator(upper=0.2), ActuatorOffset(size=-0.2),
    TimeOut(probability=0.5),
)  # fmt: skip


@pytest.fixture(scope="module")
def setup():
    system = elman()
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 0.6))
    observer = Washout(predictor, 12, contraction=NormContraction.of(system))
    controller = TightenedMPC(
        predictor, observer, no_tightening(system.digest, N, 2), Tracking(output_weight=1.0, input_move_weight=0.01)
    )
    return ClosedLoopSetup(LurePlant(system, predictor.inputs, predictor.outputs), controller)


def run(setup, faults=(), seed=0, steps=STEPS, **options):
    reference = options.pop("reference", np.repeat([[0.2, 0.1], [-0.1, 0.2]], 15, axis=0))
    return run_closed_loop(
        setup.plant,
        setup.controller,
        reference=reference,
        steps=steps,
        seed=seed,
        faults=faults,
        **loop_settings(options),
    )


def carried(*faults, steps=10, y=2, u=2):
    return FaultRun(faults, steps, y, u, np.random.default_rng(0))


def test_a_drop_out_within_its_window_only(setup):
    result = run(setup, [DropOut(start=5, stop=9, channel=1)])
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(result.readings[:, 1])), range(5, 9))
    assert not np.isnan(result.readings[:, 0]).any()
    assert result.rejected == {"missing": 4}
    np.testing.assert_array_equal(np.flatnonzero(result.faults[:, 0]), range(5, 9))
    assert result.fault_kinds == ("sensor drop-out",)


def test_sensor_faults_change_readings_as_described(setup):
    true = run(setup, noise_std=0.01).readings[:6]
    # Up to the first faulty reading both runs are the same; that one tells.
    for fault, expected in (
        (SaturatedSensor(upper=-0.5), [-0.5, -0.5]),
        (FrozenSensor(channel=0), [true[4, 0], true[5, 1]]),
        (Late(delay=3), true[2]),
        (Late(delay=3, stamped=True), [np.nan, np.nan]),
    ):
        seen = run(setup, [type(fault)(**vars(fault) | {"start": 5})], noise_std=0.01).readings
        np.testing.assert_array_equal(seen[:5], true[:5])
        np.testing.assert_array_equal(seen[5], expected)
    off = run(setup, [Outlier(size=0.3, start=5)], noise_std=0.01).readings[5] - true[5]
    np.testing.assert_allclose(np.abs(off), 0.3)


def test_a_frozen_sensor_stays_frozen_and_keeps_a_number_through_a_drop_out():
    faults = carried(FrozenSensor(start=2, stop=5), DropOut(start=5, stop=6))
    readings = [faults.measure(t, np.full(2, float(t))) for t in range(-1, 8)]
    np.testing.assert_array_equal(np.array(readings)[:, 0], [-1, 0, 1, 1, 1, 1, np.nan, 6, 7])


def test_actuator_faults_reach_the_plant_but_not_the_command(setup):
    for fault, expected in (
        (StuckActuator(channel=0, start=4), lambda r: np.isclose(r.applied[4:, 0], r.applied[3, 0])),
        (SaturatedActuator(upper=0.05, start=4), lambda r: r.applied[4:] <= 0.05),
        (ActuatorOffset(size=-0.1, start=4), lambda r: np.isclose(r.applied[4:], np.maximum(r.u[4:] - 0.1, -1))),
    ):
        result = run(setup, [fault])
        np.testing.assert_array_equal(result.applied[:4], result.u[:4])
        assert expected(result).all()
        assert np.abs(result.applied[4:] - result.u[4:]).max() > 0.01


def test_time_outs_go_down_the_fallback_chain_and_heal(setup):
    backend = setup.controller.backend
    result = run(setup, [TimeOut(start=5, stop=15)])
    assert setup.controller.backend is backend
    assert result.status[5:15] == (Status.TIME_LIMIT,) * 10
    assert result.fallback[5:15] == (Fallback.PLAN,) * (N - 1) + (Fallback.STEADY,) * (10 - N + 1)
    assert result.status_counts == {"solved": 20, "time_limit": 10}
    assert result.fallback_counts == {"plan": N - 1, "steady": 10 - N + 1}
    assert result.failed_solves == 10
    assert set(result.status[15:]) == {Status.SOLVED}
    np.testing.assert_allclose(result.y[-1], [-0.1, 0.2], atol=1e-3)
    first = run(setup, [TimeOut(start=0, stop=2)])  # there is no plan yet
    assert first.fallback[:2] == (Fallback.STEADY,) * 2


@pytest.mark.parametrize("fault", EVERY, ids=lambda f: f"{f.kind} {getattr(f, 'stamped', '')}")
def test_each_fault_leaves_sound_inputs_and_repeats_with_its_seed(setup, fault):
    first, again = (run(setup, [fault], seed=3, noise_std=0.01) for _ in range(2))
    np.testing.assert_array_equal(first.readings, again.readings)
    np.testing.assert_array_equal(first.u, again.u)
    assert (np.abs(first.u) <= 1).all()
    assert first.faults.any()


def test_faults_leave_noise_and_disturbance_as_they_are(setup):
    plain, faulty = (run(setup, f, noise_std=0.05, input_error=0.02) for f in ((), [TimeOut(start=20)]))
    np.testing.assert_array_equal(plain.readings[:20], faulty.readings[:20])
    np.testing.assert_array_equal(plain.u[:20], faulty.u[:20])


def test_random_programmes_are_drawn_from_the_seed_of_the_run(setup):
    programme = RandomFaults(choices=EVERY, rate=0.3, duration=(2, 5), steps=STEPS)
    rng = np.random.default_rng(0)
    drawn = [programme(rng) for _ in range(200)]
    assert abs(np.mean([len(d) for d in drawn]) - 0.3 * STEPS) < 1
    lengths = {f.stop - f.start for d in drawn for f in d}
    assert lengths == {2, 3, 4, 5}
    assert {f.kind for d in drawn for f in d} == {f.kind for f in EVERY}
    assert all(0 <= f.start < STEPS for d in drawn for f in d)
    first, again, other = (run(setup, programme, seed=s) for s in (1, 1, 2))
    np.testing.assert_array_equal(first.faults, again.faults)
    assert first.fault_kinds != other.fault_kinds or not np.array_equal(first.faults, other.faults)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DropOut(start=3, stop=3),
        lambda: DropOut(start=-1),
        lambda: DropOut(probability=0.0),
        lambda: DropOut(channel=-1),
        lambda: Outlier(size=0.0),
        lambda: SaturatedSensor(lower=1.0, upper=1.0),
        lambda: SaturatedActuator(lower=2.0, upper=1.0),
        lambda: ActuatorOffset(size=np.inf),
        lambda: Late(delay=0),
        lambda: TimeOut(channel=0),
        lambda: carried(DropOut(channel=2)),
        lambda: RandomFaults(choices=(), rate=0.1, duration=(1, 2), steps=5),
        lambda: RandomFaults(choices=EVERY, rate=0.1, duration=(3, 2), steps=5),
        lambda: RandomFaults(choices=EVERY, rate=0.0, duration=(1, 2), steps=5),
        lambda: RandomSteps(lower=(1.0,), upper=(0.0,), steps=5),
        lambda: RandomSteps(lower=(), upper=(), steps=5),
        lambda: RandomSteps(lower=(0.0,), upper=(1.0,), steps=5, hold=(3, 2)),
        lambda: Wandering(std=(-1.0,), memory=5, steps=5),
        lambda: Wandering(std=(1.0,), memory=0, steps=5),
        lambda: staircase([[1.0]], [0]),
    ],
)
def test_bad_descriptions_are_refused(make):
    with pytest.raises(SettingError):
        make()


def test_programmes_stay_in_their_sets_and_hold():
    rng = np.random.default_rng(0)
    inside = RandomSteps(lower=(-1.0, 2.0), upper=(1.0, 3.0), steps=500, hold=(3, 7))(rng)
    assert inside.shape == (500, 2)
    assert ((inside >= [-1, 2]) & (inside <= [1, 3])).all()
    lengths = np.diff(np.flatnonzero(np.diff(inside[:, 0])))
    assert set(lengths) == {3, 4, 5, 6, 7}
    edge = RandomSteps(lower=(-1.0, 2.0), upper=(1.0, 3.0), steps=200, at_edge=True)(rng)
    assert {tuple(row) for row in edge.tolist()} == {(-1, 2), (-1, 3), (1, 2), (1, 3)}
    noise = Wandering(std=(0.1, 2.0), memory=20, steps=50_000, cut=2.5)
    w = noise(rng)
    assert (np.abs(w) <= noise.bound).all()
    np.testing.assert_allclose(w.std(axis=0), [0.1, 2.0], rtol=0.05)
    np.testing.assert_allclose([np.corrcoef(c[:-20], c[20:])[0, 1] for c in w.T], np.exp(-1), atol=0.05)
    np.testing.assert_array_equal(staircase([[1, 2], [3, 4]], [2, 1]), [[1, 2], [1, 2], [3, 4]])
    with pytest.raises(ShapeError):
        staircase([[1, 2]], [1, 2])


def test_a_drawn_reference_is_followed_and_repeats(setup):
    goal = RandomSteps(lower=(-0.2, -0.1), upper=(0.2, 0.1), steps=STEPS, hold=(15, 15))
    first, again = (run(setup, reference=goal, seed=4) for _ in range(2))
    np.testing.assert_array_equal(first.reference, again.reference)
    assert len(np.unique(first.reference, axis=0)) == 2
    np.testing.assert_allclose(first.y[14], first.reference[14], atol=0.02)


def test_results_with_faults_survive_their_file_and_are_drawn(setup, tmp_path):
    def build():
        options = {"reference": [0.2, 0.1], "steps": 12, "faults": [TimeOut(start=4, stop=6), DropOut(start=8)]}
        return ClosedLoopSetup(setup.plant, setup.controller, options)

    runs = monte_carlo(build, [1, 2])
    assert runs.summary()["fallbacks"] == 4
    assert runs.summary()["readings_rejected"] == 16
    assert runs.summary()["deadline_misses"] == 0
    runs.save(tmp_path / "runs.npz")
    again = MonteCarloResult.load(tmp_path / "runs.npz")
    assert [r.seed for r in again.results] == [1, 2]
    for a, b in zip(again.results, runs.results, strict=True):
        assert a.fault_kinds == b.fault_kinds == ("sensor drop-out", "solver time-out")
        assert a.rejected == b.rejected
        for name in ("y", "faults", "verdicts", "errors", "solve_time"):
            np.testing.assert_array_equal(getattr(a, name), getattr(b, name))
    assert len(runs.plot().axes) == 4
    figure = runs.results[0].plot()
    assert {"fallback"} <= {line.get_label() for line in figure.axes[-1].lines}
    assert figure.axes[0].collections  # the shading


def test_bound_against_what_happened(setup):
    result = run(setup, noise_std=0.0, disturbance=[[0.05, 0.0]])
    known = ~np.isnan(result.errors)
    for k in range(N + 1):
        expected = [np.abs(result.errors[:, k, i][known[:, k, i]]).max() for i in range(2)]
        np.testing.assert_allclose(result.realised[k], expected)
    assert np.isnan(result.bound_use).all()  # a nominal tightening is no bound
    times = result.times
    assert times["median"] <= times["p95"] <= times["p99.9"] <= times["max"]
    assert result.deadline_misses(times["median"]) == (result.solve_time > times["median"]).sum() > 0
    assert result.deadline_misses() == 0
    with pytest.raises(SettingError):
        result.deadline_misses(0.0)


def test_animation_has_a_picture_per_step_that_was_asked_for(setup, tmp_path):
    result = run(setup, [TimeOut(start=2, stop=4)], steps=5)
    seen = []
    assert animate(result, tmp_path / "all.gif", progress=lambda done, total: seen.append((done, total))) == 5
    assert animate(result, tmp_path / "some.gif", every=3, milliseconds=100) == 2
    assert seen == [(i, 5) for i in range(1, 6)]
    for name, n, duration in (("all.gif", 5, 80), ("some.gif", 2, 100)):
        with Image.open(Path(tmp_path / name)) as image:
            assert image.n_frames == n
            pictures = []
            for i in range(n):
                image.seek(i)
                assert image.info["duration"] == duration
                pictures.append(np.asarray(image.convert("RGB")))
            assert all(np.abs(a.astype(int) - b).max() > 50 for a, b in pairwise(pictures))
    with pytest.raises(SettingError):
        animate(result, tmp_path / "no.gif", every=0)
