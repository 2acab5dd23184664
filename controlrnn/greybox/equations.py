"""Physical equations with parameters, and their discretisation by sub-steps of an explicit method."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from controlrnn.checks import Array, Choice, count, flag, items, number, numbers, positive, put, shown, text
from controlrnn.data import Signal
from controlrnn.errors import SettingError

Values = Mapping[str, Any]
Rate = Callable[[Any, Any, Values, Any], Any]


class Method(Choice):
    """Explicit method of a sub-step of length h; its stages are layers of neurons."""

    EULER = "euler"
    """x + h f(x): one stage, order 1."""
    MIDPOINT = "midpoint"
    """x + h f(x + h/2 f(x)): two stages, order 2."""
    RK4 = "rk4"
    """The classical Runge-Kutta method: four stages, order 4."""


@dataclass(frozen=True)
class Parameter:
    """A physical parameter.

    Args:
        name: Name, as the equations call it.
        value: What it is believed to be.
        lower: Lower bound, or minus infinity.
        upper: Upper bound, or infinity.
        unit: Unit.
        deviation: Standard deviation of what is believed (a prior); infinity: data alone decide.
        fixed: Whether it stays as it is.

    Raises:
        SettingError: The value is not strictly between its bounds, or the deviation is not positive.
    """

    name: str
    value: float
    lower: float = -math.inf
    upper: float = math.inf
    unit: str = "-"
    deviation: float = math.inf
    fixed: bool = False

    def __post_init__(self) -> None:
        put(self, name=text("name", self.name), value=float(number("value", self.value)))
        low, high, deviation = (_limit(name, getattr(self, name)) for name in ("lower", "upper", "deviation"))
        put(self, lower=low, upper=high, deviation=deviation, unit=text("unit", self.unit))
        put(self, fixed=flag("fixed", self.fixed))
        if not low < self.value < high:
            raise SettingError(f"{self.name} must lie between its bounds {low} and {high}, got {self.value}")
        if not deviation > 0:
            raise SettingError(f"the deviation of {self.name} must be positive, got {self.deviation}")

    def inner(self, value: float) -> float:
        """Unbounded number that stands for a value between the bounds."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            share = (value - self.lower) / (self.upper - self.lower)
            return math.log(share / (1 - share))
        if math.isfinite(self.lower):
            return math.log(value - self.lower)
        if math.isfinite(self.upper):
            return -math.log(self.upper - value)
        return value / self._size

    def outer(self, inner: float) -> tuple[float, float]:
        """Value of an unbounded number, and its derivative by it."""
        if math.isfinite(self.lower) and math.isfinite(self.upper):
            share, span = 0.5 + 0.5 * math.tanh(0.5 * inner), self.upper - self.lower
            return self.lower + span * share, span * share * (1 - share)
        if math.isfinite(self.lower):
            rise = math.exp(min(inner, 300.0))
            return self.lower + rise, rise
        if math.isfinite(self.upper):
            rise = math.exp(min(-inner, 300.0))
            return self.upper - rise, rise
        return self._size * inner, self._size

    @property
    def _size(self) -> float:
        return abs(self.value) or 1.0


def _limit(name: str, value: Any) -> float:
    """A number that may be infinite."""
    found = numbers(name, value)
    if found.shape != () or np.isnan(found):
        raise SettingError(f"{name} must be a number, possibly infinite, got {shown(value)}")
    return float(found)


