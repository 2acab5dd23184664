"""The Lur'e system against an independent evaluation of its equations, on every backend."""

import casadi
import numpy as np
import pytest
import torch
from random_systems import random_elman, random_system
from scipy.optimize import check_grad

from controlrnn import kernels
from controlrnn.data import Scaler
from controlrnn.errors import DataError, FileFormatError, SettingError, ShapeError
from controlrnn.systems import MATRICES, Activation, LureSystem
from controlrnn.systems.ops import CASADI, NUMPY

PLAIN = {
    "tanh": np.tanh,
    "relu": lambda v: v if v > 0 else 0.0,
    "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
    "leaky_relu": lambda v: v if v > 0 else 0.01 * v,
}
KINDS = [pytest.param({"layers": (3, 1, 2), "activation": a}, id=f"layered-{a}") for a in PLAIN] + [
    pytest.param({"layers": ()}, id="linear"),
    pytest.param({"layers": (1, 1, 1), "nx": 1, "nu": 1, "ny": 1}, id="ren"),
]


def neuron_by_neuron(system, x, u):
    """The equations in scalars, one neuron after the other: knows nothing of blocks."""
    w = np.zeros(system.nv)
    for i in range(system.nv):
        v = system.C1[i] @ x + system.D11[i] @ w + system.D12[i] @ u + system.bv[i]
        w[i] = PLAIN[system.activation](v)
    return (
        system.A @ x + system.B1 @ w + system.B2 @ u + system.bx,
        system.C2 @ x + system.D21 @ w + system.D22 @ u + system.by,
    )


@pytest.mark.parametrize("kind", KINDS)
def test_step_and_output_follow_the_equations(kind):
    system = random_system(1, **kind)
    rng = np.random.default_rng(2)
    x, u = rng.normal(size=(20, system.nx)), rng.normal(size=(20, system.nu))
    expected = [neuron_by_neuron(system, *pair) for pair in zip(x, u, strict=True)]
    np.testing.assert_allclose(system.step(x, u), [e[0] for e in expected], rtol=1e-12, atol=1e-13)
    np.testing.assert_allclose(system.output(x, u), [e[1] for e in expected], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_simulation_is_repeated_stepping(kind):
    system = random_system(3, **kind)
    rng = np.random.default_rng(4)
    u, x0 = rng.normal(size=(5, 7, system.nu)), rng.normal(size=(5, system.nx))
    y, path = system.simulate(u, x0)
    assert y.shape == (5, 7, system.ny)
    assert path.shape == (5, 8, system.nx)
    x = x0
    for t in range(7):
        np.testing.assert_allclose(path[:, t], x, rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(y[:, t], system.output(x, u[:, t]), rtol=1e-12, atol=1e-12)
        x = system.step(x, u[:, t])
    one, _ = system.simulate(u[2], x0[2])
    np.testing.assert_allclose(one, y[2], rtol=1e-12, atol=1e-13)
    shared, _ = system.simulate(u, x0[0])
    np.testing.assert_allclose(shared[0], y[0], rtol=1e-12, atol=1e-13)
    # A run can be cut anywhere and continued from the last state.
    first, middle = system.simulate(u[:, :3], x0)
    rest, _ = system.simulate(u[:, 3:], middle[:, -1])
    np.testing.assert_allclose(np.concatenate([first, rest], axis=1), y, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_backends_agree(kind):
    system = random_system(5, **kind)
    rng = np.random.default_rng(6)
    x, u = rng.normal(size=(1, system.nx)), rng.normal(size=(1, system.nu))
    tensors = LureSystem(
        **{n: torch.tensor(getattr(system, n)) for n in MATRICES},
        activation=system.activation,
        layers=system.layers,
        dt=system.dt,
    )
    for name in ("step", "output"):
        expected = getattr(system, name)(x, u)
        np.testing.assert_allclose(
            getattr(tensors, name)(torch.tensor(x), torch.tensor(u)).numpy(), expected, rtol=1e-12, atol=1e-13
        )
        np.testing.assert_allclose(
            np.asarray(getattr(system, name)(casadi.DM(x), casadi.DM(u))), expected, rtol=1e-12, atol=1e-13
        )


@pytest.mark.parametrize("activation", list(Activation))
def test_slopes_lie_in_the_declared_interval_and_fill_it(activation):
    alpha, beta = activation.slope
    v = np.concatenate([np.linspace(-30, 30, 2001), [0.0, -1e-3, 1e-3]])
    w = activation.apply(NUMPY, v)
    dv = v[:, None] - v
    off = np.abs(dv) > 1e-6
    slopes = (w[:, None] - w)[off] / dv[off]
    assert slopes.min() >= alpha - 1e-9
    assert slopes.max() <= beta + 1e-9
    assert slopes.max() > 0.999 * beta
    assert slopes.min() < alpha + 1e-3


def test_sigmoid_survives_large_arguments():
    system = random_system(0, activation="sigmoid")
    y, _ = system.simulate(np.full((3, 2), 1e6))
    assert np.isfinite(y).all()


@pytest.mark.parametrize("kind", KINDS)
def test_scaling_folds_units_in(kind):
    system = random_system(7, **kind)
    rng = np.random.default_rng(8)
    inputs = Scaler(rng.normal(size=system.nu), rng.uniform(0.1, 10, system.nu))
    outputs = Scaler(rng.normal(size=system.ny), rng.uniform(0.1, 10, system.ny))
    u, x0 = inputs.invert(rng.normal(size=(9, system.nu))), rng.normal(size=system.nx)
    y, x = system.simulate(inputs.apply(u), x0)
    physical_y, physical_x = system.scaled(inputs, outputs).simulate(u, x0)
    np.testing.assert_allclose(physical_x, x, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(physical_y, outputs.invert(y), rtol=1e-10, atol=1e-10)


def test_frozen_arrays_are_private_float64_and_read_only():
    source = np.zeros((2, 2), np.float32)
    system = random_system(0, nx=2)
    copy = LureSystem(**({n: getattr(system, n) for n in MATRICES} | {"A": source}), layers=system.layers, dt=1.0)
    source[0, 0] = 9
    assert copy.A[0, 0] == 0
    for name in MATRICES:
        array = getattr(copy, name)
        assert array.dtype == np.float64
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 1


def parts(system):
    own = {n: getattr(system, n) for n in MATRICES}
    return own | {"activation": system.activation, "layers": system.layers, "dt": system.dt}


def test_digest_names_the_behaviour():
    system = random_system(0, layers=(2, 2))
    again = LureSystem(**parts(system))
    assert again.digest == system.digest
    changed = [LureSystem(**(parts(system) | {"activation": "relu"})), LureSystem(**(parts(system) | {"dt": 0.25}))]
    for name in MATRICES:
        value = np.array(getattr(system, name))
        index = (-1, 0) if value.ndim == 2 else 0  # of D11 an entry below its diagonal
        value[index] = np.nextafter(value[index], np.inf)
        changed.append(LureSystem(**(parts(system) | {name: value})))
    assert len({s.digest for s in changed} | {system.digest}) == len(changed) + 1


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"A": np.zeros((2, 2))}, ShapeError),
        ({"by": np.zeros((2, 1))}, ShapeError),
        ({"B1": np.zeros(3)}, ShapeError),
        ({"bx": np.full(3, np.nan)}, DataError),
        ({"layers": (3,)}, SettingError),
        ({"layers": (4, 0)}, SettingError),
        ({"layers": (4,)}, SettingError),  # one layer leaves no room for the D11 of two
        ({"dt": 0.0}, SettingError),
        ({"activation": "softplus"}, ValueError),
    ],
)
def test_inconsistent_systems_are_refused(change, error):
    system = random_system(0, layers=(2, 2))
    with pytest.raises(error):
        LureSystem(**(parts(system) | change))


