"""Inputs that act one sample after they are computed: the option, what it promises, and what happens without it."""

from functools import cache

import numpy as np
import pytest
from c_loops import controller as random_controller
from c_loops import network
from c_loops import run as random_run
from mpc_networks import signals
from one_tank import RESIDUAL, M, N, W, error, running, tank
from random_systems import random_system

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Timing, Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.systems import answers_late, carries_input, carry_input, delay_input
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    DelayedPlant,
    Predictor,
    RunningOn,
    StateObserver,
    TightenedMPC,
    calibrate,
    certify_changes,
    make_error_memory,
    make_recursive,
    run_closed_loop,
    terminal_set,
    tighten,
)
from mpc.control.settings import grouped

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")


@cache
def parts():
    """Everything that the guarantee for the tank x+ = 0.9 x + u rests on, with the input under way."""
    predictor = Predictor.delayed(tank(), signals("u", 1, 1.0), signals("y", 1, 1.0))
    system, contraction = predictor.system, certify_contraction(predictor.system)
    observer = RunningOn(predictor, W, contraction=contraction)
    start = observer.restart
    joint = certify_horizon(system, W + N, initial_radius=start.radius, metric=start.metric, focus=[W, W + N])
    declared = error(system, np.full(N + 1, RESIDUAL))
    tightening = make_recursive(tighten(declared, joint, observer=observer), None, observer=observer)
    drift = error(system, np.r_[0.0, np.full(N, 0.039)], 1.0)
    memory = make_error_memory(tightening, drift, certify_changes(observer, 2), observer=observer)
    return (
        predictor,
        contraction,
        tightening,
        terminal_set(predictor, contraction, horizon=N, jump=observer.jump),
        memory,
    )


def controller(recalling=False, **options):
    predictor, contraction, tightening, terminal, memory = parts()
    observer = RunningOn(predictor, W, contraction=contraction)
    settings = {"output_weight": 1.0, "input_move_weight": 1e-4, "control_horizon": M, "terminal": terminal} | options
    return TightenedMPC(
        predictor, observer, tightening, error_memory=memory if recalling else None, **grouped(settings)
    )


