from dataclasses import replace

import numpy as np
import pytest
from guaranteed_cases import guaranteed, run
from mpc_networks import LurePlant, elman, signals
from ocp_cases import objective, problem, sample
from scipy.optimize import minimize

from controlrnn.errors import SettingError, ShapeError
from mpc import (
    Fallback,
    Predictor,
    RunningOn,
    Solution,
    SolverOptions,
    Start,
    Status,
    TightenedMPC,
    controller_to_c,
    no_tightening,
    run_closed_loop,
)
from mpc.control.settings import grouped
from mpc.problem.economy import Economy
from mpc.problem.ocp import default_penalty
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.condensed_problem import CondensedProblem
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend

N = 10


def economy(input_price=(0, 0), output_price=(0, 0), input_weight=(0, 0), input_reference=(0, 0)):
    parts = (input_price, output_price, input_weight, input_reference)
    names = ("input_price", "output_price", "input_weight", "input_reference")
    return Economy(**{name: np.array(part, dtype=float) for name, part in zip(names, parts, strict=True)})


NOTHING = np.zeros(2)
ALONE = {"output_weight": NOTHING, "terminal_weight": NOTHING}
COSTS = {
    "prices": {"economy": economy((0.3, -0.2), (0.1, -0.5))},
    "weights": {"economy": economy(input_weight=(0.4, 0.1), input_reference=(0.6, -0.3))},
    "prices alone": {"economy": economy((0.05, -0.02), (1.0, -0.5)), **ALONE},
    "large prices": {"economy": economy((50, -20), (1000, -500)), **ALONE},
    "no moves": {
        "economy": economy((0.05, -0.02), (1.0, -0.5), (0.01, 0.02)), **ALONE, "input_move_weight": NOTHING
    },
    "held": {"economy": economy((0.3, -0.2), (0.1, -0.5), (0.1, 0.0)), "control_horizon": 3},
}  # fmt: skip


def priced(system, **options):
    """With the penalty that a controller would choose."""
    ocp = problem(system, **options)
    return replace(ocp, penalty=default_penalty(ocp.horizon, ocp.cost_scale, ocp.output_scale))


def expected(ocp, data, u):
    """The objective written down once more."""
    price = ocp.economy
    y = ocp.predictor.predict(data.x, u)
    inputs = sum(price.input_price @ v + price.input_weight @ (v - price.input_reference) ** 2 for v in u)
    return objective(ocp, data, u) + inputs + sum(price.output_price @ row for row in y)


@pytest.mark.parametrize(("gain", "seed"), [(0.5, 1), (3.0, 2)])
@pytest.mark.parametrize("name", COSTS)
def test_engines_agree_on_priced_plans(name, gain, seed, rng):
    ocp = priced(elman(gain=gain, seed=seed), **COSTS[name])
    data = sample(ocp, (0.3, 0.1), x=0.2 * rng.standard_normal(4), before=[0.1, -0.1])
    ours = CondensedBackend(ocp, SolverOptions()).solve(data)
    assert ours.status is Status.SOLVED
    np.testing.assert_allclose(ours.cost, expected(ocp, data, ours.u), rtol=1e-9, atol=1e-12 * ocp.cost_scale)
    np.testing.assert_allclose(ours.cost, ocp.objective(data, ours.u)[0], rtol=1e-9, atol=1e-12 * ocp.cost_scale)
    assert ours.slack.max() < 1e-6  # the penalty stays exact
    for engine in (FatropBackend,) if ocp.inputs < ocp.horizon else (FatropBackend, DoMpcBackend):
        theirs = engine(ocp, SolverOptions()).solve(data)
        assert np.abs(theirs.u - ours.u).max() < 5e-3
        assert abs(expected(ocp, data, theirs.u) - ours.cost) < 1e-4 * ocp.cost_scale


def test_derivatives_are_those_of_the_priced_objective(rng):
    ocp = problem(elman(), 4, limit=np.inf, control_horizon=3, economy=economy((3, -2), (1, -5), (0.4, 0.1), (0.6, 2)))
    scaled, data = CondensedProblem(ocp), sample(ocp, (0.4, 0.2), x=rng.standard_normal(4))
    at, z = scaled.sample(data), 0.3 * rng.standard_normal(6)
    plan = scaled.plan(at, z)
    np.testing.assert_allclose(plan.cost * ocp.cost_scale, expected(ocp, data, scaled.physical(plan)), rtol=1e-12)
    assert plan.size >= abs(plan.cost)
    steps = 1e-6 * np.eye(6)
    slope = [(scaled.plan(at, z + e).cost - scaled.plan(at, z - e).cost) / 2e-6 for e in steps]
    np.testing.assert_allclose(scaled.model(at, plan, None).g, slope, atol=1e-8)
    bend = [
        (scaled.model(at, scaled.plan(at, z + e), None).g - scaled.model(at, scaled.plan(at, z - e), None).g) / 2e-6
        for e in steps
    ]
    lagrangian = scaled.model(at, plan, np.zeros(0)).H
    if np.linalg.eigvalsh(bend)[0] > 1e-3:
        np.testing.assert_allclose(lagrangian, bend, atol=1e-6)
    assert np.linalg.eigvalsh(lagrangian)[0] > 0


