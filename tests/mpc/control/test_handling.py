"""What plant engineers do to a running controller: start, save, copy, change, ask; the next input is the judge."""

from __future__ import annotations

import copy
import io
import pickle  # as users' own multiprocessing does; the library never unpickles
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from c_loops import controller, network
from one_tank import N, W, error, innovating, running
from premise_cases import STEPS, SYSTEM
from premise_cases import predictor as tank_predictor
from premise_cases import washout as tank_washout

from controlrnn.data import Signal
from controlrnn.errors import DataError, InfeasibleError, SettingError, ShapeError
from mpc import (
    Fallback,
    MovingHorizonObserver,
    PlausibilityLimits,
    Premise,
    Safety,
    SolverOptions,
    Status,
    TightenedMPC,
    Tracking,
    Watching,
    chain,
    no_tightening,
    tighten,
)
from mpc.control.explanation import shares
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend


def moving_horizon():
    base = controller(network(1))
    observer = MovingHorizonObserver(base.predictor, 3, window=5, output_std=0.1)
    tightening = no_tightening(base.predictor.system.digest, 8, 2)
    return TightenedMPC(base.predictor, observer, tightening, Tracking(output_weight=1.0, input_move_weight=0.1))


KINDS = {
    "running": lambda: controller(network(1), observer="running"),
    "washout": lambda: controller(network(2, ny=1), observer="washout"),
    "innovation": lambda: controller(network(3), observer="innovation", soft=False),
    "moving horizon": moving_horizon,
    "terminal": lambda: running(False)[0],
    "recall": lambda: running()[0],
    "bounds": innovating,
}


def pickled(made):
    return pickle.loads(pickle.dumps(made))  # noqa: S301


def samples(made, count, seed=0):
    rng = np.random.default_rng(seed)
    middle = made.predictor.steady_output(np.mean(made.predictor.input_limits(), axis=0))
    for t in range(count):
        yield middle + 0.03 * rng.uniform(-1, 1, made.predictor.ny), middle + 0.05 * np.sin(t / 3)


def used(kind, count=W + 6):
    made = KINDS[kind]()
    for t, (y, wanted) in enumerate(samples(made, count)):
        if t % 7 == 5:
            y[0] = np.nan
        made.step(y, wanted)
    return made


def inputs(made, seed=1):
    return np.array([made.step(y, wanted).u for y, wanted in samples(made, 8, seed)])


@pytest.mark.parametrize("kind", KINDS)
def test_saved_and_restored_to_the_bit_of_the_next_input(kind):
    made = used(kind)
    file = io.BytesIO()
    np.savez(file, **made.state())
    expected = inputs(made)
    file.seek(0)
    fresh = KINDS[kind]()
    with np.load(file, allow_pickle=False) as state:
        fresh.restore(state)
        made.restore(state)
    for other in (fresh, made):  # into another process, or back
        np.testing.assert_array_equal(inputs(other), expected)


@pytest.mark.parametrize("backend", [FatropBackend, DoMpcBackend, chain(CondensedBackend, FatropBackend)])
@pytest.mark.parametrize("how", [copy.copy, pickled])
def test_controllers_with_other_solvers_can_be_copied_too(backend, how):
    made = controller(network(3, nu=1, ny=1), horizon=6, backend=backend)
    inputs(made)
    twin = how(made)
    assert twin.backend is not made.backend
    np.testing.assert_array_equal(inputs(twin), inputs(made))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [copy.copy, copy.deepcopy, pickled])
def test_used_controllers_can_be_copied_and_pickled(kind, how):
    made = used(kind)
    twin = how(made)
    first = inputs(twin)
    np.testing.assert_array_equal(inputs(made), first)  # the twin's steps did not touch it
    assert twin.observer is not made.observer


def test_a_state_of_other_parts_or_without_all_of_them_is_refused():
    made, other = used("running"), used("washout")
    before = made.state()
    with pytest.raises(DataError, match="other parts"):
        made.restore(other.state())
    assert all(np.array_equal(before[k], v, equal_nan=v.dtype.kind == "f") for k, v in made.state().items())
    broken = {k: v for k, v in before.items() if not k.startswith("controller._came_from.1")}
    with pytest.raises(DataError, match="lacks"):
        made.restore(broken)