def loop(made, steps=200, seed=0, under_way=1):
    """The tank with a residual at its bound, whose inputs act ``under_way`` samples late; steps, and outputs."""
    rng, x, queue, taken, seen = np.random.default_rng(seed), 0.0, [0.0] * under_way, [], []
    for _ in range(W):
        made.record([x], [0.0])
    for t in range(steps):
        y = x + RESIDUAL * rng.choice([-0.999, 0.999])
        step = made.step([y], [2.0 * (-1) ** (t // 9)])
        queue.append(step.u[0])
        x = 0.9 * x + queue.pop(0)
        taken.append(step)
        seen.append(y)
    return taken, np.array(seen)


@pytest.mark.parametrize("recalling", [False, True])
def test_the_guarantee_holds_with_the_delay_and_breaks_without_the_option(recalling):
    for seed in range(4):
        steps, y = loop(controller(recalling), seed=seed)
        assert np.abs(y).max() <= 1.0
        assert all(step.certified and step.feasible for step in steps)
        assert np.abs(y).max() > (0.38 if not recalling else 0.5)  # it does go to its limits
        bound = np.abs(parts()[2].total[0, 0])
        assert all(abs(seen - step.y_predicted[0, 0]) <= bound for step, seen in zip(steps, y, strict=True))
    made = running(recalling)[0]
    steps, y = loop(made, under_way=1)
    errors = [abs(seen - step.y_predicted[0, 0]) for step, seen in zip(steps, y, strict=True)]
    assert max(errors) > made.tightening.total.max()  # without the option the bound is none,
    if recalling:  # and a controller that listens to readings leaves its limits; others only follow a sample late
        assert np.abs(y).max() > 1.0


def test_the_closed_loop_is_that_of_the_delayed_plant():
    predictor = parts()[0]
    result = run_closed_loop(DelayedPlant(Tank()), controller(), reference=[0.3], steps=30, seed=0)
    assert not result.violations
    u, x = np.concatenate([result.u_before, result.u[:, 0]]), result.y[:, 0]
    np.testing.assert_allclose(x[1:], 0.9 * x[:-1] + u[:-1], atol=1e-12)
    assert result.y[-1, 0] == pytest.approx(0.3, abs=0.02)
    assert predictor.timing is controller().premises.timing is Timing.DELAYED


class Tank:
    """The tank as a plant."""

    dt, nx = 1.0, 1
    inputs, outputs = signals("u", 1, 1.0), signals("y", 1, 1.0)

    def initial_state(self):
        return np.zeros(1)

    def step(self, x, u, w=None):  # noqa: ARG002
        return 0.9 * x + u

    def output(self, x, u):  # noqa: ARG002
        return x


def test_a_plant_or_records_of_another_timing_are_refused():
    with pytest.raises(SettingError, match="timing measured_first against delayed"):
        run_closed_loop(Tank(), controller(), reference=[0.3], steps=2, seed=0)
    with pytest.raises(SettingError, match="timing delayed against measured_first"):
        run_closed_loop(DelayedPlant(Tank()), running(False)[0], reference=[0.3], steps=2, seed=0)


def records(n=12):
    found = []
    for seed in range(n):
        rng = np.random.default_rng(seed)
        u, x = rng.uniform(-1, 1, 150), [0.0]
        for t in range(149):
            x.append(0.9 * x[-1] + u[t])
        found.append(Trajectory(u[:, None], np.array(x)[:, None] + 0.01 * rng.uniform(-1, 1, (150, 1)), 1.0))
    return found


def test_records_of_experiments_are_converted_and_mixtures_refused():
    predictor, contraction = parts()[:2]
    given = {"horizon": N, "washout": 100, "coverage": 0.8}
    plain, late = records(), [r.delayed() for r in records()]
    bound = calibrate(predictor.system, late[:8], scale_trajectories=late[8:], **given)
    undelayed = calibrate(tank(), plain[:8], scale_trajectories=plain[8:], **given)
    np.testing.assert_allclose(bound.bounds, undelayed.bounds, rtol=0.3)  # one and the same residual
    assert bound.premises.timing is Timing.DELAYED
    wrong = calibrate(predictor.system, plain[:8], scale_trajectories=plain[8:], **given)
    assert wrong.bounds.max() > 10 * bound.bounds.max()
    observer = RunningOn(predictor, W, contraction=contraction)
    with pytest.raises(SettingError, match="timing measured_first against delayed"):
        tighten(wrong, None, observer=observer)
    tighten(bound, None, observer=observer)
    with pytest.raises(DataError, match="records must have one timing"):
        calibrate(predictor.system, [*late[:4], *plain[:4]], scale_trajectories=late[8:], **given)


def test_records_go_there_and_back():
    record = records(1)[0]
    late = record.delayed()
    assert late.timing is Timing.DELAYED
    assert late.delayed() is late
    np.testing.assert_array_equal(late.u, record.u[1:])
    np.testing.assert_array_equal(late.measured_first().u, record.u[1:-1])
    np.testing.assert_array_equal(late.measured_first().y, record.y[1:-1])


@pytest.mark.parametrize("seed", range(3))
def test_the_delayed_system_is_the_system_one_sample_late(seed):
    system = random_system(seed, feedthrough=False)
    late, rng = delay_input(system), np.random.default_rng(seed)
    u, x = rng.uniform(-1, 1, (40, system.nu)), rng.standard_normal(system.nx)
    shifted = np.vstack([u[1:], u[:1]])
    np.testing.assert_allclose(
        late.simulate(shifted, np.concatenate([x, u[0]]))[0], system.simulate(u, x)[0], rtol=1e-13, atol=1e-13
    )
    assert carries_input(late)
    assert not answers_late(late)
    assert Predictor(late).with_answers.ny == system.ny


def test_what_answers_at_once_is_told_from_what_does_not():
    assert answers_late(carry_input(tank(d=0.5)))
    assert answers_late(carry_input(random_system(0)))
    with pytest.raises(SettingError, match="delay_input needs a system whose output does not answer at once"):
        delay_input(tank(d=0.5))
    with pytest.raises(SettingError, match="timing 'delayed' needs a system from delay_input"):
        Predictor(tank(), timing=Timing.DELAYED)
    with pytest.raises(SettingError, match="'measured_first' or 'delayed'"):
        Predictor(tank(), timing=Timing.INPUT_FIRST)


def test_a_gain_for_the_plants_own_state_will_do():
    predictor = parts()[0]
    observer = StateObserver(predictor, [[0.4]], 3)
    np.testing.assert_array_equal(observer.gain, [[0.4], [0.0]])


@needs_compiler
def test_the_c_code_keeps_the_guarantee_alike(tmp_path):
    ours = controller()
    first, _ = loop(ours)
    theirs = CompiledController(ours, tmp_path)
    second, again = loop(theirs)
    assert np.abs(again).max() <= 1.0
    np.testing.assert_allclose([s.u for s in first], [s.u for s in second], atol=1e-5)
    assert all(step.certified and step.feasible for step in second)
    assert [s.status for s in first] == [s.status for s in second]


@needs_compiler
@pytest.mark.parametrize("observer", ["running", "washout"])
def test_the_c_code_of_networks_does_alike(observer, tmp_path):
    made = random_controller(delay_input(network(3, ny=2)), limit=0.3, observer=observer)
    first = random_run(made, made, steps=60)
    second = random_run(CompiledController(made, tmp_path), made, steps=60)
    np.testing.assert_allclose(first.u, second.u, atol=2e-5)
    assert first.status == second.status
