# ruff: noqa: ARG005 (equations take the same arguments)
"""Equations become systems: exact within the declared boxes, with exact derivatives by parameters."""

import casadi
import numpy as np
import pytest

from controlrnn.data import Signal
from controlrnn.errors import SettingError
from controlrnn.greybox import Equations, Method, Parameter, beyond_ranges, trace
from controlrnn.systems import MATRICES, Activation, Law
from plants import PLANTS, ReactionDiffusion
from plants.base import limits
from plants.ops import CASADI, NUMPY

METHODS = [("euler", 3), ("midpoint", 2), ("rk4", 1)]


def boxed(plant):
    """Finite boxes of a plant's states."""
    low, high = limits(plant.states)
    far = (0.0, 1.0) if isinstance(plant, ReactionDiffusion) else (-4.0, 4.0)  # concentrations
    return np.where(np.isfinite(low), low, far[0]), np.where(np.isfinite(high), high, far[1])


def points(equations, n, seed=0):
    """States and inputs within their boxes from which the states of all stages stay there: as many as 100."""
    states, inputs = equations.boxes()
    rng = np.random.default_rng(seed)
    x, u = (rng.uniform(box[:, 0], box[:, 1], (n, len(box))) for box in (states, inputs))
    span, centre = 1e-9 * (states[:, 1] - states[:, 0]), states.mean(axis=1)
    inside = np.ones(n, bool)

    def stage(z):
        inside[:] &= ((z >= states[:, 0] - span) & (z <= states[:, 1] + span)).all(axis=-1)
        return z

    for _ in range(6):
        inside[:] = True
        after = equations.step(x, u, NUMPY, stage=stage)
        if inside.sum() > 100:
            break
        # Stiff equations leave the box from almost everywhere: nearer to the middle, where the input holds it.
        x, u = centre + 0.2 * (x - centre), inputs.mean(axis=1) + 0.2 * (u - inputs.mean(axis=1))
    return x[inside], u[inside], after[inside]


@pytest.mark.parametrize("name", PLANTS)
@pytest.mark.parametrize(("method", "substeps"), METHODS)
def test_every_plant_is_its_system_within_the_boxes(name, method, substeps):
    plant = PLANTS[name]()
    equations = Equations.of_plant(plant, box=list(zip(*boxed(plant), strict=True)), substeps=substeps, method=method)
    system = trace(equations).system
    x, u, after = points(equations, 2000)
    assert len(x) > 100
    size = 1 + np.abs(after).max()
    assert np.allclose(system.step(x, u), after, rtol=0, atol=1e-12 * size)
    assert np.allclose(system.output(x, u), plant.output(x, u), rtol=0, atol=1e-13 * size)
    assert not beyond_ranges(system, x, u).any()
    sx, su = casadi.SX.sym("x", 1, plant.nx), casadi.SX.sym("u", 1, plant.nu)
    step = casadi.Function("step", [sx, su], [equations.step(sx, su, CASADI)])
    for i in range(20):
        exact = np.array(step(x[i][None], u[i][None])).ravel()
        assert np.allclose(system.step(x[i], u[i]), exact, rtol=0, atol=1e-13 * size)


def reactor(x, u, p, ops):
    """Everything that equations may use."""
    a, b, T = (ops.columns(x, i, i + 1) for i in range(3))
    q = ops.columns(u, 0, 1)
    k = p["k0"] * ops.exp(-p["E"] / T)
    flow = p["c"] * ops.sqrt(ops.within(a, 0.1, 3.0)) + ops.tanh(b / 0.3)
    over = ops.fmin(ops.fmax(b - p["rim"], 0.0), p["width"])
    return ops.join(
        [
            q - flow * b - over,
            k * a * a - b / (a + 1.0) + ops.signed_root(b - a, 0.05),
            p["heat"] * (k * a - q * T / 5.0) + ops.sqrt(p["E"]) + 1.0 / p["c"],
        ]
    )


def equations(**more):
    return Equations(
        dynamics=reactor,
        output=lambda x, u, p, ops: ops.join([ops.columns(x, 0, 1) * p["c"], ops.fmin(ops.columns(x, 2, 3), 3.5)]),
        states=[Signal("a", "-", 0.2, 2.0), Signal("b", "-", -1.0, 2.0), Signal("T", "-", 1.0, 4.0)],
        inputs=[Signal("q", "-", 0.0, 2.0)],
        parameters=[
            Parameter("k0", 2.0, 0.0),
            Parameter("E", 1.5, 0.1, 10.0),
            Parameter("c", 0.7),
            Parameter("rim", 1.0),
            Parameter("width", 0.5, 0.0),
            Parameter("heat", 0.3, upper=1.0),
        ],
        dt=0.05,
        **more,
    )


@pytest.mark.parametrize(("method", "substeps"), METHODS)
def test_all_operations_are_exact_in_their_ranges(method, substeps):
    eq = equations(method=method, substeps=substeps)
    traced = trace(eq)
    x, u, after = points(eq, 3000)
    assert len(x) > 100
    assert np.allclose(traced.system.step(x, u), after, rtol=0, atol=1e-12)
    expected = np.stack([0.7 * x[:, 0], np.minimum(x[:, 2], 3.5)], axis=1)
    assert np.allclose(traced.system.output(x, u), expected, rtol=0, atol=1e-12)
    used = {n.law for n in traced.system.activation.neurons}
    assert used >= {Law.ROOT, Law.EXPONENTIAL, Law.RECIPROCAL, Law.SQUARE, Law.SIGNED_ROOT, Law.SATURATION, Law.TANH}


