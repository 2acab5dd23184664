"""Source of a plant to start from, with a test: `controlrnn new-plant`."""

from __future__ import annotations

import keyword
import re
from pathlib import Path
from string import Template

from controlrnn.errors import SettingError, StorageError
from controlrnn.records import write_atomic
from controlrnn.records.writing import exists

_PLANT = Template('''"""$Name: a vessel that a heater warms; put your own equations here."""

from dataclasses import dataclass

import numpy as np

from plants import Plant, Signal


@dataclass(frozen=True)
class $Name(Plant):
    """Temperature [degC] over heater power [kW]: loss to the surroundings, and a heater that lags.

    Args:
        dt: Sample time [s].
        loss: Power lost per degree above the surroundings [kW/K].
        heat: Heat capacity [kJ/K].
        lag: Time constant of the heater [s].
        ambient: Temperature of the surroundings [degC].
    """

    dt: float = 20.0
    loss: float = 0.05
    heat: float = 40.0
    lag: float = 60.0
    ambient: float = 20.0

    @property
    def inputs(self):
        """Actuators: name, unit, smallest and largest value."""
        return (Signal("heater", "kW", 0.0, 4.0),)

    @property
    def outputs(self):
        """Measurements, with the limits that have to be kept."""
        return (Signal("temperature", "degC", 0.0, 80.0),)

    @property
    def states(self):
        """Everything that the future depends on."""
        return (Signal("temperature", "degC"), Signal("power", "kW"))

    @property
    def disturbances(self):
        """What acts without being known; () if there is nothing."""
        return (Signal("power lost", "kW"),)

    @property
    def nominal_input(self):
        """Inputs of usual operation, shape (nu,)."""
        return np.array([2.0])

    def dynamics(self, x, u, ops=None, w=None):
        """dx/dt in rows: written once, for numpy and CasADi; `ops` has columns, join, exp, log, sin, cos, tanh."""
        temperature, power = ops.columns(x, 0, 1), ops.columns(x, 1, 2)
        net = power - self.loss * (temperature - self.ambient) - (0.0 if w is None else w)
        return ops.join([net / self.heat, (u - power) / self.lag])

    def output(self, x, u, ops=None):
        """Measurements at state x, just before the input u acts."""
        return ops.columns(x, 0, 1)

    def _equilibrium(self, u):
        """State that stays under a constant input."""
        return np.array([self.ambient + u[0] / self.loss, u[0]])

    def _equilibrium_input(self, y):
        """Input that holds an output."""
        return np.array([self.loss * (y[0] - self.ambient)])
''')

_TEST = Template('''"""What every plant has to do, and one thing that only this one does."""

import numpy as np

from $module import $Name
from plants import excitation, simulate, to_casadi


def test_it_stays_in_equilibrium():
    plant = $Name()
    x = plant.equilibrium(plant.nominal_input)
    np.testing.assert_allclose(plant.step(x, plant.nominal_input), x, rtol=1e-8, atol=1e-10)


def test_numpy_and_casadi_agree():
    plant = $Name()
    x, u = plant.equilibrium(plant.nominal_input) * 1.1, plant.nominal_input * 0.9
    step, output = to_casadi(plant)
    w = np.zeros(len(plant.disturbances))
    np.testing.assert_allclose(np.array(step(x, u, w)).ravel(), plant.step(x, u), rtol=1e-6)
    np.testing.assert_allclose(np.array(output(x, u)).ravel(), plant.output(x, u), rtol=1e-9, atol=1e-12)


def test_records_are_finite():
    plant = $Name()
    u = excitation.random_steps(200, [(s.lower, s.upper) for s in plant.inputs], hold=(5, 20), seed=0)
    record = simulate(plant, u, noise_std=0.1, seed=0)
    assert np.isfinite(record.y).all()


def test_more_power_is_warmer():
    plant = $Name()
    cold, warm = (plant.equilibrium(np.array([power]))[0] for power in (1.0, 2.0))
    assert warm > cold + 10.0
''')


def write_plant(name: str, folder: Path) -> tuple[Path, Path]:
    """Write a plant and its test.

    Args:
        name: Name of the class.
        folder: Folder to write to.

    Returns:
        The two files.

    Raises:
        SettingError: The name is no name of a class.
        StorageError: A file is there already.
    """
    if not re.fullmatch(r"[A-Z][A-Za-z0-9]*", name) or keyword.iskeyword(name):
        raise SettingError(f"a plant's name must be that of a class, HeatedVessel for example, got {name!r}")
    module = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name).lower()
    if module in ("mpc", "plants", "controlrnn"):
        raise SettingError(f"{module}.py would hide a package of that name: choose another name")
    source, test = folder / f"{module}.py", folder / f"test_{module}.py"
    for path in (source, test):
        if exists(path):
            raise StorageError(f"{path} is there already: choose another name or folder")
    words = {"Name": name, "module": module}
    return write_atomic(source, _PLANT.substitute(words).encode()), write_atomic(test, _TEST.substitute(words).encode())
