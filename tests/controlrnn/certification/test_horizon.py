"""Finite-horizon bounds: above everything that two trajectories do, exact where a closed form exists."""

from dataclasses import replace

import numpy as np
import pytest
from feedforward import W0, W1, feedforward
from random_systems import random_elman, random_pairs, random_system

from controlrnn.certification import attack_horizon, certify_horizon
from controlrnn.errors import CertificationError, DataError, SettingError, ShapeError

SYSTEMS = {
    "elman": lambda seed: random_elman(seed, nx=3, ny=1),
    "elman-relu": lambda seed: random_elman(seed, nx=3, ny=1, activation="relu"),
    "layered": lambda seed: random_system(seed, nx=2, ny=1, layers=(2, 2)),
    "layered-relu": lambda seed: random_system(seed, nx=2, ny=1, layers=(2, 1, 1), activation="relu"),
    "sigmoid": lambda seed: random_system(seed, ny=1, layers=(4,), activation="sigmoid"),
    "leaky": lambda seed: random_system(seed, nx=2, ny=1, layers=(1, 1, 1), activation="leaky_relu"),
    "linear": lambda seed: random_system(seed, layers=()),
    "unstable": lambda seed: random_system(seed, nx=2, ny=1, layers=(3,), norm=1.3, coupling=1.0),
}
QUICK = {"iterations": 25, "focus": [3]}


def assert_above(bounds, one, two):
    """Up to what rounding does to a difference of large numbers."""
    rounding = 1e-12 * np.maximum(np.abs(one), np.abs(two))
    assert (np.abs(two - one) - rounding <= bounds).all()


def exact_linear_bounds(system, steps, radius, input_radius):
    """max |dy_k| over the ball and the box: radius |c A^k| + sum_j |c A^j B| b, (steps + 1, ny)."""
    gain, feed = system.C2, np.abs(system.D22) @ input_radius
    bounds, past = [], 0.0
    for _ in range(steps + 1):
        bounds.append(radius * np.linalg.norm(gain, axis=1) + past + feed)
        past, gain = past + np.abs(gain @ system.B2) @ input_radius, gain @ system.A
    return np.array(bounds)


@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_pair_of_trajectories_exceeds_the_bounds(kind, seed):
    system = SYSTEMS[kind](seed)
    radii = np.array([0.2, 0.05])
    certificate = certify_horizon(system, 3, initial_radius=0.5, input_radius=radii, **QUICK)
    assert certificate.bounds.shape == (4, system.ny)
    for scale in (1.0, 1e-3):  # small differences find the steep places, large ones saturate
        pairs = random_pairs(system, 4, radius=scale * 0.5, input_radius=scale * radii, seed=seed)
        assert_above(certificate.bounds * scale, *pairs)
    attack = attack_horizon(
        system,
        3,
        initial_radius=0.5,
        input_radius=radii,
        input_range=(np.full(2, -3.0), np.full(2, 3.0)),
        starts=16,
        steps=15,
        seed=seed,
    )
    assert (attack.differences <= certificate.bounds * (1 + 1e-9)).all()
    assert (attack.random <= attack.differences).all()
    if kind in ("elman", "elman-relu", "linear"):
        assert (attack.differences[-1] > 0.5 * certificate.bounds[-1]).all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("seed", range(2, 8))
def test_no_pair_exceeds_the_bounds_of_longer_horizons(kind, seed):
    system = SYSTEMS[kind](seed)
    rng = np.random.default_rng(seed)
    L = np.eye(system.nx) + 0.4 * rng.standard_normal((system.nx, system.nx))
    metric = L @ L.T + 0.1 * np.eye(system.nx)
    metric = 0.5 * (metric + metric.T)
    radii = rng.uniform(0, 0.5, 2)
    certificate = certify_horizon(system, 12, initial_radius=0.3, input_radius=radii, metric=metric)
    for scale in (1.0, 1e-2):
        pairs = random_pairs(
            system, 13, radius=scale * 0.3, input_radius=scale * radii, metric=metric, pairs=20000, seed=seed
        )
        assert_above(certificate.bounds * scale, *pairs)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("method", ["riccati", "sdp"])
def test_linear_bounds_from_initial_states_are_exact(seed, method):
    system = random_system(seed, nx=3, layers=(), norm=[0.5, 1.4][seed % 2])
    certificate = certify_horizon(system, 6, initial_radius=0.3, method=method)
    exact = exact_linear_bounds(system, 6, 0.3, np.zeros(2))
    assert (certificate.bounds >= exact).all()
    np.testing.assert_allclose(certificate.bounds, exact, rtol=1e-6)


