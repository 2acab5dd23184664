from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import elman, signals

from controlrnn.data import Signal
from controlrnn.errors import DataError, InfeasibleError, SettingError, ShapeError
from mpc import (
    Fallback,
    Mode,
    Predictor,
    RunningOn,
    Solution,
    SolverOptions,
    Status,
    StepData,
    TightenedMPC,
    Washout,
    no_tightening,
    premises_of,
)
from mpc.control.settings import grouped
from mpc.solvers.dompc import DoMpcBackend

N = 8


def make(predictor, *, tightening=None, observer=None, **options):
    settings = {"output_weight": 1.0, "input_move_weight": 0.05} | options
    tightening = tightening or no_tightening(predictor.system.digest, N, predictor.ny)
    return TightenedMPC(predictor, observer or RunningOn(predictor, 1), tightening, **grouped(settings))


def started(controller, u=(0.0, 0.0), steps=10):
    """A controller that has seen the model itself at rest under ``u``; returns the output there as well."""
    y = controller.predictor.steady_output(np.asarray(u))
    controller.reset()
    for _ in range(steps):
        controller.record(y, u)
    return y


@pytest.fixture(scope="module")
def tightened(predictor):
    """Tightened at the last step only: what do-mpc by itself does not enforce."""
    base = no_tightening(predictor.system.digest, N, 2)
    bounds = np.zeros((N + 1, 2))
    bounds[N] = [0.4, 0.1]
    return replace(base, model_error=bounds)


@pytest.fixture(scope="module")
def controller(predictor):
    return make(predictor)


class Sabotaged:
    """A backend whose chosen solves fail, after the real one has worked."""

    def __init__(self, problem, options, fail=()):
        self.inner, self.fail, self.calls, self.guesses = DoMpcBackend(problem, options), set(fail), 0, []

    def reset(self):
        self.inner.reset()
        self.calls, self.guesses = 0, []

    def solve(self, data):
        self.calls += 1
        self.guesses.append(data.guess)
        if self.calls - 1 in self.fail:
            return Solution(
                status=Status.FAILED,
                u=np.full_like(data.guess, 0.77),
                slack=np.ones_like(data.lower),
                cost=np.nan,
                iterations=3,
                message="sabotaged",
            )
        return self.inner.solve(data)


def test_limit_of_the_last_step_is_enforced(predictor, tightened):
    controller = make(predictor, tightening=tightened)
    y = started(controller)
    step = controller.step(y, [0.6, 0.6])
    assert step.status is Status.SOLVED
    assert step.slack.max() < 1e-6
    assert step.y_predicted[N, 0] <= 0.2 + 1e-6
    assert step.y_predicted[N - 1, 0] > 0.3  # the step before is free to go where the reference is
    np.testing.assert_allclose(step.y_predicted[N, 0], 0.2, atol=1e-4)


def test_limits_hold_for_a_model_with_feedthrough(predictor):
    direct = Predictor(replace(predictor.system, D22=0.4 * np.eye(2)), predictor.inputs, predictor.outputs)
    controller = make(direct)
    y = started(controller)
    for _ in range(3):
        step = controller.step(y, [2.0, -2.0])
        assert step.status is Status.SOLVED
        np.testing.assert_allclose(step.disturbance, 0, atol=1e-9)  # y was measured under the input before
        assert (np.abs(step.y_predicted[1:]) <= 0.6 + 1e-5).all()
        y = direct.system.output(controller.observer.state, step.u)


@pytest.mark.parametrize("k", [1, 4, N])
def test_tightening_acts_at_its_own_step(predictor, k):
    bounds = np.zeros((N + 1, 2))
    bounds[k] = [0.55, 0.0]
    controller = make(predictor, tightening=replace(no_tightening(predictor.system.digest, N, 2), model_error=bounds))
    y = started(controller, (-0.3, 0.1))
    step = controller.step(y, [0.6, y[1]])
    slack = step.slack[:, 0]
    assert (np.abs(step.y_predicted[k, 0]) <= 0.05 + slack[k] + 1e-6).all()
    assert np.delete(slack, k).max() < 1e-6


def test_feasible_problem_uses_no_slack_even_when_the_reference_is_outside(predictor):
    for weight, moves in ((1.0, 0.05), (1e-4, 1e-6), (1e3, 1.0), (1.0, 100.0)):
        controller = make(predictor, output_weight=weight, input_move_weight=moves)
        y = started(controller)
        step = controller.step(y, [5.0, -5.0])
        assert step.status is Status.SOLVED
        assert step.slack.max() < 1e-5
        assert (np.abs(step.y_predicted[1:]) <= 0.6 + 1e-5).all()


