# ruff: noqa: ARG005 (all laws take the same arguments)
"""Neurons with laws of their own: their definition, every backend, derivatives, records and refusals."""

from dataclasses import replace
from fractions import Fraction
from functools import partial

import casadi
import numpy as np
import pytest
import torch
from random_systems import mixed_system, random_neuron, random_system

from controlrnn.errors import DataError, FileFormatError, SettingError
from controlrnn.export import load_system, save_system
from controlrnn.kernels import simulate
from controlrnn.kernels.linearisation import linearise_trajectory
from controlrnn.records import save_record
from controlrnn.systems import MATRICES, Activation, Law, Laws, LureSystem, Neuron, carry_input
from controlrnn.systems.ops import CASADI, NUMPY, TORCH

RANGED = [law for law in Law if law.has_range]
EXACT = {
    Law.ROOT: lambda v, e: np.sqrt(v),
    Law.SIGNED_ROOT: lambda v, e: v / (v**2 + e**2) ** 0.25,
    Law.SQUARE: lambda v, e: v**2,
    Law.EXPONENTIAL: lambda v, e: np.exp(v),
    Law.RECIPROCAL: lambda v, e: -1 / v,
    Law.SINE: lambda v, e: np.sin(v),
    Law.SATURATION: lambda v, e: v,
    Law.DEAD_ZONE: lambda v, e: 0 * v,
}  # fmt: skip
SHAPES = [(3, 4), (1, 1, 1, 1), (12,), (40, 3)]


def systems():
    return [mixed_system(seed, layers=SHAPES[seed % 4]) for seed in range(8)]