@pytest.mark.parametrize("seed", range(3))
def test_linear_bounds_with_inputs_are_exact_where_the_focus_is(seed):
    """The S-procedure loses nothing for one linear output: each ball gets a weight of its own."""
    system = random_system(seed, nx=3, layers=())
    radii = np.array([0.2, 0.05])
    certificate = certify_horizon(system, 3, initial_radius=0.3, input_radius=radii, focus=[3])
    exact = exact_linear_bounds(system, 3, 0.3, radii)
    assert (certificate.bounds >= exact).all()
    np.testing.assert_allclose(certificate.bounds[-1], exact[-1], rtol=2e-3)


# Where layers are coupled the quasi-Newton search stops short of the optimum, on the safe side.
@pytest.mark.parametrize(("kind", "gap"), [("elman", 1.03), ("linear", 1.003), ("sigmoid", 1.03), ("layered", 1.2)])
def test_both_methods_agree(kind, gap):
    system = SYSTEMS[kind](3)
    own, reference = (
        certify_horizon(system, 3, initial_radius=0.5, input_radius=0.1, focus=[3], method=m)
        for m in ("riccati", "sdp")
    )
    assert (own.bounds[-1] >= reference.bounds[-1] * (1 - 1e-4)).all()
    assert (own.bounds[-1] <= reference.bounds[-1] * gap).all()
    assert reference.solver_status
    assert own.solver_status == ""


@pytest.mark.parametrize("max_iters", [5, 30])
def test_a_sloppy_solver_gives_a_true_bound_or_none(max_iters):
    """SCS stopped early: its own optimum is below the truth, its multipliers lie outside of the feasible set."""
    system = SYSTEMS["layered"](4)
    good = certify_horizon(system, 2, initial_radius=0.5, input_radius=0.1, focus=[2], method="sdp")
    try:
        sloppy = certify_horizon(
            system,
            2,
            initial_radius=0.5,
            input_radius=0.1,
            focus=[2],
            method="sdp",
            solver="SCS",
            solver_options={"eps": 1e-2, "max_iters": max_iters},
        )
    except CertificationError:
        return
    assert sloppy.verify(system) > 0
    assert (sloppy.bounds[-1] >= good.bounds[-1] * (1 - 1e-5)).all()


def test_a_failing_solver_is_a_certification_error():
    with pytest.raises(CertificationError, match="NOSUCH failed"):
        certify_horizon(SYSTEMS["elman"](0), 1, initial_radius=1.0, method="sdp", solver="NOSUCH")


def test_a_horizon_beyond_its_bounds_is_refused_before_room_is_made_for_it():
    system = random_elman(0, nx=2, ny=1)
    certificate = certify_horizon(system, 2, initial_radius=0.1, input_radius=0.1, iterations=5)
    with pytest.raises(CertificationError, match="bounds must be finite, of shape"):
        replace(certificate, horizon=2**40).verify(system)


def test_horizon_zero_is_the_output_map():
    system = random_system(1, layers=())
    radii = np.array([0.2, 0.0])
    certificate = certify_horizon(system, 0, initial_radius=0.5, input_radius=radii)
    np.testing.assert_allclose(certificate.bounds, exact_linear_bounds(system, 0, 0.5, radii), rtol=2e-3)
    elman = random_elman(0)
    certificate = certify_horizon(elman, 0, initial_radius=0.5, input_radius=0.1)
    np.testing.assert_allclose(certificate.bounds[0], 0.5 * np.linalg.norm(elman.C2, axis=1), rtol=1e-3)


def test_equal_states_or_equal_inputs_or_both():
    system = SYSTEMS["layered"](5)
    both = certify_horizon(system, 3, initial_radius=0.5, input_radius=0.1, **QUICK)
    states = certify_horizon(system, 3, initial_radius=0.5, **QUICK)
    inputs = certify_horizon(system, 3, initial_radius=0.0, input_radius=0.1, **QUICK)
    nothing = certify_horizon(system, 3, initial_radius=0.0)
    assert (states.bounds[-1] < both.bounds[-1]).all()
    assert (inputs.bounds[-1] < both.bounds[-1]).all()
    assert (both.bounds[-1] <= (states.bounds + inputs.bounds)[-1] * 1.05).all()
    assert not nothing.bounds.any()
    assert nothing.verify(system) > 0
    assert_above(states.bounds, *random_pairs(system, 4, radius=0.5, input_radius=0.0))
    assert_above(inputs.bounds, *random_pairs(system, 4, radius=0.0, input_radius=0.1))