def test_soft_solution_is_the_hard_one_where_both_exist(predictor):
    steps = []
    for soft in (True, False):
        controller = make(predictor, soft=soft)
        steps.append(controller.step(started(controller), [0.9, 0.4]))
    assert steps[1].status is Status.SOLVED
    np.testing.assert_allclose(steps[0].u_planned, steps[1].u_planned, atol=1e-4)


@pytest.mark.parametrize("through", [0.0, 0.3])
def test_unconstrained_solution_is_optimal(predictor, rng, through):
    """No admissible change of the plan lowers the objective, computed here without CasADi."""
    free = Predictor(replace(predictor.system, D22=through * np.eye(2)), predictor.inputs)
    controller = make(free)
    y = started(controller, (0.2, 0.1))
    step = controller.step(y, [0.3, -0.2])

    def objective(plan):
        outputs = free.predict(step.x, plan) + step.disturbance
        moves = np.diff(np.vstack([[0.2, 0.1], plan]), axis=0)
        return ((outputs - [0.3, -0.2]) ** 2).sum() + 0.05 * (moves**2).sum()

    best = objective(step.u_planned)
    np.testing.assert_allclose(step.cost, best, rtol=1e-6)
    for size in (0.3, 0.03, 0.003):
        for _ in range(50):
            assert objective(np.clip(step.u_planned + size * rng.standard_normal((N, 2)), -1, 1)) >= best - 1e-9


def test_moves_and_inputs_keep_their_limits(predictor):
    controller = make(predictor, move_limit=[0.1, 0.2])
    y = started(controller, (0.5, -0.5))
    before = np.array([0.5, -0.5])
    for reference in ([0.6, 0.6], [-0.6, -0.6]):
        for _ in range(4):
            step = controller.step(y, reference)
            path = np.vstack([before, step.u_planned])
            assert (np.abs(np.diff(path, axis=0)) <= np.array([0.1, 0.2]) + 1e-9).all()
            assert (np.abs(path) <= 1).all()
            before = step.u


def test_infeasible_is_a_status_and_has_a_fallback(predictor):
    """Hard limits that the present state cannot meet."""
    controller = make(predictor, soft=False, tightening=None)
    y = started(controller)
    good = controller.step(y, [0.2, 0.2])
    assert good.status is Status.SOLVED
    bad = controller.step(y + 50.0, [0.2, 0.2])  # the disturbance estimate jumps: no input can make up for it
    assert bad.status is Status.INFEASIBLE
    assert bad.fallback is not Fallback.NONE
    data, shifted = controller.last_data, np.vstack([good.u_planned[1:], good.u_planned[-1:]])
    least, other = (controller.problem.objective(data, u)[1].sum() for u in (bad.u_planned, shifted))
    assert 0 < least <= other + 1e-9
    assert bad.inside_after == N + 1
    assert np.isnan(bad.cost)
    assert not bad.slack.any()


def test_fallbacks_come_in_their_order(predictor):
    fail = range(1, N + 3)
    controller = make(predictor, backend=lambda p, o: Sabotaged(p, o, fail))
    y, reference = started(controller), np.array([0.2, 0.1])
    first = controller.step(y, reference)
    for age in range(1, N):
        step = controller.step(y, reference)
        assert (step.status, step.fallback) == (Status.FAILED, Fallback.PLAN)
        np.testing.assert_array_equal(step.u, first.u_planned[age])
    steady = controller.step(y, reference)
    assert steady.fallback is Fallback.STEADY
    held = predictor.steady_output(steady.u) + steady.disturbance
    np.testing.assert_allclose(held, reference, atol=1e-4)


def test_safe_input_is_the_last_resort(predictor, monkeypatch):
    controller = make(predictor, safe_input=[-0.4, 0.4], backend=lambda p, o: Sabotaged(p, o, range(9)), move_limit=0.3)
    y = started(controller)

    def none(*_, **__):
        raise SettingError("no steady state")

    monkeypatch.setattr("mpc.safety.fallback.best_held_input", none)
    step = controller.step(y, [0.2, 0.1])
    assert step.fallback is Fallback.SAFE
    np.testing.assert_allclose(step.u, [-0.3, 0.3])  # as far as one move allows
    np.testing.assert_allclose(controller.step(y, [0.2, 0.1]).u, [-0.4, 0.4])


def test_a_failed_iterate_is_never_the_next_guess(predictor):
    controller = make(predictor, backend=lambda p, o: Sabotaged(p, o, {1}))
    y = started(controller)
    first = controller.step(y, [0.2, 0.1])
    controller.step(y, [0.2, 0.1])
    controller.step(y, [0.2, 0.1])
    np.testing.assert_array_equal(controller.backend.guesses[1][:-1], first.u_planned[1:])
    np.testing.assert_array_equal(controller.backend.guesses[2][:-2], first.u_planned[2:])


