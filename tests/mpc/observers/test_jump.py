"""The jump that an estimator makes at one step: certified bounds against runs and adversaries."""

from dataclasses import replace
from itertools import product

import numpy as np
import pytest
from mpc_networks import NormContraction, elman, signals, switching

from controlrnn.certification import certify_contraction
from controlrnn.errors import SettingError
from controlrnn.kernels import step
from controlrnn.models import ContractingREN
from mpc import Predictor, RunningOn, StateError, StateObserver, Washout, observer_system
from mpc.observers.innovation_bounds import innovation_radius
from mpc.observers.state_error import largest_step


def size(e, metric):
    return np.sqrt(np.einsum("...i,ij,...j->...", e, metric, e))


def jumps(observer, recorded, commanded, y):
    """Realised jumps along a record, in the metric of the bound, where the bound is claimed."""
    found = []
    for t in range(len(recorded)):
        before, usable = observer.state, observer.certified
        after = observer.update(recorded[t], y[t])
        if usable:
            found.append(size(after - step(observer.system, before, commanded[t]), observer.jump.metric))
    return np.array(found)


def window_jump(system, start, windows):
    """Jumps of washouts: windows (B, W + 1, nu), the first input being the one that is dropped."""
    kept = system.simulate(windows[:, 1:], np.broadcast_to(start, (len(windows), system.nx)))[1][:, -1]
    moved = system.simulate(windows, np.broadcast_to(start, (len(windows), system.nx)))[1][:, -1]
    return kept - moved


@pytest.fixture(scope="module")
def contraction(system):
    return NormContraction.of(system)


@pytest.mark.parametrize("steps", [1, 3, 12])
def test_no_window_makes_a_washout_jump_further_than_certified(predictor, contraction, steps, rng):
    observer = Washout(predictor, steps, contraction=contraction)
    windows = rng.choice([-1.0, 1.0], (400, steps + 1, 2)) * rng.choice([1.0, 1.0, 0.3, 0.0], (400, steps + 1, 1))
    best = size(window_jump(predictor.system, observer.initial_state, windows), np.eye(4))
    for _ in range(30):  # the best ones, perturbed and kept where they got worse for the bound
        parents = windows[np.argsort(best)[-100:]]
        tried = np.clip(np.repeat(parents, 4, axis=0) + 0.3 * rng.standard_normal((400, steps + 1, 2)), -1, 1)
        reached = size(window_jump(predictor.system, observer.initial_state, tried), np.eye(4))
        better = reached > best
        windows, best = np.where(better[:, None, None], tried, windows), np.maximum(best, reached)
    jump = observer.jump
    assert best.max() <= jump.radius
    if steps == 1:  # the norm 0.8 per step is not attained step after step, so later ones say nothing of the method
        assert jump.radius <= 2 * best.max()
    assert jump.radius <= (1 - contraction.rate) * observer.restart.radius  # not merely twice the error


def test_the_jump_of_a_linear_scalar_washout_is_attained():
    linear = replace(elman(1, 1, 1), A=np.array([[0.5]]), B1=np.zeros((1, 1)), B2=np.array([[2.0]]))
    predictor = Predictor(linear, signals("u", 1, 1.0))
    observer = Washout(predictor, 3, contraction=NormContraction.of(linear), initial_state=[0.0])
    windows = np.array([[[1.0], [0.3], [0.2], [-0.7]]])
    np.testing.assert_allclose(
        size(window_jump(linear, np.zeros(1), windows), np.eye(1)), observer.jump.radius, rtol=1e-6
    )


def test_one_step_is_bounded_tightly_also_where_neurons_saturate():
    system = elman(gain=5.0)
    predictor, certificate = Predictor(system, signals("u", 2, 1.0)), NormContraction.of(system)
    grid = np.array(list(product(np.linspace(-1, 1, 101), repeat=2)))
    centre = predictor.equilibrium(np.zeros(2))
    seen = np.linalg.norm(system.step(np.broadcast_to(centre, (len(grid), 4)), grid) - centre, axis=1).max()
    bound = largest_step(predictor, certificate, centre, np.zeros(2))
    assert seen <= bound <= 1.2 * seen
    assert certificate.input_gain.sum() > 3 * bound  # what gains over the whole range would say