def test_what_curves_downwards_everywhere_still_gets_a_convex_model(rng):
    """Prices alone, no price of moves: nothing but the neurons' curvature, of whatever sign, and a sliver of weight."""
    ocp = problem(
        elman(gain=2.0),
        limit=np.inf,
        input_move_weight=NOTHING,
        **ALONE,
        economy=economy(output_price=(-1, -1), input_weight=(1e-6, 1e-6)),
    )
    data, scaled = sample(ocp, (0.0, 0.0), x=0.5), CondensedProblem(ocp)
    at = scaled.sample(data)
    curved = [scaled.model(at, scaled.plan(at, z), np.zeros(0)).H for z in rng.uniform(-1, 1, (20, scaled.n))]
    assert min(np.linalg.eigvalsh(H)[0] / np.linalg.eigvalsh(H)[-1] for H in curved) > 1e-4
    solution = CondensedBackend(ocp, SolverOptions()).solve(data)
    assert solution.status is Status.SOLVED
    for size in (0.1, 0.01, 0.001):  # a minimum, if not the only one
        for _ in range(30):
            other = np.clip(solution.u + size * rng.standard_normal((8, 2)), -1, 1)
            assert expected(ocp, data, other) >= solution.cost - 1e-9


def test_converged_plans_are_recognised_where_costs_cancel():
    """The cost is near zero and its summands are not: rounding is measured by those."""

    def ocp(offset):
        system = replace(elman(), by=np.array([offset, 0.0]))
        costs = economy((150, 100), (-1, 0.3), (1.0, 1.0), (100.0, 50.0))
        return problem(system, limit=np.inf, **ALONE, economy=costs)

    options, cost, offset = SolverOptions(tolerance=1e-15), np.inf, 0.0
    for _ in range(3):
        made = ocp(offset)
        solution = CondensedBackend(made, options).solve(sample(made, (0.0, 0.0)))
        assert solution.status is Status.SOLVED
        assert solution.iterations < 15
        cost = solution.cost
        offset += cost / (made.horizon + 1)
    assert abs(cost) < 1e-6
    assert abs(offset) > 1e3


def controller(predictor, **options):
    settings = {"output_weight": 0.0, "input_move_weight": 0.05} | options
    return TightenedMPC(
        predictor,
        RunningOn(predictor, 1),
        no_tightening(predictor.system.digest, 20, predictor.ny),
        **grouped(dict(horizon=N, **settings)),
    )


def cheapest(predictor, input_price, output_price):
    """The cheapest steady state within input and output limits, by a method that knows nothing of ours."""
    found = []
    for start in ([0.0, 0.0], [0.5, -0.5], [-0.5, 0.5]):
        fit = minimize(
            lambda u: input_price @ u + output_price @ predictor.steady_output(u),
            start,
            method="SLSQP",
            bounds=[(-1, 1)] * 2,
            options={"ftol": 1e-12},
            constraints=[{"type": "ineq", "fun": lambda u: 0.6 - np.abs(predictor.steady_output(u))}],
        )
        found.append((fit.fun, *fit.x))
    return np.array(min(found)[1:])


def test_prices_move_the_plant_to_the_cheapest_steady_state_within_limits(predictor):
    p, q = np.array([0.05, 0.02]), np.array([-1.0, -0.3])
    best = cheapest(predictor, p, q)
    plant = LurePlant(predictor.system, predictor.inputs, predictor.outputs)
    made = controller(predictor, input_price=p, output_price=q)
    result = run_closed_loop(plant, made, reference=[0.0, 0.0], steps=30, seed=0, start=Start(warm_up=60))
    reached = predictor.steady_output(best)
    assert np.abs(reached).max() > 0.59  # an output limit is what stops it
    np.testing.assert_allclose(result.u[-1], best, atol=1e-3)
    np.testing.assert_allclose(result.y[-1], reached, atol=1e-3)
    assert np.abs(result.y).max() <= 0.6 + 1e-6
    # The result's cost is that of the plant's outputs and inputs.
    moves = np.diff(np.vstack([made.safe_input, result.u]), axis=0)
    paid = (result.u @ p).sum() + (result.y[1:] @ q).sum() + 0.05 * (moves**2).sum()
    np.testing.assert_allclose(result.cost, paid, rtol=1e-12)
    assert result.cost < 0
    idle = predictor.steady_output(np.zeros(2)) @ q * 30
    assert result.cost < idle