@dataclass(frozen=True, kw_only=True)
class Equations:
    """Continuous-time equations dx/dt = f(x, u, p), y = g(x, u, p), and how they are discretised.

    Args:
        dynamics: ``f(x, u, p, ops)``: rows of states and inputs, parameters by name, and the functions of
            `plants.ops`; returns the row dx/dt.
        output: ``g(x, u, p, ops)``, likewise.
        states: States with the box that they stay in, sub-steps included: outside of it laws go on as straight lines.
        inputs: Inputs with their box.
        parameters: Physical parameters.
        dt: Sample time [s].
        substeps: Explicit steps per sample.
        method: Method of each.

    Raises:
        SettingError: A box is not finite, or a name is there twice.
    """

    dynamics: Rate
    output: Rate
    states: Sequence[Signal]
    inputs: Sequence[Signal]
    parameters: Sequence[Parameter] = field(default=())
    dt: float
    substeps: int = 4
    method: Method = Method.EULER

    def __post_init__(self) -> None:
        put(
            self,
            states=items("states", self.states, Signal, least=1),
            inputs=items("inputs", self.inputs, Signal),
            parameters=items("parameters", self.parameters, Parameter),
            dt=positive("dt", self.dt),
            substeps=count("substeps", self.substeps),
            method=Method(self.method),
        )
        for signal in (*self.states, *self.inputs):
            if not (math.isfinite(signal.lower) and math.isfinite(signal.upper) and signal.lower < signal.upper):
                raise SettingError(
                    f"{signal.name} needs a finite box with lower < upper, got {signal.lower} to {signal.upper}: "
                    "declare where it stays"
                )
        for name in ("dynamics", "output"):
            if not callable(getattr(self, name)):
                raise SettingError(f"{name} must be a function f(x, u, p, ops), got {shown(getattr(self, name))}")
        names = [p.name for p in self.parameters]
        if len(set(names)) < len(names):
            raise SettingError(f"parameters must have names of their own, got {names}")

    @classmethod
    def of_plant(
        cls,
        plant: Any,
        *,
        box: Sequence[tuple[float, float]] | None = None,
        substeps: int = 4,
        method: Method | str = Method.EULER,
    ) -> Equations:
        """Equations of a `plants.Plant` without disturbances and with its constants as they are.

        Args:
            plant: The plant.
            box: Lower and upper end of each state; the plant's limits when left out.
            substeps: As above.
            method: As above.
        """
        ends = [(s.lower, s.upper) for s in plant.states] if box is None else box
        states = [Signal(s.name, s.unit, low, high) for s, (low, high) in zip(plant.states, ends, strict=True)]
        return cls(
            dynamics=lambda x, u, _p, ops: plant.dynamics(x, u, ops),
            output=lambda x, u, _p, ops: plant.output(x, u, ops),
            states=states,
            inputs=plant.inputs,
            dt=plant.dt,
            substeps=substeps,
            method=Method(method),
        )

    @property
    def believed(self) -> dict[str, float]:
        """Values of the parameters as they are believed."""
        return {p.name: p.value for p in self.parameters}

    def boxes(self) -> tuple[Array, Array]:
        """Boxes of states (nx, 2) and of inputs (nu, 2)."""
        return tuple(np.array([(s.lower, s.upper) for s in one]).reshape(-1, 2) for one in (self.states, self.inputs))  # type: ignore[return-value]

    def step(
        self, x: Any, u: Any, ops: Any, values: Values | None = None, stage: Callable[[Any], Any] = lambda x: x
    ) -> Any:
        """Next state, by sub-steps, in any backend of `plants.ops`.

        Args:
            x: States, numpy (..., nx) or CasADi (1, nx).
            u: Inputs, likewise.
            ops: The backend.
            values: Values of the parameters; as believed when left out.
            stage: Called with each state that the dynamics are evaluated at, and returns it.
        """
        p, h = self.believed if values is None else values, self.dt / self.substeps

        def rate(state: Any) -> Any:
            return self.dynamics(stage(state), u, p, ops)

        for _ in range(self.substeps):
            k1 = rate(x)
            if self.method is Method.EULER:
                x = x + h * k1
            elif self.method is Method.MIDPOINT:
                x = x + h * rate(x + (0.5 * h) * k1)
            else:
                k2 = rate(x + (0.5 * h) * k1)
                k3 = rate(x + (0.5 * h) * k2)
                k4 = rate(x + h * k3)
                x = x + (h / 6.0) * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
        return x
