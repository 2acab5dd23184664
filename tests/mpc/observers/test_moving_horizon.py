from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import NormContraction, elman, signals, switching

from controlrnn.errors import SettingError, ShapeError
from controlrnn.kernels import step
from mpc import MovingHorizonObserver, Predictor, RunningOn, Washout
from mpc.observers.window_fit import Window, WindowFitter

STD = np.array([0.05, 0.02])


def with_feedthrough(seed=0):
    """Two layers of neurons and everything that a Lur'e system can have."""
    rng, base = np.random.default_rng(seed), elman(3, 2, 2, seed=seed)
    D11 = np.zeros((5, 5))
    D11[3:, :3] = rng.standard_normal((2, 3))
    return replace(
        base,
        A=0.3 * np.eye(3),
        B1=0.2 * rng.standard_normal((3, 5)),
        C1=rng.standard_normal((5, 3)),
        D11=D11,
        D12=rng.standard_normal((5, 2)),
        bv=rng.standard_normal(5),
        D21=rng.standard_normal((2, 5)),
        D22=rng.standard_normal((2, 2)),
        B2=rng.standard_normal((3, 2)),
        layers=(3, 2),
    )


def linear(rng):
    base = elman(3, 1, 2)
    A = rng.standard_normal((3, 3))
    return replace(
        base,
        A=0.9 * A / np.linalg.norm(A, 2),
        B1=np.zeros((3, 3)),
        B2=rng.standard_normal((3, 1)),
    )


@pytest.mark.parametrize("window", [1, 4, 15])
@pytest.mark.parametrize("input_error", [0.0, 0.3])
def test_for_a_linear_model_the_arrival_cost_makes_every_window_a_kalman_filter(window, input_error, rng):
    """Least squares over the window with the condensed past is least squares over everything, hence the filter."""
    system = linear(rng)
    predictor = Predictor(system, signals("u", 1, 100.0))
    P = 0.5**2 * np.eye(3)
    inside = MovingHorizonObserver(
        predictor,
        1,
        window=window,
        output_std=STD,
        start_std=0.5,
        initial_state=np.zeros(3),
        input_error=input_error,
    )
    B = system.B2 * input_error / np.sqrt(3)
    x, A, C, R = np.zeros(3), system.A, system.C2, np.diag(STD**2)
    for t in range(30):
        # Small residuals keep the estimated input errors inside of their bound, where everything is linear.
        y = system.output(x, np.zeros(1)) + 0.05 * STD * rng.standard_normal(2)
        if t % 7 == 3:
            y[1] = np.nan
        known = ~np.isnan(y)
        H, e = C[known], (y - system.output(x, np.zeros(1)))[known]
        K = P @ H.T @ np.linalg.inv(H @ P @ H.T + R[known][:, known])
        x = system.step(x + K @ e, np.zeros(1))
        P = A @ (P - K @ H @ P) @ A.T + B @ B.T
        np.testing.assert_allclose(inside.update(np.zeros(1), y), x, atol=1e-6)


def fitter_of(system, **options):
    settings = {
        "output_std": STD, "input_error": np.array([0.1, 0.0]), "offset_std": np.array([0.0, 0.3]),
        "state_limits": None, "iterations": 50, "time_limit": np.inf, "tolerance": 1e-14,
    }  # fmt: skip
    return WindowFitter(system, **(settings | options))


def test_derivatives_are_those_of_the_residuals_and_of_the_states_at_both_ends(rng):
    system, T = with_feedthrough(), 6
    fitter = fitter_of(system)
    y = rng.standard_normal((T, 2))
    y[2, 0] = np.nan
    window = Window(rng.standard_normal((T, 2)), y, rng.standard_normal(3), rng.standard_normal((3, 3)))
    z = 0.3 * rng.standard_normal(fitter.size(T))
    at = fitter.run(window, z)
    J, ends = fitter.derivatives(window, fitter.linearise(at.x[:-1], at.u))
    step = 1e-6
    for i in range(len(z)):
        moved = [fitter.run(window, z + s * step * np.eye(len(z))[i]) for s in (1, -1)]
        np.testing.assert_allclose(J[:, i], (moved[0].residual - moved[1].residual).ravel() / (2 * step), atol=1e-6)
        difference = (moved[0].x - moved[1].x)[[0, -1]].ravel() / (2 * step)
        np.testing.assert_allclose(ends[:, i], difference, atol=1e-6)


