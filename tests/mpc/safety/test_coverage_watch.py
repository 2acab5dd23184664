"""Evidence that a promised probability is not kept, and what the controller does about it."""

import copy

import numpy as np
import pytest
from one_tank import RESIDUAL, W, _running

from controlrnn.errors import SettingError
from mpc import CoveragePromise, Premise, RunningOn, Safety, TightenedMPC, Tracking, Watching, controller_to_c
from mpc.safety.coverage_watch import CoverageRun


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


def controller(reaction="report", **promised):
    predictor, contraction, room, terminal, _ = _running()
    given = CoveragePromise(**{"coverage": 0.9, "stretch": 4, "patience": 20.0} | promised)
    watching = Watching(promised=given, reactions={"coverage": reaction}, safe_reference=[0.0])
    observer = RunningOn(predictor, W, contraction=contraction)
    return TightenedMPC(
        predictor,
        observer,
        room,
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
    assert twin.premise_watch._coverage.missed == made.premise_watch._coverage.missed > 0
    other = copy.deepcopy(made)
    other.change(input_move_weight=2e-4)
    assert other.premise_watch._coverage.stretches == made.premise_watch._coverage.stretches


def test_c_refuses_to_count(tmp_path):
    with pytest.raises(SettingError, match="does not count how often a promise is kept"):
        controller_to_c(controller(), tmp_path)
