from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import elman
from ocp_cases import objective, problem, sample
from random_systems import random_system

from controlrnn.errors import SettingError
from mpc import SolverOptions, Status, chain
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.condensed_problem import CondensedProblem
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend

OPTIONS = SolverOptions()
ENGINES = {"condensed": CondensedBackend, "fatrop": FatropBackend, "do-mpc": DoMpcBackend}
PROBLEMS = {
    "plain": problem(elman()),
    "feedthrough": problem(replace(elman(), D22=0.4 * np.eye(2))),
    "layers": problem(random_system(2, layers=(3, 2), norm=0.8), limit=2.0),
    "moves": problem(elman(), move_limit=np.array([0.15, np.inf])),
    "one-sided": problem(elman(), limit=[(-np.inf, 0.3), (-0.2, np.inf)]),
    "one limited": problem(elman(), limit=[(-np.inf, np.inf), (-0.2, 0.3)]),
    "unlimited": problem(elman(), limit=np.inf),
    "hard": problem(elman(), soft=False),
    "one step": problem(elman(), 1),
    "no price of moves": problem(elman(), input_move_weight=np.zeros(2)),
}
REFERENCES = [(0.3, 0.1), (0.9, 0.4), (5.0, -5.0)]


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("engine", ["condensed", "fatrop"])
def test_engines_agree_with_ipopt(name, engine, rng):
    """Same problem, same guess, a method of another kind: inputs within 1e-3, objective within 0.1 %.

    The interior-point methods relax limits a little, and report the cost with negative slack: each plan's objective is
    computed here.
    """
    ocp = PROBLEMS[name]
    own, peer = ENGINES[engine](ocp, OPTIONS), DoMpcBackend(ocp, OPTIONS)
    x = 0.2 * rng.standard_normal(ocp.predictor.nx)
    for reference in REFERENCES:
        data = sample(ocp, reference, x=x, before=[0.1, -0.1])
        ours, theirs = own.solve(data), peer.solve(data)
        assert ours.status is theirs.status is Status.SOLVED
        found, expected = (objective(ocp, data, solution.u) for solution in (ours, theirs))
        np.testing.assert_allclose(found, expected, rtol=1e-3)
        np.testing.assert_allclose(ours.cost, found, rtol=1e-9)
        if ocp.input_move_weight.any():  # else only the cost is unique
            np.testing.assert_allclose(ours.u, theirs.u, atol=1e-3)
        np.testing.assert_allclose(ours.slack, theirs.slack, atol=1e-4)
        assert (np.abs(ours.u) <= 1).all()