@pytest.mark.parametrize("law", RANGED)
@pytest.mark.parametrize("seed", range(5))
def test_a_law_is_itself_within_its_range_and_straight_beyond(law, seed):
    neuron = random_neuron(np.random.default_rng(seed), law)
    laws = Laws([neuron])
    inside = np.linspace(neuron.low, neuron.high, 50)[:, None]
    assert np.allclose(laws.apply(NUMPY, inside), EXACT[law](inside, neuron.width), rtol=1e-14)
    step = 1e-6 * (neuron.high - neuron.low)
    for end, out in ((neuron.low, -1), (neuron.high, 1)):
        ends = laws.apply(NUMPY, end + out * np.array([[0.0], [1.0], [2.0], [3.0]]))[:, 0]
        assert np.allclose(np.diff(ends, 2), 0, atol=1e-12 * (1 + np.abs(ends).max()))
        slope = (laws.apply(NUMPY, np.array([[end]])) - laws.apply(NUMPY, np.array([[end - out * step]])))[0, 0]
        if law not in (Law.SATURATION, Law.DEAD_ZONE):  # the others have no corner at the end
            assert np.isclose(np.diff(ends)[0], slope / step, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("law", Law)
def test_slopes_and_curvatures_from_values_are_derivatives(law):
    rng = np.random.default_rng(3)
    for _ in range(5):
        laws = Laws([random_neuron(rng, law)])
        v, h = rng.uniform(-5, 5, (400, 1)), 1e-6
        w, slope = laws.apply(NUMPY, v), partial(_slope, laws)
        corners = [laws.neurons[0].low, laws.neurons[0].high, 0.0]
        far = np.min([np.abs(v - corner) for corner in corners], axis=0) > 1e-4
        rise = (laws.apply(NUMPY, v + h) - laws.apply(NUMPY, v - h)) / (2 * h)
        assert np.allclose(rise[far], laws.derivative(w)[far], rtol=1e-5, atol=1e-8)
        bend = (slope(v + h) - slope(v - h)) / (2 * h)
        assert np.allclose(bend[far], laws.curvature(w)[far], rtol=1e-3, atol=2e-4)
        low, high = laws.slope
        assert (low <= laws.derivative(w)).all()
        assert (laws.derivative(w) <= high).all()


@pytest.mark.parametrize("system", systems(), ids=lambda s: str(s.layers))
def test_all_backends_and_kernels_compute_the_same(system):
    rng = np.random.default_rng(1)
    for records in (1, 3, 20):
        u, x0 = 3 * rng.standard_normal((records, 30, 2)), 2 * rng.standard_normal((records, 3))
        y, x = system.simulate(u, x0)
        fast = simulate(system, u, x0)
        for got, expected in zip(fast, (y, x), strict=True):
            assert np.allclose(got, expected, rtol=1e-11, atol=1e-11)
        assert np.allclose(
            simulate(_tensors(system, torch.float32), *_single(u, x0))[0].detach(), y, rtol=1e-3, atol=1e-3
        )
    sx, su = casadi.SX.sym("x", 1, 3), casadi.SX.sym("u", 1, 2)
    step = casadi.Function("step", [sx, su], [system.step(sx, su)])
    assert np.allclose(np.array(step(x[0, 3][None], u[0, 3][None])), x[0, 4], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("system", systems(), ids=lambda s: str(s.layers))
def test_compiled_gradients_and_jacobians_are_those_of_torch(system):
    rng = np.random.default_rng(2)
    layer = np.repeat(np.arange(len(system.layers)), system.layers)
    for records in (2, 20):
        u, x0 = (torch.tensor(rng.standard_normal(s), requires_grad=True) for s in ((records, 10, 2), (records, 3)))
        tensors = _tensors(system)
        variables = [u, x0, *(getattr(tensors, name) for name in MATRICES)]
        found = []
        for run in (tensors.simulate, lambda u, x0, s=tensors: simulate(s, u, x0)):
            y, x = run(u, x0)
            found.append(torch.autograd.grad((y**2).sum() + x.sum(), variables, allow_unused=True))
        for name, eager, fast in zip(("u", "x0", *MATRICES), *found, strict=True):
            eager = torch.zeros_like(fast) if eager is None else eager
            if name == "D11":
                eager = eager * torch.tensor(layer[:, None] > layer[None, :])
            assert torch.allclose(eager, fast, rtol=1e-9, atol=1e-9 * (1 + float(eager.abs().max()))), name
    x, u = rng.standard_normal((4, 3)), rng.standard_normal((4, 2))
    lin = linearise_trajectory(system, x, u)
    for t in range(4):
        J = torch.autograd.functional.jacobian(_tensors(system).step, (torch.tensor(x[t]), torch.tensor(u[t])))
        assert np.allclose(lin.state[t], torch.cat(J, dim=1), rtol=1e-9, atol=1e-9)


def test_carried_inputs_keep_each_neuron_with_its_law():
    for system in systems():
        carried, rng = carry_input(system), np.random.default_rng(0)
        u, x0 = rng.standard_normal((20, 2)), rng.standard_normal(3)
        _, x = system.simulate(u, x0)
        late, states = carried.simulate(u, np.concatenate([x0, u[0]]))
        assert np.allclose(states[:, :3], x)
        assert np.allclose(late[1:], [system.output(a, b) for a, b in zip(x[1:-1], u[:-1], strict=True)])


def test_files_and_digests_know_every_law_and_range(tmp_path):
    system = mixed_system(1)
    save_system(system, tmp_path / "system.npz")
    again = load_system(tmp_path / "system.npz")
    assert again.digest == system.digest
    assert again.activation == system.activation
    for i, one in enumerate(system.activation.neurons):
        if one.law.has_range:
            wider = replace(one, high=float(np.nextafter(one.high, np.inf)))
            laws = [wider if k == i else n for k, n in enumerate(system.activation.neurons)]
            assert replace(system, activation=Laws(laws)).digest != system.digest


def test_laws_that_are_one_activation_are_that_activation():
    plain = random_system(0)
    same = replace(plain, activation=Laws([Law.TANH] * 4))
    assert same.activation is Activation.TANH
    assert same.digest == plain.digest
    # Known since before there were laws: digests of systems with one activation must not change.
    assert "laws" not in same.record()[0]
    assert same.record()[1]["activation"] == "tanh"


@pytest.mark.parametrize(
    ("law", "low", "high", "width"),
    [
        ("root", 0.0, 1.0, 0.0),
        ("root", 1.0, 1.0, 0.0),
        ("root", 2.0, 1.0, 0.0),
        ("root", np.nan, 1.0, 0.0),
        ("root", 5e-324, 1.0, 0.0),
        ("root", 0.1, np.inf, 0.0),
        ("root", 0.1, 1.0, 0.1),
        ("square", -1.0, 1.0, 0.0),
        ("square", 0.0, 5e-324, 0.0),
        ("exponential", 0.0, 800.0, 0.0),
        ("reciprocal", -1.0, 1.0, 0.0),
        ("sine", -1.0, 2.0, 0.0),
        ("saturation", 1.0, 1.0 + 1e-12, 0.0),
        ("signed_root", -1.0, 1.0, 0.0),
        ("signed_root", -1.0, 1.0, 1e-200),
        ("signed_root", -1.0, 1.0, np.nan),
        ("tanh", 0.0, 1.0, 0.0),
        ("identity", 0.0, 0.0, 1.0),
    ],
)
def test_ranges_that_make_no_sense_are_refused(law, low, high, width):
    with pytest.raises((SettingError, Exception), match=r"range|width|finite|low|number"):
        Neuron(law, low, high, width)


def test_systems_refuse_laws_that_do_not_fit():
    plain = random_system(0)
    with pytest.raises(SettingError, match="one law for each"):
        replace(plain, activation=Laws([Law.TANH, Law.IDENTITY]))
    with pytest.raises(SettingError, match="single neurons"):
        replace(plain, activation="root")
    with pytest.raises(SettingError, match="at least one law"):
        Laws([])
    with pytest.raises(SettingError, match="list with one law"):
        Laws("tanh")


def test_forged_records_are_refused():
    arrays, meta = mixed_system(1).record()
    forgeries = [
        (arrays, meta | {"activation": "tanh"}),
        ({n: a for n, a in arrays.items() if n != "laws"}, meta),
        (arrays | {"laws": np.array(arrays["laws"])[:-1]}, meta),
        (arrays | {"laws": np.full_like(arrays["laws"], np.nan)}, meta),
        (arrays | {"laws": -np.abs(np.array(arrays["laws"])) - 1}, meta),
        (arrays, meta | {"activation": " ".join(["tanh:1"] * 7)}),
    ]
    for forged in forgeries:
        with pytest.raises((FileFormatError, SettingError)):
            LureSystem.from_record(*forged)


def test_no_record_holds_numbers_that_python_refuses_to_read(tmp_path):
    arrays, meta = mixed_system(1).record()
    with pytest.raises(DataError, match="activation"):
        save_record(tmp_path / "long.npz", LureSystem.SCHEMA, arrays, meta | {"activation": "tanh:" + "9" * 5000})


def test_the_signed_root_is_torricellis_law_of_the_plants():
    from plants.ops import NUMPY as PHYSICS
    from plants.tanks import torricelli

    v, laws = np.linspace(-4, 4, 101)[:, None], Laws([Neuron("signed_root", -5.0, 5.0, 0.1)])
    assert np.allclose(laws.apply(NUMPY, v), torricelli(v, 0.1, PHYSICS), rtol=1e-15)


def test_a_parabola_with_its_minimum_inside_is_a_shifted_one():
    low, v = -2.0, Fraction(-3, 4)
    assert v**2 == (v - Fraction(low)) ** 2 + 2 * Fraction(low) * v - Fraction(low) ** 2


def _tensors(system, dtype=torch.float64):
    matrices = {name: torch.tensor(getattr(system, name), dtype=dtype, requires_grad=True) for name in MATRICES}
    return LureSystem(**matrices, activation=system.activation, layers=system.layers, dt=system.dt)


def _slope(laws, v):
    return laws.derivative(laws.apply(NUMPY, v))


def _single(*arrays):
    return tuple(torch.tensor(array, dtype=torch.float32) for array in arrays)


def test_torch_and_casadi_take_the_same_range():
    laws = Laws([Neuron("root", 0.5, 2.0), Neuron("square", 0.0, 1.0)])
    v = np.array([[-1.0, 4.0]])
    assert np.allclose(laws.apply(TORCH, torch.tensor(v)), laws.apply(NUMPY, v))
    assert np.allclose(np.array(casadi.DM(laws.apply(CASADI, casadi.DM(v)))), laws.apply(NUMPY, v))
