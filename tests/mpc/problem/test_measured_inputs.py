"""Inputs that are known disturbances: told ahead, never chosen."""

from dataclasses import replace

import numpy as np
import pytest
from guaranteed_cases import guaranteed
from mpc_networks import LurePlant, NormHorizon, elman, signals
from ocp_cases import objective, problem, sample

from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.systems import LureSystem
from mpc import (
    Disturbances,
    Fallback,
    Mode,
    Predictor,
    RunningOn,
    Solution,
    SolverOptions,
    Start,
    Status,
    TightenedMPC,
    Tracking,
    controller_to_c,
    no_tightening,
    run_closed_loop,
)
from mpc.control.settings import grouped
from mpc.loops.settings import loop_settings
from mpc.problem.economy import Economy
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.condensed_problem import CondensedProblem
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend

N = 8
OPEN = np.inf


def measured(place=1, system: LureSystem | None = None, **options):
    """A problem with three inputs, one of which is measured."""
    weight, limit = np.full(3, 0.05), np.full(3, OPEN)
    if "move_limit" in options:
        limit[:] = options.pop("move_limit")
    weight[place], limit[place] = 0.0, OPEN
    system = elman(5, 3, 2) if system is None else system
    return problem(system, N, input_move_weight=weight, move_limit=limit, measured_inputs=(place,), **options)


def sampled(ocp, rng, reference=(0.3, 0.1)):
    data = sample(ocp, reference, x=0.2 * rng.standard_normal(5), before=[0.1, -0.1, 0.2])
    return replace(data, forecast=rng.uniform(-1, 1, (N, 1)))


PRICES = Economy(
    input_price=np.array([0.1, 0.0, -0.2]),
    output_price=np.array([0.3, -0.1]),
    input_weight=np.array([0.1, 0.0, 0.0]),
    input_reference=np.zeros(3),
)
CASES = {
    "middle": {},
    "first": {"place": 0},
    "last, held": {"place": 2, "control_horizon": 3},
    "moves": {"move_limit": 0.1},
    "hard": {"soft": False, "limit": 2.0},
    "feedthrough": {"system": replace(elman(5, 3, 2), D22=0.4 * np.ones((2, 3)))},
    "prices": {"economy": PRICES},
}


@pytest.mark.parametrize("name", CASES)
def test_engines_agree_and_leave_the_forecast_alone(name, rng):
    ocp = measured(**CASES[name])
    (place,) = ocp.measured_inputs
    engines = [CondensedBackend, FatropBackend] + [DoMpcBackend] * (ocp.inputs == N)
    for reference in ((0.3, 0.1), (2.0, -2.0)):
        data = sampled(ocp, rng, reference)
        answers = [engine(ocp, SolverOptions()).solve(data) for engine in engines]
        for answer, engine in zip(answers, engines, strict=True):
            # fatrop may see no end where the reference is out of reach: its plan is less accurate then.
            excused = engine is FatropBackend and reference[0] > 1
            assert answer.status is Status.SOLVED or excused
            np.testing.assert_array_equal(answer.u[:, place], data.forecast[:, 0])
            if not excused:
                np.testing.assert_allclose(answer.u, answers[0].u, atol=2e-3)
            found = ocp.objective(data, answer.u)[0]
            np.testing.assert_allclose(found, answers[0].cost, rtol=1e-3)
        if ocp.economy is None:
            np.testing.assert_allclose(answers[0].cost, objective(ocp, data, answers[0].u), rtol=1e-9)


def test_derivatives_are_by_the_chosen_inputs_only(rng):
    ocp = measured(limit=np.inf, control_horizon=5)
    scaled, data = CondensedProblem(ocp), sampled(ocp, rng)
    assert scaled.n == 5 * 2
    at, z = scaled.sample(data), 0.2 * rng.standard_normal(10)
    model = scaled.model(at, scaled.plan(at, z), None)
    e = 1e-6 * np.eye(10)
    slope = [(scaled.plan(at, z + d).cost - scaled.plan(at, z - d).cost) / 2e-6 for d in e]
    np.testing.assert_allclose(model.g, slope, atol=1e-8)


