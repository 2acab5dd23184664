"""Input errors that stay, or change slowly: limits learn them from measurements, and need that they do."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from mpc_networks import declared_error, elman, signals

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Signal
from controlrnn.errors import CertificationError, SettingError
from mpc import (
    Disturbances,
    Predictor,
    TightenedMPC,
    Washout,
    certify_changes,
    certify_jump,
    certify_predictions,
    make_error_memory,
    make_recursive,
    run_closed_loop,
    terminal_set,
    tighten,
)
from mpc.control.settings import grouped
from mpc.loops.plant import held_to

W, N, K, STEPS, PUSH = 25, 8, 3, 80, 0.08
SYSTEM = elman(gain=0.6)


def declared(bounds, gain=None):
    return declared_error(SYSTEM, bounds, gain, washout=0)


@cache
def predictor():
    free = Predictor(SYSTEM, signals("u", 2, 1.0))
    reached = np.array([free.steady_output(u) for u in np.random.default_rng(0).uniform(-1, 1, (40, 2))])
    middle, half = reached.mean(axis=0), 0.4 * np.ptp(reached, axis=0)
    ends = zip(middle - half, middle + half, strict=True)
    return replace(free, outputs=tuple(Signal(f"y{i}", lower=a, upper=b) for i, (a, b) in enumerate(ends)))


def limits():
    ends = np.array([[s.lower, s.upper] for s in predictor().outputs])
    return ends.mean(axis=1), 0.5 * np.ptp(ends, axis=1)


def watching(drift, push=PUSH):
    return Washout(predictor(), W, contraction=certify_contraction(SYSTEM), input_error=push, input_drift=drift)


@cache
def parts(drift):
    observer = watching(drift)
    residual = 0.1 * limits()[1]
    joint = certify_predictions(observer, N, iterations=60)
    growth = certify_jump(observer, N, iterations=40)
    room = make_recursive(
        tighten(declared(np.tile(residual, (N + 1, 1))), joint, observer=observer), growth, observer=observer
    )
    slow = declared(0.1 * np.arange(N + 1)[:, None] ** 0.7 * residual, 1.0)
    changes = certify_changes(observer, K, iterations=60)
    memory = make_error_memory(room, slow, changes, observer=observer, growth=growth)
    end = terminal_set(predictor(), observer.contraction, horizon=N, jump=observer.jump)
    return room, memory, end, residual, slow


def controller(drift, observer=None):
    room, memory, end, *_ = parts(drift)
    settings = {"output_weight": 1.0, "input_move_weight": 1e-3, "control_horizon": 4, "error_memory": memory}
    return TightenedMPC(predictor(), observer or watching(drift), room, terminal=end, **grouped(settings))


def loop(drift, pushes, seed=0):
    """A loop whose input errors are given, and residuals that go where they hurt as fast as they may."""
    made, rng, (middle, half), (*_, residual, slow) = (
        controller(drift),
        np.random.default_rng(seed),
        limits(),
        parts(drift),
    )
    x, past, u, taken, seen, excess = predictor().equilibrium(np.zeros(2)), np.zeros((K, 2)), np.zeros(2), [], [], []
    for t in range(-W, STEPS):
        y = SYSTEM.output(x, np.zeros(2)) + past[0]
        if t < 0:
            made.record(y, u)
        else:
            corner = np.array([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [0.0, 0.0]])[4 * t // STEPS]
            taken.append(made.step(y, middle + corner * half))
            seen.append(y)
            u = taken[-1].u
            if t:
                excess.append(made.problem.excess(made.last_data, made.last_data.guess))
        side = np.sign(np.sin(t / 7)) if rng.random() < 0.9 else -1.0
        allowed = slow.bounds[1 : K + 1]
        wanted = side * np.sign(y - middle) * residual
        now = np.clip(wanted, (past - allowed).max(axis=0), (past + allowed).min(axis=0))
        x = SYSTEM.step(x, u + pushes[t + W])
        past = np.vstack([now, past[:-1]])
    return taken, np.array(seen), np.array(excess)


def outside(taken, y):
    """Largest share by which an error of a prediction leaves its interval."""
    u, most = np.array([s.u for s in taken]), -np.inf
    for t, step in enumerate(taken[: STEPS - N]):
        error = y[t : t + N + 1] - predictor().predict(step.x, u[t : t + N])
        low, high = step.error_interval
        most = max(most, float((np.maximum(error - high, low - error) / (high - low))[1:].max()))
    return most


CORNERS = [np.tile(PUSH * np.array(c), (W + STEPS, 1)) for c in product((-1.0, 1.0), repeat=2)]


def beyond(y):
    middle, half = limits()
    return float((np.abs(y - middle) - half).max())


@pytest.mark.parametrize("corner", range(4))
def test_limits_are_kept_and_errors_lie_in_their_intervals_whatever_stays(corner):
    taken, y, excess = loop(0.0, CORNERS[corner])
    assert beyond(y) <= 0
    assert excess.max() <= 0
    assert outside(taken, y) <= 0
    assert all(step.feasible and not step.outside for step in taken)


def test_what_stays_leaves_less_to_change_and_plans_go_closer():
    stays, moves = parts(0.0)[1].change, parts(None)[1].change
    assert (stays < 0.95 * moves).all()
    assert stays[0, 0] < 0.75 * moves[0, 0]
    near, far = (np.mean([loop(drift, push)[1] for push in CORNERS[:2]], axis=0) for drift in (0.0, None))
    middle, _ = limits()
    assert np.abs(near - middle).mean() > np.abs(far - middle).mean()


def test_errors_that_change_slowly_may_do_so():
    rate = 0.004
    rng = np.random.default_rng(2)
    pushes = [rng.uniform(-PUSH, PUSH, 2)]
    for _ in range(W + STEPS):
        pushes.append(np.clip(pushes[-1] + rate * rng.choice([-1.0, 1.0], 2), -PUSH, PUSH))
    taken, y, excess = loop(rate, np.array(pushes))
    assert beyond(y) <= 0
    assert excess.max() <= 0
    assert outside(taken, y) <= 0


def test_errors_that_do_not_stay_break_it():
    """The theorem needs the premise: otherwise the tests above would show nothing."""
    turns = np.where(np.arange(W + STEPS)[:, None] % 12 < 6, PUSH, -PUSH) * np.ones(2)
    taken, y, excess = loop(0.0, turns)
    assert outside(taken, y) > 0 or beyond(y) > 0 or excess.max() > 0


def test_parts_for_errors_that_stay_serve_no_others():
    with pytest.raises(SettingError, match="input_drift"):
        controller(0.0, watching(None))
    with pytest.raises(SettingError, match="input_drift"):
        controller(None, watching(0.0))
    start = watching(0.0).restart
    any_errors = certify_horizon(
        SYSTEM, W + N, initial_radius=start.radius, metric=start.metric, input_radius=PUSH, iterations=5
    )
    error = declared(np.tile(parts(0.0)[3], (N + 1, 1)))
    tighten(error, any_errors, observer=watching(0.0))  # errors of any kind cover those that stay
    constant = certify_predictions(watching(0.0), N, iterations=5)
    for other in (watching(None), watching(0.001), watching(0.0, 1.5 * PUSH)):
        with pytest.raises(CertificationError, match="must cover"):
            tighten(error, constant, observer=other)
    with pytest.raises(CertificationError, match="must cover"):
        make_error_memory(
            parts(None)[0],
            parts(None)[4],
            certify_changes(watching(0.0), 1, iterations=5),
            observer=watching(None),
            growth=certify_jump(watching(None), N, iterations=5),
        )


def test_what_contradicts_itself_is_refused():
    with pytest.raises(SettingError, match="leave one of them out"):
        Washout(predictor(), W, input_error=PUSH, input_drift=0.0, command_error=0.1)
    with pytest.raises(SettingError, match="input_drift"):
        Washout(predictor(), W, input_error=PUSH, input_drift=-0.1)


class Plant:
    inputs, outputs, dt, nx = signals("u", 2, 1.0 + PUSH), predictor().outputs, SYSTEM.dt, SYSTEM.nx

    def initial_state(self):
        return predictor().equilibrium(np.zeros(2))

    def step(self, x, u, w=None):  # noqa: ARG002
        return SYSTEM.step(x, u)

    def output(self, x, u):
        return SYSTEM.output(x, u)


def test_loops_draw_errors_that_stay_and_refuse_others():
    reference = limits()[0]
    with pytest.raises(SettingError, match=r"Disturbances\(input_drift"):
        run_closed_loop(
            Plant(), controller(0.0), reference=reference, steps=3, seed=0, disturbances=Disturbances(input_error=PUSH)
        )
    stays = Disturbances(input_error=PUSH, input_drift=0.0)
    found = run_closed_loop(Plant(), controller(0.0), reference=reference, steps=6, seed=0, disturbances=stays)
    off = found.applied - found.u
    assert 0 < np.abs(off).max() <= PUSH
    np.testing.assert_allclose(off, np.tile(off[:1], (6, 1)), atol=1e-12)
    slow = Disturbances(input_error=PUSH, input_drift=0.01)
    moved = run_closed_loop(Plant(), controller(None), reference=reference, steps=20, seed=0, disturbances=slow)
    drifted = np.abs(np.diff(moved.applied - moved.u, axis=0))
    assert 0 < drifted.max() <= 0.01 + 1e-12


class Narrow(Plant):
    """Actuators that end where the controller's range ends: errors that point outwards are cut off there."""

    inputs = predictor().inputs


def test_errors_that_ends_of_the_range_cut_off_do_not_stay():
    high = np.full(2, 20.0)
    stays = Disturbances(input_error=PUSH, input_drift=0.0)
    with pytest.raises(SettingError, match="cut off"):
        run_closed_loop(Narrow(), controller(0.0), reference=high, steps=3, seed=0, disturbances=stays)
    cut, whole = (
        run_closed_loop(plant, controller(None), reference=high, steps=12, seed=0, disturbances=stays)
        for plant in (Narrow(), Plant())
    )
    assert cut.u.min() < -1.0 + 1e-9
    assert 0.1 * PUSH < np.abs(np.diff(cut.applied - cut.u, axis=0)).max() <= PUSH
    assert np.abs(np.diff(whole.applied - whole.u, axis=0)).max() < 1e-12
    held_to(controller(PUSH), Narrow(), input_error=PUSH, input_drift=0.0)
    with pytest.raises(SettingError, match="cut off"):
        held_to(controller(0.9 * PUSH), Narrow(), input_error=PUSH, input_drift=0.0)