@pytest.mark.parametrize("kind", [Washout, RunningOn])
@pytest.mark.parametrize("command_error", [0.0, 0.1])
def test_jumps_along_records_stay_inside(predictor, contraction, kind, command_error, rng):
    observer = kind(predictor, 4, contraction=contraction, input_error=0.02, command_error=command_error)
    commanded = switching(rng, 400, 2) * (1 - command_error)
    recorded = commanded + command_error * rng.choice([-1, 1], (400, 2))
    found = jumps(observer, recorded, commanded, np.full((400, 2), np.nan))
    assert len(found) == 396
    assert found.max() <= observer.jump.radius
    if kind is RunningOn and not command_error:
        assert observer.jump.radius == found.max() == 0
    else:
        assert found.max() > 0.01 * observer.jump.radius


def test_running_on_needs_no_certificate_to_make_no_jump(predictor):
    jump = RunningOn(predictor, 5).jump
    assert isinstance(jump, StateError)
    assert jump.radius == 0
    assert RunningOn(predictor, 5, command_error=0.1).jump is None


def test_no_certificate_no_jump_and_the_report_says_so(predictor, contraction):
    for bare in (Washout(predictor, 5), StateObserver(predictor, np.zeros((4, 2)), 5, contraction=contraction)):
        assert bare.jump is None
        assert "no certified jump: pass" in bare.describe()
    assert "jump per step at most" in Washout(predictor, 5, contraction=contraction).describe()


def test_the_innovation_stays_inside_and_gaps_make_no_jump(gentle, rng):
    predictor, gain, model, own = gentle
    observer = StateObserver(
        predictor,
        gain,
        15,
        residual_bound=[0.05, 0.02],
        contraction=model,
        observer_contraction=own,
        input_error=0.01,
    )
    system, true = predictor.system, switching(rng, 500, 2)
    recorded = np.clip(true + 0.01, -1, 1)
    x = system.simulate(true, np.zeros(4))[1][:-1]
    residual = np.array([0.05, 0.02]) * switching(rng, 500, 2, hold=20)
    y = system.output(x, true) + residual
    y[rng.random(500) < 0.1] = np.nan
    found = jumps(observer, recorded, recorded, y)
    assert 0 < found.max() <= observer.jump.radius
    assert (found == 0).any()
    assert observer.jump.radius < 2 * observer.error_radius


def test_linear_outputs_attain_the_innovation_bound(rng):
    system, L = elman(nx=5, ny=2), rng.standard_normal((5, 2))
    S = rng.standard_normal((5, 5))
    error, residual = StateError(0.3, S @ S.T + np.eye(5)), np.array([0.0, 0.0])
    R = np.linalg.cholesky(error.metric).T
    direction = np.linalg.svd(R @ L @ system.C2 @ np.linalg.inv(R))[2][0]
    worst = 0.3 * np.linalg.solve(R, direction)
    reached = size(L @ (system.C2 @ worst), error.metric)
    np.testing.assert_allclose(innovation_radius(system, L, error, np.zeros(2), residual), reached, rtol=1e-8)
    corners = [size(L @ r, error.metric) for r in product([-0.2, 0.2], [-0.1, 0.1])]
    none = StateError(0.0, error.metric)
    bound = innovation_radius(system, L, none, np.zeros(2), np.array([0.2, 0.1]))
    np.testing.assert_allclose(bound, max(corners), rtol=1e-8)


@pytest.mark.parametrize("seed", range(4))
def test_outputs_through_neurons_keep_the_innovation_bound(seed):
    rng = np.random.default_rng(seed)
    base = elman(3, 2, 2, seed=seed)
    D11 = np.zeros((6, 6))
    D11[3:, :3] = rng.standard_normal((3, 3))
    system = replace(
        base,
        A=0.1 * np.eye(3),
        B1=rng.standard_normal((3, 6)),
        C1=rng.standard_normal((6, 3)),
        D11=D11,
        D12=rng.standard_normal((6, 2)),
        bv=rng.standard_normal(6),
        D21=rng.standard_normal((2, 6)),
        D22=rng.standard_normal((2, 2)),
        layers=(3, 3),
    )
    S = rng.standard_normal((3, 3))
    error, L = StateError(0.2, S @ S.T + np.eye(3)), rng.standard_normal((3, 2))
    du, residual = np.array([0.05, 0.02]), np.array([0.03, 0.0])
    n, best = 20000, 0.0
    x, u = rng.standard_normal((n, 3)), rng.standard_normal((n, 2))
    for scale in (1.0, 0.2):  # near the neurons' steepest points as well
        e = rng.standard_normal((n, 3))
        e *= (0.2 / size(e, error.metric))[:, None]
        innovation = (
            system.output(scale * x + e, scale * u + du * rng.choice([-1, 1], (n, 2)))
            + residual * rng.choice([-1, 1], (n, 2))
            - system.output(scale * x, scale * u)
        )
        best = max(best, size(innovation @ L.T, error.metric).max())
    assert best <= innovation_radius(system, L, error, du, residual) <= 8 * best