def data_for(controller, y, target, upper):
    ny = controller.predictor.ny
    return StepData(
        x=controller.observer.state,
        previous_input=np.zeros(2),
        reference=np.tile(target, (N + 1, 1)),
        lower=np.full((N + 1, ny), -0.6),
        upper=np.full((N + 1, ny), upper),
        guess=np.zeros((N, 2)),
    )


def test_backend_learns_nothing_from_a_failed_solve(predictor):
    answers = []
    for meet_failure in (False, True):
        controller = make(predictor, soft=False)
        y = started(controller)
        controller.backend.solve(data_for(controller, y, [0.2, 0.1], 0.6))
        if meet_failure:
            failed = controller.backend.solve(data_for(controller, y, [0.2, 0.1], -0.59))
            assert failed.status is Status.INFEASIBLE
        answers.append(controller.backend.solve(data_for(controller, y, [0.3, 0.1], 0.6)))
    np.testing.assert_array_equal(answers[0].u, answers[1].u)
    assert answers[0].iterations == answers[1].iterations


def test_warm_start_saves_iterations(predictor, controller):
    y = started(controller)
    first = controller.step(y, [0.5, 0.1])
    second = controller.step(first.y_predicted[1], [0.5, 0.1])
    assert second.iterations < first.iterations


@pytest.mark.parametrize(
    ("options", "status"),
    [
        (SolverOptions(max_iterations=1), Status.MAX_ITERATIONS),
        (SolverOptions(max_wall_time=1e-6), Status.TIME_LIMIT),
    ],
)
def test_limits_of_the_solver_are_states(predictor, options, status):
    controller = make(predictor, options=options)
    step = controller.step(started(controller), [0.6, 0.1])
    assert step.status is status
    assert step.fallback is Fallback.LEAST
    assert step.feasible
    assert step.inside_after == 0
    assert (np.abs(step.y_predicted[1:]) <= 0.6 + 1e-5).all()


def test_before_the_observer_is_ready_the_input_is_held(predictor):
    controller = make(predictor, observer=Washout(predictor, 3), safe_input=[0.1, 0.2])
    first = controller.step(np.zeros(2), [0.2, 0.1])
    assert (first.status, first.fallback) == (Status.WARMING_UP, Fallback.SAFE)
    np.testing.assert_array_equal(first.u, [0.1, 0.2])
    assert controller.step(np.zeros(2), [0.2, 0.1]).fallback is Fallback.STEADY
    controller.step(np.zeros(2), [0.2, 0.1])
    assert controller.step(np.zeros(2), [0.2, 0.1]).status is Status.SOLVED


def test_missing_measurements_keep_the_disturbance_estimate(predictor, controller):
    y = started(controller)
    offset = np.array([0.05, -0.02])
    for _ in range(60):
        controller.record(y + offset, [0.0, 0.0])
    seen = controller.step(y + offset, [0.2, 0.1])
    np.testing.assert_allclose(seen.disturbance, offset, atol=1e-6)
    step = controller.step([np.nan, np.nan], [0.2, 0.1])
    assert step.status is Status.SOLVED
    np.testing.assert_array_equal(step.missing, [True, True])
    np.testing.assert_array_equal(step.disturbance, seen.disturbance)
    half = controller.step([np.inf, 1.0], [0.2, 0.1])
    np.testing.assert_array_equal(half.missing, [True, False])
    assert half.disturbance[0] == seen.disturbance[0]
    assert half.disturbance[1] != seen.disturbance[1]


def test_nothing_but_gaps_from_the_start_is_survived(predictor, controller):
    controller.reset()
    for _ in range(3):
        step = controller.step([np.nan, np.nan], [0.2, 0.1])
    assert step.status is Status.SOLVED
    np.testing.assert_array_equal(step.disturbance, [0, 0])


def test_reset_gives_a_bitwise_fresh_controller(predictor, controller, rng):
    noise = 0.02 * rng.standard_normal((12, 2))

    def run(c):
        y = started(c)
        return np.array([c.step(y + e, [0.4, 0.2]).u for e in noise])

    first = run(controller)
    np.testing.assert_array_equal(run(controller), first)
    np.testing.assert_array_equal(run(make(predictor)), first)


def test_future_reference_is_used(predictor, controller):
    y = started(controller)
    step_ahead = np.vstack([np.tile(y, (4, 1)), np.tile([0.5, 0.3], (N, 1))])
    plan = controller.step(y, step_ahead)
    np.testing.assert_allclose(plan.y_predicted[:2], [y, y], atol=0.15)
    assert abs(plan.y_predicted[6, 0] - 0.5) < 0.5 * abs(y[0] - 0.5)


