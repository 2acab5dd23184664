"""The theorem of `mpc.tightening.terminal_set`, on random systems whose estimates jump, and what may be refused."""

from dataclasses import replace

import numpy as np
import pytest
from guaranteed_cases import SYSTEMS, M, N, guaranteed, run
from mpc_networks import elman
from scipy.optimize import minimize

from controlrnn.certification import certify_horizon
from controlrnn.errors import CertificationError, FileFormatError, InfeasibleError, SettingError
from mpc import (
    Fallback,
    Mode,
    RunningOn,
    Solution,
    SolverOptions,
    StateError,
    Status,
    TerminalSet,
    TightenedMPC,
    make_recursive,
    no_tightening,
    terminal_set,
)
from mpc.control.settings import grouped
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend
from mpc.tightening.terminal_set import least_radius

STEPS = 200


def adversary(case, kind, size=1.0):
    rng = np.random.default_rng(5)
    case.observer.size = size
    case.observer.draw = {
        "push": case.towards_limits,
        "random": lambda _: rng.standard_normal(case.predictor.nx),
        "none": lambda _: np.zeros(case.predictor.nx),
    }[kind]


@pytest.mark.parametrize("kind", ["push", pytest.param("random", marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", SYSTEMS)
def test_shifted_plans_stay_feasible_whatever_the_jumps(name, kind):
    """References far outside, so that plans lie on their limits; every jump at its edge."""
    case = guaranteed(name)
    adversary(case, kind)
    controller = case.controller()
    steps, excess = run(case, controller, case.references(STEPS, 3.0))
    assert len(excess) == STEPS - 1
    assert excess.max() <= 0
    assert all(step.feasible for step in steps)
    assert Status.INFEASIBLE not in {step.status for step in steps}
    assert np.mean([step.status is Status.SOLVED for step in steps]) > 0.97
    # What the plan of the sample before promised for this one.
    lower, upper = controller.tightened_limits
    rows = slice(controller.problem.first, N)
    for step in steps:
        assert (step.y_predicted[rows] >= lower[rows]).all()
        assert (step.y_predicted[rows] <= upper[rows]).all()
    assert max((step.y_predicted[1] - upper[1]).max() for step in steps) > -1e-3 * case.half.max()


@pytest.mark.parametrize(
    "name", ["elman", *(pytest.param(n, marks=pytest.mark.slow) for n in ("slow elman", "layers"))]
)
def test_larger_jumps_or_no_growth_make_shifted_plans_infeasible(name):
    """The theorem needs both: otherwise the test above would show nothing."""
    case = guaranteed(name)
    for size, tightening in (
        (6.0, case.tightening),  # growth is a bound: on the slow system it covers three times the jump as well
        (1.0, replace(case.tightening, growth=np.zeros_like(case.tightening.growth)).on_trust()),
    ):
        adversary(case, "push", size)
        _, excess = run(case, case.controller(tightening=tightening), case.references(STEPS, 3.0))
        assert excess.max() > 1e-5


class Once:
    """A solver that works once and then fails, or lies."""

    def __init__(self, problem, options, status=Status.FAILED):
        self.inner, self.calls, self.status = CondensedBackend(problem, options), 0, status

    def reset(self):
        self.calls = 0

    def solve(self, data):
        self.calls += 1
        if self.calls == 1:
            return self.inner.solve(data)
        u = np.where(np.arange(len(data.guess))[:, None] % 2, 1.0, -1.0) * np.ones(2)
        return Solution(
            status=self.status,
            u=u,
            slack=np.zeros_like(data.lower),
            cost=0.0,
            iterations=1,
            message="no",
            feasible=True,
        )


@pytest.mark.parametrize("status", [Status.FAILED, Status.SOLVED])
def test_one_plan_lasts_for_ever(status):
    """No solve after the first: the plan is shifted on, far past its end; nor is a solver that lies believed."""
    case = guaranteed("slow elman")
    adversary(case, "push")
    controller = case.controller(backend=lambda p, o: Once(p, o, status))
    steps, excess = run(case, controller, case.references(STEPS, 3.0))
    assert excess.max() <= 0
    assert all(step.feasible for step in steps)
    assert {step.fallback for step in steps[1:]} == {Fallback.PLAN}
    np.testing.assert_array_equal(steps[-1].u, steps[0].u_planned[-1])


@pytest.mark.parametrize(
    "options",
    [SolverOptions(max_iterations=1), SolverOptions(max_wall_time=1e-7), SolverOptions(rti=True)],
    ids=["iterations", "time", "rti"],
)
def test_solves_that_are_cut_short_leave_plans_that_keep_all_limits(options):
    case = guaranteed("layers")
    adversary(case, "random")
    steps, excess = run(case, case.controller(options=options), case.references(STEPS, 3.0))
    assert excess.max() <= 0
    assert all(step.feasible for step in steps)
    if options.rti:
        assert {step.status for step in steps} == {Status.SOLVED}
        assert np.median([step.iterations for step in steps]) == 1


@pytest.mark.parametrize("name", ["elman", "feedthrough"])
def test_moves_gaps_and_known_references_change_nothing(name):
    case = guaranteed(name)
    adversary(case, "push")
    controller = case.controller(move_limit=[0.2, 0.4])
    wanted = case.references(STEPS, 3.0)
    ahead = [wanted[t:] for t in range(STEPS)]
    steps, excess = run(case, controller, ahead, y=np.full(2, np.nan))
    assert excess.max() <= 0
    assert all(step.feasible for step in steps)
    u = np.array([step.u for step in steps])
    assert (np.abs(np.diff(u, axis=0)) <= np.array([0.2, 0.4]) + 1e-9).all()
    assert (np.abs(np.diff(u, axis=0)) >= 0.199).any()


@pytest.mark.parametrize("limit", [np.inf, 0.3])
@pytest.mark.parametrize("name", [name for name in SYSTEMS if "feedthrough" not in name])
def test_engines_agree_where_plans_must_end_at_rest(name, limit):
    """An interior-point method on all states, with the steady state as a variable: the same optimum.

    (With a carried input its equations are redundant at the end, and it stops early.)
    """
    case = guaranteed(name)
    adversary(case, "none")
    controller = case.controller(move_limit=limit)
    ours, theirs = (engine(controller.problem, SolverOptions()) for engine in (CondensedBackend, FatropBackend))
    for reach in (0.3, 0.95, 3.0):
        reference = case.middle + reach * case.half * np.array([1.0, -0.5])
        data = controller.data_for(reference)
        a, b = ours.solve(data), theirs.solve(data)
        assert a.status is b.status is Status.SOLVED
        assert a.feasible
        assert b.feasible
        for solution in (a, b):
            np.testing.assert_allclose(controller.problem.objective(data, solution.u)[0], solution.cost, rtol=1e-9)
            assert controller.problem.excess(data, solution.u) <= 0
        # An interior point stays a little away from the limits that the optimum lies on.
        assert a.cost <= b.cost * (1 + 1e-5)
        np.testing.assert_allclose(a.cost, b.cost, rtol=1e-4)
        np.testing.assert_allclose(a.u, b.u, atol=2e-3)


def test_an_end_that_the_set_holds_back_costs_the_same_with_both_engines():
    """All inputs are free and moves are cheap, so that the plan would not come to rest by itself."""
    case = guaranteed("slow elman", 0.0)
    adversary(case, "none")
    controller = case.controller(control_horizon=N, input_move_weight=1e-3)
    reference = case.middle + 2.0 * case.half * np.array([1.0, -0.5])
    data = controller.data_for(reference)
    a, b = (engine(controller.problem, SolverOptions()).solve(data) for engine in (CondensedBackend, FatropBackend))
    assert a.status is Status.SOLVED
    assert a.feasible
    assert b.feasible
    assert 0.999 <= case.terminal.radii(controller.problem.outcome(data.x, a.u)[1]) <= 1.0
    np.testing.assert_allclose(a.cost, b.cost, rtol=1e-4)


def best_steady_cost(case, controller, reference):
    """Least cost of a steady state that the terminal constraints allow, by another method."""
    lower, upper = (ends[-1] for ends in controller.tightened_limits)
    starts = np.random.default_rng(1).uniform(-1, 1, (8, 2))
    found = []
    for start in starts:
        fit = minimize(
            lambda u: float(case.weight @ (case.predictor.steady_output(u) - reference) ** 2),
            start,
            bounds=[(-1, 1)] * 2,
            constraints=[
                {"type": "ineq", "fun": lambda u: case.predictor.steady_output(u) - lower},
                {"type": "ineq", "fun": lambda u: upper - case.predictor.steady_output(u)},
            ],
            method="SLSQP",
        )
        if fit.success:
            found.append(fit.fun)
    return min(found)


@pytest.mark.parametrize("name", SYSTEMS)
@pytest.mark.parametrize("corner", [(1.5, 1.5), (0.3, -0.2), pytest.param((-1.5, 0.0), marks=pytest.mark.slow)])
def test_without_jumps_the_loop_comes_to_the_best_steady_state(name, corner):
    """Reference out of reach or not: rest, at a cost no higher than the best steady state's that plans may end in."""
    case = guaranteed(name)
    adversary(case, "none")
    controller = case.controller()
    reference = case.middle + np.array(corner) * case.half
    steps, _ = run(case, controller, [reference] * 120)
    y = case.predictor.system.output(steps[-1].x, steps[-1].u)
    last = np.array([step.u for step in steps[-20:]])
    assert np.ptp(last, axis=0).max() < 1e-3
    np.testing.assert_allclose(y, case.predictor.steady_output(last[-1]), atol=1e-3 * case.half.max())
    cost = case.weight @ (y - reference) ** 2
    assert cost <= best_steady_cost(case, controller, reference) * (1 + 1e-3) + 1e-6


def test_growth_is_the_least_that_the_theorem_needs():
    case = guaranteed("slow elman")
    observer, system = case.observer, case.predictor.system
    growth = certify_horizon(system, N, initial_radius=observer.jump.radius, metric=observer.jump.metric)
    base = replace(no_tightening(system.digest, N, 2), model_error=np.linspace(0.1, 0.4, N + 1)[:, None] * [1.0, 0.01])
    found = make_recursive(base, growth, observer=observer)
    c, needed = found.total, base.model_error
    np.testing.assert_array_equal(c[:2], needed[:2])  # step 0 is not limited: the model has no feedthrough
    np.testing.assert_allclose(c[2:], np.maximum(needed[2:], c[1:-1] + growth.bounds[1:N]), rtol=1e-8)
    assert (c[2:] >= c[1:-1] + growth.bounds[1:N]).all()
    np.testing.assert_allclose(c[2:, 0], needed[2:, 0] + found.growth[2:, 0])
    assert (found.growth[2:, 1] > 0).all()
    np.testing.assert_array_equal(found.predictive, needed)
    assert {"jump", "growth"} <= set(found.digests)
    assert "stay feasible" in found.promise


def test_growth_starts_with_the_present_where_there_is_feedthrough():
    case = guaranteed("feedthrough")
    assert case.controller().problem.first == 0
    assert (case.tightening.growth[1] > 0).all()
    assert not case.tightening.growth[0].any()


def test_what_does_not_cover_the_jump_is_refused():
    case = guaranteed("elman")
    system, observer, P = case.predictor.system, case.observer, case.observer.jump.metric
    base = no_tightening(system.digest, N, 2)
    small = certify_horizon(system, N, initial_radius=0.5 * observer.jump.radius, metric=P)
    with pytest.raises(CertificationError, match="must cover the jump"):
        make_recursive(base, small, observer=observer)
    with pytest.raises(SettingError, match="needs a certificate"):
        make_recursive(base, None, observer=observer)
    with pytest.raises(SettingError, match="at least 15 steps"):
        make_recursive(base, certify_horizon(system, 4, initial_radius=1.0, metric=P), observer=observer)
    with pytest.raises(SettingError, match="at least 15 steps"):
        make_recursive(base, certify_horizon(elman(), N, initial_radius=9.0), observer=observer)
    with pytest.raises(SettingError, match="disturbance feedback"):
        make_recursive(replace(base, disturbance_gain=0.2), None, observer=observer)
    with pytest.raises(SettingError, match="another observer"):
        make_recursive(replace(base, digests=base.digests | {"observer": 64 * "e"}), None, observer=observer)
    with pytest.raises(SettingError, match="different models"):
        make_recursive(no_tightening(64 * "e", N, 2), None, observer=observer)
    altered = replace(case.tightening, growth=None)
    assert not altered.growth.any()
    bent = certify_horizon(system, N, initial_radius=observer.jump.radius, metric=P)
    with pytest.raises(CertificationError, match="not proven"):
        make_recursive(base, replace(bent, bounds=0.5 * bent.bounds), observer=observer)


def test_a_terminal_set_must_take_up_the_jumps():
    case = guaranteed("slow elman")
    found = case.terminal
    assert found.rate**N * found.jump + found.rate * found.radius <= found.radius
    with pytest.raises(CertificationError, match="radius must be at least"):
        replace(found, jump=1e3 * found.radius)
    with pytest.raises(SettingError, match="rate"):
        replace(found, rate=1.0)
    P, system = found.metric, case.predictor.system
    tiny = certify_horizon(system, 0, initial_radius=1e-6 * found.radius, metric=P)
    with pytest.raises(CertificationError, match="radius must be at least"):
        terminal_set(case.predictor, case.contraction, horizon=N, jump=StateError(found.radius, P), outputs=tiny)
    other = certify_horizon(system, 0, initial_radius=1.0)
    with pytest.raises(SettingError, match="metric"):
        terminal_set(case.predictor, case.contraction, horizon=N, jump=case.observer.jump, outputs=other)


def test_the_least_radius_takes_up_the_jump_and_hardly_more():
    """p a + p^N e = a for a = p^N e / (1 - p): exactly that is needed, and exactly that is refused from below."""
    for rate, horizon, jump in ((0.5, 3, 2.0), (0.9, 1, 0.3), (0.25, 10, 1e3)):
        least = rate**horizon * jump / (1 - rate)
        assert least < least_radius(rate, horizon, jump) < least * (1 + 1e-5)
    found = guaranteed("slow elman").terminal
    jump = found.radius * (1 - found.rate) / found.rate**N
    assert replace(found, jump=jump * (1 - 1e-4)).radius == found.radius
    with pytest.raises(CertificationError, match="radius must be at least"):
        replace(found, jump=jump * (1 + 1e-4))


def test_a_plan_that_ends_outside_of_the_set_exceeds_it_by_that_much():
    """In radii, also where outputs, inputs and moves keep their limits."""
    case = guaranteed("slow elman")
    adversary(case, "none")
    controller = case.controller()
    steps, _ = run(case, controller, case.references(6, 0.5))
    problem, data, plan = controller.problem, controller.last_data, steps[-1].u_planned
    gap = problem.outcome(data.x, plan)[1]
    assert problem.excess(data, plan) <= 0
    assert case.terminal.radii(gap) > 0
    for share in (0.5, 2.0, 1e3):
        radius = case.terminal.radius * case.terminal.radii(gap) / share
        other = replace(problem, terminal=replace(case.terminal, radius=radius, jump=0.0))
        assert (other.excess(data, plan) <= 0) == (share <= 1)
        if share > 1:
            assert other.excess(data, plan) == pytest.approx(share - 1)


def test_terminal_sets_are_verified_and_survive_their_file(tmp_path):
    case = guaranteed("feedthrough")
    system = case.predictor.system
    outputs = certify_horizon(system, 0, initial_radius=case.terminal.radius, metric=case.terminal.metric)
    case.terminal.verify(system, case.contraction, outputs)
    for change in (
        {"rate": 0.5 * case.terminal.rate},
        {"margin": 0.5 * case.terminal.margin},
        {"radius": 2.0 * case.terminal.radius},
        {"metric": 2.0 * case.terminal.metric},
    ):
        with pytest.raises(CertificationError, match=f"{next(iter(change))} does not follow"):
            replace(case.terminal, **change).verify(system, case.contraction, outputs)
    with pytest.raises(CertificationError):
        case.terminal.verify(elman(), case.contraction, outputs)
    box, states = (-np.ones(system.nu), np.ones(system.nu)), (-np.ones(system.nx), np.ones(system.nx))
    boxed = certify_horizon(
        system, 0, initial_radius=case.terminal.radius, metric=case.terminal.metric, input_range=box, state_range=states
    )
    with pytest.raises(CertificationError, match="reach does not follow"):
        case.terminal.verify(system, case.contraction, boxed)
    case.terminal.save(tmp_path / "t.npz")
    again = TerminalSet.load(tmp_path / "t.npz")
    assert again.digest == case.terminal.digest
    np.testing.assert_array_equal(again.root, case.terminal.root)
    case.tightening.save(tmp_path / "c.npz")
    with pytest.raises(FileFormatError):
        TerminalSet.load(tmp_path / "c.npz")


def test_margin_holds_for_every_state_in_the_set(rng):
    case = guaranteed("feedthrough")
    terminal, system = case.terminal, case.predictor.system
    directions = rng.standard_normal((2000, system.nx))
    away = np.linalg.solve(terminal.root, directions.T).T
    away *= terminal.radius / np.sqrt(np.einsum("ti,ij,tj->t", away, terminal.metric, away))[:, None]
    np.testing.assert_allclose([terminal.radii(a) for a in away[:5]], 1.0)
    at, u = 0.5 * rng.standard_normal((2000, system.nx)), rng.uniform(-1, 1, (2000, 2))
    moved = np.abs(system.output(at + away, u) - system.output(at, u))
    assert (moved <= terminal.margin).all()
    assert moved.max() > 0.3 * terminal.margin.max()


def test_parts_that_do_not_belong_together_are_refused():
    case = guaranteed("elman")
    for options, match in (
        ({"terminal": guaranteed("slow elman").terminal}, "different premises: system"),
        ({"tightening": no_tightening(case.predictor.system.digest, N, 2)}, "same jump"),
        ({"horizon": N - 1}, "horizon"),
        ({"control_horizon": N + 1}, "control_horizon"),
        ({"mode": Mode.PRACTICAL}, "guaranteed"),
        ({"soft": True}, "hard limits"),
        ({"backend": DoMpcBackend}, "terminal set"),
    ):
        with pytest.raises(SettingError, match=match):
            case.controller(**options)
    wide = replace(case.terminal, margin=case.half).on_trust()
    with pytest.raises(InfeasibleError, match=f"step {N}"):
        case.controller(terminal=wide)


def test_a_shorter_control_horizon_is_only_that():
    """Without a terminal set: the same problem with all later inputs equal."""
    case = guaranteed("elman")
    adversary(case, "none")
    system, reference = case.predictor.system, case.middle + 0.4 * case.half
    settings = {"output_weight": case.weight, "input_move_weight": 0.05}
    plans = []
    for control_horizon in (N, M, 1):
        controller = TightenedMPC(
            case.predictor,
            RunningOn(case.predictor, 1),
            no_tightening(system.digest, N, 2),
            **grouped(dict(control_horizon=control_horizon, **settings)),
        )
        controller.record(system.output(controller.observer.state, np.zeros(2)), np.zeros(2))
        step = controller.step(system.output(controller.observer.state, np.zeros(2)), reference)
        assert step.status is Status.SOLVED
        held = step.u_planned[control_horizon - 1 :]
        np.testing.assert_array_equal(held, np.tile(held[0], (len(held), 1)))
        plans.append(step.cost)
    assert plans[0] <= plans[1] <= plans[2]
    assert plans[2] > 1.001 * plans[0]
