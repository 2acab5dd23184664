"""Bounds around a trajectory: above what neighbours do, close to it, and never looser than they need be."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import attack_around, certify_around, certify_horizon
from controlrnn.certification.proof.slopes import secant_slopes
from controlrnn.errors import CertificationError, SettingError, ShapeError
from controlrnn.systems import Activation
from controlrnn.systems.ops import NUMPY

SYSTEMS = {
    "elman": lambda seed: random_elman(seed, nx=4),
    "elman-relu": lambda seed: random_elman(seed, nx=4, activation="relu"),
    "layered": lambda seed: random_system(seed, nx=3, layers=(3, 2)),
    "acyclic-relu": lambda seed: random_system(seed, nx=2, layers=(1, 1, 1, 1), activation="relu"),
    "sigmoid": lambda seed: random_system(seed, layers=(4,), activation="sigmoid"),
    "leaky": lambda seed: random_system(seed, nx=2, layers=(2, 2), activation="leaky_relu", feedthrough=False),
    "linear": lambda seed: random_system(seed, layers=()),
    "unstable": lambda seed: random_system(seed, nx=2, layers=(3,), norm=1.2, coupling=0.8),
}


def no_tightening(system, steps, seed):
    rng = np.random.default_rng(seed)
    return rng.standard_normal(system.nx), np.repeat(rng.standard_normal((steps, system.nu)), 2, axis=0)[:steps]


def neighbours(system, x0, u, radius, box, *, metric=None, count=2000, seed=0):
    """Outputs (count, N + 1, ny) of neighbours: half of them on the edge of what is allowed."""
    rng = np.random.default_rng(seed)
    xi = rng.standard_normal((count, system.nx))
    xi *= radius / np.linalg.norm(xi, axis=1, keepdims=True)
    if metric is not None:
        xi = np.linalg.solve(np.linalg.cholesky(metric).T, xi.T).T
    du = box * rng.choice([-1.0, 1.0], (count, *u.shape))
    shrink = np.where(np.arange(count) % 2, 1.0, rng.uniform(0, 1, count))
    return system.simulate(u + shrink[:, None, None] * du, x0 + shrink[:, None] * xi)[0]


@pytest.mark.parametrize("kind", SYSTEMS)
@pytest.mark.parametrize("radii", [(0.3, 0.1), (1e-3, 0.0), (0.0, 0.05), (3.0, 1.0)])
def test_no_neighbour_leaves_the_bounds(kind, radii):
    system = SYSTEMS[kind](1)
    x0, u = no_tightening(system, 5, 2)
    box = radii[1] * np.array([1.0, 0.3])
    certificate = certify_around(system, x0, u, initial_radius=radii[0], input_radius=box, passes=2)
    assert certificate.verify(system) == certificate.margin > 0
    y = system.simulate(u, x0)[0]
    distance = np.abs(neighbours(system, x0, u, radii[0], box) - y).max(axis=0)
    assert (distance <= certificate.bounds).all()
    attack = attack_around(system, x0, u, initial_radius=radii[0], input_radius=box, starts=4, steps=12, seed=0)
    assert (attack.differences <= certificate.bounds).all()
    assert (attack.random <= attack.differences).all()
    small = radii[0] <= 1e-3 and radii[1] == 0
    if small or kind == "linear":  # as good as linear: nothing is lost at the step in focus
        assert (attack.differences[-1] >= 0.97 * certificate.bounds[-1]).all()
    if kind in ("elman", "sigmoid") and radii[0] < 1:
        assert (attack.differences[-1] >= 0.6 * certificate.bounds[-1]).all()


def test_an_ellipsoid_of_initial_states():
    system = SYSTEMS["layered"](3)
    x0, u = no_tightening(system, 6, 1)
    metric = np.array([[2.0, 0.3, 0.0], [0.3, 0.5, 0.1], [0.0, 0.1, 1.0]])
    certificate = certify_around(system, x0, u, initial_radius=0.2, metric=metric)
    y = system.simulate(u, x0)[0]
    assert (np.abs(neighbours(system, x0, u, 0.2, 0.0, metric=metric) - y) <= certificate.bounds).all()
    ball = certify_around(system, x0, u, initial_radius=0.2 / np.sqrt(np.linalg.eigvalsh(metric)[0]))
    assert (certificate.bounds[-1] < ball.bounds[-1]).all()


def test_known_slopes_make_the_bounds_tighter_than_those_for_all_trajectories():
    system = random_elman(0, nx=6, norm=0.98)
    x0, u = no_tightening(system, 15, 0)
    around = certify_around(system, x0, u, initial_radius=0.1, input_radius=0.05)
    everywhere = certify_horizon(system, 14, initial_radius=0.1, input_radius=0.05, iterations=60)
    assert (around.bounds[-1] < 0.7 * everywhere.bounds[-1]).all()
    smaller = certify_around(system, x0, u, initial_radius=0.01, input_radius=0.005)
    assert (smaller.bounds[-1] <= 0.1 * around.bounds[-1]).all()


def test_focus_buys_tighter_bounds_where_it_is():
    system = random_elman(2, nx=5)
    x0, u = no_tightening(system, 10, 0)
    settings = {"initial_radius": 0.2, "input_radius": 0.1}
    plain, last = (certify_around(system, x0, u, focus=focus, **settings) for focus in ([], None))
    assert (last.bounds <= plain.bounds).all()
    assert (last.bounds[-1] < 0.98 * plain.bounds[-1]).all()
    assert plain.focus == (None,)
    assert last.focus[1:]


def test_the_same_multipliers_serve_other_trajectories():
    system = random_elman(3, nx=5)
    x0, u = no_tightening(system, 12, 0)
    settings = {"initial_radius": 0.1, "input_radius": 0.05}
    certificate = certify_around(system, x0, u, **settings)
    for shift, iterations, worst in ((0.0, 0, 1 + 1e-9), (1e-3, 0, 1.05), (0.3, 5, 1.15)):
        moved = certificate.around(system, x0 + shift, u - shift, iterations=iterations)
        fresh = certify_around(system, x0 + shift, u - shift, **settings)
        assert moved.verify(system) > 0
        assert (moved.bounds[-1] <= worst * fresh.bounds[-1]).all()
        y = system.simulate(u - shift, x0 + shift)[0]
        assert (np.abs(neighbours(system, x0 + shift, u - shift, 0.1, 0.05) - y) <= moved.bounds).all()
    with pytest.raises(SettingError, match="rows"):
        certificate.around(system, x0, u[:-1])


def test_equal_trajectories_and_one_step():
    system = SYSTEMS["layered"](2)
    x0, u = no_tightening(system, 1, 0)
    one = certify_around(system, x0, u, initial_radius=0.1, input_radius=0.1)
    assert (np.abs(neighbours(system, x0, u, 0.1, 0.1) - system.simulate(u, x0)[0]) <= one.bounds).all()
    still = certify_around(system, x0, u, initial_radius=0.0)
    assert (still.bounds < 1e-9).all()


def test_states_that_nothing_reaches_are_no_obstacle():
    base = random_system(0, nx=3, layers=())
    shift = replace(base, A=np.diag([1.0, 1.0], -1), B2=np.eye(3, 2), bx=np.zeros(3), D22=np.zeros((2, 2)))
    x0, u = no_tightening(shift, 6, 0)
    bounds = certify_around(shift, x0, u, initial_radius=0.5).bounds
    np.testing.assert_allclose(bounds[0], 0.5 * np.linalg.norm(shift.C2, axis=1), rtol=1e-6)
    assert (bounds[3:] < 1e-6).all()


def test_what_overflows_is_refused():
    system = random_system(0, nx=2, layers=(3,), norm=50.0, coupling=30.0)
    with pytest.raises(CertificationError):
        certify_around(system, np.zeros(2), np.zeros((300, 2)), initial_radius=1.0)


@pytest.mark.parametrize("activation", list(Activation))
def test_chords_lie_within_the_slopes(activation):
    rng = np.random.default_rng(0)
    for scale in (0.1, 1.0, 5.0):
        base, reach = 2 * rng.standard_normal(400), scale * np.abs(rng.standard_normal(400))
        error = reach * rng.choice([0.0, 1e-9, 0.1], 400)
        low, high = secant_slopes(activation, base, error, reach)
        least, most = np.full(400, np.inf), np.full(400, -np.inf)
        for end in base + error * np.linspace(-1, 1, 7)[:, None]:
            h = reach[:, None] * np.linspace(-1, 1, 400)  # an even number: never zero
            chord = (activation.apply(NUMPY, end[:, None] + h) - activation.apply(NUMPY, end)[:, None]) / h
            keep = np.abs(h) > 1e-4
            least = np.minimum(least, np.where(keep, chord, np.inf).min(axis=1))
            most = np.maximum(most, np.where(keep, chord, -np.inf).max(axis=1))
        assert (low <= least + 1e-10).all()
        assert (high >= most - 1e-10).all()
        seen = np.isfinite(least)
        assert (least - low)[seen].max() < 0.02  # no wider than the samples are coarse
        assert (high - most)[seen].max() < 0.02


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"x0": np.zeros(2)}, ShapeError),
        ({"u": np.zeros((3, 1))}, ShapeError),
        ({"u": np.zeros((0, 2))}, SettingError),
        ({"initial_radius": -1.0}, SettingError),
        ({"input_radius": -1.0}, SettingError),
        ({"focus": [3]}, SettingError),
        ({"passes": 0}, SettingError),
    ],
)
def test_bad_arguments_are_refused(change, error):
    arguments = {"system": random_elman(0), "x0": np.zeros(4), "u": np.zeros((3, 2)), "initial_radius": 0.1} | change
    with pytest.raises(error):
        certify_around(**arguments)


def test_reversed_views_are_attacked_like_their_copies():
    system = SYSTEMS["elman"](0)
    x0, u = no_tightening(system, 4, 1)
    options = {"initial_radius": 0.1, "input_radius": 0.05, "starts": 1, "steps": 1, "seed": 0}
    views = attack_around(system, x0[::-1].copy()[::-1], u[::-1].copy()[::-1], **options)
    np.testing.assert_array_equal(views.differences, attack_around(system, x0, u, **options).differences)