def test_modes_shift_the_limits_or_do_not(predictor):
    """A disturbance of 0.1 above the model takes 0.1 from the upper limit in the practical mode only."""
    for mode, top in ((Mode.PRACTICAL, 0.5), (Mode.GUARANTEED, 0.6)):
        controller = make(predictor, mode=mode, disturbance_gain=1.0)
        y = started(controller)
        above = y + np.array([0.1, 0.0])
        for _ in range(3):
            controller.record(above, [0.0, 0.0])
        step = controller.step(above, [2.0, 0.1])
        model = predictor.predict(step.x, step.u_planned)
        np.testing.assert_allclose(model[:, 0].max(), top, atol=1e-4)


def test_mode_must_fit_the_tightening(predictor):
    base = no_tightening(predictor.system.digest, N, 2)
    claimed = base.digests | {"model_error": 64 * "0"}
    without = replace(base, digests=claimed, premises=premises_of(predictor)).on_trust()
    with_feedback = replace(without, disturbance_gain=0.3)
    assert make(predictor, tightening=without).mode is Mode.GUARANTEED
    assert make(predictor, tightening=with_feedback).filter.gain == 0.3
    for tightening, options in (
        (without, {"mode": Mode.PRACTICAL}),
        (with_feedback, {"mode": Mode.GUARANTEED}),
        (with_feedback, {"disturbance_gain": 0.5}),
    ):
        with pytest.raises(SettingError):
            make(predictor, tightening=tightening, **options)


def test_outputs_without_limits_and_one_sided_ones_work(system):
    outputs = (Signal("a", upper=0.3), Signal("b", lower=-0.2))
    controller = make(Predictor(system, signals("u", 2, 1.0), outputs))
    step = controller.step(started(controller), [2.0, -2.0])
    assert step.status is Status.SOLVED
    assert step.y_predicted[1:, 0].max() <= 0.3 + 1e-5
    assert step.y_predicted[1:, 1].min() >= -0.2 - 1e-5


def test_physical_units_do_not_matter(predictor):
    """The same plant in other units (inputs in 1e-5, outputs in 1e3) gets the same plan."""
    s = predictor.system
    scaled = replace(s, B2=s.B2 * 1e5, D12=s.D12 * 1e5, D22=s.D22 * 1e8, C2=s.C2 * 1e3, D21=s.D21 * 1e3, by=s.by * 1e3)
    other = Predictor(scaled, signals("u", 2, 1e-5), signals("y", 2, 600.0))
    a, b = make(predictor), make(other, output_weight=1e-6, input_move_weight=0.05 * 1e10)
    plan = a.step(started(a), [0.7, 0.2]).u_planned
    np.testing.assert_allclose(b.step(started(b), [700, 200]).u_planned * 1e5, plan, atol=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"output_weight": -1.0}, SettingError),
        ({"output_weight": 0.0}, SettingError),
        ({"output_weight": [1.0]}, ShapeError),
        ({"input_move_weight": [1.0, 2.0, 3.0]}, ShapeError),
        ({"move_limit": 0.0}, SettingError),
        ({"penalty": 0.0}, SettingError),
        ({"horizon": N + 1}, SettingError),
        ({"horizon": 0}, SettingError),
        ({"safe_input": [2.0, 0.0]}, SettingError),
        ({"safe_input": [0.0]}, ShapeError),
        ({"disturbance_gain": 2.0}, SettingError),
    ],
)
def test_bad_settings_are_refused(predictor, options, error):
    with pytest.raises(error):
        make(predictor, **options)


def test_parts_of_another_model_and_impossible_limits_are_refused(predictor):
    other = Predictor(elman(seed=3), predictor.inputs, predictor.outputs)
    with pytest.raises(SettingError, match="one model"):
        make(predictor, observer=RunningOn(other, 1))
    base = no_tightening(predictor.system.digest, N, 2)
    with pytest.raises(InfeasibleError, match="'y1' at step 1"):
        make(predictor, tightening=replace(base, model_error=np.full((N + 1, 2), 0.6)))
    with pytest.raises(SettingError, match="finite limits"):
        make(Predictor(predictor.system), observer=RunningOn(predictor, 1))


def test_bad_samples_are_refused_before_anything_changes(predictor, controller):
    y = started(controller)
    state = controller.observer.state
    for bad_y, bad_r, error in (
        (np.zeros(3), [0.1, 0.1], ShapeError),
        (y, [0.1], ShapeError),
        (y, np.zeros((0, 2)), ShapeError),
    ):
        with pytest.raises(error):
            controller.step(bad_y, bad_r)
    assert controller.observer.state is state
    with pytest.raises(DataError):
        controller.record(y, [np.nan, 0.0])


@pytest.mark.parametrize("options", [{"max_iterations": 0}, {"tolerance": 0.0}, {"max_wall_time": -1.0}])
def test_bad_solver_options_are_refused(options):
    with pytest.raises(SettingError):
        SolverOptions(**options)
