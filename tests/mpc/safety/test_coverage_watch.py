"""Evidence that a promised probability is not kept, and what the controller does about it."""

import copy

import numpy as np
import pytest
from one_tank import RESIDUAL, N, W, error, running_parts

from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    CoveragePromise,
    LoopTarget,
    Premise,
    RunningOn,
    Safety,
    TightenedMPC,
    Tracking,
    Watching,
    controller_to_c,
    tighten,
)
from mpc.safety.coverage_watch import CoverageRun

SANITISED = ("-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover=all")


def alarm(promise, miss, seed, most=4000):
    """After how many stretches it alarms that are outside with probability ``miss``."""
    counted, rng = CoverageRun(promise), np.random.default_rng(seed)
    for t in range(1, most + 1):
        counted.update(bool(rng.random() >= miss))
        if counted.words:
            return t
    return most


def test_false_alarms_are_as_rare_as_said_and_real_ones_soon():
    promise = CoveragePromise(coverage=0.9, stretch=1, patience=200)
    false = [alarm(promise, 0.1, seed) for seed in range(100)]
    assert np.mean(false) - 2 * np.std(false) / np.sqrt(len(false)) >= 200
    assert np.mean([alarm(promise, 0.3, seed) for seed in range(100)]) < 60


def test_good_years_hide_no_drift():
    promise = CoveragePromise(coverage=0.9, stretch=5, patience=100)
    counted = CoverageRun(promise)
    for _ in range(100_000):
        counted.update(True)
    alarmed = None
    for t in range(100):
        counted.update(t % 5 != 0)
        alarmed = t if counted.words and alarmed is None else alarmed
    assert alarmed is not None
    assert alarmed < 5 * 6
    counted.reset()
    assert (counted.words, counted.stretches) == ("", 0)


def test_a_stretch_is_outside_if_one_sample_is():
    counted = CoverageRun(CoveragePromise(coverage=0.5, stretch=4))
    for inside in (True, True, False, True, True, True, True, True):
        counted.update(inside)
    assert (counted.stretches, counted.missed) == (2, 1)


def test_what_nobody_reads_is_unseen_and_not_inside():
    """A dead sensor takes back no evidence; half of the readings take back half, and speak as loudly."""
    promise = CoveragePromise(coverage=0.9, stretch=4, patience=100)
    dead, half, whole = CoverageRun(promise), CoverageRun(promise), CoverageRun(promise)
    for counted in (dead, half, whole):
        for _ in range(4):
            counted.update(False)
    before = whole.evidence
    assert before == pytest.approx(0.3 / 0.1)
    for _ in range(4):
        dead.update(True, 0.0)
        whole.update(True)
    for seen in (1.0, 0.0, 0.5, 0.5):
        half.update(True, seen)
    assert (dead.evidence, dead.stretches, dead.missed, dead.unseen) == (before, 1, 1, 1)
    assert whole.evidence == pytest.approx(before * 0.7 / 0.9)
    assert half.evidence == pytest.approx(0.5 * (before + whole.evidence))
    assert (half.stretches, half.missed, half.unseen) == (2, 1, 0)
    for _ in range(8):
        dead.update(False)
        dead.update(True, 0.0)
    assert dead.evidence == pytest.approx(before * (1 + 0.5 * 2.0) ** 4)
    assert "5 of 5 stretches" not in dead.words
    for _ in range(4):
        dead.update(False)
    assert "6 of 6 stretches" in dead.words
    assert "(1 more were not seen)" in dead.words


@pytest.mark.parametrize("share", [0.2, 0.7])
def test_false_alarms_are_no_more_often_where_readings_are_missing(share):
    """Readings are missing whatever they would have said; a stretch is wholly inside or wholly outside, or anything."""
    promise = CoveragePromise(coverage=0.9, stretch=2, patience=100)
    times = []
    for seed in range(60):
        counted, rng = CoverageRun(promise), np.random.default_rng(seed)
        t = 0
        while not counted.words and (t := t + 1) < 1000:
            out, seen = rng.random() < 0.1, rng.random(2) >= share
            for k in range(2):
                counted.update(not (out and seen[k]), float(seen[k]))
        times.append(t)
    assert np.mean(times) - 2 * np.std(times) / np.sqrt(len(times)) >= 100


def test_missing_readings_reach_the_count():
    bound = controller().premise_watch.promised_bounds[0]
    blind, made = controller(), controller()
    for used in (blind, made):
        loop(used, 1.1 * bound, steps=16)
    first = made.premise_watch.coverage_run.evidence
    assert first == blind.premise_watch.coverage_run.evidence > 1
    for _ in range(8):
        blind.step([np.nan], [0.4])
    counted = blind.premise_watch.coverage_run
    assert (counted.evidence, counted.unseen) == (first, 2)