def test_a_cosine_is_a_sine_and_parameters_have_logarithms():
    eq = Equations(
        dynamics=lambda x, u, p, ops: u - p["a"] * ops.cos(x) + ops.log(p["a"]) + ops.cos(p["a"]),
        output=lambda x, u, p, ops: x,
        states=[Signal("x", "-", -1, 1)],
        inputs=[Signal("u", "-", -1, 1)],
        parameters=[Parameter("a", 2.0, 0.5)],
        dt=0.1,
        substeps=1,
    )
    x, u, after = points(eq, 200)
    assert np.allclose(trace(eq).system.step(x, u), after, rtol=0, atol=1e-12)


def test_derivatives_by_parameters_are_exact():
    eq = equations(method=Method.MIDPOINT, substeps=2)
    traced, believed, h = trace(eq), eq.believed, 1e-6
    x, u, _ = points(eq, 50)
    for i, one in enumerate(eq.parameters):
        up, down = ({**believed, one.name: believed[one.name] + s * h} for s in (1, -1))
        exact = (eq.step(x, u, NUMPY, up) - eq.step(x, u, NUMPY, down)) / (2 * h)
        moved = {n: getattr(traced.system, n) + h * traced.derivatives[n][..., i] for n in MATRICES}
        other = {n: getattr(traced.system, n) - h * traced.derivatives[n][..., i] for n in MATRICES}
        found = (_with(traced.system, moved).step(x, u) - _with(traced.system, other).step(x, u)) / (2 * h)
        assert np.allclose(found, exact, rtol=1e-6, atol=1e-7), one.name


def _with(system, matrices):
    return type(system)(**matrices, activation=system.activation, layers=system.layers, dt=system.dt)


def test_ranges_that_are_left_are_noticed():
    eq = equations(method="euler", substeps=1)
    system = trace(eq).system
    inside = beyond_ranges(system, np.array([[1.0, 0.5, 2.0]]), np.array([[1.0]]))
    outside = beyond_ranges(system, np.array([[9.0, 0.5, 2.0]]), np.array([[1.0]]))
    assert not inside.any()
    assert outside.max() > 0.5


def test_linear_equations_need_no_neuron():
    eq = Equations(
        dynamics=lambda x, u, p, ops: -p["a"] * x + u,
        output=lambda x, u, p, ops: x,
        states=[Signal("x", "-", -1, 1)],
        inputs=[Signal("u", "-", -1, 1)],
        parameters=[Parameter("a", 2.0)],
        dt=0.1,
        substeps=1,
    )
    system = trace(eq).system
    assert system.nv == 0
    assert system.activation is Activation.TANH
    assert np.isclose(system.A[0, 0], 0.8)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (lambda x, u, p, ops: ops.sqrt(x), "root"),
        (lambda x, u, p, ops: u / x, "zero"),
        (lambda x, u, p, ops: ops.log(x + 2.0), "logarithm"),
        (lambda x, u, p, ops: x**3, "power"),
        (lambda x, u, p, ops: ops.join([x, x]), "one rate for each"),
        (lambda x, u, p, ops: ops.exp(1000.0 * x), "exponential"),
        (lambda x, u, p, ops: ops.within(x, 5.0, 6.0), "never within"),
        (lambda x, u, p, ops: x @ np.ones((3, 3)), "constant matrix"),
    ],
)  # fmt: skip
def test_equations_without_a_law_are_refused(rate, message):
    eq = Equations(
        dynamics=rate,
        output=lambda x, u, p, ops: x,
        states=[Signal("x", "-", -1, 1)],
        inputs=[Signal("u", "-", -1, 1)],
        dt=0.1,
    )
    with pytest.raises(SettingError, match=message):
        trace(eq)


def test_boxes_and_parameters_that_make_no_sense_are_refused():
    with pytest.raises(SettingError, match="between its bounds"):
        Parameter("a", 2.0, 0.0, 1.0)
    with pytest.raises(SettingError, match="deviation"):
        Parameter("a", 0.5, 0.0, 1.0, deviation=-1.0)
    with pytest.raises(SettingError, match="finite box"):
        Equations.of_plant(PLANTS["mass_spring_damper"]())
    with pytest.raises(SettingError, match="values must name"):
        trace(equations(), {"k0": 1.0})


@pytest.mark.parametrize("bounds", [(0.0, 3.0), (0.0, np.inf), (-np.inf, 3.0), (-np.inf, np.inf)])
def test_parameters_stay_within_their_bounds(bounds):
    one = Parameter("a", 1.7, *bounds)
    assert np.isclose(one.outer(one.inner(1.7))[0], 1.7)
    for inner in (-30.0, -1.0, 0.3, 2.0, 30.0):
        value, slope = one.outer(inner)
        assert bounds[0] <= value <= bounds[1]
        step = 1e-6 * (1 + abs(inner))
        rise = (one.outer(inner + step)[0] - one.outer(inner - step)[0]) / (2 * step)
        assert np.isclose(rise, slope, rtol=1e-4, atol=1e-9)
