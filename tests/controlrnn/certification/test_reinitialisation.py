"""Re-initialisation: random runs stay below every bound, for every washout, running on and an observer."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import certify_contraction, certify_reinitialisation, load_certificate
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.reachable import settled_box, settled_radius
from controlrnn.errors import CertificationError, SettingError, ShapeError
from controlrnn.systems import observer_system

LOW, HIGH = np.array([-1.0, -0.5]), np.array([1.0, 1.5])
ERROR, RESIDUAL = np.array([0.05, 0.02]), np.array([0.1, 0.05])
W, N, PAST = 8, 4, 150
SYSTEMS = {
    "elman": lambda: random_elman(0),
    "layered": lambda: random_system(2, layers=(2, 2), coupling=0.1, activation="relu"),
    "sigmoid": lambda: random_system(3, layers=(3,), activation="sigmoid", norm=0.8),
    "linear": lambda: random_system(5, layers=(), norm=0.8),
}


def gain_of(system):
    return 0.02 * np.linalg.pinv(system.C2)


def settled(system, contraction, centre, inputs):
    return settled_radius(system, contraction.rate, contraction.metric, contraction.input_gain, centre, inputs)


@pytest.fixture(scope="module", params=SYSTEMS)
def certified(request):
    system = SYSTEMS[request.param]()
    return system, certify_reinitialisation(
        system, washout=W, horizon=N, input_range=(LOW, HIGH), input_error=ERROR, observer_gain=gain_of(system),
        residual_bound=RESIDUAL, iterations=40,
    )  # fmt: skip


def inputs(seed, runs=300, steps=PAST + W + N + 1):
    """True and recorded inputs at the edge of what is allowed: held, switching now and then, or random."""
    rng = np.random.default_rng(seed)
    u = np.where(rng.random((runs, steps, 2)) < 0.5, LOW, HIGH)
    u[::3] = np.repeat(u[::3, ::8], 8, axis=1)[:, :steps]
    u[1::3] = u[1::3, :1]
    u[::7] = rng.uniform(LOW, HIGH, u[::7].shape)
    signs = rng.choice([-1.0, 1.0], u.shape)
    signs[::2] = signs[::2, :1]
    return u, u + ERROR * signs


def norm(metric, dx):
    return np.sqrt(np.einsum("...i,ij,...j->...", dx, metric, dx))


def test_settled_states_lie_within_the_radius_and_the_box(certified):
    system, certificate = certified
    x = system.simulate(inputs(0)[0])[1][:, PAST:]
    distance = norm(certificate.contraction.metric, x - certificate.start)
    assert 0.1 * certificate.radius < distance.max() <= certificate.radius
    box = settled_box(system, (LOW, HIGH), Enclosure(np.zeros(system.nx), np.full(system.nx, 1e3)))
    low, high = box.lower(), box.upper()
    assert (x >= low).all()
    assert (x <= high).all()
    assert certificate.washout_error(0) >= certificate.radius


def test_a_washout_leaves_less_than_certified(certified):
    system, certificate = certified
    true, recorded = inputs(1)
    y, x = system.simulate(true)
    for steps in (0, 1, 3, W):
        begin = PAST + W - steps
        start = np.tile(certificate.start, (len(true), 1))
        guess, path = system.simulate(recorded[:, begin:], start)
        error = norm(certificate.contraction.metric, x[:, begin + steps] - path[:, steps])
        assert (error <= certificate.washout_error(steps)).all()
        seen = np.abs(y[:, PAST + W :] - guess[:, steps:]).max(axis=0)
        assert (seen <= certificate.output_bounds(steps)).all()
        assert seen.max() > 0


def test_running_on_leaves_less_than_certified(certified):
    system, certificate = certified
    true, recorded = inputs(2)
    (y, x), (guess, path) = system.simulate(true), system.simulate(recorded)
    error = norm(certificate.contraction.metric, (x - path)[:, PAST:])
    # The runs began together, not in the far past, which makes the error no larger.
    assert (error <= certificate.running_error).all()
    seen = np.abs(y - guess)[:, PAST + W :].max(axis=0)
    assert (seen <= certificate.running_bounds).all()
    assert certificate.running_bounds.shape == (N + 1, system.ny)
    assert certificate.running_error <= certificate.washout_error(W) * (1 + 1e-9)


def test_an_observer_leaves_less_than_certified(certified):
    system, certificate = certified
    true, recorded = inputs(3)
    y, x = system.simulate(true)
    rng = np.random.default_rng(4)
    measured = y + RESIDUAL * np.where(np.arange(len(y))[:, None, None] % 2, 1, rng.choice([-1.0, 1.0], y.shape))
    observing = observer_system(system, gain_of(system))
    signals = np.concatenate([recorded, measured], axis=2)[:, PAST : PAST + W]
    start = np.tile(certificate.start, (len(y), 1))
    path = observing.simulate(signals, start)[1]
    for steps in range(W + 1):
        error = norm(certificate.observer.metric, x[:, PAST + steps] - path[:, steps])
        assert (error <= certificate.observer_error(steps)).all()
    guess = system.simulate(recorded[:, PAST + W :], path[:, W])[0]
    assert (np.abs(y[:, PAST + W :] - guess).max(axis=0) <= certificate.observed.bounds).all()


def test_the_radius_of_a_scalar_system_is_exact():
    base = random_system(0, nx=1, nu=1, ny=1, layers=())
    system = replace(base, A=np.array([[0.5]]), B2=np.array([[2.0]]), bx=np.zeros(1))
    contraction = certify_contraction(system, 0.5 + 1e-6)
    radius = settled(system, contraction, np.zeros(1), (-np.ones(1), np.ones(1)))
    assert radius / np.sqrt(contraction.metric[0, 0]) == pytest.approx(4.0, rel=1e-4)


def test_boxes_are_better_than_balls_for_bounded_activations():
    system = random_elman(1, norm=1.1)
    contraction = certify_contraction(system)
    start = np.zeros(4)
    radius = settled(system, contraction, start, (LOW, HIGH))
    assert radius < 0.2 * contraction.reachable_radius(0.5 * (HIGH - LOW))


def test_altered_claims_are_refused(certified, tmp_path):
    system, certificate = certified
    certificate.save(tmp_path / "c.npz")
    again = load_certificate(tmp_path / "c.npz")
    assert again.verify(system) == certificate.margin
    assert again.digest == certificate.digest
    for change in (
        {"radius": 0.99 * certificate.radius},
        {"input_high": certificate.input_high + 0.1},
        {"input_error": 1.01 * certificate.input_error},
        {"residual_bound": 1.5 * certificate.residual_bound},
        {"start": certificate.start + 1.0},
        {"washout": W - 1},
        {"horizon": N + 1},
        {"observer_gain": 1.01 * certificate.observer_gain},
        {"observed": None},
        {"washed": certificate.running},
        {"running": certificate.observed},
        {"contraction": replace(certificate.contraction, rate=0.9 * certificate.contraction.rate)},
        {"washed": replace(certificate.washed, bounds=0.99 * certificate.washed.bounds)},
        {"input_error": -certificate.input_error},
        {"input_low": certificate.input_low[:1]},
    ):
        with pytest.raises(CertificationError):
            replace(certificate, **change).verify(system)
    C2 = np.array(system.C2)
    C2[0, 0] *= 1 + 1e-9
    with pytest.raises(CertificationError, match="weights differ"):
        certificate.verify(replace(system, C2=C2))


def test_summary_and_plot(certified):
    _, certificate = certified
    assert f"washout {W:4d}" in certificate.summary()
    figure = certificate.plot(labels=["level", "flow"])
    assert [a.get_xlabel() for a in figure.axes] == ["washout [steps]"] * 2 + ["steps ahead"] * 2
    drawn = figure.axes[2].lines[0].get_ydata()
    np.testing.assert_array_equal(drawn, certificate.output_bounds(0)[:, 0])
    cost = figure.axes[1].lines[0].get_ydata()
    np.testing.assert_array_equal(cost, [certificate.output_bounds(n)[:, 0].max() for n in range(W + 1)])


def test_enough_washout_is_the_first_that_costs_no_more(certified):
    _, certificate = certified
    running = certificate.running_bounds.max(axis=0)
    for factor in (1.1, 2.0, 30.0):
        steps = certificate.enough_washout(factor)
        within = [(certificate.output_bounds(n).max(axis=0) <= factor * running).all() for n in range(W + 1)]
        assert within.index(True) == steps if any(within) else steps is None
    assert certificate.enough_washout(1e6) == 0
    assert "running on" in certificate.summary().splitlines()[-2]


def test_washouts_beyond_what_is_certified_are_refused(certified):
    _, certificate = certified
    with pytest.raises(SettingError, match="at most washout"):
        certificate.output_bounds(W + 1)


def test_without_an_observer():
    system = random_elman(0)
    certificate = certify_reinitialisation(system, washout=2, horizon=1, input_range=(LOW, HIGH), iterations=5)
    assert certificate.running_error == 0
    assert not certificate.running_bounds.any()
    with pytest.raises(SettingError, match="observer_gain"):
        certificate.observer_error(1)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"washout": -1}, SettingError),
        ({"input_range": (HIGH, LOW)}, SettingError),
        ({"input_error": -0.1}, SettingError),
        ({"input_error": np.zeros(3)}, ShapeError),
        ({"start": np.zeros(9)}, ShapeError),
        ({"system": random_elman(0, nx=3, norm=1.5, activation="relu")}, CertificationError),
        ({"contraction": certify_contraction(random_elman(7, nx=2))}, CertificationError),
    ],
)
def test_bad_arguments_are_refused(change, error):
    arguments = {"washout": 2, "horizon": 1, "input_range": (LOW, HIGH), "iterations": 5} | change
    with pytest.raises(error):
        certify_reinitialisation(arguments.pop("system", random_elman(0)), **arguments)
