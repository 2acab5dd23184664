"""Any object with the right methods as a plant: `as_plant`, for processes that were not written for this library."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import root

from controlrnn.checks import Array, positive, shown
from controlrnn.data import Signal
from controlrnn.errors import InfeasibleError, SettingError
from plants.base import Plant, limits
from plants.ops import NUMPY, Ops, Value

_NEEDED = {
    "dt": "the sample time in seconds",
    "inputs": "a sequence of Signal, the actuators with their limits",
    "outputs": "a sequence of Signal, the measurements",
    "states": "a sequence of Signal",
    "dynamics": "a method (x, u, ops, w) that returns dx/dt, rows in and out",
    "output": "a method (x, u, ops) that returns the outputs",
}


def as_plant(process: Any) -> Plant:
    """Return ``process`` as a `Plant`; an object that is none is wrapped if it has what a plant needs.

    It needs ``dt``, ``inputs``, ``outputs``, ``states`` and the methods ``dynamics(x, u, ops, w)`` and
    ``output(x, u, ops)``, as `Plant` describes them. ``disturbances`` (none when left out) and ``nominal_input`` (the
    middle of limited inputs, zero of others, when left out) are used where they are there. Equilibria are found
    numerically.

    Args:
        process: The object.

    Raises:
        SettingError: Something is missing; the message says what.
    """
    if isinstance(process, Plant):
        return process
    missing = [f"{name}: {what}" for name, what in _NEEDED.items() if not hasattr(process, name)]
    for name in ("dynamics", "output"):
        if hasattr(process, name) and not callable(getattr(process, name)):
            missing.append(f"{name}: {_NEEDED[name]}")
    for name in ("inputs", "outputs", "states"):
        found = getattr(process, name, ())
        if isinstance(found, str) or not all(isinstance(s, Signal) for s in found):
            missing.append(f"{name}: {_NEEDED[name]}, got {shown(found)}")
    if missing:
        raise SettingError(
            f"plant must be a Plant or have what one needs, got {shown(process)} without\n  "
            + "\n  ".join(missing)
            + "\nwrite these, or a subclass of plants.Plant"
        )
    return _Adapted(process)


class _Adapted(Plant):
    """Plant that asks another object for its equations and signals."""

    def __init__(self, process: Any) -> None:
        self._process = process
        self.dt = positive("dt", process.dt)

    @property
    def inputs(self) -> tuple[Signal, ...]:
        """Input signals."""
        return tuple(self._process.inputs)

    @property
    def outputs(self) -> tuple[Signal, ...]:
        """Output signals."""
        return tuple(self._process.outputs)

    @property
    def states(self) -> tuple[Signal, ...]:
        """State signals."""
        return tuple(self._process.states)

    @property
    def disturbances(self) -> tuple[Signal, ...]:
        """Signals of the unmeasured disturbance, where there are any."""
        return tuple(getattr(self._process, "disturbances", ()))

    @property
    def nominal_input(self) -> Array:
        """Constant input of normal operation, shape (nu,)."""
        found = getattr(self._process, "nominal_input", None)
        if found is not None:
            return np.asarray(found, dtype=np.float64)
        lower, upper = limits(self.inputs)
        both = np.isfinite(lower) & np.isfinite(upper)
        middle = 0.5 * (np.where(both, lower, 0.0) + np.where(both, upper, 0.0))
        return np.clip(middle, lower, upper)

    def dynamics(self, x: Value, u: Value, ops: Ops = NUMPY, w: Value | None = None) -> Value:
        """Time derivative of the states; see `Plant.dynamics`."""
        return self._process.dynamics(x, u, ops, w)

    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:
        """Outputs without noise; see `Plant.output`."""
        return self._process.output(x, u, ops)

    def _equilibrium(self, u: Array) -> Array:
        lower, upper = limits(self.states)
        low, high = (np.where(np.isfinite(v), v, 0.0) for v in (lower, upper))

        def rate(x: Array) -> Array:
            return np.asarray(self._rate(x, u, NUMPY, None), dtype=np.float64)

        found = root(rate, 0.5 * (low + high))
        x = np.asarray(found.x, dtype=np.float64)
        if not found.success or ((x < lower) | (x > upper)).any():
            raise InfeasibleError(
                f"no equilibrium of {type(self._process).__name__} was found under u = {u} ({found.message}): pass x0, "
                "or give it a nominal_input at which it has one"
            )
        return x

    def _equilibrium_input(self, y: Array) -> Array:
        n = self.nx

        def residual(z: Array) -> Array:
            rate, held = self._rate(z[:n], z[n:], NUMPY, None), self._read(z[:n], z[n:], NUMPY)
            return np.concatenate([np.ravel(rate), np.ravel(held) - y])

        if self.nu != self.ny:
            raise InfeasibleError(
                f"an input that holds the outputs is found for as many inputs as outputs, got {self.nu} and {self.ny}"
            )
        found = root(residual, np.concatenate([self._equilibrium(self.nominal_input), self.nominal_input]))
        return np.asarray(found.x[n:], dtype=np.float64)
