"""The declared sets of the guaranteed studies: truths stay within them, and what is claimed about restarts holds."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest

from controlrnn.certification import certify_contraction
from controlrnn.data import Signal, Trajectory
from controlrnn.models import ContractingREN
from experiments import guaranteed_carts, guaranteed_tanks
from experiments.guaranteed_slow import study as guaranteed_slow
from experiments.shared import guaranteed as _guaranteed
from experiments.shared.declared_probability import declared_probability, held_out
from experiments.shared.declared_sets import (
    MEMORY,
    AnywhereWashout,
    DeclaredTruth,
    Kind,
    PhysicalTruth,
    Unknowns,
    wandering,
)
from experiments.shared.guaranteed import Controller
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import DisturbanceFilter, ModelError, Predictor, RunningOn, Washout, back_off, calibrate
from mpc.problem.ocp import default_penalty
from plants import MassSpringDamperChain

PUSH, RESIDUAL, DRIFT = np.array([0.1]), np.array([0.2]), np.array([[0.15], [0.25], [0.3]])


@pytest.fixture(scope="module")
def plant():
    return MassSpringDamperChain(position_limit=2.0)


@pytest.fixture(scope="module")
def observer(plant):
    system = ContractingREN(nu=1, ny=1, nx=3, nv=4, rate=0.8, dt=plant.dt, seed=1).freeze()
    predictor = Predictor(system, (Signal("force", "N", -1.5, 1.5),), plant.outputs)
    return AnywhereWashout(predictor, 6, contraction=certify_contraction(system, 0.85), input_error=PUSH)


def truth(kind, plant, observer):
    settings = {"push": PUSH, "residual": RESIDUAL, "drift": DRIFT, "held": np.array([0.3])}
    return kind(plant, observer, disturbances=4, limited=0, **settings)


def same_problem(a, b):
    """Whether two controllers solve the same problem, but for limits."""
    pairs = [(getattr(a, f.name), getattr(b, f.name)) for f in fields(a) if f.name != "predictor"]
    return all(np.array_equal(one, other) for one, other in pairs)


def size(e, metric):
    return float(np.sqrt(e @ metric @ e))


def on_the_edge(observer, rng):
    v = rng.standard_normal(observer.predictor.nx)
    return observer.spread * np.linalg.solve(np.linalg.cholesky(observer.jump.metric).T, v / np.linalg.norm(v))


def test_restarts_anywhere_keep_the_certified_error_and_jump(observer):
    rng, system, metric = np.random.default_rng(3), observer.system, observer.jump.metric
    jumps, errors = [], []
    for _ in range(20):
        observer.start()
        exact = observer.initial_state + on_the_edge(observer, rng)  # any reachable state may be the true one
        for _ in range(14):
            u = rng.choice([-1.5, 1.5], 1)
            before, usable = observer.state, observer.ready
            observer.offset = on_the_edge(observer, rng)
            after = observer.update(u, [0.0])
            exact = system.step(exact, u + rng.choice([-1, 1]) * PUSH)
            if observer.ready:
                errors.append(size(after - exact, observer.error.metric))
            if usable:
                jumps.append(size(after - system.step(before, u), metric))
    assert 0.0 < max(jumps) <= observer.jump.radius
    assert 0.0 < max(errors) <= observer.error.radius


def test_without_spread_it_is_a_washout(observer):
    same = AnywhereWashout(observer.predictor, 6, contraction=observer.contraction, input_error=PUSH, spread=0.0)
    plain = Washout(observer.predictor, 6, contraction=observer.contraction, input_error=PUSH)
    assert same.error.radius == plain.error.radius
    assert same.jump.radius == plain.jump.radius
    assert observer.error.radius > plain.error.radius
    assert same.digest != observer.digest
    rng = np.random.default_rng(0)
    for u in rng.uniform(-1, 1, (9, 1)):
        same.update(u, [0.0])
        plain.update(u, [0.0])
    np.testing.assert_array_equal(same.state, plain.state)


def test_rows_stay_within_their_sets_and_all_kinds_occur():
    unknowns, pulses = Unknowns(plant=2, ny=2, nu=1, nx=3), np.sign(np.random.default_rng(0).normal(size=(MEMORY, 1)))
    seen = set()
    for seed in range(40):
        rows = unknowns.draw(np.random.default_rng(seed), pulses, 50)
        full = np.column_stack([np.zeros((50, 2)), rows])
        for t, row in enumerate(full):
            _, residual, push, restart, kind = unknowns.split(row)
            assert np.abs(np.concatenate([residual, push])).max() <= 1
            if kind in (Kind.RANDOM, Kind.CONSTANT):  # the others only give signs of a unit vector
                assert np.linalg.norm(restart) <= 1 + 1e-12
            if t == 0:
                assert not residual.any()
                assert not push.any()
            elif kind is not Kind.RANDOM:
                assert np.abs(residual).min() == 1
        seen.add(kind)
    assert seen == set(Kind)


@pytest.mark.parametrize("code", list(Kind))
def test_the_declared_truth_uses_up_its_sets_and_no_more(code, plant, observer):
    there = truth(DeclaredTruth, plant, observer)
    draws = (np.random.default_rng(s) for s in range(200))
    rows = next(r for g in draws if (r := there.unknowns.draw(g, there.pulses, 80))[0, -1] == code)
    x, u, residuals, pushes, restarts = there.initial_state(), np.array([1.0]), [], [], []
    for row in np.column_stack([np.zeros((80, 4)), rows]):
        after = there.step(x, u, row)
        residuals.append(after[3])
        gap = after[:3] - observer.system.step(x[:3], u)
        pushes.append(size(gap, observer.jump.metric) / observer.contraction.input_gain[0])
        restarts.append(size(observer.offset, observer.jump.metric))
        x = after
    observer.start()
    assert np.abs(residuals).max() <= RESIDUAL[0] * (1 + 1e-12)
    assert np.max(pushes) <= PUSH[0] * (1 + 1e-9)
    assert np.max(restarts) <= observer.spread * (1 + 1e-9)
    residuals = np.array(residuals)
    for k, most in enumerate(DRIFT[:, 0], 1):
        assert np.abs(residuals[k:] - residuals[:-k]).max() <= most * (1 + 1e-12)
    if code is not Kind.RANDOM:
        np.testing.assert_allclose(np.abs(residuals).max(), RESIDUAL[0])
        np.testing.assert_allclose(np.abs(np.diff(residuals)).max(), DRIFT[0, 0])  # as fast as it may go
        np.testing.assert_allclose(restarts, observer.spread)


def test_the_physical_truth_rests_until_something_disturbs_it(plant, observer):
    there = truth(PhysicalTruth, plant, observer)
    x, rest = there.initial_state(), np.zeros(4 + 1 + 1 + 3 + 1)
    assert there.step(x, np.array([0.3]), rest) is x
    np.testing.assert_allclose(plant.step(x, np.array([0.3])), x, atol=1e-9)  # as the plant itself would
    for change in (np.eye(len(rest))[0], np.eye(len(rest))[5]):  # a force, an input error
        assert np.abs(there.step(x, np.array([0.3]), 0.1 * change) - x).max() > 1e-4
    observer.start()


def test_disturbances_start_at_zero_and_are_cut():
    w = wandering(np.random.default_rng(0), 5000, 0.1, 2)
    assert not w[0].any()
    assert np.abs(w).max() <= 0.3 + 1e-12
    assert 0.08 < w[200:].std() < 0.12


def test_programmes_have_a_part_near_the_limit_and_one_out_of_reach():
    for case in (guaranteed_tanks.settings(False)[1], guaranteed_carts.settings(False)):
        wanted, limit = case.reference[:, case.limited], case.plant.outputs[case.limited].upper
        assert case.steps >= 200
        assert case.runs * 2 == 1000
        assert (wanted > limit).any()
        assert ((wanted > 0.94 * limit) & (wanted < limit)).any()


def test_probability_of_declared_sets_is_an_order_statistic():
    system = ContractingREN(nu=1, ny=1, nx=2, nv=2, rate=0.8, dt=1.0, seed=1).freeze()
    rng = np.random.default_rng(0)
    made = []
    for _ in range(60):
        u = rng.uniform(-1, 1, (60, 1))
        made.append(Trajectory(u, system.simulate(u, np.zeros(2))[0] + 0.1 * rng.standard_normal((60, 1)), 1.0))
    settings = {"horizon": 5, "washout": 10, "method": "set_membership"}
    residual = calibrate(system, made[:39], **settings)
    drift = calibrate(system, made[:39], disturbance=DisturbanceFilter(1.0), **settings)
    assert declared_probability(residual, 3) == pytest.approx(1 - 4 / 40)
    assert declared_probability(calibrate(system, made[:3], **settings), 3) == 0.0
    observer = RunningOn(Predictor(system, (Signal("u", "", -1, 1),), (Signal("y"),)), 5)
    observer.initial_state = np.zeros(2)
    assert held_out(observer, made[:39], residual, drift, 3).inside == 39
    fresh = held_out(observer, made[39:], residual, drift, 3)
    assert 10 <= fresh.inside <= fresh.n == 21
    tight = replace(drift, bounds=0.5 * drift.bounds)
    assert held_out(observer, made[39:], residual, tight, 3).inside == 0
    late = np.where(np.arange(6)[:, None] > 3, 0.0, drift.bounds)  # drift is declared within 3 samples
    assert held_out(observer, made[39:], residual, replace(drift, bounds=late), 3).inside == fresh.inside


def test_controllers_differ_by_their_tightening_alone(observer, tmp_path):
    """A baseline that is rigged, by cheap limits or another weight, would make the others look well."""
    case = replace(guaranteed_carts.settings(False), moves=6)
    for name in ("backed_off", "conformal", "certified"):
        back_off(observer.system.digest, case.horizon, np.full(1, 0.01)).save(tmp_path / f"{name}.npz")
    kinds = (Controller.NOMINAL, Controller.BACKED_OFF, Controller.CONFORMAL, Controller.CERTIFIED)
    problems = [_guaranteed.controller_of(tmp_path, case, observer, kind, None).problem for kind in kinds]
    usual = default_penalty(case.horizon, problems[0].cost_scale, problems[0].output_scale)
    np.testing.assert_array_equal(problems[0].penalty, usual)
    for problem in problems[1:]:
        assert same_problem(problem, problems[0])


def test_slow_experiments_go_to_the_same_levels_by_small_moves():
    config = replace(Config.of(True), records=(2, 1, 1, 2), samples=200)
    fast, slow = (stages.experiments(config, 3, limit) for limit in (None, guaranteed_slow.MOVE_LIMIT))
    for one, other in zip(fast.calibration, slow.calibration, strict=True):
        moves = np.abs(np.diff(other.u, axis=0))
        assert moves.max() == pytest.approx(guaranteed_slow.MOVE_LIMIT)
        assert np.abs(np.diff(one.u, axis=0)).max() > 2 * guaranteed_slow.MOVE_LIMIT
        rest = np.flatnonzero((np.diff(other.u, axis=0) == 0).all(axis=1)) + 1
        np.testing.assert_array_equal(other.u[rest], one.u[rest])  # held levels are the same


def test_controllers_whose_errors_are_for_slow_inputs_have_the_move_limit(observer, tmp_path):
    case = replace(guaranteed_carts.settings(False), moves=6, move_limit=0.1)
    for name in ("backed_off", "conformal", "certified"):
        back_off(observer.system.digest, case.horizon, np.full(1, 0.01)).save(tmp_path / f"{name}.npz")
    limits = {
        kind: _guaranteed.controller_of(tmp_path, case, observer, kind, None).problem.move_limit.item()
        for kind in (Controller.NOMINAL, Controller.BACKED_OFF, Controller.CONFORMAL, Controller.CERTIFIED)
    }
    assert limits == {"nominal": np.inf, "backed off": np.inf, "conformal": 0.1, "certified": 0.1}


@pytest.mark.slow
def test_quick_study_of_slow_inputs_keeps_its_limits(tmp_path):
    assert guaranteed_slow.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(goal["met"] for name, goal in results["targets"].items() if "cost" not in name)
    error = ModelError.load(tmp_path / "model_error_drift.npz")
    assert error.move_limit.tolist() == [guaranteed_slow.MOVE_LIMIT] * 2


@pytest.mark.slow
def test_quick_study_of_the_tanks_keeps_its_limits(tmp_path):
    assert guaranteed_tanks.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    met = {name: goal["met"] for name, goal in results["targets"].items()}
    proven = [name for name in met if "cost" not in name]
    assert len(proven) == 2 * (2 * 5 + 1 + 3)
    assert all(met[name] for name in proven)
    assert len(results["seeds"]["declared"]) == 4
    for name in ("tightening", "recall", "error_over_bound", "envelopes_physical", "envelopes_declared", "costs"):
        assert (tmp_path / f"{name}.png").stat().st_size > 10_000
