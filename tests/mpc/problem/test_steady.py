"""The input that is best held for ever, against general optimisers."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import elman, signals
from ocp_cases import problem, sample
from scipy.optimize import least_squares, minimize

import mpc.predictor
from controlrnn.data import Signal
from controlrnn.errors import SettingError
from controlrnn.systems import Activation, LureSystem
from mpc import Predictor
from mpc.problem.economy import Economy
from mpc.problem.steady_input import HeldCost, HeldInputSearch, best_held_input, held_input, steady_input


def layered(rng, *, nx=5, layers=(6, 5), nu=2, ny=2, activation=Activation.TANH):
    """Two layers and a feedthrough; contracting by the norms of its parts."""

    def matrix(rows, columns, norm):
        drawn = rng.standard_normal((rows, columns))
        return drawn * norm / np.linalg.norm(drawn, 2)

    nv, first = sum(layers), layers[0]
    D11 = np.zeros((nv, nv))
    D11[first:, :first] = matrix(nv - first, first, 0.5)
    return LureSystem(
        A=matrix(nx, nx, 0.4), B1=matrix(nx, nv, 0.5), B2=matrix(nx, nu, 0.3), bx=np.zeros(nx), C1=matrix(nv, nx, 0.5),
        D11=D11, D12=matrix(nv, nu, 1.5), bv=0.2 * rng.standard_normal(nv), C2=matrix(ny, nx, 1.0),
        D21=matrix(ny, nv, 0.3), D22=matrix(ny, nu, 0.1), by=rng.standard_normal(ny), activation=activation,
        layers=layers, dt=1.0,
    )  # fmt: skip


def predicts(system):
    return Predictor(system, tuple(Signal(f"u{i}", lower=-1.0, upper=1.5) for i in range(system.nu)))


SYSTEMS = {
    "elman": elman(),
    "more outputs": elman(6, 2, 3, seed=3),
    "more inputs": elman(6, 3, 2, seed=4),
    "layers": layered(np.random.default_rng(1)),
    "kinks": layered(np.random.default_rng(2), activation=Activation.LEAKY_RELU),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_no_input_is_nearer_than_what_least_squares_finds(name, rng):
    predictor = predicts(SYSTEMS[name])
    lower, upper = predictor.input_limits()
    scale = rng.uniform(0.5, 2.0, predictor.ny)
    for reach in (0.0, 0.0, 0.1, 0.3, 1.0, 3.0):
        target = predictor.steady_output(rng.uniform(lower, upper)) + reach * rng.standard_normal(predictor.ny)

        def misfit(u, target=target):
            return (predictor.steady_output(u) - target) / scale

        found = steady_input(predictor, target, scale)
        assert ((lower <= found) & (found <= upper)).all()
        missed = np.linalg.norm(misfit(found))
        for size in (1e-2, 1e-4):
            for d in rng.standard_normal((10, predictor.nu)):
                assert missed <= np.linalg.norm(misfit(np.clip(found + size * d, lower, upper))) + 1e-9
        if name == "kinks":
            continue  # and more than one minimum
        theirs = least_squares(misfit, 0.5 * (lower + upper), bounds=(lower, upper), xtol=1e-12, ftol=1e-12, gtol=1e-12)
        assert missed <= np.linalg.norm(theirs.fun) * (1 + 1e-6) + 1e-9
        if not reach:
            assert missed < 1e-9


@pytest.mark.parametrize("name", SYSTEMS)
def test_local_models_have_the_costs_derivatives(name, rng, monkeypatch):
    monkeypatch.setattr("mpc.problem.steady_input.definite", lambda H: H)
    predictor, h = predicts(SYSTEMS[name]), 1e-5
    cost = HeldCost.distance(rng.standard_normal(predictor.ny), rng.uniform(0.5, 2.0, predictor.ny))
    search = HeldInputSearch(predictor, cost, np.full(predictor.nu, np.nan))
    at = search.at(rng.uniform(-0.5, 0.5, predictor.nu), None)
    model = search.model(at, np.zeros(predictor.ny))
    around = [(search.at(at.v + e, at.x), search.at(at.v - e, at.x)) for e in h * np.eye(predictor.nu)]
    np.testing.assert_allclose(model.g, [(b.cost - a.cost) / (2 * h) for b, a in around], atol=1e-7)
    bend = [(search.model(b, None).g - search.model(a, None).g) / (2 * h) for b, a in around]
    np.testing.assert_allclose(model.H, bend, atol=1e-6)


def test_given_inputs_stay_and_the_others_do_what_is_left(rng):
    predictor = predicts(SYSTEMS["more inputs"])
    target, scale = predictor.steady_output(np.array([0.2, -0.4, 0.9])), np.ones(2)
    found = steady_input(predictor, target, scale, given=np.array([np.nan, -0.4, np.nan]))
    assert found[1] == -0.4
    np.testing.assert_allclose(predictor.steady_output(found), target, atol=1e-9)
    given = np.array([0.1, 7.0, -0.3])  # beyond the limits, as a measurement may be
    np.testing.assert_array_equal(steady_input(predictor, target, scale, given=given), given)


def test_limits_of_the_steady_output_come_before_the_target():
    predictor, scale = predicts(elman(gain=1.0)), np.ones(2)
    middle = predictor.steady_output(np.array([0.25, 0.25]))
    target = predictor.steady_output(np.array([1.3, -0.8]))
    lower, upper = middle - 0.1 * np.abs(target - middle), middle + 0.3 * np.abs(target - middle)
    found = predictor.steady_output(steady_input(predictor, target, scale, limits=(lower, upper)))
    assert (found >= lower - 1e-8).all()
    assert (found <= upper + 1e-8).all()
    outside = predictor.steady_output(steady_input(predictor, target, scale))
    assert (outside > upper).any() or (outside < lower).any()

    def misfit(u):
        return float(((predictor.steady_output(u) - target) ** 2).sum())

    inner = [{"type": "ineq", "fun": lambda u: predictor.steady_output(u) - lower},
             {"type": "ineq", "fun": lambda u: upper - predictor.steady_output(u)}]  # fmt: skip
    best = minimize(misfit, [0.25, 0.25], bounds=[(-1.0, 1.5)] * 2, constraints=inner, method="SLSQP")
    assert ((found - target) ** 2).sum() <= best.fun + 1e-6
    # Out of reach: as near to the limits as any input comes, and no error.
    far = upper + 100.0
    near = predictor.steady_output(steady_input(predictor, target, scale, limits=(far, far + 1.0)))
    corners = [predictor.steady_output(np.array(u)) for u in ((-1.0, -1.0), (-1.0, 1.5), (1.5, -1.0), (1.5, 1.5))]
    assert (far - near).sum() <= min((far - y).sum() for y in corners) + 1e-6


@pytest.mark.parametrize("far", [1.0, 1e3, 1e5])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize("seed", range(4))
def test_limits_that_some_input_keeps_are_kept_however_far_the_target_is(seed, scale, far):
    """One fixed price was less than what being near a far target was worth: limits were left by most of the range."""
    rng = np.random.default_rng(seed)
    system = layered(rng, ny=1 + seed % 2)
    predictor = predicts(system)
    seen = np.array([predictor.steady_output(rng.uniform(-1, 1, 2)) for _ in range(50)])
    middle, span = seen[0], np.ptp(seen, axis=0)  # which some input keeps
    lower, upper = middle - 0.1 * span, middle + 0.1 * span
    target = middle + far * span * rng.choice([-1.0, 1.0], system.ny)
    found = steady_input(predictor, target, np.full(system.ny, scale), limits=(lower, upper))
    reached = predictor.steady_output(found)
    assert (np.maximum(reached - upper, lower - reached) <= 1e-6 * span).all()


def test_results_do_not_depend_on_what_was_asked_before_or_who_asks(rng):
    system = elman(6, 2, 3, seed=3)
    predictor, scale = predicts(system), np.ones(3)
    targets = [predictor.steady_output(rng.uniform(-1, 1, 2)) + rng.normal(0, 0.3, 3) for _ in range(40)]
    once = [steady_input(predicts(system), target, scale) for target in targets]
    with ThreadPoolExecutor(4) as pool:
        asked = list(pool.map(lambda target: steady_input(predictor, target, scale), targets * 4))
    for found, alone in zip(asked, once * 4, strict=True):
        np.testing.assert_array_equal(found, alone)


def test_a_few_steady_states_are_enough(rng, monkeypatch):
    """What makes the fallback come in time."""
    predictor, asked = predicts(SYSTEMS["layers"]), []
    limited = problem(elman(gain=1.0), limit=0.2)  # curved limits in the way
    targets = [predictor.steady_output(u) + rng.normal(0, 0.2, 2) for u in rng.uniform(-1, 1, (50, 2))]
    beyond = [sample(limited, wanted) for wanted in rng.uniform(-0.5, 0.5, (50, 2))]
    equilibrium = Predictor.equilibrium
    monkeypatch.setattr(Predictor, "equilibrium", lambda *a, **k: asked.append(1) or equilibrium(*a, **k))

    def count(search, *arguments):
        asked.clear()
        search(*arguments)
        return len(asked)

    near = [count(steady_input, predictor, target, np.ones(2)) for target in targets]
    kept = [count(best_held_input, limited, data) for data in beyond]
    assert np.median(near) <= 7
    assert np.median(kept) <= 7
    assert max(near + kept) <= 15


@pytest.mark.parametrize("name", SYSTEMS)
def test_scalar_code_and_matrix_products_settle_alike(name, rng, monkeypatch):
    small = predicts(SYSTEMS[name])
    compiled = small.gap
    monkeypatch.setattr(mpc.predictor, "COMPILED", 0)
    large = predicts(SYSTEMS[name])
    for u in rng.uniform(-1, 1, (5, small.nu)):
        x = rng.standard_normal(small.nx)
        for ours, theirs in zip(small.gap(x, u), large.gap(x, u), strict=True):
            np.testing.assert_allclose(ours, theirs, atol=1e-13)
        np.testing.assert_allclose(small.equilibrium(u), large.equilibrium(u), atol=1e-12)
    assert type(large.gap) is not type(compiled)


def economy(**parts):
    nothing = {name: np.zeros(2) for name in ("input_price", "output_price", "input_weight", "input_reference")}
    return Economy(**nothing | {name: np.array(part, dtype=float) for name, part in parts.items()})


NOTHING = np.zeros(2)
ALONE = {"output_weight": NOTHING, "terminal_weight": NOTHING}
COSTS = {
    "tracking": {},
    "prices": {"economy": economy(input_price=(0.3, -0.2), output_price=(0.1, -0.5))},
    "prices alone": {"economy": economy(input_price=(0.05, -0.02), output_price=(1.0, -0.5)), **ALONE},
    "weights": {"economy": economy(input_weight=(0.4, 0.1), input_reference=(0.6, -0.3)), **ALONE},
}


@pytest.mark.parametrize("limit", [0.15, 0.3, np.inf])
@pytest.mark.parametrize("name", COSTS)
def test_the_best_held_input_keeps_limits_and_costs_least(name, limit):
    ocp = problem(elman(gain=0.7), limit=limit, **COSTS[name])
    data, predictor, price = sample(ocp, (0.5, -0.2)), ocp.predictor, ocp.economy
    found = best_held_input(ocp, data)

    def cost(u):
        y = predictor.steady_output(u)
        economic = 0.0 if price is None else price.of_inputs(u) + price.of_outputs(y)
        return (y - data.reference[0]) ** 2 @ ocp.output_weight + economic

    assert (np.abs(found) <= 1).all()
    assert (np.abs(predictor.steady_output(found)) <= limit + 1e-6).all()
    starts = [np.zeros(2), found, np.array([0.5, 0.5]), np.array([-0.5, 0.5])]
    kept = (
        []
        if np.isinf(limit)
        else [
            {"type": "ineq", "fun": lambda u: limit - predictor.steady_output(u)},
            {"type": "ineq", "fun": lambda u: limit + predictor.steady_output(u)},
        ]
    )
    others = [
        minimize(cost, start, method="SLSQP", bounds=[(-1, 1)] * 2, constraints=kept, options={"ftol": 1e-12}).x
        for start in starts
    ]
    kept = [u for u in others if (np.abs(predictor.steady_output(u)) <= limit + 1e-6).all()]
    assert kept
    assert cost(found) <= min(cost(u) for u in kept) + 1e-5


def test_limits_that_nothing_keeps_are_missed_by_little():
    ocp = problem(elman(), limit=0.3)
    data = sample(ocp, (0.0, 0.0), shift=[5.0, 5.0])  # between -5.3 and -4.7
    held = best_held_input(ocp, data)
    excess = [np.maximum(ocp.predictor.steady_output(u) + 4.7, 0) @ ocp.penalty for u in (held, np.zeros(2))]
    assert excess[0] < excess[1]
    corners = np.array([[a, b] for a in (-1.0, 1.0) for b in (-1.0, 1.0)])
    assert excess[0] <= min(np.maximum(ocp.predictor.steady_output(u) + 4.7, 0) @ ocp.penalty for u in corners) + 1e-6


def test_measured_inputs_are_those_of_the_forecast():
    ocp = problem(
        elman(6, 3, 2, seed=4), limit=np.inf, input_move_weight=np.array([0.05, 0.0, 0.05]), measured_inputs=(1,)
    )
    wanted = ocp.predictor.steady_output(np.array([0.3, 0.8, -0.2]))
    data = replace(sample(ocp, wanted), forecast=np.tile([[0.8]], (8, 1)))
    held = best_held_input(ocp, data)
    assert held[1] == 0.8
    np.testing.assert_allclose(ocp.predictor.steady_output(held), wanted, atol=1e-9)


def test_models_without_a_steady_state_are_refused():
    integrator = replace(elman(), A=np.eye(4), B1=np.zeros((4, 4)), bx=np.zeros(4))  # stays anywhere, at no one place
    target = HeldCost.distance(np.zeros(2), np.ones(2))
    with pytest.raises(SettingError, match="steady state"):
        held_input(Predictor(integrator, signals("u", 2, 1.0)), target, np.full(2, np.nan))
