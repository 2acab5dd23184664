"""Every proven bound against what trajectories really do: 200 random systems, all layer structures and input errors."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import (
    InputError,
    attack_around,
    attack_horizon,
    certify_around,
    certify_gains,
    certify_horizon,
    load_certificate,
)
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import ROOM

STRUCTURES = [
    {"layers": (3,)}, {"layers": (2, 2)}, {"layers": (1, 1, 1)}, {"layers": ()},
    {"layers": (1, 2), "feedthrough": False}, {"layers": (3,), "activation": "relu"},
    {"layers": (2, 1), "activation": "relu"},
    {"layers": (2, 2), "activation": "leaky_relu"}, {"layers": (4,), "activation": "sigmoid"},
    {"layers": (3,), "norm": 1.2, "coupling": 0.8},
]  # fmt: skip
KINDS = [
    {"kind": "box"}, {"kind": "ball"}, {"kind": "few", "steps": 1}, {"kind": "few", "steps": 3}, {"kind": "constant"},
    {"kind": "rate_limited", "rate": 0.02}, {"kind": "rate_limited", "rate": np.array([0.0, 1.0])},
]  # fmt: skip
STEPS = 4


def case(seed):
    """A system, an input error and an initial radius."""
    rng = np.random.default_rng(seed)
    if seed % 11 == 10:
        system = random_elman(seed, nx=3, ny=1)
    else:
        system = random_system(seed, nx=2, ny=1, **STRUCTURES[seed % len(STRUCTURES)])
    kind = KINDS[(seed // len(STRUCTURES)) % len(KINDS)]
    radius = rng.choice([0.0, 1e-3, 0.3, 2.0])
    return (
        system,
        InputError(radius=rng.choice([1e-3, 0.1, 1.0]) * np.array([1.0, rng.choice([0.0, 0.5])]), **kind),
        radius,
    )


def pairs(system, error, radius, *, count, seed):
    """Outputs (count, STEPS + 1, ny) of two runs each, with differences at the edge of what is allowed."""
    rng = np.random.default_rng(seed)
    shape = (count, STEPS + 1, system.nu)
    size = 10.0 ** rng.uniform(-1, 0.7, (count, 1))
    x0, u = size * rng.standard_normal((count, system.nx)), size[..., None] * rng.standard_normal(shape)
    xi = rng.standard_normal((count, system.nx))
    xi *= radius / np.linalg.norm(xi, axis=1, keepdims=True)
    du = InputError.of(error, system.nu).extreme(rng.standard_normal(shape))
    return system.simulate(u, x0)[0], system.simulate(u + du, x0 + xi)[0]


def assert_holds(seed, *, iterations, starts):
    system, error, radius = case(seed)
    certificate = certify_horizon(system, STEPS, initial_radius=radius, input_radius=error, iterations=iterations)
    one, two = pairs(system, error, radius, count=1000, seed=seed)
    rounding = 1e-12 * np.maximum(np.abs(one), np.abs(two))
    assert (np.abs(one - two) - rounding <= certificate.bounds).all(), (seed, error)
    reached = attack_horizon(
        system,
        STEPS,
        initial_radius=radius,
        input_radius=error,
        input_range=(-2 * np.ones(2), 2 * np.ones(2)),
        starts=starts,
        steps=starts,
        seed=seed,
    )
    assert (reached.differences <= certificate.bounds * (1 + 1e-9) + 1e-12).all(), (seed, error)
    if error.kind == "box":
        assert_holds_around(seed, starts=starts)


def assert_holds_around(seed, *, starts):
    """The bounds around one trajectory."""
    system, error, radius = case(seed)
    rng = np.random.default_rng(seed)
    x0, u = rng.standard_normal(system.nx), rng.standard_normal((STEPS + 1, system.nu))
    tube = certify_around(system, x0, u, initial_radius=radius, input_radius=np.asarray(error.radius), passes=2)
    reached = attack_around(
        system,
        x0,
        u,
        initial_radius=radius,
        input_radius=np.asarray(error.radius),
        starts=starts,
        steps=starts,
        seed=seed,
    )
    assert (reached.differences <= tube.bounds).all(), seed


@pytest.mark.parametrize("seed", [*range(0, 200, 7), 148])
def test_no_violation(seed):
    assert_holds(seed, iterations=15, starts=4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(200))
def test_no_violation_on_two_hundred_systems(seed):
    assert_holds(seed, iterations=60, starts=16)


def test_kinds_are_ordered_as_their_sets(tmp_path):
    """Fewer errors, smaller bounds; what is a part of the box is never above it."""
    system = random_elman(0, nx=4, ny=1, norm=0.95)
    settings = {"initial_radius": 0.1, "iterations": 30, "focus": [8]}
    bounds = {}
    for name, kind in {
        "box": {},
        "ball": {"kind": "ball"},
        "one": {"kind": "few", "steps": 1},
        "three": {"kind": "few", "steps": 3},
        "all": {"kind": "few", "steps": 9},
        "constant": {"kind": "constant"},
        "slow": {"kind": "rate_limited", "rate": 1e-4},
        "fast": {"kind": "rate_limited", "rate": 9.0},
    }.items():
        certificate = certify_horizon(system, 8, input_radius=InputError(radius=0.2, **kind), **settings)
        bounds[name] = certificate.bounds[-1, 0]
        certificate.save(tmp_path / "c.npz")
        loaded = load_certificate(tmp_path / "c.npz")
        assert loaded.digest == certificate.digest
        assert loaded.verify(system) > 0
        assert loaded.summary() == certificate.summary()
    for smaller in ("ball", "three", "constant", "slow", "fast"):
        assert bounds[smaller] <= bounds["box"] * (1 + 1e-6), smaller
    assert bounds["one"] < 0.8 * bounds["box"]
    assert bounds["one"] < bounds["three"] < bounds["all"] * (1 + 1e-6)


def test_a_slow_drift_of_a_linear_system_is_much_less_than_what_jumps_do():
    """An integrator of differences hardly sees what does not change: x+ = 0.5 x + (u - u_before)."""
    system = random_system(0, nx=2, nu=1, ny=1, layers=())
    zero = np.zeros
    system = replace(
        system,
        A=np.array([[0.5, -1.0], [0.0, 0.0]]),
        B2=np.array([[1.0], [1.0]]),
        bx=zero(2),
        C2=np.array([[1.0, 0.0]]),
        D22=zero((1, 1)),
        by=zero(1),
    )
    bounds = {}
    for name, kind in {
        "box": {},
        "slow": {"kind": "rate_limited", "rate": 0.01},
        "constant": {"kind": "constant"},
    }.items():
        error = InputError(radius=1.0, **kind)
        bounds[name] = certify_horizon(system, 12, initial_radius=0.0, input_radius=error).bounds[-1, 0]
    assert bounds["constant"] < 0.01 * bounds["box"]
    assert 0.01 < bounds["slow"] < 0.1 * bounds["box"]


def test_what_a_certificate_covers_beyond_boxes_is_told_to_those_who_ask_for_boxes():
    error = InputError.of(InputError(kind="ball", radius=0.2), 2)
    np.testing.assert_allclose(error.covered_box(5), 0.2 / np.sqrt(2))
    assert not InputError.of(InputError(kind="constant", radius=0.2), 2).covered_box(5).any()
    assert not InputError.of(InputError(kind="few", radius=0.2, steps=5), 2).covered_box(5).any()
    np.testing.assert_allclose(InputError.of(InputError(kind="few", radius=0.2, steps=6), 2).covered_box(5), 0.2)
    slow = InputError.of(InputError(kind="rate_limited", radius=0.2, rate=0.1), 2)
    np.testing.assert_allclose(slow.covered_box(5), 0.05)


def test_gains_count_where_they_are_tighter():
    system = random_elman(1, nx=3, ny=1)
    gains = certify_gains(system, 6)
    plain = certify_horizon(system, 6, initial_radius=0.3, input_radius=0.1, focus=[6], iterations=0)
    both = certify_horizon(system, 6, initial_radius=0.3, input_radius=0.1, focus=[6], iterations=0, gains=gains)
    assert (both.bounds == np.minimum(plain.bounds, gains.bounds(0.3, 0.1) * ROOM)).all()
    assert (both.bounds < plain.bounds).any()
    assert both.verify(system) > 0
    with pytest.raises(CertificationError):
        replace(both, gains=replace(gains, initial=0.9 * gains.initial)).verify(system)
    with pytest.raises(CertificationError):
        replace(both, gains=None).verify(system)


def test_known_boxes_tighten_and_hold():
    system = random_elman(4, nx=3, ny=1, norm=0.9)
    inputs, states = (np.array([2.0, 2.0]), np.array([2.5, 2.5])), (-0.2 * np.ones(3), 0.2 * np.ones(3))
    boxed = certify_horizon(
        system, 4, initial_radius=0.1, input_radius=0.1, input_range=inputs, state_range=states, iterations=60
    )
    free = certify_horizon(system, 4, initial_radius=0.1, input_radius=0.1, iterations=60)
    assert (boxed.bounds[1:] < 0.95 * free.bounds[1:]).all()
    rng = np.random.default_rng(0)
    u = rng.uniform(*inputs, (4000, 5, 2))
    v = np.clip(u + 0.1 * rng.choice([-1, 1], u.shape), *inputs)
    x = rng.uniform(*states, (4000, 3))
    z = rng.standard_normal(x.shape)
    z = np.clip(x + 0.1 * z / np.linalg.norm(z, axis=1, keepdims=True), *states)
    difference = np.abs(system.simulate(u, x)[0] - system.simulate(v, z)[0]).max(axis=0)
    assert (difference <= boxed.bounds).all()
    with pytest.raises(SettingError, match="together"):
        certify_horizon(system, 4, initial_radius=0.1, input_range=inputs)


@pytest.mark.parametrize(
    "arguments",
    [
        {"kind": "box", "rate": 0.1}, {"kind": "rate_limited"}, {"kind": "few"}, {"kind": "few", "steps": 0},
        {"kind": "ball", "steps": 2}, {"kind": "sometimes"},
    ],
)  # fmt: skip
def test_bad_kinds_are_refused(arguments):
    with pytest.raises(SettingError):
        InputError(radius=0.1, **arguments)
