from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import NormContraction, elman, signals, switching

from controlrnn.certification import certify_contraction
from controlrnn.errors import CertificationError, SettingError, ShapeError
from controlrnn.kernels import step
from mpc import Predictor, RunningOn, StateError, StateObserver, Washout, kalman_gain, observer_system
from mpc.observers.state_error import stretch

PAST = 200


def far_past_state(system, u):
    """x* for a run that has forgotten its start: |x*| differs by at most rate^PAST from any other start."""
    return system.simulate(u, np.zeros(system.nx))[1]


@pytest.fixture(scope="module")
def contraction(system):
    return NormContraction.of(system)


def test_restart_holds_for_the_worst_inputs(predictor, contraction):
    centre = predictor.equilibrium(np.zeros(2))
    radius = Washout(predictor, 1, contraction=contraction, initial_state=centre).restart.radius
    u = switching(np.random.default_rng(0), 5000, 2)
    seen = np.linalg.norm(far_past_state(predictor.system, u)[PAST:] - centre, axis=1).max()
    assert 0.05 * radius < seen <= radius  # it holds, and is not so wide that holding means nothing


def test_restart_is_attained_by_a_linear_scalar_model():
    linear = replace(elman(1, 1, 1), A=np.array([[0.5]]), B1=np.zeros((1, 1)), B2=np.array([[2.0]]))
    predictor = Predictor(linear, signals("u", 1, 1.0))
    radius = Washout(predictor, 1, contraction=NormContraction.of(linear), initial_state=[0.0]).restart.radius
    np.testing.assert_allclose(radius, 2 / (1 - 0.5), rtol=1e-6)  # |x*| under u = 1 forever


@pytest.mark.parametrize("kind", [Washout, RunningOn])
@pytest.mark.parametrize("steps", [1, 5, 20])
@pytest.mark.parametrize("start", [None, [0.9, -0.9, 0.9, -0.9]])
def test_certified_error_holds_on_random_runs(predictor, contraction, kind, steps, start, rng):
    bound = np.array([0.02, 0.05])
    observer = kind(predictor, steps, contraction=contraction, input_error=bound, initial_state=start)
    radius = observer.error_radius
    np.testing.assert_array_equal(observer.error_metric, np.eye(4))
    true = switching(rng, PAST + 300, 2)
    recorded = np.clip(true + bound * rng.choice([-1, 1], true.shape), -1, 1)
    x = far_past_state(predictor.system, true)
    worst = 0.0
    for t in range(PAST, PAST + 300):
        estimate = observer.update(recorded[t], np.full(2, np.nan))
        if observer.ready:
            worst = max(worst, float(np.linalg.norm(x[t + 1] - estimate)))
            assert observer.certified
    assert 0 < worst <= radius


def test_the_last_steps_of_running_on_start_within_its_restart_radius(predictor, contraction, rng):
    bound = 0.4
    observer = RunningOn(
        predictor, 10, contraction=contraction, input_error=bound, initial_state=[0.9, -0.9, 0.9, -0.9]
    )
    true = switching(rng, PAST + 100, 2)
    recorded = true + bound * switching(rng, PAST + 100, 2, hold=20)
    x = far_past_state(predictor.system, true)
    assert np.linalg.norm(x[PAST] - observer.state) <= observer.restart.radius
    for t in range(PAST, PAST + 100):
        observer.update(recorded[t], np.zeros(2))
        assert np.linalg.norm(x[t + 1] - observer.state) <= observer.restart.radius
    settled = contraction.input_gain.sum() * bound / (1 - contraction.rate)
    assert observer.restart.radius >= settled


def test_washout_forgets_everything_older_than_its_window(predictor, rng):
    observer = Washout(predictor, 6)
    u = rng.uniform(-1, 1, (30, 2))
    for row in u:
        observer.update(row, np.zeros(2))
    fresh = Washout(predictor, 6)
    for row in u[-6:]:
        fresh.update(row, np.zeros(2))
    np.testing.assert_array_equal(observer.state, fresh.state)
    assert fresh.ready
    fresh.start()
    assert not fresh.ready


@pytest.mark.parametrize(
    "make",
    [
        lambda p: Washout(p, 6),
        lambda p: RunningOn(p, 6),
        lambda p: StateObserver(p, 0.05 * np.ones((4, 2)), 6),
    ],
)
def test_estimates_along_a_record_are_the_online_ones(predictor, make, rng):
    observer = make(predictor)
    u, y = rng.uniform(-1, 1, (25, 2)), rng.standard_normal((25, 2))
    rows = observer.estimates(u, y)
    assert rows.shape == (26, 4)
    assert np.isnan(rows[:6]).all()
    for t in range(25):
        observer.update(u[t], y[t])
        if observer.ready:
            np.testing.assert_allclose(rows[t + 1], observer.state, atol=1e-13)


