"""Base class of all plants: continuous-time physics sampled under a held input, with units, limits and equilibria."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, final

import numpy as np

from controlrnn.checks import Array, as_array, evaluated, numbers, rows
from controlrnn.data import Signal
from controlrnn.errors import DataError, InfeasibleError, SettingError, ShapeError
from plants.c_code import plant_code
from plants.integrate import integrate
from plants.ops import NUMPY, Ops, Value

# Solvers keep limits only up to rounding: a violation below this share of the range is clipped, not refused.
_SLACK = 1e-6


class Plant(ABC):
    """A process with inputs ``u`` (held over a sample), states ``x``, outputs ``y`` and unmeasured disturbances ``w``.

    A subclass is a frozen dataclass of physical constants that writes the abstract members, and overrides nothing else.

    Attributes:
        dt: Sample time [s].
    """

    dt: float
    # `dynamics` and `output` as a subclass writes them, without the argument checks of the public methods.
    _rate: Callable[..., Any]
    _read: Callable[..., Any]

    def __new__(cls, *_: Any, **__: Any) -> Plant:
        """Refuse a class that lacks a part, before Python does, with what the part is."""
        missing = sorted(cls.__abstractmethods__)
        if missing and cls is not Plant:
            parts = [f"{name}: {(inspect.getdoc(getattr(cls, name)) or '').partition(chr(10))[0]}" for name in missing]
            raise SettingError(f"{cls.__name__} must write all parts of a Plant, it lacks\n  " + "\n  ".join(parts))
        return super().__new__(cls)

    def __init_subclass__(cls, **options: Any) -> None:
        """Wrap the `dynamics` and `output` of a subclass with argument checks."""
        super().__init_subclass__(**options)
        for name, inner in (("dynamics", "_rate"), ("output", "_read")):
            written = cls.__dict__.get(name)
            if written is not None and not getattr(written, "__isabstractmethod__", False):
                setattr(cls, inner, written)
                setattr(cls, name, _checked(written))

    @property
    @abstractmethod
    def inputs(self) -> tuple[Signal, ...]:
        """Input signals: the actuators with their physical limits."""

    @property
    @abstractmethod
    def outputs(self) -> tuple[Signal, ...]:
        """Output signals: the measurements with the limits that a controller has to keep (physics does not)."""

    @property
    @abstractmethod
    def states(self) -> tuple[Signal, ...]:
        """State signals with the limits that physics keeps."""

    @property
    @abstractmethod
    def disturbances(self) -> tuple[Signal, ...]:
        """Signals of the unmeasured disturbance."""

    @property
    @abstractmethod
    def nominal_input(self) -> Array:
        """Constant input of normal operation, shape (nu,)."""

    @abstractmethod
    def dynamics(self, x: Value, u: Value, ops: Ops = NUMPY, w: Value | None = None) -> Value:
        """Right-hand side dx/dt of the differential equation [state unit per s].

        Args:
            x: States, numpy (..., nx) or CasADi (1, nx).
            u: Inputs, (..., nu) or (1, nu).
            ops: The backend that ``x`` belongs to, `plants.ops.NUMPY` or `plants.ops.CASADI`.
            w: Disturbances, (..., nw) or (1, nw); None for none.
        """

    @abstractmethod
    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:
        """Outputs without noise, (..., ny) or (1, ny); arguments as in `dynamics`."""

    @abstractmethod
    def _equilibrium(self, u: Array) -> Array:
        """Equilibrium state (nx,) under a checked constant input ``u`` (nu,)."""

    @abstractmethod
    def _equilibrium_input(self, y: Array) -> Array:
        """Candidate for the constant input (nu,) that holds the outputs ``y`` (ny,); the caller checks it."""

    @final
    @property
    def nx(self) -> int:
        """Number of states."""
        return len(self.states)

    @final
    @property
    def nu(self) -> int:
        """Number of inputs."""
        return len(self.inputs)

    @final
    @property
    def ny(self) -> int:
        """Number of outputs."""
        return len(self.outputs)

    @final
    @property
    def nw(self) -> int:
        """Number of disturbances."""
        return len(self.disturbances)

    @final
    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """States one sample later under a held input, integrated adaptively (relative tolerance 1e-8).

        Args:
            x: States, shape (..., nx); leading axes are a batch and broadcast against those of ``u`` and ``w``.
            u: Inputs, shape (..., nu), within their limits.
            w: Disturbances, shape (..., nw); None for none.

        Raises:
            ShapeError: A wrong number of channels.
            DataError: Values that are not finite or outside of their limits.
        """
        x, u = self.checked_state(x), self.checked_input(u)
        parts = [x, u] if w is None else [x, u, checked("w", w, self.disturbances)]
        try:
            batch = np.broadcast_shapes(*(p.shape[:-1] for p in parts))
        except ValueError as error:
            shapes = ", ".join(str(p.shape) for p in parts)
            raise DataError(f"the leading axes of x, u, w must broadcast, got {shapes}: {error}") from error
        return integrate(self, *(np.broadcast_to(p, (*batch, p.shape[-1])) for p in parts))

    @final
    def initial_state(self) -> Array:
        """Equilibrium state under `nominal_input`, shape (nx,)."""
        return self.equilibrium(self.nominal_input)

    @final
    def equilibrium(self, u: Any) -> Array:
        """Equilibrium state under a constant input.

        Args:
            u: Input, shape (nu,), within its limits.

        Returns:
            Shape (nx,); ``dynamics`` vanishes there up to rounding.
        """
        return self._equilibrium(self.checked_input(as_array("u", u, (self.nu,))))

    @final
    def equilibrium_input(self, y: Any) -> Array:
        """Constant input that holds the outputs at ``y``.

        Args:
            y: Outputs, shape (ny,).

        Returns:
            Shape (nu,).

        Raises:
            InfeasibleError: No input within the limits holds the plant there.
        """
        wanted = as_array("y", y, (self.ny,))
        u = self._equilibrium_input(wanted)
        lower, upper = limits(self.inputs)
        slack = _slack(lower, upper)
        if ((u < lower - slack) | (u > upper + slack)).any():
            raise InfeasibleError(
                f"y = {wanted} needs the input {u}, outside of the limits {lower} to {upper}: choose another set point"
            )
        u = np.clip(u, lower, upper)
        # A candidate is only a guess: the equilibrium that it leads to decides.
        held = self.output(self._equilibrium(u), u)
        if not np.allclose(held, wanted, rtol=1e-6, atol=1e-6):
            raise InfeasibleError(f"no constant input holds y = {wanted}; the nearest found, u = {u}, holds y = {held}")
        return u

    @final
    def c_code(self, name: str) -> str:
        """C source of the plant for compiled closed loops, which agrees with `step` and `output` up to rounding.

        Args:
            name: Prefix of the functions ``NAME_step(x, u, w)`` and ``NAME_output(x, u, y)``, a C identifier.
        """
        return plant_code(self, name, _SLACK)

    @final
    def checked_input(self, u: Any) -> Array:
        """Return ``u`` (..., nu) as an array after checking shape and limits; overshoot by rounding is clipped."""
        array = checked("u", u, self.inputs)
        lower, upper = self._input_limits
        return np.clip(array, lower, upper)

    @final
    def checked_state(self, x: Any) -> Array:
        """Return ``x`` (..., nx) as an array after checking shape and the limits of physics."""
        return checked("x", x, self.states)

    @cached_property
    def _input_limits(self) -> tuple[Array, Array]:
        """Limits of the inputs, kept because every step checks them."""
        return limits(self.inputs)


def _checked(written: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `Plant.dynamics` or `Plant.output` with checks of numpy arguments; CasADi checks its own."""

    @functools.wraps(written)
    def method(self: Plant, x: Value, u: Value, ops: Ops = NUMPY, *w: Value, **named: Value) -> Value:
        if ops is not NUMPY:
            return written(self, x, u, ops, *w, **named)
        # `w` may come by position or by name; `evaluated` takes named arrays only.
        pushes = [p for p in (*w, *named.values()) if p is not None]
        given = {"x": rows("x", x, self.nx), "u": rows("u", u, self.nu)}
        if pushes:
            given["w"] = rows("w", pushes[0], self.nw)
        try:
            leading = np.broadcast_shapes(*(array.shape[:-1] for array in given.values()))
        except ValueError:
            shapes = {name: array.shape for name, array in given.items()}
            raise ShapeError(f"{', '.join(given)} must have leading axes that go together, got {shapes}") from None
        given = {name: np.broadcast_to(array, (*leading, array.shape[-1])) for name, array in given.items()}
        return evaluated(lambda x, u, *w: written(self, x, u, NUMPY, *w), **given)

    return method