def test_the_fit_is_a_minimum_within_the_limits_of_inputs_and_states(rng):
    system, T = with_feedthrough(1), 8
    fitter = fitter_of(system)
    u = rng.standard_normal((T, 2))
    y = system.simulate(u + np.array([0.2, 0.0]), rng.standard_normal(3))[0] + STD * rng.standard_normal((T, 2))
    window = Window(u, y, np.zeros(3), np.eye(3))
    best, taken, late = fitter.fit(window, np.zeros(fitter.size(T)))
    assert not late
    assert taken < 50
    assert np.abs(best.u - window.u).max() <= 0.1 * (1 + 1e-9)
    assert (best.u[:, 1] == window.u[:, 1]).all()
    assert np.isclose(best.u - u, [0.1, 0.0]).all(axis=1).any()  # the true error is beyond its declared bound
    for _ in range(300):
        z = best.z + 10.0 ** rng.uniform(-6, -1) * rng.standard_normal(len(best.z))
        z[3:-2] = np.clip(z[3:-2], -1, 1)
        assert fitter.run(window, z).cost >= best.cost - 1e-9 * best.cost
    high = np.maximum(best.x[0], best.x[-1]) + 1.0
    high[0] = best.x[-1, 0] - 0.02
    boxed = fitter_of(system, state_limits=(high - 6.0, high))
    end = boxed.fit(window, np.zeros(fitter.size(T)))[0]
    np.testing.assert_allclose(end.x[-1, 0], high[0], atol=1e-6)
    assert end.cost > best.cost


@pytest.fixture(scope="module")
def contraction(system):
    return NormContraction.of(system)


def guarded(predictor, contraction, guard=RunningOn, steps=10, **options):
    running = guard(predictor, steps, contraction=contraction, input_error=0.05)
    return MovingHorizonObserver(
        predictor, steps, window=6, output_std=0.05, input_error=0.05, guard=running, **options
    )


@pytest.mark.parametrize(
    ("guard", "trust", "jump_limit"), [(RunningOn, 1.0, np.inf), (Washout, 0.4, 0.02), (RunningOn, 0.0, 0.0)]
)
def test_absurd_measurements_break_neither_the_error_nor_the_jump(
    predictor, contraction, guard, trust, jump_limit, rng
):
    observer = guarded(predictor, contraction, guard, trust=trust, jump_limit=jump_limit)
    system, true = predictor.system, switching(rng, 150, 2)
    recorded = np.clip(true + 0.05 * rng.choice([-1, 1], true.shape), -1, 1)
    x = system.simulate(true, observer.initial_state)[1]
    worst = np.zeros(2)
    for t in range(150):
        y = system.output(x[t], true[t]) + rng.choice([0.0, 0.3, 5.0, 1e6, 1e300, np.inf, np.nan]) * rng.choice([-1, 1])
        before, usable = observer.state, observer.certified
        after = observer.update(recorded[t], np.full(2, y))
        assert np.isfinite(after).all()
        if observer.certified:
            worst[0] = max(worst[0], np.linalg.norm(x[t + 1] - after))
        if usable:
            worst[1] = max(worst[1], np.linalg.norm(after - step(system, before, recorded[t])))
    assert worst[0] <= observer.error.radius
    assert worst[1] <= observer.jump.radius


@pytest.fixture(scope="module")
def slow():
    """A model that remembers for long."""
    base = elman(rate=1.0, gain=0.3)
    return Predictor(
        replace(base, A=0.9 * np.eye(4), B1=0.05 * np.eye(4), B2=0.1 * np.eye(4)[:, :2]), signals("u", 2, 1.0)
    )


def test_measurements_bring_it_nearer_to_the_state_than_running_on(slow, rng):
    system, true = slow.system, switching(rng, 300, 2)
    recorded = true + 0.2 * rng.choice([-1, 1], (300, 2))
    x = system.simulate(true, np.zeros(4))[1]
    y = system.output(x[:-1], true) + 0.005 * rng.standard_normal((300, 2))
    settings = {"input_error": 0.2, "contraction": NormContraction.of(system)}
    running = RunningOn(slow, 10, **settings)
    moving = MovingHorizonObserver(slow, 10, window=15, output_std=0.005, guard=running, **settings)
    errors = [np.linalg.norm(o.estimates(recorded, y)[10:] - x[10:], axis=1).mean() for o in (running, moving)]
    assert errors[1] < 0.6 * errors[0]


def test_an_offset_of_the_outputs_is_told_from_the_state(slow, rng):
    system, true = slow.system, switching(rng, 120, 2)
    x = system.simulate(true, np.zeros(4))[1]
    y = system.output(x[:-1], true) + np.array([0.3, -0.2])
    plain, shifted = (
        MovingHorizonObserver(slow, 10, window=20, output_std=0.05, input_error=0.3, offset_std=c) for c in (0.0, 1.0)
    )
    errors = [np.linalg.norm(o.estimates(true, y)[50:] - x[50:], axis=1).mean() for o in (plain, shifted)]
    assert errors[1] < 0.3 * errors[0]
    for t in range(100):
        shifted.update(true[t], y[t])
    np.testing.assert_allclose(shifted.offset, [0.3, -0.2], atol=0.05)