def test_an_output_that_sees_nothing_has_a_negligible_bound():
    system = random_elman(0, nx=3)
    blind = replace(system, C2=np.vstack([system.C2[:1], np.zeros((1, 3))]))
    bounds = certify_horizon(blind, 3, initial_radius=0.5, input_radius=0.1, **QUICK).bounds
    assert (bounds[:, 1] < 1e-6 * bounds[:, 0]).all()


@pytest.mark.parametrize("norm", [0.0, 1e-6, 0.01])
def test_fast_forgetting_does_not_underflow(norm):
    """Storages shrink by norm^2 a step: far below what absolute tolerances, and even exp(-300), could hold."""
    system = random_elman(0, nx=2, ny=1, norm=norm)
    certificate = certify_horizon(system, 60, initial_radius=1.0, iterations=5, focus=[60])
    assert (certificate.bounds[20:] < 1e-20).all()
    assert_above(certificate.bounds, *random_pairs(system, 61, radius=1.0, input_radius=0.0, pairs=100))


def test_states_that_no_output_sees_are_no_obstacle():
    """A shift register forgets entirely, an unobservable state never mattered: zero rows in the storages."""
    base = random_system(0, nx=3, layers=())
    shift = replace(base, A=np.diag([1.0, 1.0], -1), C2=np.array([[0.0, 0.0, 2.0], [0.0, 1.0, 0.0]]))
    bounds = certify_horizon(shift, 5, initial_radius=0.5).bounds
    np.testing.assert_allclose(bounds, [[1, 0.5], [1, 0.5], [1, 0], [0, 0], [0, 0], [0, 0]], rtol=1e-6, atol=1e-60)
    unseen = random_elman(0, nx=3)
    unseen = replace(unseen, C1=unseen.C1 * [1, 1, 0], C2=unseen.C2 * [1, 1, 0])
    certificate = certify_horizon(unseen, 3, initial_radius=0.5, input_radius=0.1, **QUICK)
    assert_above(certificate.bounds, *random_pairs(unseen, 4, radius=0.5, input_radius=0.1))


def test_a_channel_of_radius_zero_does_not_exist():
    system = SYSTEMS["layered"](6)
    one = certify_horizon(system, 3, initial_radius=0.5, input_radius=np.array([0.0, 0.1]), **QUICK)
    alone = replace(system, B2=system.B2[:, 1:], D12=system.D12[:, 1:], D22=system.D22[:, 1:])
    np.testing.assert_allclose(
        certify_horizon(alone, 3, initial_radius=0.5, input_radius=0.1, **QUICK).bounds, one.bounds, rtol=1e-12
    )


def test_an_ellipsoid_is_a_ball_in_other_coordinates():
    system = SYSTEMS["layered"](7)
    L = np.array([[2.0, 0.0], [0.7, 0.5]])
    metric = L @ L.T
    ellipsoid = certify_horizon(system, 3, initial_radius=0.5, input_radius=0.1, metric=metric)
    T, back = L.T, np.linalg.inv(L.T)  # xi = L' x
    local = replace(
        system,
        A=T @ system.A @ back,
        B1=T @ system.B1,
        B2=T @ system.B2,
        bx=T @ system.bx,
        C1=system.C1 @ back,
        C2=system.C2 @ back,
    )
    ball = certify_horizon(local, 3, initial_radius=0.5, input_radius=0.1)
    np.testing.assert_allclose(ellipsoid.bounds, ball.bounds, rtol=5e-3)
    assert_above(ellipsoid.bounds, *random_pairs(system, 4, radius=0.5, input_radius=0.1, metric=metric))


@pytest.mark.slow
def test_bounds_scale_with_the_radii():
    system = SYSTEMS["sigmoid"](1)
    one = certify_horizon(system, 3, initial_radius=0.5, input_radius=0.1)
    ten = certify_horizon(system, 3, initial_radius=5.0, input_radius=1.0)
    np.testing.assert_allclose(ten.bounds, 10 * one.bounds, rtol=5e-3)


