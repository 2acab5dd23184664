"""Set points are kept without offset by every observer, under unknown inflows and another gain: `offset_free`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import declared_error, signals
from offset_cases import CONTRACTION, GOAL, OBSERVERS, PREDICTOR, REST, SYSTEM, N, innovation, plant

from controlrnn.systems import LureSystem
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    DisturbanceFilter,
    Predictor,
    RunningOn,
    StateObserver,
    TightenedMPC,
    make_recursive,
    no_tightening,
    run_closed_loop,
    terminal_set,
    tighten,
)
from mpc.control.offset_free import OutputDisturbance
from mpc.control.settings import grouped

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
STEPS = 500


def controller(observer, mode="nominal"):
    settings = {"output_weight": 1.0, "input_move_weight": 0.05}
    if mode == "nominal":
        return TightenedMPC(PREDICTOR, observer, no_tightening(SYSTEM.digest, N, 2), **grouped(settings))
    error = declared_error(SYSTEM, np.full((N + 1, 2), 0.02))
    if mode == "practical":
        tightening = tighten(replace(error, disturbance_gain=0.2), None, observer=observer)
        return TightenedMPC(PREDICTOR, observer, tightening, **grouped(settings))
    jump = RunningOn(PREDICTOR, 1, contraction=CONTRACTION).jump
    return TightenedMPC(
        PREDICTOR,
        observer,
        make_recursive(tighten(error, None, observer=observer), None, observer=observer, jump=jump),
        terminal=terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=jump),
        **grouped(settings),
    )


CASES = [
    pytest.param(
        name,
        mode,
        id=f"{name}, {mode}",
        marks=[pytest.mark.slow] * (mode != ("practical" if name == "moving horizon" else "nominal")),
    )
    for name in OBSERVERS
    for mode in ("nominal", "practical", "guaranteed")
]


@pytest.mark.parametrize(("name", "mode"), CASES)
@pytest.mark.parametrize("kind", ["inflow", "gain"])
def test_loops_settle_at_the_set_point(name, mode, kind):
    run = run_closed_loop(plant(kind), controller(OBSERVERS[name](), mode), reference=GOAL, steps=STEPS, seed=0)
    assert np.ptp(run.y[-20:], axis=0).max() < 1e-7
    assert np.abs(run.y[-1] - GOAL).max() <= 1e-6 * 2.0
    assert run.failed_solves == 0
    assert np.abs(run.u[-1] - REST).max() > 0.02  # the model alone would have held another input


@pytest.mark.parametrize("name", ["short washout", "innovation", "encoder"])
def test_without_the_level_of_the_model_they_miss_it(name, monkeypatch):
    """The test above can fail: estimates that measurements move, or that start anew, are no steady states."""
    monkeypatch.setattr(OutputDisturbance, "_difference", lambda self, *_: np.zeros_like(self._level))
    run = run_closed_loop(plant("inflow"), controller(OBSERVERS[name]()), reference=GOAL, steps=STEPS, seed=0)
    assert np.abs(run.y[-1] - GOAL).max() > (1e-3 if name == "short washout" else 5e-3)


@pytest.mark.parametrize("name", ["innovation", "encoder"])
def test_predictions_at_rest_say_what_is(name):
    run = run_closed_loop(plant("inflow"), controller(OBSERVERS[name]()), reference=GOAL, steps=STEPS, seed=0)
    np.testing.assert_allclose(run.predicted[-1], np.tile(run.y[-1], (N + 1, 1)), atol=1e-6)
    np.testing.assert_allclose(run.errors[-60, :], 0.0, atol=1e-6)


def test_limits_are_met_without_offset_where_nothing_is_promised():
    run = run_closed_loop(plant("inflow"), controller(innovation()), reference=[2.0, GOAL[1]], steps=STEPS, seed=0)
    assert abs(run.y[-1, 0] - 1.0) <= 1e-5


@needs_compiler
@pytest.mark.parametrize("name", ["running on", "short washout", "innovation"])
@pytest.mark.parametrize("mode", ["nominal", pytest.param("practical", marks=pytest.mark.slow), "guaranteed"])
def test_c_controllers_settle_there_too(name, mode, tmp_path):
    ours = controller(OBSERVERS[name](), mode)
    theirs, acting = CompiledController(ours, tmp_path), plant("gain")
    ends, inputs = [], []
    for controls in (ours, theirs):
        x, u, taken = acting.initial_state(), np.zeros(2), []
        for _ in range(STEPS):
            u = controls.step(acting.output(x, u), GOAL).u
            taken.append(u)
            x = acting.step(x, u)
        ends.append(acting.output(x, u))
        inputs.append(np.array(taken))
    assert np.abs(np.array(ends) - GOAL).max() <= 1e-6 * 2.0
    np.testing.assert_allclose(*inputs, atol=1e-6)


def beside(observer):
    return OutputDisturbance(observer, N, DisturbanceFilter(0.2), at_rest=False, in_limits=True, level_in_limits=True)


def test_running_on_is_left_alone_to_the_last_bit():
    observer = OBSERVERS["running on"]()
    level, u = beside(observer), np.array([0.3, -0.4])
    for t in range(30):
        level.update(np.zeros(2), observer.state, u)
        level.advance(u * np.cos(t))
        observer.update(u * np.cos(t), np.zeros(2))
    assert not level.rows.any()
    assert not level.steady.any()


def test_models_that_do_not_forget_are_not_corrected():
    """An integrator's own run drifts away for ever: nothing is taken from it."""
    none = np.zeros
    system = LureSystem(
        A=np.eye(1), B1=none((1, 0)), B2=np.eye(1), bx=none(1), C1=none((0, 1)), D11=none((0, 0)), D12=none((0, 1)),
        bv=none(0), C2=np.eye(1), D21=none((1, 0)), D22=none((1, 1)), by=none(1), layers=(), dt=1.0,
    )  # fmt: skip
    observer = StateObserver(Predictor(system, signals("u", 1, 1.0)), np.array([[0.5]]), 2, initial_state=[0.0])
    level = beside(observer)
    assert not level.forgets
    level.advance(np.ones(1))
    level.update(np.zeros(1), np.zeros(1), np.ones(1))
    assert not level.rows.any()