def limits(signals: Sequence[Signal]) -> tuple[Array, Array]:
    """Lower and upper limits of ``signals``, each of shape (n,)."""
    return np.array([s.lower for s in signals]), np.array([s.upper for s in signals])


def checked(name: str, value: Any, signals: Sequence[Signal]) -> Array:
    """Return ``value`` as an array (..., n) after checking that its channels lie within the limits of ``signals``.

    Raises:
        ShapeError: The last axis has another length.
        DataError: A value is not finite or lies outside of the limits; the message says which.
    """
    value = numbers(name, value)
    axes = max(value.ndim, 1)  # a number without axes fails the check of shape below
    names = "; ".join(s.label for s in signals)
    array = as_array(name, value, (*("B" for _ in range(axes - 1)), len(signals)), hint=f"its channels are {names}")
    lower, upper = limits(signals)
    slack = _slack(lower, upper)
    outside = (array < lower - slack) | (array > upper + slack)
    if outside.any():
        where = tuple(int(i) for i in np.argwhere(outside)[0])
        signal = signals[where[-1]]
        raise DataError(
            f"{name}[{', '.join(map(str, where))}] must lie in [{signal.lower:g}, {signal.upper:g}] ({signal.label}), "
            f"got {array[where]:.9g}: keep {name} within the limits of the plant's signals"
        )
    return array


def _slack(lower: Array, upper: Array) -> Array:
    """Violation of the limits that counts as rounding, shape (n,); zero for a channel without two finite limits."""
    span = upper - lower
    return np.where(np.isfinite(span), _SLACK * span, 0.0)
