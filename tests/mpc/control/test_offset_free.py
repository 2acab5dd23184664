"""Set points are kept without offset by every observer, under unknown inflows and another gain: `offset_free`."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import LurePlant, NormContraction, declared_error, elman, signals

from controlrnn.data import Trajectory
from controlrnn.identification import fit_encoder
from controlrnn.systems import LureSystem
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    DisturbanceFilter,
    EncoderObserver,
    MovingHorizonObserver,
    Predictor,
    RunningOn,
    StateObserver,
    TightenedMPC,
    Washout,
    kalman_gain,
    make_recursive,
    no_tightening,
    run_closed_loop,
    terminal_set,
    tighten,
)
from mpc.control.offset_free import OutputDisturbance
from mpc.control.settings import grouped
from plants import excitation

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
N, STEPS = 10, 500
SYSTEM = elman(rate=0.9, seed=2)
PREDICTOR = Predictor(SYSTEM, signals("u", 2, 1.0), signals("y", 2, 1.0))
CONTRACTION = NormContraction.of(SYSTEM)
REST = np.array([0.2, -0.3])
GOAL = PREDICTOR.steady_output(REST)
INFLOW = np.array([0.08, -0.05, 0.06, 0.03])


def innovation():
    gain = kalman_gain(PREDICTOR, output_noise_std=0.05, input_noise_std=0.3)
    return StateObserver(PREDICTOR, gain, 10)


def moving_horizon(**options):
    return MovingHorizonObserver(
        PREDICTOR, 12, window=8, output_std=0.05, input_error=0.05, tolerance=1e-14, iterations=20, **options
    )


def encoder():
    u = [excitation.random_steps(150, PREDICTOR.inputs, hold=(2, 9), seed=s) for s in range(3)]
    records = [Trajectory(one, SYSTEM.simulate(one)[0], 1.0) for one in u]
    return EncoderObserver(PREDICTOR, fit_encoder(SYSTEM, records, past=6, washout=60, hidden=4, steps=30))


OBSERVERS = {
    "running on": lambda: RunningOn(PREDICTOR, 10, contraction=CONTRACTION),
    "short washout": lambda: Washout(PREDICTOR, 5, contraction=CONTRACTION),
    "innovation": innovation,
    "moving horizon": moving_horizon,
    "moving horizon with offset": lambda: moving_horizon(offset_std=0.1),
    "guarded": lambda: moving_horizon(guard=RunningOn(PREDICTOR, 10, contraction=CONTRACTION, input_error=0.05)),
    "encoder": encoder,
}


class Other(LurePlant):
    """The model with another gain and an inflow into its states that nobody knows of."""

    gain, inflow = 1.0, np.zeros(4)

    def step(self, x, u, w=None):  # noqa: ARG002
        n = self.system.nx
        return np.concatenate([self.system.step(x[:n], np.asarray(u) * self.gain) + self.inflow, x[n:]])


def plant(kind):
    made = Other(SYSTEM, PREDICTOR.inputs, PREDICTOR.outputs)
    made.__dict__.update({"inflow": INFLOW} if kind == "inflow" else {"gain": 1.3})
    return made


def controller(observer, mode="nominal"):
    settings = {"output_weight": 1.0, "input_move_weight": 0.05}
    if mode == "nominal":
        return TightenedMPC(PREDICTOR, observer, no_tightening(SYSTEM.digest, N, 2), **grouped(settings))
    error = declared_error(SYSTEM, np.full((N + 1, 2), 0.02))
    if mode == "practical":
        room = tighten(replace(error, disturbance_gain=0.2), None, observer=observer)
        return TightenedMPC(PREDICTOR, observer, room, **grouped(settings))
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
        name, mode, id=f"{name}, {mode}",
        marks=[pytest.mark.slow] * (mode != ("practical" if name == "moving horizon" else "nominal")),
    )
    for name in OBSERVERS
    for mode in ("nominal", "practical", "guaranteed")
]  # fmt: skip


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
    return OutputDisturbance(
        observer, N, DisturbanceFilter(0.2), at_rest=False, in_limits=True, level_in_limits=True
    )  # fmt: skip


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