def test_observer_system_is_exactly_the_innovation_observer(rng):
    base = elman(5, 2, 3, seed=4)
    A, B2, bx = 0.1 * rng.standard_normal((5, 5)), rng.standard_normal((5, 2)), rng.standard_normal(5)
    D21, D22 = rng.standard_normal((3, 5)), rng.standard_normal((3, 2))
    system = replace(base, A=A, B2=B2, bx=bx, D21=D21, D22=D22)
    L, x, u, y = rng.standard_normal((5, 3)), rng.standard_normal(5), rng.standard_normal(2), rng.standard_normal(3)
    twin = observer_system(system, L)
    expected = system.step(x, u) + L @ (y - system.output(x, u))
    np.testing.assert_allclose(twin.step(x, np.concatenate([u, y])), expected, atol=1e-13)
    np.testing.assert_allclose(twin.output(x, np.concatenate([u, y])), system.output(x, u), atol=1e-13)


def make_state_observer(gentle, steps=15, bound=0.05):
    predictor, gain, model, own = gentle
    return StateObserver(
        predictor,
        gain,
        steps,
        residual_bound=bound,
        contraction=model,
        observer_contraction=own,
        input_error=[0.01, 0.0],
    )


def test_state_observer_keeps_its_certified_error(gentle, rng):
    observer = make_state_observer(gentle)
    system = observer.system
    u = switching(rng, PAST + 300, 2)
    x = far_past_state(system, u)
    worst = 0.0
    for t in range(PAST, PAST + 300):
        y = system.output(x[t], u[t]) + 0.05 * rng.choice([-1, 1], 2)
        estimate = observer.update(np.clip(u[t] + [0.01, 0.0], -1, 1), y)
        if observer.ready:
            assert observer.certified
            worst = max(worst, float(np.linalg.norm(x[t + 1] - estimate)))
    assert 0 < worst <= observer.error_radius


def test_two_state_observers_contract_at_the_certified_rate(gentle, rng):
    predictor, gain, _, own = gentle
    dynamics = observer_system(predictor.system, gain)
    a, b = rng.standard_normal((2, 4))
    for _ in range(20):
        v = rng.uniform(-1, 1, 4)
        before = np.linalg.norm(a - b)
        a, b = dynamics.step(a, v), dynamics.step(b, v)
        assert np.linalg.norm(a - b) <= own.rate * before + 1e-14


def test_missing_measurements_skip_the_innovation_and_are_flagged(gentle, rng):
    observer = make_state_observer(gentle)
    system, u = observer.system, np.array([0.3, -0.2])
    x = far_past_state(system, np.tile(u, (PAST, 1)))[-1]
    y = system.output(x, u)
    for _ in range(15):
        observer.update(u, y)
    assert observer.certified
    before = observer.state
    after = observer.update(u, np.array([np.nan, 0.0]))
    np.testing.assert_array_equal(after, step(system, before, u))
    # Here both metrics are the identity and the model contracts as well: a gap may not lose the certificate ...
    assert np.linalg.norm(after - x) <= observer.error_radius
    # ... but where metrics differ it does, until the effect has faded.
    predictor, gain, model, own = gentle
    P = np.diag([1.0, 1.0, 1.0, 4.0])
    skewed = NormContraction(own.system_digest, 0.97, P, 2 * own.input_gain)
    other = StateObserver(predictor, gain, 200, residual_bound=0.01, contraction=model, observer_contraction=skewed)
    for _ in range(200):
        other.update(u, y)
    assert other.certified
    other.update(u, np.full(2, np.nan))
    assert other.ready
    assert not other.certified
    for _ in range(300):
        other.update(u, y)
    assert other.certified


def test_kalman_gain_solves_its_riccati_equation_and_beats_open_loop(rng):
    system, std = elman(rate=0.97, gain=0.1, seed=0), np.array([0.05, 0.02])
    predictor = Predictor(system, signals("u", 2, 1.0))
    L = kalman_gain(predictor, output_noise_std=std, state_noise_std=0.1)
    A, _, C, _ = predictor.linearise(predictor.equilibrium(np.zeros(2)), np.zeros(2))
    F = A - L @ C
    assert np.abs(np.linalg.eigvals(F)).max() < 1
    P = np.eye(4)
    for _ in range(500):  # covariance of the filter with this gain: its optimal gain is that gain again
        P = F @ P @ F.T + 0.01 * np.eye(4) + L @ np.diag(std**2) @ L.T
    best = A @ P @ C.T @ np.linalg.inv(C @ P @ C.T + np.diag(std**2))
    np.testing.assert_allclose(L, best, rtol=0, atol=2.0**-16 * np.abs(L).max())  # L is rounded to 16 bits
    observer, open_loop = StateObserver(predictor, L, 1), RunningOn(predictor, 1)
    x, errors = np.zeros(4), []
    for u in rng.uniform(-1, 1, (400, 2)):
        y = system.output(x, u) + std * rng.standard_normal(2)
        x = system.step(x, u) + 0.1 * rng.standard_normal(4)
        errors.append([np.sum((x - o.update(u, y)) ** 2) for o in (observer, open_loop)])
    mine, theirs = np.mean(errors, axis=0)
    newest = 4 * 0.1**2  # the last push, which no observer can know
    assert mine - newest < 0.7 * (theirs - newest)


