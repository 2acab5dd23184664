"""Processes that were not written for the library: what is missing is said, what is enough is taken."""

from types import SimpleNamespace

import numpy as np
import pytest

from controlrnn.data import Signal
from controlrnn.errors import InfeasibleError, SettingError
from plants import MultiTank, Plant, as_plant, simulate, to_casadi
from plants.ops import CASADI, NUMPY


class Vessel:
    """Temperature over heater power, written for nobody in particular."""

    dt = 20.0
    inputs = (Signal("heater", "kW", 0.0, 4.0),)
    outputs = (Signal("temperature", "degC", 0.0, 120.0),)
    states = (Signal("temperature", "degC"),)

    def dynamics(self, x, u, ops, w):  # noqa: ARG002  # a plant's signature
        return (u - 0.05 * (x - 20.0)) / 40.0

    def output(self, x, u, ops):  # noqa: ARG002  # a plant's signature
        return x


def test_an_object_with_the_methods_is_a_plant():
    plant = as_plant(Vessel())
    record = simulate(Vessel(), np.full((400, 1), 2.0), x0=[20.0])
    assert record.inputs == Vessel.inputs
    assert record.y[-1, 0] == pytest.approx(60.0, abs=0.1)
    np.testing.assert_allclose(plant.nominal_input, [2.0])  # the middle of the limits
    np.testing.assert_allclose(plant.equilibrium([3.0]), [80.0])
    np.testing.assert_allclose(plant.equilibrium_input([70.0]), [2.5])
    with pytest.raises(InfeasibleError, match="outside of the limits"):
        plant.equilibrium_input([110.0])
    step, output = to_casadi(Vessel())
    np.testing.assert_allclose(step([30.0], [2.0], []), plant.step([30.0], [2.0])[:, None], rtol=1e-8)
    np.testing.assert_allclose(output([30.0], [2.0]), [[30.0]])


def test_a_plant_stays_itself():
    plant = MultiTank()
    assert as_plant(plant) is plant


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (object(), ("dt: the sample time", "dynamics: a method", "subclass of plants.Plant")),
        (SimpleNamespace(**{n: getattr(Vessel, n) for n in ("dt", "inputs", "outputs", "states", "output")}),
         ("dynamics",)),
        (SimpleNamespace(dt=1.0, inputs=("u",), outputs=(), states=(), dynamics=len, output=len), ("inputs", "Signal")),
        (SimpleNamespace(dt=1.0, inputs=(), outputs=(), states=(), dynamics=3, output=len), ("dynamics: a method",)),
    ],
)  # fmt: skip
def test_what_is_missing_is_said(process, words):
    with pytest.raises(SettingError) as error:
        simulate(process, np.zeros((5, 1)))
    assert all(word in str(error.value) for word in words)


def test_a_subclass_that_lacks_parts_says_which_and_what_they_are():
    class Half(Plant):
        dt = 1.0

        def output(self, x, u, ops=NUMPY):  # noqa: ARG002  # a plant's signature
            return x

    with pytest.raises(SettingError, match="Half must write all parts") as error:
        Half()
    assert "dynamics: Right-hand side dx/dt" in str(error.value)
    assert "output:" not in str(error.value)


@pytest.mark.parametrize("name", ["exp", "log", "sin", "cos", "tanh", "sqrt"])
def test_functions_are_the_same_on_both_backends(name):
    casadi = pytest.importorskip("casadi")
    v = np.array([[0.3, 1.7, 2.9]])
    expected = getattr(np, name)(v)
    np.testing.assert_allclose(getattr(NUMPY, name)(v), expected)
    np.testing.assert_allclose(np.array(getattr(CASADI, name)(casadi.DM(v))), expected, rtol=1e-12)