@pytest.mark.parametrize("seed", [1, 3])
def test_with_proven_metrics_the_bounds_are_close_to_what_happens(seed, rng):
    system = ContractingREN(nu=1, ny=1, nx=3, nv=5, rate=0.8, seed=seed).freeze()
    predictor, gain = Predictor(system, signals("u", 1, 1.0)), 0.05 * np.ones((3, 1))
    model, own = certify_contraction(system), certify_contraction(observer_system(system, gain))
    observer = StateObserver(predictor, gain, 40, residual_bound=0.02, contraction=model, observer_contraction=own)
    u = switching(rng, 300, 1)
    x = system.simulate(u)[1][:-1]
    y = system.output(x, u) + 0.02 * switching(rng, 300, 1, hold=20)
    for one in (Washout(predictor, 1, contraction=model), Washout(predictor, 5, contraction=model), observer):
        found = jumps(one, u, u, y)
        assert found.max() <= one.jump.radius <= 1.6 * found.max()


def test_the_error_of_an_observer_holds_also_where_it_grows_towards_its_limit(gentle):
    predictor, gain, model, own = gentle
    far = StateObserver(predictor, gain, 1, residual_bound=100.0, contraction=model, observer_contraction=own)
    limit = own.input_gain[2:].sum() * 100 / (1 - own.rate)
    assert far.error_radius >= limit
    for _ in range(60):
        far.update(np.zeros(2), np.zeros(2))
    assert far.certified


def test_late_measurements_lead_to_the_estimate_that_they_would_have_given_in_time(gentle, rng):
    observer = make_observer(gentle)
    punctual = make_observer(gentle)
    u, y = switching(rng, 60, 2), 0.05 * rng.standard_normal((60, 2))
    late = {20: 3, 33: 1, 50: 7}
    for t in range(60):
        punctual.update(u[t], y[t])
        observer.update(u[t], np.full(2, np.nan) if t in late else y[t])
        for sample, delay in late.items():
            if t == sample + delay:
                observer.correct(delay, y[sample])
    np.testing.assert_array_equal(observer.state, punctual.state)


def test_a_late_reading_that_cannot_be_is_not_used(gentle):
    observer, gap = make_observer(gentle), make_observer(gentle)
    for t in range(41):
        observer.update(np.zeros(2), np.zeros(2))
        gap.update(np.zeros(2), np.full(2, np.nan) if t == 40 else np.zeros(2))
    np.testing.assert_array_equal(observer.correct(0, np.full(2, 50.0)), gap.state)
    assert "y1 measured" in observer.contradiction


def make_observer(gentle):
    predictor, gain, model, own = gentle
    return StateObserver(predictor, gain, 15, residual_bound=0.05, contraction=model, observer_contraction=own)


def test_too_old_or_empty_corrections_change_nothing_and_impossible_ones_are_refused(gentle, predictor, rng):
    observer = make_observer(gentle)
    for _ in range(300):
        observer.update(np.zeros(2), np.zeros(2))
    before = observer.state
    np.testing.assert_array_equal(observer.correct(299, np.zeros(2)), before)
    np.testing.assert_array_equal(observer.correct(2, np.full(2, np.nan)), before)
    possible = observer.system.output(before, np.zeros(2)) + 0.02
    assert (observer.correct(2, np.array([possible[0], np.nan])) != before).any()
    with pytest.raises(SettingError, match="age"):
        observer.correct(300, np.zeros(2))
    open_loop = Washout(predictor, 3)
    before = open_loop.update(np.zeros(2), np.zeros(2))
    np.testing.assert_array_equal(open_loop.correct(0, np.ones(2)), before)