WATCHED = {
    "wider": (
        {"wider": 0.3, "reactions": {Premise.TIME: "widen"}},
        {"wider": 0.5, "reactions": {Premise.TIME: "widen"}},
    ),
    "no wider": ({}, {"wider": 0.3, "reactions": {Premise.TIME: "widen"}}),
    "reactions": ({}, {"reactions": {Premise.TIME: "back_off"}, "safe_reference": [0.0]}),
    "safe reference": ({"safe_reference": [-0.5]}, {"safe_reference": [0.5]}),
    "jitter": ({"jitter": 0.4}, {"jitter": 0.01}),
    "plausibility": ({"sensor": 5.0}, {"sensor": 2.0}),
    "safe input": ({"safe_input": [0.5]}, {"safe_input": [-0.5]}),
}


def watched(settings):
    settings = dict(settings)
    if "wider" in settings:
        settings["wider"] = premise_tightening(settings["wider"])
    if "sensor" in settings:
        reach = settings.pop("sensor")
        settings["plausibility"] = PlausibilityLimits(sensors=(Signal("level", "m", -reach, reach),))
    safe = settings.pop("safe_input", None)
    tracking = Tracking(output_weight=1.0, input_move_weight=1e-3)
    safety = Safety(safe_input=safe, watching=Watching(**settings))
    return TightenedMPC(tank_predictor(), tank_washout(STEPS), premise_tightening(0.02), tracking, safety=safety)


def premise_tightening(room):
    return tighten(error(SYSTEM, np.full(N + 1, room)), None, observer=tank_washout(STEPS))


@pytest.mark.parametrize("kind", WATCHED)
def test_a_state_brings_no_other_watch_with_it(kind):
    """Its wider limits, safe set point and safe input were taken for those of the controller that it was put into."""
    one, other = (watched(settings) for settings in WATCHED[kind])
    one.record([0.1], [0.2])
    before = pickle.dumps(other.state())
    with pytest.raises(DataError, match="other parts or settings"):
        other.restore(one.state())
    assert pickle.dumps(other.state()) == before
    same = watched(WATCHED[kind][0])
    same.restore(one.state())
    np.testing.assert_array_equal(same.observer.state, one.observer.state)


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_is_restored_whole_and_as_it_was_saved(kind):
    made = used(kind)
    state, before = made.state(), pickle.dumps(made.state())
    for name, value in state.items():
        with pytest.raises(DataError, match="the state") as said:
            made.restore({k: v for k, v in state.items() if k != name})
        assert name.startswith(("rests on", "content")) or f"lacks {name}" in str(said.value)
        if value.size and value.dtype.kind in "fiub":
            wrong = np.nan_to_num(value) + 1 if value.dtype.kind != "b" else ~value
            with pytest.raises(DataError, match="altered"):
                made.restore(state | {name: wrong})
        if name.startswith("controller"):
            with pytest.raises(DataError, match="altered"):
                made.restore(state | {name: np.stack([value, value])})
    with pytest.raises(DataError, match="also holds another"):
        made.restore(state | {"another": np.zeros(2)})
    with pytest.raises(DataError, match="altered"):
        made.restore({k: v for k, v in state.items() if k != "content"})
    assert pickle.dumps(made.state()) == before  # nothing was changed by what was refused
    made.restore(state)


def test_two_controllers_never_share_an_observer():
    first = used("running")
    second = TightenedMPC(
        first.predictor, first.observer, first.tightening, Tracking(output_weight=1.0, input_move_weight=0.05)
    )
    assert second.observer is not first.observer
    assert first.observer.ready
    assert not second.observer.ready
    expected = inputs(copy.copy(first))
    inputs(second, seed=5)
    np.testing.assert_array_equal(inputs(first), expected)


def test_taking_over_without_a_bump():
    made = controller(network(1), observer="washout", move_limit=0.05)
    lower, upper = made.predictor.input_limits()
    acting = lower + 0.8 * (upper - lower)
    made.start_from(acting)
    seen = [made.step(y, wanted) for y, wanted in samples(made, 12)]
    assert seen[0].fallback is Fallback.STEADY
    np.testing.assert_array_equal([step.u for step in seen[:5]], [acting] * 5)
    assert (np.abs(np.diff([step.u for step in seen], axis=0)) <= 0.05 + 1e-9).all()
    with pytest.raises(SettingError, match="u_previous must lie"):
        made.start_from(upper + 1)
    with pytest.raises(ShapeError):
        made.start_from([0.0])