def test_state_error_changes_metric_soundly(rng):
    M = rng.standard_normal((3, 3))
    error = StateError(0.7, M @ M.T + np.eye(3))
    other = np.diag([1.0, 2.0, 3.0])
    e = rng.standard_normal((2000, 3))
    e *= (0.7 / np.sqrt(np.einsum("ti,ij,tj->t", e, error.metric, e)))[:, None]
    assert np.linalg.norm(e, axis=1).max() <= error.euclidean
    reached = np.sqrt(np.einsum("ti,ij,tj->t", e, other, e)).max()
    assert 0.9 * error.radius_in(other) < reached <= error.radius_in(other)


@pytest.mark.parametrize("nx", [2, 3, 4])
def test_radii_that_float64_cannot_compare_are_refused(nx):
    metric = np.diag([5e-324] + [1.0] * (nx - 1))
    with pytest.raises(SettingError, match="beyond float64"):
        StateError(0.1, metric).radius_in(np.eye(nx))
    np.testing.assert_allclose(stretch(4 * np.eye(2), np.eye(2)), 2)


def test_certificates_are_verified_and_required(predictor, contraction, gentle):
    with pytest.raises(CertificationError):
        Washout(predictor, 5, contraction=NormContraction.of(elman(seed=9)))
    with pytest.raises(SettingError, match="certificate"):
        Washout(predictor, 5).error_radius  # noqa: B018 -- the property raises
    with pytest.raises(CertificationError):
        StateObserver(predictor, np.zeros((4, 2)), 5, observer_contraction=gentle[3])
    with pytest.raises(SettingError, match="residual_bound"):
        StateObserver(predictor, np.zeros((4, 2)), 5, contraction=contraction).error  # noqa: B018
    assert "no certified error" in Washout(predictor, 5).describe()
    assert "certified 2-norm error" in Washout(predictor, 5, contraction=contraction).describe()
    assert not Washout(predictor, 1).certified


def test_digest_names_what_the_estimates_depend_on(predictor):
    assert Washout(predictor, 5).digest == Washout(predictor, 5).digest
    others = [Washout(predictor, 6), RunningOn(predictor, 5), Washout(predictor, 5, initial_state=np.zeros(4))]
    assert len({o.digest for o in [Washout(predictor, 5), *others]}) == 4


@pytest.mark.parametrize(
    ("act", "error"),
    [
        (lambda p: Washout(p, 0), SettingError),
        (lambda p: Washout(p, 2.5), SettingError),
        (lambda p: Washout(p, 5, initial_state=np.zeros(3)), ShapeError),
        (lambda p: Washout(p, 5, input_error=-1.0), SettingError),
        (lambda p: Washout(p, 5).update(np.zeros(3), np.zeros(2)), ShapeError),
        (lambda p: Washout(p, 5).update(np.zeros(2), np.zeros(1)), ShapeError),
        (lambda p: StateObserver(p, np.zeros((2, 4)), 5), ShapeError),
        (lambda p: kalman_gain(p, output_noise_std=0.0, state_noise_std=1.0), SettingError),
        (lambda p: kalman_gain(p, output_noise_std=1.0), SettingError),
    ],
)
def test_bad_input_is_refused(predictor, act, error):
    with pytest.raises(error):
        act(predictor)


def test_what_defaults_are_computed_from_names_an_observer_not_their_bits(monkeypatch):
    """A steady state that another processor finds a little elsewhere leaves the digest, the radii and certificates."""
    system, predictor = elman(), Predictor(elman(), signals("u", 2, 1.0))
    contraction, here = NormContraction.of(system), Predictor.equilibrium
    made = Washout(predictor, 20, contraction=contraction, input_error=0.01)
    monkeypatch.setattr(Predictor, "equilibrium", lambda self, u, **more: here(self, u, **more) * (1 + 3e-15))
    other = Washout(predictor, 20, contraction=contraction, input_error=0.01)
    assert not np.array_equal(made.initial_state, other.initial_state)
    assert made.digest == other.digest
    for one, two in ((made.error, other.error), (made.restart, other.restart), (made.jump, other.jump)):
        assert two.needed_in(one.metric) <= one.radius == two.radius
    wider = Predictor(system, signals("u", 2, 1.1))
    given = Washout(predictor, 20, contraction=contraction, initial_state=made.initial_state)
    assert len({made.digest, given.digest, Washout(wider, 20, contraction=contraction).digest}) == 3


def test_a_certificate_must_hold_for_the_gain_without_rounding():
    """A - L C is 0 in float64 and -1/2 without rounding: what forgets at 0.1 there does not here."""
    linear = replace(
        elman(1, 1, 2), A=np.array([[1e17]]), B1=np.zeros((1, 1)), C2=np.array([[1e17], [0.5]]), D21=np.zeros((2, 1))
    )
    gain = np.ones((1, 2))
    dynamics = observer_system(linear, gain)
    assert dynamics.A == 0
    fast = certify_contraction(dynamics, 0.1)
    assert fast.verify(dynamics) > 0
    with pytest.raises(CertificationError, match="without the rounding of A - L C"):
        StateObserver(
            Predictor(linear, signals("u", 1, 1.0)), gain, 5, initial_state=np.zeros(1), observer_contraction=fast
        )