@pytest.mark.parametrize(
    ("u", "x0"),
    [
        (np.zeros((5, 3)), None),
        (np.zeros(5), None),
        (np.zeros((0, 2)), None),
        (np.zeros((5, 2)), np.zeros(2)),
        (np.zeros((4, 5, 2)), np.zeros((3, 3))),
    ],
)
def test_bad_inputs_to_simulate_are_refused(u, x0):
    with pytest.raises(ShapeError):
        random_system(0).simulate(u, x0)


def test_feedthrough_is_seen():
    assert random_system(0).has_feedthrough
    assert not random_system(0, feedthrough=False).has_feedthrough
    assert not random_elman(0).has_feedthrough
    assert not random_system(0, layers=(), feedthrough=False).has_feedthrough


def test_gradients_of_simulation_match_differences():
    system = random_system(9, layers=(2, 2))
    u = torch.tensor(np.random.default_rng(0).normal(size=(4, 2)))

    def value(C1, grad=False):
        C1 = torch.tensor(C1.reshape(4, 3), requires_grad=True)
        tensors = {n: torch.tensor(getattr(system, n)) for n in MATRICES} | {"C1": C1}
        y, _ = LureSystem(**tensors, layers=system.layers, dt=1.0).simulate(u)
        loss = (y**2).sum()
        loss.backward()
        return C1.grad.numpy().ravel() if grad else loss.item()

    assert check_grad(value, lambda c: value(c, grad=True), np.array(system.C1).ravel()) < 1e-4


def test_nan_passes_every_activation_on_every_backend():
    """A reading that is no number must never become a state that is one."""
    for activation in Activation:
        row = np.array([[np.nan, -2.0, 0.0, 3.0, -np.inf]])
        expected = activation.apply(NUMPY, row)
        assert np.isnan(expected[0, 0])
        found = np.array(activation.apply(CASADI, casadi.DM(row)))
        x = casadi.SX.sym("x", 1, 5)
        symbolic = casadi.Function("f", [x], [activation.apply(CASADI, x)])
        if activation is Activation.LEAKY_RELU:  # a slope times minus infinity
            expected, found = expected[:, :4], found[:, :4]
        np.testing.assert_allclose(found, expected)
        np.testing.assert_allclose(np.array(symbolic(row))[:, : expected.shape[1]], expected)


def test_a_batch_without_records_has_no_runs():
    system = random_elman(0)
    y, x = kernels.simulate(system, np.zeros((0, 7, 2)))
    assert (y.shape, x.shape) == ((0, 7, 2), (0, 8, 4))


@pytest.mark.parametrize("wrong", ["sine", "tanh:0", "tanh relu", "", 3])
def test_a_file_with_an_unknown_activation_is_told_the_known_ones(wrong):
    arrays, meta = random_elman(0).record()
    words = (
        "one of tanh, relu, sigmoid, leaky_relu, or law:number for each run of neurons with a law of tanh, .*dead_zone"
    )
    with pytest.raises(FileFormatError, match=words if isinstance(wrong, str) else "a text"):
        LureSystem.SCHEMA.check(arrays, meta | {"activation": wrong})
    LureSystem.SCHEMA.check(arrays, meta)