def test_a_poisoned_estimate_can_be_cleared():
    made = controller(network(1), observer="innovation")
    for y, wanted in samples(made, 10):
        made.step(y, wanted)
    held = made.step(np.full(2, 1e250), np.zeros(2)).u
    made.clear_estimate()
    after = [made.step(y, wanted) for y, wanted in samples(made, 12)]
    np.testing.assert_array_equal(after[0].u, held)
    assert after[-1].status is Status.SOLVED
    assert np.abs(after[-1].disturbance).max() < 1


def test_settings_change_on_the_run():
    made = used("running")
    before = made.u_previous
    same = copy.copy(made)
    same.change()
    np.testing.assert_array_equal(inputs(same), inputs(copy.copy(made)))
    for change in ({"output_weight": [1.0, 3.0]}, {"input_move_weight": 50.0}, {"horizon": 5}, {"move_limit": 0.01}):
        twin = copy.copy(made)
        twin.change(**change)
        y, wanted = next(samples(twin, 1, seed=3))
        step = twin.step(y, wanted)
        assert step.status is Status.SOLVED
        np.testing.assert_array_equal(twin.observer.state.shape, made.observer.state.shape)
        if "move_limit" in change:
            assert (np.abs(step.u - before) <= 0.01 + 1e-12).all()
        if "input_move_weight" in change:
            assert np.abs(step.u - before).max() < 0.02
        twin.change(output_weight=2.0)  # and once more
        assert twin.problem.input_move_weight[0] == change.get("input_move_weight", 0.05)


def test_limits_change_where_a_plan_keeps_them_and_are_refused_with_reasons_where_none_does():
    made, x = running(False)[0], 0.0
    for _ in range(W):
        made.record([0.0], [0.0])
    for _ in range(25):
        step = made.step([x], [0.55])
        x = 0.9 * x + step.u[0]
    signal, state = made.predictor.outputs[0], made.state()
    with pytest.raises(InfeasibleError, match=r"nothing was changed.*'y1'.*%"):
        made.change(outputs=[replace(signal, lower=-1.0, upper=0.45)], move_limit=0.01)
    assert all(np.array_equal(state[k], v) for k, v in made.state().items())
    assert made.predictor.outputs[0].upper == 1.0
    made.change(outputs=[replace(signal, lower=-1.0, upper=0.9)])
    for _ in range(20):
        step = made.step([x], [3.0])
        assert (step.status, step.feasible) == (Status.SOLVED, True)
        x = 0.9 * x + step.u[0]
        assert x <= 0.9
    with pytest.raises(SettingError):
        made.change(horizon=N - 1)  # the terminal set is for another


def test_every_part_of_a_tightening_is_counted():
    made = running(False)[0]
    whole = replace(made.tightening, input_error=0.02 * np.ones((N + 1, 1)), execution=0.01 * np.ones((N + 1, 1)))
    parts = shares(SimpleNamespace(horizon=N, tightening=whole, terminal=None))
    np.testing.assert_allclose(sum(parts.values()), whole.total, rtol=1e-12)


def test_who_eats_the_range_is_said():
    made = running(False)[0]
    text = made.explain()
    assert "'y1'" in text
    assert "% is left" in text
    for part in ("model error", "error of the state estimate", "what would help most"):
        assert part in text
    for _ in range(W):
        made.record([2.0], [0.2])
    step = made.step([2.0], [0.0])
    assert not step.feasible
    assert "exceeds the tightened limits of 'y1'" in made.explain() or step.fallback is not Fallback.LEAST


@pytest.mark.parametrize(
    "other",
    [
        {"options": SolverOptions(max_iterations=3)},
        {"options": SolverOptions(rti=1)},
        {"options": SolverOptions(tolerance=1e-4)},
        {"backend": chain(CondensedBackend, FatropBackend)},
    ],
)
def test_a_state_is_not_restored_into_a_controller_with_another_solver(other):
    """The same samples would not give the same inputs."""
    made = controller(network(3, nu=1, ny=1), horizon=6)
    state = made.state()
    with pytest.raises(DataError, match="other parts or settings"):
        controller(network(3, nu=1, ny=1), horizon=6, **other).restore(state)
    made.restore(state)
