from dataclasses import replace

import casadi
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_elman, random_system

from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.export import to_casadi
from controlrnn.kernels.linearisation import linearise_trajectory
from controlrnn.systems import Activation

LAYERS = [(4,), (1, 1, 1), (3, 2), (1, 4, 2)]


def by_casadi(system, x, u):
    step, output = to_casadi(system)
    X, U = casadi.SX.sym("x", system.nx), casadi.SX.sym("u", system.nu)
    parts = [casadi.densify(casadi.jacobian(f(X, U), z)) for f in (step, output) for z in (X, U)]
    tool = casadi.Function("jacobians", [X, U], parts)
    samples = [[np.array(part) for part in tool(*point)] for point in zip(x, u, strict=True)]
    return [np.array(part) for part in zip(*samples, strict=True)]


@pytest.mark.parametrize("activation", list(Activation))
@pytest.mark.parametrize("layers", LAYERS)
@pytest.mark.parametrize("feedthrough", [False, True])
def test_jacobians_equal_those_of_automatic_differentiation(layers, activation, feedthrough):
    system = random_system(3, layers=layers, activation=activation, feedthrough=feedthrough, norm=0.9)
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((6, system.nx)), rng.standard_normal((6, system.nu))
    found = linearise_trajectory(system, x, u)
    for name, expected in zip("ABCD", by_casadi(system, x, u), strict=True):
        np.testing.assert_allclose(getattr(found, name), expected, atol=1e-13, err_msg=name)
    np.testing.assert_allclose(found.w, system.neurons(x, u @ system.D12.T + system.bv), atol=1e-15)


@given(st.integers(0, 10**6), st.integers(1, 5), st.lists(st.integers(1, 3), max_size=3))
@settings(max_examples=25)
def test_jacobians_predict_small_changes(seed, nx, layers):
    system = random_system(seed, nx=nx, layers=tuple(layers), activation="sigmoid")
    rng = np.random.default_rng(seed)
    x, u = rng.standard_normal((4, nx)), rng.standard_normal((4, system.nu))
    dx, du = 1e-5 * rng.standard_normal(x.shape), 1e-5 * rng.standard_normal(u.shape)
    found = linearise_trajectory(system, x, u)
    for state, inputs, f in ((found.A, found.B, system.step), (found.C, found.D, system.output)):
        change = (f(x + dx, u + du) - f(x - dx, u - du)) / 2
        linear = np.einsum("tij,tj->ti", state, dx) + np.einsum("tij,tj->ti", inputs, du)
        np.testing.assert_allclose(change, linear, atol=1e-12)


def test_inner_jacobian_is_that_of_the_neurons_inputs():
    """V is what second derivatives are built from: w = s(v), so dw = s'(v) V dz."""
    system = random_system(1, layers=(2, 3))
    rng = np.random.default_rng(1)
    x, u = rng.standard_normal((5, system.nx)), rng.standard_normal((5, system.nu))
    found = linearise_trajectory(system, x, u)
    step = 1e-6 * rng.standard_normal((5, system.nx + system.nu))

    def neurons(sign):
        z = np.hstack([x, u]) + sign * step
        return system.neurons(z[:, : system.nx], z[:, system.nx :] @ system.D12.T + system.bv)

    change = (neurons(1) - neurons(-1)) / 2
    linear = (1 - found.w**2) * np.einsum("tij,tj->ti", found.V, step)
    np.testing.assert_allclose(change, linear, atol=1e-14)


@pytest.mark.parametrize("change", ["A", "B2", "D21"])
def test_shortcut_of_the_elman_network_is_taken_only_where_it_holds(change):
    base = random_elman(2, nx=3)
    system = replace(base, **{change: getattr(base, change) + 0.1})
    rng = np.random.default_rng(2)
    x, u = rng.standard_normal((3, 3)), rng.standard_normal((3, 2))
    for case in (base, system):
        found = linearise_trajectory(case, x, u)
        for name, expected in zip("ABCD", by_casadi(case, x, u), strict=True):
            np.testing.assert_allclose(getattr(found, name), expected, atol=1e-14)


@pytest.mark.parametrize("activation", list(Activation))
def test_derivatives_of_activations(activation):
    v = np.linspace(-3, 3, 40)  # none of them a kink

    def s(v):
        from controlrnn.systems.ops import NUMPY

        return activation.apply(NUMPY, v)

    h = 1e-4
    np.testing.assert_allclose(activation.derivative(s(v)), (s(v + h) - s(v - h)) / (2 * h), atol=1e-7)
    np.testing.assert_allclose(activation.curvature(s(v)), (s(v + h) - 2 * s(v) + s(v - h)) / h**2, atol=1e-6)
    low, high = activation.slope
    assert (activation.derivative(s(v)) >= low).all()
    assert (activation.derivative(s(v)) <= high).all()


def test_bad_input_is_refused():
    system = random_system(0)
    with pytest.raises(ShapeError):
        linearise_trajectory(system, np.zeros((3, 3)), np.zeros((4, 2)))
    with pytest.raises(DataError):
        linearise_trajectory(system, np.full((3, 3), np.nan), np.zeros((3, 2)))
    with pytest.raises(SettingError):
        linearise_trajectory("system", np.zeros((3, 3)), np.zeros((3, 2)))