@pytest.mark.parametrize("seed", [0, 1])
def test_a_smaller_initial_difference_is_not_bounded_worse(seed):
    # A search that gets stuck shows here: these optima are where the initial difference hardly counts.
    system = random_elman(seed, nx=6, nu=2, ny=1, norm=0.98)
    none, small, some = (
        certify_horizon(system, 30, initial_radius=r, input_radius=0.1).bounds[10:] for r in (0.0, 0.01, 0.1)
    )
    assert (none <= 1.02 * small).all()
    assert (small <= 1.02 * some).all()


def test_same_arguments_same_certificate():
    system = SYSTEMS["elman"](2)
    one, two = (certify_horizon(system, 3, initial_radius=0.5, input_radius=0.1, **QUICK) for _ in range(2))
    assert one.digest == two.digest


@pytest.mark.parametrize("method", ["riccati", "sdp"])
def test_the_network_that_refutes_coupled_multipliers(method):
    """LipSDP-Network claims 0.5230 for this ReLU network, whose slope reaches 1.3219283323."""
    system = feedforward([W0, W1], [np.array([-1.0, 1.0, 1.0])], "relu")
    certificate = certify_horizon(system, 0, initial_radius=1.0, method=method)
    x = np.random.default_rng(0).uniform(-5, 5, (20000, 2))
    active = x @ W0.T + system.bv > 0
    slope = np.linalg.norm((active * W1) @ W0, axis=1).max()
    assert slope == pytest.approx(1.3219283323, abs=1e-9)
    assert slope <= certificate.bounds[0, 0] < 1.3225


def test_deep_chains_are_bounded_and_beat_the_product_of_norms():
    rng = np.random.default_rng(1)
    weights = [rng.standard_normal((4, 3)), *(0.5 * rng.standard_normal((4, 4)) for _ in range(3)), np.ones((1, 4))]
    system = feedforward(weights, [rng.standard_normal(4) for _ in range(4)], "tanh")
    bound = certify_horizon(system, 0, initial_radius=1.0).bounds[0, 0]
    assert bound < 0.9 * np.prod([np.linalg.norm(w, 2) for w in weights])
    one, two = random_pairs(system, 1, radius=1e-3, input_radius=0.0, pairs=20000)
    assert np.abs(one - two).max() <= bound * 1e-3 * (1 + 1e-9)


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"horizon": -1}, SettingError),
        ({"horizon": 2.5}, SettingError),
        ({"initial_radius": -1.0}, SettingError),
        ({"initial_radius": np.nan}, SettingError),
        ({"input_radius": -0.1}, SettingError),
        ({"input_radius": np.array([0.1, np.nan])}, DataError),
        ({"input_radius": np.zeros(3)}, ShapeError),
        ({"metric": np.eye(2)}, ShapeError),
        ({"metric": np.diag([1.0, 1.0, -1.0])}, DataError),
        ({"metric": np.diag([1.0, 1.0, 0.0])}, DataError),
        ({"metric": np.eye(3) + np.diag([1e-9, 0], 1)}, DataError),
        ({"focus": [5]}, SettingError),
        ({"focus": []}, SettingError),
        ({"focus": [-1]}, SettingError),
        ({"method": "guess"}, ValueError),
    ],
)
def test_bad_arguments_are_refused(arguments, error):
    with pytest.raises(error):
        certify_horizon(**({"system": random_elman(0, nx=3), "horizon": 2, "initial_radius": 1.0} | arguments))


def test_a_long_horizon_costs_little_and_stays_flat():
    """260 steps: the head is optimised, the tail follows from the contraction metric."""
    system = random_elman(0, nx=3, norm=0.9)
    certificate = certify_horizon(system, 260, initial_radius=0.5, input_radius=0.05, iterations=60, focus=[260])
    assert (certificate.bounds[-1] <= 1.05 * certificate.bounds[120]).all()
    assert_above(certificate.bounds, *random_pairs(system, 261, radius=0.5, input_radius=0.05, pairs=50))


def test_a_long_horizon_of_an_expanding_system_is_optimised_whole():
    system = random_system(1, nx=1, nu=1, ny=1, layers=(), norm=1.01)
    certificate = certify_horizon(system, 205, initial_radius=0.5, iterations=5, focus=[205])
    exact = np.abs(system.C2[0, 0]) * np.abs(system.A[0, 0]) ** np.arange(206) * 0.5
    np.testing.assert_allclose(certificate.bounds[:, 0], exact, rtol=1e-6)