def controller(reaction="report", **promised):
    predictor, contraction, tightening, terminal, _ = running_parts()
    given = CoveragePromise(**{"coverage": 0.9, "stretch": 4, "patience": 20.0} | promised)
    watching = Watching(promised=given, reactions={"coverage": reaction}, safe_reference=[0.0])
    observer = RunningOn(predictor, W, contraction=contraction)
    return TightenedMPC(
        predictor,
        observer,
        tightening,
        Tracking(output_weight=1.0, input_move_weight=1e-4, control_horizon=4),
        terminal=terminal,
        safety=Safety(watching=watching),
    )


def loop(made, off, steps=60):
    """x+ = 0.9 x + u, whose reading is off from sample 10 on; the steps, and where it ends."""
    x, taken = 0.0, []
    for _ in range(W):
        made.record([x], [0.0])
    for t in range(steps):
        step = made.step([x + (off if t >= 10 else 0.0)], [0.4])
        x = 0.9 * x + step.u[0]
        taken.append(step)
    return taken, x


def test_drift_ends_certification_and_calls_for_the_reaction():
    bound = controller().premise_watch.promised_bounds[0]
    assert bound >= RESIDUAL
    good, _ = loop(controller("back_off"), 0.9 * bound)
    assert not any(Premise.COVERAGE in step.broken for step in good)
    told, x = loop(controller(), 1.1 * bound)
    first = next(t for t, step in enumerate(told) if Premise.COVERAGE in step.broken)
    assert 10 < first <= 10 + 4 * 4
    assert "stretches of 4 samples were outside" in told[first].outside
    assert not any(step.certified for step in told[first:])
    backed, rest = loop(controller("back_off"), 1.1 * bound)
    assert len(backed) == 60
    assert abs(rest - x) > 0.2  # it goes for the safe set point, and reads it just as wrongly


def test_limits_may_be_what_is_counted():
    made = controller(target="limits")
    seen = []
    for _ in range(W):
        made.record([0.0], [0.0])
    for _ in range(40):
        seen.append(Premise.COVERAGE in made.step([1.2], [0.0]).broken)
    assert seen[-1]
    assert not seen[0]


def test_what_was_counted_is_saved_and_handed_over():
    made = controller()
    loop(made, 1.0, steps=30)
    twin = controller()
    twin.restore(made.state())
    assert twin.premise_watch.coverage_run.missed == made.premise_watch.coverage_run.missed > 0
    other = copy.deepcopy(made)
    other.change(input_move_weight=2e-4)
    assert other.premise_watch.coverage_run.stretches == made.premise_watch.coverage_run.stretches


@pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
@pytest.mark.parametrize("target", list(LoopTarget))
@pytest.mark.parametrize("practical", [False, True])
def test_c_counts_the_same(target, practical, tmp_path):
    """With missing readings, samples of somebody else, cleared estimates, and a saved state."""
    made = in_practice(target) if practical else controller("back_off", target=target)
    theirs, bound = CompiledController(made, tmp_path, flags=SANITISED), made.premise_watch.promised_bounds[0]
    off = 1.1 if target is LoopTarget.LIMITS else (3.0 if practical else 1.2) * bound
    rng, said = np.random.default_rng(3), []
    # Errors that come and go: what a filter follows is no error any more.
    offs = np.where(rng.random(200) < 0.5, off, 0.0) * (np.arange(200) >= 20)
    offs[rng.random(200) < 0.2] = np.nan
    for acting in (made, theirs):
        acting.reset()
        x, told = 0.0, []
        for t in range(200):
            if t < W or t in (60, 61):
                acting.record([x + offs[t]], [0.0])
                x = 0.9 * x
                continue
            if t == 80:
                acting.clear_estimate()
            if t == 120 and acting is theirs:
                theirs.save()
                theirs.reset()
                theirs.load()
            step = acting.step([x + offs[t]], [0.4])
            x = 0.9 * x + step.u[0]
            told.append((step.broken, step.certified, round(float(step.u[0]), 6)))
        said.append(told)
    assert [t[:2] for t in said[0]] == [t[:2] for t in said[1]]
    np.testing.assert_allclose([t[2] for t in said[0]], [t[2] for t in said[1]], atol=2e-5)
    assert sum(Premise.COVERAGE in broken for broken, *_ in said[0]) > 10
    assert not all(Premise.COVERAGE in broken for broken, *_ in said[0])


def in_practice(target):
    """A controller whose predictions are corrected by the disturbance estimate."""
    predictor, contraction, *_ = running_parts()
    observer = RunningOn(predictor, W, contraction=contraction)
    room = tighten(error(predictor.system, np.full(N + 1, RESIDUAL), 0.2), None, observer=observer)
    promised = CoveragePromise(coverage=0.9, stretch=4, patience=20.0, target=target)
    return TightenedMPC(
        predictor,
        observer,
        room,
        Tracking(output_weight=1.0, input_move_weight=1e-2),
        safety=Safety(watching=Watching(promised=promised)),
    )


def test_the_self_test_of_c_leaves_the_count_alone(tmp_path):
    made = controller()
    loop(made, 1.0, steps=30)
    before = dict(vars(made.premise_watch.coverage_run))
    controller_to_c(made, tmp_path)
    assert vars(made.premise_watch.coverage_run) == before
