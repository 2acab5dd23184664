"""The same model measured in other units is certified with the same bounds in those units."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import certify_contraction, certify_gains, certify_horizon, certify_l2_gain

SYSTEMS = {
    "elman": random_elman(0, nx=3),
    "relu": random_elman(1, nx=4, activation="relu"),
    "layers": random_system(2, layers=(2, 2)),
    "linear": random_system(5, layers=()),
}
MIXED = np.array([1e8, 1e-8, 1.0, 1e4])
UNITS = {
    "pascal for centimetres": (1.0, 1.0, 98.0665),
    "small outputs": (1.0, 1.0, 1e-8),
    "large inputs": (1.0, 1e8, 1.0),
    "mixed states": (MIXED, 1.0, 1.0),
    "all": (MIXED, 1e-6, 1e7),
}


def in_units(s, units):
    dx, du, dy = (np.broadcast_to(unit, 4)[:n] for unit, n in zip(units, (s.nx, s.nu, s.ny), strict=True))
    scaled = {
        "A": dx[:, None] * s.A / dx, "B1": dx[:, None] * s.B1, "B2": dx[:, None] * s.B2 / du, "bx": dx * s.bx,
        "C1": s.C1 / dx, "D12": s.D12 / du, "C2": dy[:, None] * s.C2 / dx, "D21": dy[:, None] * s.D21,
        "D22": dy[:, None] * s.D22 / du, "by": dy * s.by,
    }  # fmt: skip
    return replace(s, **scaled), dx, du, dy


def horizon(units, system):
    s, dx, du, dy = in_units(system, units)
    error, metric = 0.1 * du, np.diag(dx**-2.0)
    return certify_horizon(s, 5, initial_radius=0.5, input_radius=error, metric=metric, iterations=30).bounds / dy


def gains(units, system):
    s, dx, du, dy = in_units(system, units)
    found = certify_gains(s, 4, metric=np.diag(dx**-2.0), iterations=30)
    return np.concatenate([(found.initial / dy).ravel(), (found.inputs / dy[:, None] * du).ravel()])


def contraction(units, system):
    s, _, du, dy = in_units(system, units)
    found = certify_contraction(s, input_scale=du, output_scale=dy)
    return np.append(found.input_gain * du, found.rate)


def l2_gain(units, system):
    s, _, du, dy = in_units(system, units)
    return certify_l2_gain(s, input_scale=du, output_scale=dy).gamma


@pytest.mark.parametrize("kind", [horizon, gains, contraction, l2_gain])
@pytest.mark.parametrize("name", SYSTEMS)
def test_bounds_are_the_same_in_any_units(name, kind):
    plain = kind((1.0, 1.0, 1.0), SYSTEMS[name])
    for units in UNITS.values():
        np.testing.assert_allclose(kind(units, SYSTEMS[name]), plain, rtol=1e-6, atol=1e-130)


@pytest.mark.parametrize("scale", [1e-8, 1e-100, 1e-170, 1e-250])
def test_bounds_are_proportional_to_the_differences(scale):
    plain = certify_horizon(SYSTEMS["elman"], 4, initial_radius=0.5, input_radius=0.1, iterations=30)
    small = certify_horizon(SYSTEMS["elman"], 4, initial_radius=0.5 * scale, input_radius=0.1 * scale, iterations=30)
    np.testing.assert_allclose(small.bounds / scale, plain.bounds, rtol=1e-6)


def test_what_cannot_be_reached_has_no_gain():
    system = random_system(0, layers=(), feedthrough=False)
    assert (certify_gains(system, 4).inputs[0] == 0).all()
    delayed = replace(system, A=np.diag([1.0, 1.0], k=-1), B2=np.eye(3)[:, :2], C2=np.eye(3)[1:])
    found = certify_gains(delayed, 4)
    response = [delayed.C2 @ np.linalg.matrix_power(delayed.A, m) @ delayed.B2 for m in range(4)]
    np.testing.assert_allclose(found.inputs[1:], np.abs(response), rtol=1e-3, atol=1e-9)
    assert ((found.inputs[1:] == 0) == (np.array(response) == 0)).all()


@pytest.mark.parametrize("nx", [1, 3])
def test_nothing_differs_at_all(nx):
    """No initial difference and exact inputs: units exist, and the bounds are zero, or nearly."""
    system = random_system(0, nx=nx, layers=(), feedthrough=False)
    found = certify_horizon(system, 3, initial_radius=0.0, iterations=5)
    assert (found.bounds <= 1e-100).all()


@pytest.mark.parametrize("error", [5e-324, 1e-250, 1e-60])
def test_input_errors_far_below_all_else_are_no_input_errors(error):
    """Rounded to single precision they vanish, and with them their multipliers did."""
    system = random_elman(3, nx=3)
    none = certify_horizon(system, 3, initial_radius=0.1, iterations=5).bounds
    found = certify_horizon(system, 3, initial_radius=0.1, input_radius=error, iterations=5)
    assert found.verify(system) > 0
    np.testing.assert_allclose(found.bounds, none, rtol=1e-3)
