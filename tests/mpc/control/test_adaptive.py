"""The factor on a tightening that follows misses: its theorem on every sequence, and what the controller does."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpc_networks import LurePlant, elman, signals

from controlrnn.errors import SettingError
from mpc import (
    Adaptation,
    AdaptiveMPC,
    Disturbances,
    Mode,
    Predictor,
    RunningOn,
    TightenedMPC,
    Tracking,
    back_off,
    controller_to_c,
    no_tightening,
    run_closed_loop,
)
from mpc.control.adaptive import AdaptiveFactor
from mpc.control.settings import grouped
from mpc.loops.settings import loop_settings

N = 5


@given(
    st.lists(st.floats(0, 5), min_size=1, max_size=300),
    st.sampled_from([0.5, 0.9, 0.99]),
    st.sampled_from([0.01, 0.2, 3.0]),
)
def test_share_of_misses_is_bounded_on_every_sequence(scores, coverage, gain):
    factor = AdaptiveFactor(Adaptation(coverage=coverage, gain=gain))
    for t, score in enumerate(scores, 1):
        before = factor.value
        assert factor.update(score) == (score > before)
        away = abs(factor.misses / t - (1 - coverage))
        assert away <= factor.adaptation.promise(t, factor.largest) + 1e-9
    assert factor.seen == len(scores)


def test_an_adversary_that_always_hits_just_beyond_the_factor_gets_the_promised_share_and_no_more():
    factor = AdaptiveFactor(Adaptation(coverage=0.9, gain=0.1))
    for _ in range(5000):
        factor.update(min(factor.value + 1e-6, 4.0) if factor.value < 4 else 0.0)
    assert abs(factor.misses / 5000 - 0.1) <= factor.adaptation.promise(5000, 4.0) == pytest.approx(4.1 / 500)


@pytest.fixture(scope="module")
def plant():
    return LurePlant(elman(2, 1, 1), signals("u", 1, 1.0), signals("y", 1, 0.2))


def controller(plant, *, amount=0.02, kind=AdaptiveMPC, **settings):
    predictor = Predictor(plant.system, plant.inputs, plant.outputs)
    if kind is AdaptiveMPC:
        settings = {"adaptation": Adaptation(coverage=0.8, gain=0.2)} | settings
    tightening = back_off(plant.system.digest, N, np.array([amount]))
    given = grouped(dict(output_weight=1.0, input_move_weight=0.1, **settings))
    return kind(predictor, RunningOn(predictor, 5), tightening, **grouped(given))


def test_the_tightening_grows_with_misses_and_results_say_by_what(plant):
    noisy = {"reference": [0.2], "steps": 150, "noise_std": 0.05, "seed": 0}
    adaptive = controller(plant)
    run = run_closed_loop(plant, adaptive, **loop_settings(noisy))
    half = run.error_ends[1][:, 1, 0]
    assert half[0] == pytest.approx(0.02)
    assert half[50:].mean() > 0.04  # sigma 0.05: eight of ten readings are within 0.064
    seen = adaptive.factor
    assert seen.seen == 149
    assert abs(seen.misses / seen.seen - 0.2) <= seen.adaptation.promise(seen.seen, seen.largest)
    assert (
        run.y[60:] < run_closed_loop(plant, controller(plant, kind=TightenedMPC), **loop_settings(noisy)).y[60:]
    ).mean() > 0.8
    again = run_closed_loop(plant, adaptive, **loop_settings(noisy))  # reset forgets
    np.testing.assert_array_equal(again.u, run.u)


def test_limits_keep_something_of_their_range_whatever_happens(plant):
    adaptive = controller(plant, adaptation=Adaptation(coverage=0.9, gain=5.0))
    run = run_closed_loop(plant, adaptive, reference=[0.2], steps=60, seed=0, disturbances=Disturbances(noise_std=1.0))
    assert run.error_ends[1][:, 1, 0].max() == pytest.approx(0.98 * 0.2)
    assert run.failed_solves == 0


def test_missing_readings_and_manual_operation_are_no_misses(plant):
    adaptive = controller(plant)
    for _ in range(8):
        adaptive.record([0.0], [0.0])
    for y in (0.0, np.nan, np.nan):
        adaptive.step([y], [0.2])
    assert adaptive.factor.seen == 0
    adaptive.step([5.0], [0.2])
    assert (adaptive.factor.seen, adaptive.factor.misses) == (1, 1)
    adaptive.record([0.0], [0.0])
    adaptive.step([9.0], [0.2])
    assert adaptive.factor.seen == 1


def test_what_rests_on_a_fixed_tightening_is_refused(plant, tmp_path):
    with pytest.raises(SettingError, match="practical mode"):
        controller(plant, mode=Mode.GUARANTEED)
    with pytest.raises(SettingError, match="zero at step 1"):
        controller(plant, amount=0.0)
    with pytest.raises(SettingError, match="TightenedMPC itself"):
        controller_to_c(controller(plant), tmp_path)
    for wrong in ({"coverage": 1.0}, {"coverage": 0.0}, {"gain": 0.0}, {"gain": np.nan}):
        with pytest.raises(SettingError):
            Adaptation(**wrong)
    assert no_tightening(plant.system.digest, N, 1).total.max() == 0


def test_the_worst_output_decides():
    plant = LurePlant(elman(2, 1, 2), signals("u", 1, 1.0), signals("y", 2, 1.0))
    predictor = Predictor(plant.system, plant.inputs, plant.outputs)
    tightening = back_off(plant.system.digest, N, np.array([0.1, 0.2]))
    adaptive = AdaptiveMPC(
        predictor,
        RunningOn(predictor, 1),
        tightening,
        Tracking(output_weight=1.0, input_move_weight=0.1),
        adaptation=Adaptation(),
    )
    adaptive.record([0.0, 0.0], [0.0])
    step = adaptive.step([0.0, 0.0], [0.0, 0.0])
    adaptive.step(step.y_predicted[1] + [0.05, -0.5], [0.0, 0.0])
    assert adaptive.factor.largest == pytest.approx(2.5)
    assert adaptive.factor.misses == 1