@pytest.mark.parametrize("engine", ["condensed", "fatrop"])
def test_limits_that_cannot_be_kept_cost_what_they_cost_ipopt(engine):
    """A disturbance beyond what the inputs can make up for: the L1 slack is at work at most steps."""
    ocp = problem(elman(), penalty=np.array([20.0, 30.0]))
    data = sample(ocp, (0.2, 0.1), shift=[3.0, -2.5])
    ours, theirs = ENGINES[engine](ocp, OPTIONS).solve(data), DoMpcBackend(ocp, OPTIONS).solve(data)
    assert (ours.slack > 1e-2).sum() > ocp.horizon
    np.testing.assert_allclose(ours.u, theirs.u, atol=1e-3)
    found, expected = (objective(ocp, data, solution.u) for solution in (ours, theirs))
    np.testing.assert_allclose([found, ours.cost], expected, rtol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_hard_limits_that_cannot_be_kept_are_a_status(engine):
    ocp = problem(elman(), soft=False)
    backend = ENGINES[engine](ocp, OPTIONS)
    good = sample(ocp, (0.2, 0.1))
    before = backend.solve(good)
    assert backend.solve(sample(ocp, (0.2, 0.1), shift=5.0)).status is Status.INFEASIBLE
    after = backend.solve(good)
    assert after.status is Status.SOLVED
    np.testing.assert_allclose(
        after.u, before.u, rtol=0, atol=1e-5 if engine == "do-mpc" else 0
    )  # it keeps multipliers


def closed_loop(ocp, backend, references, steps, rng, noise=0.01):
    """Inputs, cost and iterations of a loop on a plant with 3 % other weights."""
    system = ocp.predictor.system
    plant = replace(system, C1=system.C1 * (1 + 0.03 * rng.standard_normal(system.C1.shape)))
    x, d, u, plan = np.zeros(system.nx), np.zeros(2), np.zeros(2), None
    model, inputs, cost, iterations = x, [], 0.0, []
    backend.reset()
    for t in range(steps):
        reference = np.asarray(references[t * len(references) // steps])
        seen = plant.output(x, u) + noise * rng.standard_normal(2)
        d = d + 0.3 * (seen - system.output(model, u) - d)
        data = sample(ocp, reference - d, x=model, before=u, shift=d)
        if plan is not None:
            data = replace(data, guess=np.vstack([plan[1:], plan[-1:]]))
        solution = backend.solve(data)
        assert solution.status is Status.SOLVED
        plan, before, u = solution.u, u, solution.u[0]
        y = plant.output(x, u)
        cost += ((y - reference) ** 2).sum() + 0.05 * ((u - before) ** 2).sum()
        inputs.append(u)
        iterations.append(solution.iterations)
        x, model = plant.step(x, u) + noise * rng.standard_normal(system.nx), system.step(model, u)
    return np.array(inputs), cost, iterations


@pytest.mark.parametrize("references", [[(0.3, -0.2), (0.58, 0.3), (-0.5, 0.1)], [(0.3, -0.3), (3.0, -3.0)]])
def test_closed_loop_is_ipopts(references):
    """Also for references out of reach, on which full Gauss-Newton steps cycle."""
    ocp = problem(elman(6), 15)
    runs = [
        closed_loop(ocp, engine(ocp, OPTIONS), references, 24, np.random.default_rng(3))
        for engine in (CondensedBackend, DoMpcBackend)
    ]
    assert np.abs(runs[0][0] - runs[1][0]).max() <= 1e-3
    np.testing.assert_allclose(runs[0][1], runs[1][1], rtol=1e-3)
    assert max(runs[0][2]) <= 10


def test_single_iterations_stay_close_and_never_raise_the_cost_of_their_guess():
    ocp = problem(elman(6), 15)
    once, full = (CondensedBackend(ocp, SolverOptions(rti=rti)) for rti in (True, False))
    data = sample(ocp, (0.5, -0.4))
    best = full.solve(data)
    costs = [objective(ocp, data, data.guess)]
    for _ in range(8):
        solution = once.solve(data)
        assert (solution.status, solution.iterations) == (Status.SOLVED, 1)
        data = replace(data, guess=solution.u)
        costs.append(solution.cost)
    assert (np.diff(costs) <= 1e-12).all()
    assert costs[0] > 1.1 * best.cost
    np.testing.assert_allclose(costs[-1], best.cost, rtol=1e-6)
    loops = [closed_loop(ocp, b, [(0.3, -0.2), (-0.5, 0.1)], 24, np.random.default_rng(3))[1] for b in (once, full)]
    np.testing.assert_allclose(loops[0], loops[1], rtol=0.01)


def test_real_time_iterations_are_as_many_as_asked_for_and_each_helps():
    ocp = problem(elman(6), 15)
    data = sample(ocp, (0.5, -0.4))
    found = [CondensedBackend(ocp, SolverOptions(rti=n)).solve(data) for n in (1, 2, 3)]
    assert [(one.status, one.iterations) for one in found] == [(Status.SOLVED, n) for n in (1, 2, 3)]
    assert found[0].cost > found[1].cost > found[2].cost
    full = CondensedBackend(ocp, SolverOptions()).solve(data)
    early = CondensedBackend(ocp, SolverOptions(rti=50)).solve(data)
    assert (early.iterations, early.message) == (full.iterations, "converged")  # no more than it takes
    with pytest.raises(SettingError, match="at most max_iterations"):
        SolverOptions(rti=3, max_iterations=2)


def test_gradient_and_hessian_are_those_of_the_objective(rng):
    ocp = problem(random_system(9, layers=(3, 2)), 4, limit=np.inf)
    scaled = CondensedProblem(ocp)
    data = sample(ocp, (0.4, 0.2), x=rng.standard_normal(3))
    at = scaled.sample(data)
    z = 0.2 * rng.standard_normal(scaled.n)

    def gradient(z):
        return scaled.model(at, scaled.plan(at, z), None).g

    cost = objective(ocp, data, scaled.physical(scaled.plan(at, z))) / ocp.cost_scale
    np.testing.assert_allclose(scaled.plan(at, z).cost, cost, rtol=1e-12)
    exact, H = np.zeros(scaled.n), np.zeros((scaled.n, scaled.n))
    for i, e in enumerate(1e-6 * np.eye(scaled.n)):
        exact[i] = (scaled.plan(at, z + e).cost - scaled.plan(at, z - e).cost) / 2e-6
        H[i] = (gradient(z + e) - gradient(z - e)) / 2e-6
    np.testing.assert_allclose(gradient(z), exact, atol=1e-8)
    assert np.linalg.eigvalsh(H).min() > 0  # else the model would differ from it, as it should
    np.testing.assert_allclose(scaled.model(at, scaled.plan(at, z), np.zeros(0)).H, H, atol=1e-6)


def test_model_is_convex_where_the_objective_is_not(rng):
    ocp = problem(elman(gain=3.0), limit=np.inf)
    scaled, smallest = CondensedProblem(ocp), []
    for _ in range(20):
        at = scaled.sample(sample(ocp, (3.0, -3.0), x=rng.standard_normal(4)))
        plan = scaled.plan(at, rng.uniform(-1, 1, scaled.n))
        smallest.append(np.linalg.eigvalsh(scaled.model(at, plan, np.zeros(0)).H)[0])
        e = 1e-6 * np.eye(scaled.n)
        slopes = [[scaled.model(at, scaled.plan(at, plan.z + s * d), None).g for d in e] for s in (1, -1)]
        if np.linalg.eigvalsh((np.array(slopes[0]) - slopes[1]) / 2e-6)[0] < -1e-3:
            break
    else:
        pytest.fail("no indefinite Hessian was met: the test shows nothing")
    assert min(smallest) > 0


def test_model_is_convex_where_limits_bend_the_lagrangian_downwards_in_all_directions(rng):
    ocp = problem(elman(nu=1, gain=2.0), 2, limit=0.3, input_move_weight=np.full(1, 1e-6))
    scaled = CondensedProblem(ocp)
    at = scaled.sample(sample(ocp, (0.3, 0.1)))
    for _ in range(40):
        plan, multipliers = scaled.plan(at, rng.uniform(-1, 1, 2)), 1e3 * rng.standard_normal(4)
        values = np.linalg.eigvalsh(scaled.model(at, plan, multipliers).H)
        assert values[0] >= 1e-4 * values[-1] > 0


@pytest.mark.parametrize("before", [7.0, -6.0])
def test_inputs_that_come_from_far_out_of_their_range_are_planned_for(before, rng):
    """Range and move limit leave the first input one value: it is the only plan, and no failure."""
    for seed in range(40):
        ocp = problem(
            elman(3, 1, rate=0.7, seed=seed),
            2 + seed % 5,
            move_limit=np.array([0.6]),
            limit=0.1,
            penalty=np.full(2, 1e5),
        )
        data = sample(ocp, rng.uniform(-3, 3, 2), x=2 * rng.standard_normal(3), before=[before])
        solution = CondensedBackend(ocp, OPTIONS).solve(data)
        assert solution.status is not Status.FAILED, (seed, solution.message)
        assert solution.u[0, 0] == np.sign(before)
        assert np.abs(np.diff(solution.u[:, 0])).max(initial=0.0) <= 0.6 + 1e-7  # controllers clip it


def test_convergence_is_quadratic_where_gauss_newton_is_slow():
    """A reference far out of reach, with little price of moves: large residuals times large curvature."""
    ocp = problem(elman(6, gain=1.5), 15, limit=np.inf, input_move_weight=np.full(2, 0.01))
    solution = CondensedBackend(ocp, SolverOptions(tolerance=1e-16)).solve(sample(ocp, (1.2, -1.5)))
    assert solution.status is Status.SOLVED
    assert solution.iterations <= 15


def test_same_samples_give_the_same_bits_and_failures_leave_no_trace(rng):
    ocp = problem(elman())
    data = [sample(ocp, r, x=0.1 * rng.standard_normal(4)) for r in REFERENCES]
    backend = CondensedBackend(ocp, OPTIONS)
    first = [backend.solve(d).u for d in data]
    failed = backend.solve(replace(data[0], x=np.full(4, np.nan)))
    assert failed.status is Status.FAILED
    backend.reset()
    for d, u in zip(data, first, strict=True):
        np.testing.assert_array_equal(backend.solve(d).u, u)
        np.testing.assert_array_equal(CondensedBackend(ocp, OPTIONS).solve(d).u, u)


def test_good_guess_saves_iterations():
    ocp = problem(elman(6), 15)
    backend = CondensedBackend(ocp, OPTIONS)
    data = sample(ocp, (0.5, -0.4))
    cold = backend.solve(data)
    warm = backend.solve(replace(data, guess=cold.u))
    assert warm.iterations == 1 < cold.iterations
    np.testing.assert_allclose(warm.u, cold.u, atol=1e-4)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_beyond_all_bounds_are_a_failure_not_an_exception(value):
    ocp = problem(elman())
    data = replace(sample(ocp, (0.2, 0.1)), reference=np.full((9, 2), value))
    with np.errstate(over="ignore", invalid="ignore"):
        solution = CondensedBackend(ocp, OPTIONS).solve(data)
    assert solution.status is Status.FAILED
    assert np.isfinite(solution.u).all()


@pytest.mark.parametrize("engine", ENGINES)
def test_limits_of_the_solver_are_states(engine):
    ocp = problem(elman(6), 15)
    data = sample(ocp, (5.0, -5.0))
    for options, status in (
        (SolverOptions(max_iterations=2), Status.MAX_ITERATIONS),
        (SolverOptions(max_wall_time=1e-6), Status.TIME_LIMIT),
    ):
        assert ENGINES[engine](ocp, options).solve(data).status is status


def test_input_before_the_plan_may_lie_where_no_admissible_move_leads_back():
    """Manual operation may leave the limits; the solver goes as near as its move limits allow."""
    ocp = problem(elman(), move_limit=np.array([0.1, 0.1]))
    solution = CondensedBackend(ocp, OPTIONS).solve(sample(ocp, (0.2, 0.1), before=[1.7, 0.0]))
    assert solution.status is Status.SOLVED
    assert (np.abs(solution.u) <= 1).all()
    np.testing.assert_allclose(solution.u[0, 0], 1.0, atol=1e-8)


class Failing:
    """A solver that never solves."""

    def __init__(self, problem, _, status=Status.FAILED):
        self.inner, self.status, self.calls, self.resets = CondensedBackend(problem, OPTIONS), status, 0, 0

    def solve(self, data):
        self.calls += 1
        return replace(self.inner.solve(data), status=self.status, message="always")

    def reset(self):
        self.resets += 1


def test_chain_asks_the_next_solver_where_one_fails():
    ocp = problem(elman())
    data = sample(ocp, (0.3, 0.1))
    backend = chain(Failing, CondensedBackend, Failing)(ocp, SolverOptions(rti=True))
    solution = backend.solve(data)
    assert solution.status is Status.SOLVED
    assert solution.iterations > 1  # the stand-in solves in full
    np.testing.assert_array_equal(solution.u, CondensedBackend(ocp, OPTIONS).solve(data).u)
    assert [backend.backends[i].calls for i in (0, 2)] == [1, 0]
    backend.reset()
    assert [backend.backends[i].resets for i in (0, 2)] == [1, 1]
    nobody = chain(Failing, Failing)(ocp, OPTIONS)
    assert nobody.solve(data).message == "always"


@pytest.mark.parametrize("status", [Status.INFEASIBLE, Status.TIME_LIMIT])
def test_chain_accepts_what_nobody_could_better(status):
    ocp = problem(elman())
    backend = chain(lambda p, o: Failing(p, o, status), Failing)(ocp, OPTIONS)
    assert backend.solve(sample(ocp, (0.3, 0.1))).status is status
    assert backend.backends[1].calls == 0
    late = chain(Failing, Failing)(ocp, SolverOptions(max_wall_time=1e-9))
    late.solve(sample(ocp, (0.3, 0.1)))
    assert late.backends[1].calls == 0


def test_bad_settings_are_refused():
    ocp = problem(elman())
    for engine in (FatropBackend, DoMpcBackend):
        with pytest.raises(SettingError, match="rti"):
            engine(ocp, SolverOptions(rti=True))
    with pytest.raises(SettingError, match="at least one"):
        chain()