def test_a_sample_without_its_forecast_is_refused(rng):
    ocp = measured()
    data = replace(sampled(ocp, rng), forecast=None)
    for engine in (CondensedBackend, FatropBackend):
        with pytest.raises(ShapeError, match="forecast"):
            engine(ocp, SolverOptions()).solve(data)


@pytest.fixture(scope="module")
def known() -> Predictor:
    """Input u2 is the disturbance; it acts as strongly as the others."""
    return Predictor(elman(5, 3, 2), signals("u", 3, 1.0), signals("y", 2, 3.0))


def make(predictor, **options):
    settings = {"output_weight": 1.0, "input_move_weight": 0.02, "measured_inputs": ("u2",)} | options
    tightening = no_tightening(predictor.system.digest, N, predictor.ny)
    return TightenedMPC(predictor, RunningOn(predictor, 1), tightening, **grouped(settings))


def plant_of(predictor):
    return LurePlant(predictor.system, predictor.inputs, predictor.outputs)


STEP = np.repeat([0.0, 0.9, -0.6], [12, 14, 14])[:, None]  # of the disturbance


def run(predictor, *, preview=True, **options):
    return run_closed_loop(
        plant_of(predictor),
        make(predictor, **options),
        reference=[0.1, 0.1],
        measured_inputs=STEP,
        steps=40,
        seed=0,
        preview=preview,
        start=Start(warm_up=40),
    )


def test_what_is_known_ahead_is_compensated_before_it_comes(known):
    price = {"input_move_weight": 1.0}
    ahead, now = run(known, **price), run(known, preview=False, **price)
    for result in (ahead, now):
        np.testing.assert_array_equal(result.u[:, 1], STEP[:, 0])
        np.testing.assert_array_equal(result.applied[:, 1], STEP[:, 0])
        np.testing.assert_allclose(result.errors[5:25, 1], 0, atol=1e-5)  # one step ahead nothing surprises
    others = [0, 2]
    np.testing.assert_allclose(now.u[11, others], now.u[9, others], atol=1e-3)
    assert np.abs(ahead.u[11, others] - ahead.u[9, others]).max() > 0.1
    np.testing.assert_array_equal(ahead.u[2], now.u[2])  # too early to tell
    assert ahead.cost < 0.8 * now.cost
    assert now.cost < 0.9 * blind_cost(make(known, **price))


def blind_cost(controller):
    """Of a loop whose controller is told that there is no disturbance, and finds out from the outputs only."""
    system, x, u, ys, us = controller.predictor.system, np.zeros(5), np.zeros(3), [], []
    for t in range(-40, 40):
        d, y = STEP[max(t, 0), 0], system.output(x, u)
        if t < 0:
            controller.record(y, np.zeros(3))
        else:
            u = np.array(controller.step(y, [0.1, 0.1], [0.0]).u)
        u[1] = d
        x = system.step(x, u)
        if t >= 0:
            ys.append(system.output(x, u))
            us.append(u)
    return controller.problem.cost(np.array(ys), np.full((40, 2), 0.1), np.array(us), np.zeros(3))


