"""Whatever a solver does, and wherever a loop starts: limits are kept, or exceeded as little as can be."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from c_loops import controller, network
from mpc_networks import elman, signals
from one_tank import RESIDUAL, N, W, innovating, running, running_parts
from scipy.optimize import linprog

from controlrnn.errors import ShapeError
from mpc import Fallback, Predictor, RunningOn, SolverOptions, Status, TightenedMPC, Tracking, no_tightening
from mpc.control.settings import grouped
from mpc.problem.ocp import Solution
from mpc.problem.priorities import less
from mpc.safety.fallback import Fallbacks
from mpc.solvers.condensed import CondensedBackend


class Unreliable(CondensedBackend):
    """Fails at the samples of ``dead``; ``way``: without an iterate, with nonsense for one, or cut short."""

    dead: frozenset[int] = frozenset()
    way = "nothing"

    def reset(self):
        self.t = -1

    def solve(self, data):
        self.t += 1
        if self.t not in self.dead:
            return super().solve(data)
        u, n, status = data.guess, 0, Status.TIME_LIMIT
        if self.way == "nonsense":
            u, n, status = np.full_like(data.guess, 1e3 * (-1) ** self.t), 3, Status.FAILED
        if self.way == "not finite":
            u, n, status = np.full_like(data.guess, np.nan), 3, Status.FAILED
        if self.way == "cut short":
            return CondensedBackend(self.problem, SolverOptions(max_iterations=1, tolerance=1e-15)).solve(data)
        return Solution(
            status=status, u=u, slack=np.zeros_like(data.lower), cost=np.nan, iterations=n, message=self.way
        )


def unreliable(way, dead):
    kind = type("Dead", (Unreliable,), {"way": way, "dead": frozenset(dead)})
    return lambda p, o: kind(p, o)


def tank_controller(ends=True, **options):
    """x+ = 0.9 x + u, limit 1 on x; hard with a terminal set, or soft."""
    predictor, contraction, tightening, terminal, _ = running_parts()
    settings = {"output_weight": 1.0, "input_move_weight": 1e-3} | options
    if ends:
        settings = {"terminal": terminal, "control_horizon": 4} | settings
    return TightenedMPC(predictor, RunningOn(predictor, W, contraction=contraction), tightening, **grouped(settings))


def loop(made, reference, *, steps=60, x=0.0, u=0.0, seed=0):
    """A plant within what is declared; steps and outputs."""
    rng, seen, taken = np.random.default_rng(seed), [], []
    for _ in range(W):
        made.record([x], [u])
        x = 0.9 * x + u
    for t in range(steps):
        y = x + RESIDUAL * rng.uniform(-0.999, 0.999)
        wanted = reference(t) if callable(reference) else reference
        step = made.step([y], [wanted])
        taken.append(step)
        seen.append(y)
        x = 0.9 * x + step.u[0]
    return taken, np.array(seen)


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("reference", [3.0, 1.0, -1e30])
@pytest.mark.parametrize("dead", [range(10, 60), range(60), range(0, 60, 2)])
def test_a_dead_solver_costs_performance_and_no_limit(ends, reference, dead):
    steps, y = loop(tank_controller(ends, backend=unreliable("nothing", dead)), reference)
    assert np.abs(y).max() <= 1.0
    assert all(step.inside_after == 0 for step in steps)
    assert np.sign(reference) * y[-1] > 0.5  # and it still gets there: 0.59 is what the tightening leaves
    used = {step.fallback for step in steps}
    assert used <= {Fallback.NONE, Fallback.PLAN, Fallback.STEADY}


@pytest.mark.parametrize("way", ["nothing", "nonsense", "not finite", "cut short"])
def test_failures_at_random_times_keep_limits(way):
    for seed in range(12):
        rng = np.random.default_rng(seed)
        dead = np.flatnonzero(rng.random(60) < rng.uniform(0.1, 0.9))
        levels = rng.uniform(-3, 3, 7)
        levels[rng.integers(7)] = [np.nan, np.inf, -1e300][seed % 3]
        made = tank_controller(bool(seed % 2), backend=unreliable(way, dead), move_limit=[None, 0.02][seed // 2 % 2])
        steps, y = loop(made, lambda t, levels=levels: levels[t // 10], seed=seed)
        assert np.abs(y).max() <= 1.0, seed
        moves = np.diff([0.0, *(step.u[0] for step in steps)])
        assert made.problem.move_limit[0] == np.inf or np.abs(moves).max() <= 0.02 + 1e-9


def fastest(x, u, move, limit, steps=30):
    """From which step on x+ = 0.9 x + u can be kept within a limit: the least k of linear programmes."""
    answers = np.tril(0.9 ** np.maximum(np.subtract.outer(np.arange(steps), np.arange(steps)), 0.0))
    free = x * 0.9 ** np.arange(1, steps + 1)
    D = np.eye(steps) - np.eye(steps, k=-1)
    first = np.eye(steps)[0] * u
    for k in range(1, steps):
        rows = answers[k - 1 :]
        A = np.vstack([rows, -rows, D, -D])
        b = np.r_[limit - free[k - 1 :], limit + free[k - 1 :], move + first, move - first]
        if linprog(np.zeros(steps), A_ub=A, b_ub=b, bounds=(-1, 1)).status == 0:
            return k
    raise AssertionError


@pytest.mark.parametrize("start", [1.1, 2.0, -4.0])
@pytest.mark.parametrize("move", [2.0, 0.3])
@pytest.mark.parametrize("reference", [0.4, 3.0, np.nan])
def test_starts_outside_come_back_in_least_time_and_say_when(start, move, reference):
    made = tank_controller(move_limit=move, control_horizon=8)
    steps, _ = loop(made, reference, x=start, u=0.1 * start)
    inside = [step.inside_after for step in steps]
    possible = fastest(start, 0.1 * start, move, made.tightened_limits[1][1, 0])
    assert possible <= inside[0] + 1
    assert inside[0] <= possible + 1  # plans also have to come to rest
    first = next(t for t, step in enumerate(steps) if step.feasible)
    assert all(step.feasible for step in steps[first:])
    assert first <= possible
    for before, after in pairwise(inside):
        assert after <= max(before - 1, 0)  # what was said is kept


@pytest.mark.parametrize(("limit", "share", "chosen"), [(0.05, 0.0, Fallback.PLAN), (0.15, 1.0, Fallback.STEADY)])
def test_a_way_back_is_applied_only_if_no_plan_of_less_violation_is_inside_as_soon(limit, share, chosen):
    made = controller(
        network(4, ny=2, nu=1, nx=3, layers=(3,), through=True), soft=False, limit=limit, horizon=6, control_horizon=3
    )
    lower, upper = made.predictor.input_limits()
    for _ in range(25):
        made.record(np.full(2, np.nan), lower + share * (upper - lower))
    used, assess = [], Fallbacks(made.problem, made.safe_input, lambda plan: plan).assess
    for _ in range(3):
        step = made.step(np.full(2, np.nan), np.zeros(2))
        used.append(step.fallback)
        applied = assess(made.last_data, step.u_planned, step.fallback)
        assert applied.inside_after == step.inside_after
        held = [made.last_data.previous_input, made.safe_input]
        for plan in [*(np.tile(u, (6, 1)) for u in held), made.last_data.guess]:  # the last: what was planned before
            other = assess(made.last_data, plan, Fallback.SAFE)
            assert not less(other.violation, applied.violation) or other.inside_after > applied.inside_after
    assert used[1] is chosen  # a way back that is inside later violates limits more


def test_outside_limits_and_without_a_solver_the_excess_only_falls():
    made = tank_controller(backend=unreliable("nothing", range(60)))
    steps, y = loop(made, 3.0, x=2.0, u=0.2)
    out = np.maximum(np.abs(y) - 1, 0)
    assert (np.diff(out[out > 0]) <= 2 * RESIDUAL).all()
    assert not out[3:].any()
    assert {step.status for step in steps} == {Status.TIME_LIMIT}


@pytest.mark.parametrize("make", [lambda: running(False)[0], running, innovating])
def test_set_points_of_any_size_or_none_lose_no_sample(make):
    made = make()
    made = made[0] if isinstance(made, tuple) else made
    for _ in range(W):
        made.record([0.0], [0.0])
    for wanted in (np.nan, 0.4, np.nan, np.inf, -np.inf, 1e300, -1e300, 1e-320, 0.3):
        step = made.step(made.predictor.system.output(made.observer.state, made.u_previous), [wanted])
        assert (step.status, step.feasible) == (Status.SOLVED, True), wanted
    assert step.set_point == 0.3


def test_a_missing_set_point_is_the_last_known_one_or_where_the_output_is():
    predictor = Predictor(elman(), signals("u", 2, 1.0), signals("y", 2, 0.6))
    made = TightenedMPC(
        predictor,
        RunningOn(predictor, 1),
        no_tightening(predictor.system.digest, 8, 2),
        Tracking(output_weight=1.0, input_move_weight=0.1),
    )
    rest = predictor.steady_output(np.zeros(2))
    made.record(rest, np.zeros(2))
    first = made.step(rest, [np.nan, 0.1])
    np.testing.assert_allclose(first.set_point[0], rest[0], atol=0.1)
    assert first.set_point[1] == 0.1
    later = made.step(rest, [[0.2, np.nan], [np.nan, 0.3]])
    np.testing.assert_array_equal(later.set_point, [0.2, 0.1])
    np.testing.assert_array_equal(made.step(rest, [np.nan, np.nan]).set_point, [0.2, 0.1])
    assert (np.abs(made.step(rest, [1e300, -np.inf]).set_point) <= 10 * 1.2).all()
    with pytest.raises(ShapeError, match="reference must have"):
        made.step(rest, [0.1])


def test_an_excess_below_rounding_is_none():
    made = tank_controller()
    for _ in range(W):
        made.record([0.0], [0.0])
    made.step([0.0], [0.5])
    data = made.last_data
    plan = np.zeros((N, 1))
    data = replace(data, x=np.array([0.3]))
    y, third = made.predictor.predict(data.x, plan), np.arange(N + 1)[:, None] == 3
    for below, kept in ((0.0, True), (2e-16, True), (1e-12, False)):
        close = replace(data, upper=np.where(third, y - below, 1.0), lower=np.full((N + 1, 1), -1.0))
        assert (made.problem.excess_of(close, y).max() == 0) == kept