class Never:
    """A solver that never solves."""

    def __init__(self, problem, _):
        self.problem = problem

    def reset(self):
        pass

    def solve(self, data):
        none = np.zeros_like(data.lower)
        return Solution(status=Status.FAILED, u=data.guess, slack=none, cost=np.nan, iterations=0, message="never")


def test_the_steady_input_of_a_failed_solve_is_the_cheapest_one_not_the_references(predictor):
    p, q = np.array([0.05, 0.02]), np.array([-1.0, -0.3])
    made = controller(predictor, input_price=p, output_price=q, backend=Never)
    rest = predictor.steady_output(np.zeros(2))
    made.record(rest, np.zeros(2))
    for _ in range(12):  # as fast as limits allow
        step = made.step(rest, np.zeros(2))
        assert step.fallback is Fallback.STEADY
        assert step.feasible
        rest = step.y_predicted[1]
    np.testing.assert_allclose(step.u, cheapest(predictor, p, q), atol=1e-3)


def test_tracking_leaves_the_other_input_where_it_is_cheap(system):
    """One output is tracked with two inputs: the weights say which combination."""
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 2.0))
    plant = LurePlant(predictor.system, predictor.inputs, predictor.outputs)
    for wanted in (0.3, -0.3):
        made = controller(predictor, output_weight=[10.0, 0.0], input_weight=[0.0, 0.1], input_reference=[0.0, wanted])
        result = run_closed_loop(plant, made, reference=[0.2, 0.0], steps=40, seed=0)
        np.testing.assert_allclose([result.y[-1, 0], result.u[-1, 1]], [0.2, wanted], atol=0.02)


def still(case):
    """Without jumps."""
    case.observer.draw = lambda _: np.zeros(case.predictor.nx)
    return case


PRICES = {"input_price": [0.4, -0.3], "output_price": [-1.0, 0.5], "input_weight": 0.05}


def test_steady_state_of_a_terminal_set_pays_prices():
    case = still(guaranteed("elman"))
    made = case.controller(**PRICES)
    data = made.data_for(case.middle)
    ours, theirs = (engine(made.problem, SolverOptions()).solve(data) for engine in (CondensedBackend, FatropBackend))
    assert ours.status is theirs.status is Status.SOLVED
    assert ours.feasible
    ocp, price = made.problem, made.problem.economy
    y, _ = ocp.outcome(data.x, ours.u)
    at_end = price.of_inputs(ours.u[-1]) + price.of_outputs(y[-1]) + case.weight @ (y[-1] - case.middle) ** 2
    running = ocp.cost(y[:-1], data.reference[:-1], ours.u, data.previous_input)
    np.testing.assert_allclose(ours.cost, running + at_end, atol=1e-6 * ocp.cost_scale)
    np.testing.assert_allclose(ours.u, theirs.u, atol=2e-3)
    assert abs(ocp.objective(data, theirs.u)[0] - ours.cost) < 1e-5 * ocp.cost_scale


def test_priced_plans_with_a_terminal_set_stay_feasible_whatever_jumps():
    """The proof of `mpc.tightening.terminal_set` does not mention the cost."""
    case = guaranteed("elman")
    case.observer.draw = case.towards_limits
    steps, excess = run(case, case.controller(output_weight=0.0, **PRICES), [case.middle] * 60)
    assert all(step.feasible for step in steps)
    assert excess.max() <= 0
    made = still(case).controller(output_weight=0.0, **PRICES)
    settled = run(case, made, [case.middle] * 40)[0][-1].u
    (lower, upper), price = (ends[-1] for ends in made.tightened_limits), made.problem.economy

    def paid(u):
        return price.of_inputs(u) + price.of_outputs(case.predictor.steady_output(u))

    for u in np.stack(np.meshgrid(*[np.linspace(-1, 1, 21)] * 2), axis=-1).reshape(-1, 2):
        y = case.predictor.steady_output(u)
        if (y >= lower).all() and (y <= upper).all():
            assert paid(settled) <= paid(u) + 1e-3


def test_c_code_refuses_prices(predictor, tmp_path):
    with pytest.raises(SettingError, match="prices"):
        controller_to_c(controller(predictor, output_price=1.0), tmp_path)


def test_without_prices_nothing_changes(predictor):
    made = controller(predictor, output_weight=1.0, input_reference=[0.3, 0.3])
    assert made.problem.economy is None
    assert not made.problem.measured_inputs


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"input_price": [1.0]}, ShapeError),
        ({"output_price": [1.0, 2.0, 3.0]}, ShapeError),
        ({"input_weight": -1.0}, SettingError),
        ({"input_weight": 1.0, "input_reference": [0.0]}, ShapeError),
        ({"input_price": 1.0, "input_move_weight": 0.0}, SettingError),  # a linear programme
        ({}, SettingError),  # nothing to do
    ],
)
def test_bad_prices_are_refused(predictor, options, error):
    with pytest.raises(error):
        controller(predictor, **options)