def test_limits_tightened_by_the_radius_of_a_forecast_hold_with_errors_at_its_edge(known, rng):
    """The certificate's radius per channel is all that forecast errors need: only u2 has one here."""
    wrong, limit = 0.2, 0.5
    bounds = NormHorizon.of(known.system, N, 0.0, [0.0, wrong, 0.0]).bounds
    predictor = replace(known, outputs=signals("y", 2, limit + bounds.max()))
    tightening = replace(no_tightening(known.system.digest, N, 2), model_error=bounds)
    controller = TightenedMPC(
        predictor,
        RunningOn(predictor, 1),
        tightening,
        Tracking(output_weight=1.0, input_move_weight=0.02, measured_inputs=("u2",)),
    )
    controller.record(known.system.output(controller.observer.state, np.zeros(3)), np.zeros(3))
    errors, within = [], []
    for t in range(20):
        true = np.repeat(rng.choice([-0.4, 0.4], N // 4), 4)
        told = true + wrong * np.append(0.0, rng.choice([-1.0, 1.0], N - 1))  # now is measured
        y = known.system.output(controller.observer.state, controller.u_previous)
        step = controller.step(y, [5.0, -5.0] if t % 2 else [-5.0, 5.0], told[:, None])
        u = step.u_planned.copy()
        u[:, 1] = true
        reached = known.predict(step.x, u)
        errors.append(np.abs(reached - step.y_predicted))
        if step.slack.max() < 1e-7:
            within.append(limit + bounds.max() - np.abs(reached[1:]).max())
    assert (np.max(errors, axis=0) <= bounds + 1e-12).all()
    assert np.max(errors) > 0.1 * bounds.max()
    assert len(within) > 10
    assert -1e-6 < min(within) < 0.5 * bounds.max()  # limits bind


class Listening(TightenedMPC):
    """Notes what it is told."""

    def step(self, y, reference, forecast=None):
        self.told.append(forecast)
        return super().step(y, reference, forecast)

    def reset(self):
        self.told = []
        super().reset()


def wrong_loop(predictor, wrong, radius, seed=0, **options):
    """A loop whose tightening has the certified ``radius`` for the forecasts of u2, and their realised errors."""
    bounds = NormHorizon.of(predictor.system, N, 0.0, [0.0, radius, 0.0]).bounds
    start = np.full((N + 1, 2), 1e-3)  # what is left of the start's error after the warm-up
    tightening = replace(no_tightening(predictor.system.digest, N, 2), input_error=bounds, reinitialisation=start)
    controller = Listening(
        predictor,
        RunningOn(predictor, 1),
        tightening,
        Tracking(output_weight=1.0, input_move_weight=0.02, measured_inputs=("u2",), mode=Mode.GUARANTEED),
    )
    settings = {"reference": [0.1, 0.1], "measured_inputs": STEP, "steps": 40, "warm_up": 40} | options
    return controller, run_closed_loop(
        plant_of(predictor), controller, seed=seed, **loop_settings(dict(forecast_error=wrong, **settings))
    )


def test_wrong_forecasts_are_drawn_within_their_bound_and_covered_by_the_radius_of_the_certificate(known):
    wrong = 0.2
    controller, result = wrong_loop(known, wrong, wrong)
    told = np.array(controller.told)
    assert told.shape == (40, N, 1)
    true = STEP[np.minimum(np.arange(40)[:, None] + np.arange(N), 39)]
    np.testing.assert_array_equal(told[:, 0], true[:, 0])  # what acts now is known
    off = (told - true)[:, 1:]
    assert 0.95 * wrong < np.abs(off).max() <= wrong
    np.testing.assert_allclose(off.std(), wrong / np.sqrt(3), rtol=0.1)
    np.testing.assert_array_equal(result.applied[:, 1], STEP[:, 0])
    assert result.inside == 1.0
    assert 0.1 < np.nanmax(result.bound_use) <= 1.0
    np.testing.assert_allclose(result.errors[:, 1], 0, atol=1e-3)
    # The errors are those of the predictions as told, for which a smaller radius is not enough.
    t, k = 10, 5
    inputs = np.array(result.u[t : t + k])
    inputs[:, 1] = told[t, :k, 0]
    predicted = known.predict(result.x[t], inputs)[k]
    np.testing.assert_allclose(result.errors[t, k], result.y[t + k] - predicted, atol=1e-12)
    assert wrong_loop(known, wrong, 0.1 * wrong)[1].inside < 1.0
    assert wrong_loop(known, 0.0, 0.0)[1].inside == 1.0


def test_forecast_errors_repeat_with_their_seed_and_leave_the_other_causes_alone(known):
    (first, one), (again, two), (_, exact) = (
        wrong_loop(known, [wrong], 0.2, seed=3, noise_std=0.01, missing=0.1, steps=10) for wrong in (0.2, 0.2, 0.0)
    )
    np.testing.assert_array_equal(first.told, again.told)
    np.testing.assert_array_equal(one.u, two.u)
    assert (one.u != exact.u).any()
    np.testing.assert_array_equal(np.isnan(one.readings), np.isnan(exact.readings))
    np.testing.assert_array_equal(one.readings[0], exact.readings[0])


def test_errors_of_no_forecast_are_refused(known):
    for options in ({"preview": False}, {"forecast_error": -0.1}):
        with pytest.raises(SettingError, match="forecast_error"):
            wrong_loop(known, options.pop("forecast_error", 0.1), 0.2, **options)
    with pytest.raises(ShapeError, match="forecast_error"):
        wrong_loop(known, [0.1, 0.1], 0.2)
    plain = make(known, measured_inputs=())
    with pytest.raises(SettingError, match="pass measured"):
        run_closed_loop(
            plant_of(known), plain, reference=[0.1, 0.1], steps=3, seed=0, disturbances=Disturbances(forecast_error=0.1)
        )


def test_loops_are_the_same_with_fatrop(known):
    np.testing.assert_allclose(run(known).u, run(known, backend=FatropBackend).u, atol=2e-3)


def test_moves_and_prices_are_not_for_measured_inputs(known):
    controller = make(known, move_limit=0.05, input_price=0.1, input_weight=0.1)
    result = run_closed_loop(
        plant_of(known),
        controller,
        reference=[0.1, 0.1],
        measured_inputs=STEP,
        steps=40,
        seed=0,
        start=Start(warm_up=10),
    )
    np.testing.assert_array_equal(result.u[:, 1], STEP[:, 0])
    moves = np.abs(np.diff(result.u, axis=0))
    assert moves[:, [0, 2]].max() <= 0.05 + 1e-9 < moves[:, 1].max()
    problem = controller.problem
    other = replace(problem, economy=replace(problem.economy, input_price=np.array([0.1, 0.0, 0.1])))
    u = np.full((5, 3), 0.3)
    y = np.zeros((5, 2))
    assert problem.cost(y, y, u, u[0]) == other.cost(y, y, u, u[0])


def test_forecasts_may_lie_outside_of_what_actuators_reach(known):
    controller = make(known)
    y = known.steady_output(np.zeros(3))
    for _ in range(5):
        controller.record(y, np.zeros(3))
    step = controller.step(y, [0.1, 0.1], [[0.0], [1.7]])
    np.testing.assert_array_equal(step.u_planned[:, 1], [0.0, *[1.7] * (N - 1)])
    assert step.status is Status.SOLVED


class Never:
    def __init__(self, problem, options):
        pass

    def reset(self):
        pass

    def solve(self, data):
        none = np.zeros_like(data.lower)
        return Solution(status=Status.TIME_LIMIT, u=data.guess, slack=none, cost=np.nan, iterations=0, message="never")


def test_fallbacks_know_what_is_coming(known):
    controller = make(known, backend=Never, output_weight=1.0)
    y = known.steady_output(np.zeros(3))
    for _ in range(5):
        controller.record(y, np.zeros(3))
    step = controller.step(y, [0.15, 0.1], [[0.4], [0.5]])
    assert (step.status, step.fallback) == (Status.TIME_LIMIT, Fallback.STEADY)
    np.testing.assert_array_equal(step.u_planned[:, 1], [0.4, *[0.5] * (N - 1)])
    np.testing.assert_allclose(known.steady_output(step.u), [0.15, 0.1], atol=1e-3)  # with u2 = 0.4 taken into account


def test_bad_settings_are_refused(known, tmp_path):
    for names in (("u9",), ("u2", "u2"), "u2", ("u1", "u2", "u3")):
        with pytest.raises(SettingError, match="measured"):
            make(known, measured_inputs=names)
    controller = make(known)
    state = controller.observer.state
    for forecast, error in ((None, SettingError), ([0.1, 0.2], ShapeError), ([np.nan], DataError)):
        with pytest.raises(error):
            controller.step(np.zeros(2), [0.1, 0.1], forecast)
    with pytest.raises(ShapeError):
        controller.step(np.zeros(2), [0.1, 0.1], np.zeros((0, 1)))
    assert controller.observer.state is state
    with pytest.raises(SettingError, match="forecast"):
        make(known, measured_inputs=()).step(np.zeros(2), [0.1, 0.1], [0.1])
    with pytest.raises(SettingError, match="measured"):
        run_closed_loop(plant_of(known), controller, reference=[0.1, 0.1], steps=3, seed=0)
    with pytest.raises(SettingError, match="chosen"):
        guaranteed("elman").controller(measured_inputs=("u1",))
    with pytest.raises(SettingError, match="forecast"):
        controller_to_c(make(known), tmp_path)
    with pytest.raises(SettingError, match="neither weights nor prices"):
        problem(elman(), measured_inputs=(0,))
