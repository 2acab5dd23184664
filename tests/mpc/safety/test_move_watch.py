"""Errors that were calibrated for slow inputs: nothing is certified after large moves, or before any is known."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from one_tank import RESIDUAL, N
from premise_cases import CONTRACTION, STEPS, SYSTEM, Loop, predictor, washing, washout
from slow_cases import LIMIT, WINDOW, memory, parts, slow, slow_error, slow_recalling

from controlrnn.data import Signal, Trajectory
from controlrnn.errors import SettingError
from mpc import (
    CoveragePromise,
    DisturbanceFilter,
    Operation,
    Predictor,
    Premise,
    RunningOn,
    TightenedMPC,
    Tracking,
    Watching,
    calibrate,
    certify_changes,
    make_error_memory,
    tighten,
)
from mpc.problem.settings import Limits

WEIGHTS = Tracking(output_weight=1.0, input_move_weight=1e-3)


def test_plans_of_all_kinds_move_slowly_and_are_certified():
    loop = Loop(slow())
    for t in range(150):
        loop.step([0.9, -0.9, 5.0][t // 50])
    moves = np.abs(np.diff([s.u[0] for s in loop.steps]))
    assert moves.max() == pytest.approx(LIMIT)
    assert all(s.certified and not s.broken for s in loop.steps)


@pytest.mark.parametrize("manual", [LIMIT, LIMIT * (1 + 1e-7), -1.0])
def test_a_large_move_is_named_until_inputs_were_slow_for_the_window(manual):
    loop = Loop(slow())
    for _ in range(5):
        loop.step(0.0)
    before = loop.u[0]
    loop.record(before + manual)
    for _ in range(60):
        loop.step(0.0)
    after = loop.steps[5:]
    if manual == LIMIT:
        assert all(s.certified for s in after)
        return
    # The input after the large move is the first of a row again.
    assert [Premise.MOVES in s.broken for s in after] == [k < WINDOW - 1 for k in range(60)]
    assert not any(s.certified for s in after[: WINDOW - 1])
    assert after[-1].certified
    assert f"moved slowly for 1 samples, calibrated after {WINDOW}" in after[0].outside


def test_what_an_actuator_did_is_a_move_as_well():
    loop = Loop(slow())
    loop.step(0.0)
    loop.step(0.0, acted=0.9)
    told = loop.step(0.0, applied=[0.9])
    assert {Premise.MOVES, Premise.ACTUATORS} <= set(told.broken)
    for _ in range(STEPS + WINDOW):
        told = loop.step(0.0)
    assert told.broken == ()


def test_nothing_is_known_of_moves_before_the_first_sample():
    """An observer that is ready before the window is over is certified only afterwards."""
    short = RunningOn(predictor(), 5, contraction=CONTRACTION)
    made = TightenedMPC(
        predictor(),
        short,
        tighten(slow_error(SYSTEM, np.full(N + 1, RESIDUAL)), None, observer=short),
        WEIGHTS,
        limits=Limits(move_limit=LIMIT),
    )
    loop = Loop(made, warm_up=5)
    for _ in range(WINDOW):
        loop.step(0.3)
    assert [Premise.MOVES in s.broken for s in loop.steps] == [t < WINDOW for t in range(5, 5 + WINDOW)]
    # What acts now is another input: nobody knows since when.
    made.start_from(np.array([-0.5]))
    loop.u = np.array([-0.5])
    for _ in range(5):
        loop.record(-0.5)
    assert Premise.MOVES in loop.step(0.0).broken
    made.reset()
    assert made.move_watch.words


@pytest.mark.parametrize("missed", [1, 3, 1500])
def test_missed_samples_start_the_count_anew(missed):
    loop = Loop(slow())
    loop.step(0.0, time=0.0)
    told = loop.step(0.0, time=1.0 + missed)
    assert {Premise.MOVES, Premise.TIME} <= set(told.broken)
    assert loop.controller.move_watch.run <= 1


def test_a_saved_controller_goes_on_counting_and_a_changed_one_too():
    loop = Loop(slow())
    loop.step(0.0)
    loop.record(1.0)
    for _ in range(4):
        loop.step(0.0)
    state = loop.controller.state()
    fresh = slow()
    fresh.restore(state)
    assert fresh.move_watch.words == loop.controller.move_watch.words != ""
    assert copy.deepcopy(fresh).move_watch.run == fresh.move_watch.run == 5
    fresh.change(output_weight=2.0)
    assert fresh.move_watch.run == 5
    with pytest.raises(SettingError, match="move limit"):
        fresh.change(move_limit=0.3)


def test_reactions_follow_the_contradiction():
    watching = Watching(reactions={Premise.MOVES: "back_off"}, safe_reference=[-0.4])
    loop = Loop(slow(watching=watching))
    for _ in range(10):
        loop.step(0.4)
    loop.record(1.0)
    for _ in range(WINDOW - 2):
        loop.step(0.4)
    assert loop.true[-1] < -0.2
    for _ in range(30):
        loop.step(0.4)
    assert loop.true[-1] == pytest.approx(0.4, abs=0.02)


def test_errors_after_large_moves_are_no_evidence_against_what_is_promised_of_slow_inputs():
    for jumps in (True, False):
        promised = CoveragePromise(coverage=0.9, stretch=5, patience=20.0)
        loop = Loop(slow(watching=Watching(promised=promised)))
        for _ in range(WINDOW):
            loop.step(0.0)
        run = loop.controller.premise_watch.coverage_run
        told = []
        for t in range(60):
            if jumps and t % 10 == 0:
                loop.record(0.8 * (-1) ** (t // 10))
            else:
                told.append(loop.step(0.0, off=0.8))
        assert any(Premise.COVERAGE in s.broken for s in told) is not jumps
        assert (run.missed, run.unseen > 5) == (0, True) if jumps else run.missed > 5


def test_what_limits_learnt_after_large_moves_is_forgotten():
    """A residual that drifts faster than calibrated just after a large move leaves no trace once inputs were slow."""
    loop = Loop(slow_recalling(), system=slow_recalling().predictor.system)
    learnt, widest = loop.controller.learnt_errors, memory().absolute
    for _ in range(10):
        told = loop.step(0.0)
    assert (told.error_interval[1, 1] < widest[1]).all()  # measurements have narrowed it
    loop.record(loop.u[0] + 0.8)
    for k in range(WINDOW - 1):
        told = loop.step(0.0, off=0.018 * (-1) ** k)
        assert Premise.MOVES in told.broken
        assert not told.certified
        np.testing.assert_array_equal(learnt.interval[1], widest)
    told = loop.step(0.0)
    assert told.certified
    assert (learnt.interval[1, 0] < widest[0]).all()


@pytest.mark.parametrize("make", [slow, slow_recalling])
@pytest.mark.parametrize("seed", range(2))
def test_no_step_is_certified_beside_a_residual_of_another_group(make, seed):
    """The residual is as declared where inputs were slow, and far larger for a window after they were not."""
    made, rng = make(), np.random.default_rng(seed)
    system, x, u, fast, seen = made.predictor.system, np.zeros(1), np.zeros(1), 0, []
    bound = made.tightening.predictive[0, 0] * (1 + 1e-9)
    for t in range(250):
        # Within the declared size, and, for a drift of 0.039, anywhere in it.
        residual = 0.8 * rng.choice([-1, 1]) if fast else 0.9 * RESIDUAL * rng.uniform(-1, 1)
        y = system.output(x, u) + residual
        before, manual = u, t >= 60 and rng.random() < 0.03
        if manual or t < made.observer.steps:
            u = np.array([rng.uniform(-1, 1)]) if manual else np.zeros(1)
            made.record(y, u)
        else:
            told = made.step(y, [np.sin(t / 9)], applied=before if t % 2 else None)
            u = told.u
            wrong = abs(y[0] - system.output(told.x, before)[0]) > bound
            seen.append((told.certified, fast > 0, wrong))
        x = system.step(x, u)
        # y[t + 1 .. t + WINDOW - 1] answer to fewer slow inputs than the window.
        fast = WINDOW - 1 if abs(u - before)[0] > LIMIT * (1 + 1e-8) else max(fast - 1, 0)
    assert not any(certified and (other or wrong) for certified, other, wrong in seen)
    assert sum(wrong for _, _, wrong in seen) > 2
    assert sum(certified for certified, _, _ in seen) > 30


def test_controllers_with_another_limit_or_window_are_refused():
    tightening, terminal = parts()
    with pytest.raises(SettingError, match=r"move limit of valve 0\.2 against inf"):
        TightenedMPC(predictor(), washout(STEPS), tightening, WEIGHTS, terminal=terminal)
    with pytest.raises(SettingError, match=r"move limit of valve 0\.2 against 0\.1"):
        slow().change(move_limit=0.1)
    made = slow_recalling()
    drift = slow_error(made.predictor.system, np.r_[0.0, np.full(N, 0.04)], 1.0, window=WINDOW + 1)
    slower = replace(made.tightening, premises=made.tightening.premises.also(move_limit=[LIMIT], move_window=WINDOW))
    with pytest.raises(SettingError, match="move window 20 against 21"):
        make_error_memory(slower, drift, certify_changes(made.observer, 1), observer=made.observer)
    assert memory().premises.move_window == made.premises.move_window == WINDOW


def test_a_wider_tightening_for_slow_inputs_needs_one_that_is_watched():
    wide = tighten(slow_error(SYSTEM, np.full(N + 1, 0.3)), None, observer=washout(STEPS))
    with pytest.raises(SettingError, match="wider is calibrated for slow inputs"):
        washing(watching=Watching(wider=wide))


def test_a_wider_tightening_of_loops_that_moved_slower_is_refused():
    """Its loops say nothing of larger moves; only its window was compared."""
    tightening, _ = parts()
    stated = tightening.premises.also(move_limit=[LIMIT / 2], move_window=None)
    wide = replace(tighten(slow_error(SYSTEM, np.full(N + 1, 0.3)), None, observer=washout(STEPS)), premises=stated)
    with pytest.raises(SettingError, match=r"the wider tightening and the controller .* valve 0\.1 against"):
        washing(watching=Watching(wider=wide))
    with pytest.raises(SettingError, match=r"the wider tightening and the controller .* 0\.1 against 0\.2"):
        slow(watching=Watching(wider=wide))


def residuals(u, rng):
    """Small, but for some samples after a large move."""
    left, rows = 0, []
    for t in range(len(u)):
        left = 10 if t > 1 and abs(u[t - 1] - u[t - 2]) > LIMIT * 1.001 else max(left - 1, 0)
        rows.append(0.05 * rng.uniform(-1, 1) + 3.0 * (left > 0))
    return np.array(rows)


@pytest.mark.parametrize("gain", [0.05, 0.2])
def test_what_predictions_are_corrected_by_forgets_errors_after_large_moves(gain):
    """A filter remembers them for longer than the window, and where nothing is read nobody notices that it does."""

    def record(seed):
        rng = np.random.default_rng(seed)
        u = np.clip(np.cumsum(rng.uniform(-LIMIT, LIMIT, 100)), -1, 1)[:, None]
        y = SYSTEM.simulate(u)[0] + residuals(u[:, 0], rng)[:, None]
        return Trajectory(u, y, 1.0, name=f"record {seed}")

    records = [record(seed) for seed in range(20)]
    tall = Predictor(SYSTEM, predictor().inputs, (Signal("level", "m", -10.0, 10.0),))
    observer = RunningOn(tall, WINDOW, contraction=CONTRACTION)
    calibrated = calibrate(
        SYSTEM,
        records,
        method="set_membership",
        inflation=1.3,
        horizon=3,
        washout=WINDOW,
        disturbance=DisturbanceFilter(gain),
        operation=Operation(move_limit=LIMIT),
    )
    made = TightenedMPC(
        tall, observer, tighten(calibrated, None, observer=observer), WEIGHTS, limits=Limits(move_limit=LIMIT)
    )
    rng, x, u, moved, certified = np.random.default_rng(1), np.zeros(1), np.zeros(1), [0.0, 0.0], 0
    for t in range(140):
        true = SYSTEM.output(x, u) + residuals(np.array(moved), rng)[-1]
        y = np.full(1, np.nan) if 70 <= t < 110 else true
        if t < WINDOW + 2 or t == 60:
            u = u if t != 60 else u - 0.7 * np.sign(u)
            made.record(y, u)
        else:
            told = made.step(y, [0.4])
            u = told.u
            if told.certified:
                certified += 1
                assert abs(true - told.y_predicted[0])[0] <= made.tightening.predictive[0, 0]
        moved.append(float(u[0]))
        x = SYSTEM.step(x, u)
    assert certified > 60