def test_late_measurements_count_as_if_they_had_come_in_time(slow, rng):
    u, y = switching(rng, 40, 2), 0.3 * rng.standard_normal((40, 2))
    settings = {"window": 12, "output_std": 0.1, "input_error": 0.3, "tolerance": 1e-13, "iterations": 30}
    late, punctual = (MovingHorizonObserver(slow, 1, **settings) for _ in range(2))
    for t in range(40):
        punctual.update(u[t], y[t])
        late.update(u[t], [np.nan, np.nan] if t == 30 else y[t])
        if t == 31:
            assert np.abs(late.state - punctual.state).max() > 1e-4
        if t == 34:
            np.testing.assert_allclose(late.correct(4, y[30]), punctual.state, atol=2e-4)
    np.testing.assert_allclose(late.state, punctual.state, atol=2e-4)
    before = late.state
    np.testing.assert_array_equal(late.correct(20, np.zeros(2)), before)  # has left the window


def test_states_outside_of_their_limits_are_never_estimated(rng):
    system = elman()
    predictor = Predictor(system, signals("u", 2, 1.0))
    observer = MovingHorizonObserver(
        predictor, 1, window=5, output_std=0.01, state_limits=(-0.5 * np.ones(4), 0.5 * np.ones(4))
    )
    for u in switching(rng, 60, 2):
        assert np.abs(observer.update(u, 3 * rng.standard_normal(2))).max() <= 0.5


def test_the_time_limit_leaves_the_prediction_and_says_so(predictor, rng):
    observer = MovingHorizonObserver(predictor, 1, window=5, output_std=0.05, time_limit=1e-9)
    state = observer.state
    after = observer.update(np.ones(2), np.ones(2))
    assert observer.info.timed_out
    assert observer.info.iterations == 0
    np.testing.assert_allclose(after, predictor.system.step(state, np.ones(2)), atol=1e-12)
    bounded = MovingHorizonObserver(predictor, 1, window=5, output_std=1e-3, iterations=2)
    for u in switching(rng, 20, 2):
        bounded.update(u, rng.standard_normal(2))
        assert bounded.info.iterations <= 2


def test_estimates_along_a_record_are_the_online_ones_and_change_nothing(predictor, contraction, rng):
    observer = guarded(predictor, contraction)
    u, y = switching(rng, 30, 2), rng.standard_normal((30, 2))
    observer.update(u[0], y[0])
    state, theirs = observer.state, observer.guard.state
    rows = observer.estimates(u, y)
    np.testing.assert_array_equal(observer.state, state)
    np.testing.assert_array_equal(observer.guard.state, theirs)
    observer.start()
    for t in range(30):
        observer.update(u[t], y[t])
        if observer.ready:
            np.testing.assert_allclose(rows[t + 1], observer.state, atol=1e-12)
    assert observer.guard.ready
    observer.start()
    assert not observer.guard.ready


def test_digest_and_words(predictor, contraction):
    make = [{}, {"trust": 0.5}, {"jump_limit": 0.1}, {"guard": Washout}, {"offset_std": 0.1}]
    assert len({guarded(predictor, contraction, **options).digest for options in make}) == len(make)
    assert "certified 2-norm error" in guarded(predictor, contraction).describe()
    free = MovingHorizonObserver(predictor, 5, window=5, output_std=0.1)
    assert "no certified error, no certified jump" in free.describe()
    assert free.jump is None
    assert not free.certified
    with pytest.raises(SettingError, match="guard"):
        free.error  # noqa: B018 -- the property raises


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"window": 0}, SettingError), ({"output_std": 0.0}, SettingError), ({"output_std": [0.1]}, ShapeError),
        ({"time_limit": 0.0}, SettingError), ({"iterations": 0}, SettingError), ({"trust": 1.5}, SettingError),
        ({"jump_limit": -1.0}, SettingError), ({"state_limits": (np.ones(4), np.zeros(4))}, SettingError),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(predictor, options, error):
    with pytest.raises(error):
        MovingHorizonObserver(predictor, 5, **({"window": 5, "output_std": 0.1} | options))


def test_a_guard_must_fit(predictor, contraction):
    with pytest.raises(SettingError, match="certificate"):
        MovingHorizonObserver(predictor, 5, window=5, output_std=0.1, guard=RunningOn(predictor, 5))
    exact = RunningOn(predictor, 5, contraction=contraction)
    with pytest.raises(SettingError, match="input errors"):
        MovingHorizonObserver(predictor, 5, window=5, output_std=0.1, guard=exact, input_error=0.1)
    other = Predictor(elman(seed=3), signals("u", 2, 1.0))
    with pytest.raises(SettingError, match="predictor's model"):
        MovingHorizonObserver(other, 5, window=5, output_std=0.1, guard=exact)
