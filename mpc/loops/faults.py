"""What can go wrong around a controller: sensors, actuators and the solver, described before the run.

A fault acts within a window of control steps, there at each sample with its probability. Sensor faults act in the order
in which they are given on what the sensor would have said; actuator faults on the command; a `TimeOut` leaves the
controller without a solution, which sends it down its fallback chain. Nothing here raises: failure is a state.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, count, positive
from controlrnn.errors import SettingError
from controlrnn.typed import typed

Mask = NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
@typed()
class Fault(ABC):
    """Where and how often something is wrong.

    Args:
        start: First control step.
        stop: First control step that is fine again; None: never.
        probability: Of acting at a sample within the window.
        channel: Index of the output or input; None for all, each drawn for itself.

    Raises:
        SettingError: The window is empty, or a number is out of range.
    """

    kind: ClassVar[str]
    start: int = 0
    stop: int | None = None
    probability: float = 1.0
    channel: int | None = None

    def __post_init__(self) -> None:
        count("start", self.start, least=0)
        if self.stop is not None and count("stop", self.stop) <= self.start:
            raise SettingError(f"a fault must stop after it starts, got start {self.start}, stop {self.stop}")
        if not 0 < self.probability <= 1:
            raise SettingError(f"probability must lie in (0, 1], got {self.probability!r}")
        if self.channel is not None:
            count("channel", self.channel, least=0)

    def acts(self, rng: np.random.Generator, steps: int, channels: int) -> Mask:
        """At which samples and channels it acts, shape (steps, channels).

        Args:
            rng: Draws the samples.
            steps: Control steps of the run.
            channels: Number of outputs (sensors), inputs (actuators), or 1 (solver).

        Raises:
            SettingError: There is no such channel.
        """
        mask = rng.random((steps, channels)) < self.probability
        mask[: self.start] = False
        if self.stop is not None:
            mask[self.stop :] = False
        if self.channel is not None:
            if self.channel >= channels:
                raise SettingError(f"channel must be below {channels}, got {self.channel} for a {self.kind}")
            mask[:, np.arange(channels) != self.channel] = False
        return mask


class SensorFault(Fault):
    """Changes readings."""

    @abstractmethod
    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:
        """What the sensors say instead, shape (ny,).

        Args:
            now: What they would say, shape (ny,).
            past: The same for this sample and those before, the latest last, shape (k, ny).
            last: What they said a sample ago, shape (ny,).
            sign: Drawn from -1 and 1, shape (ny,).
        """


@dataclass(frozen=True, kw_only=True)
@typed()
class DropOut(SensorFault):
    """No reading (NaN). Arguments as `Fault`."""

    kind: ClassVar[str] = "sensor drop-out"

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """See `SensorFault`."""
        return np.full_like(now, np.nan)


@dataclass(frozen=True, kw_only=True)
@typed()
class Outlier(SensorFault):
    """A reading that is off by ``size``, up or down.

    Args:
        size: Positive, in units of the output.
    """

    kind: ClassVar[str] = "outlier"
    size: float

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("size", self.size)

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """See `SensorFault`."""
        return now + self.size * sign


@dataclass(frozen=True, kw_only=True)
@typed()
class FrozenSensor(SensorFault):
    """The sensor repeats its last reading. Arguments as `Fault`."""

    kind: ClassVar[str] = "frozen sensor"

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """See `SensorFault`."""
        return last


@dataclass(frozen=True, kw_only=True)
@typed(infinite=("lower", "upper"))
class SaturatedSensor(SensorFault):
    """The sensor does not see beyond a range.

    Args:
        lower: Least reading.
        upper: Largest reading.
    """

    kind: ClassVar[str] = "saturated sensor"
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        _ordered(self.lower, self.upper)

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """See `SensorFault`."""
        return np.clip(now, self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
@typed()
class Late(SensorFault):
    """A reading arrives ``delay`` samples late.

    Args:
        delay: Samples.
        stamped: Whether it carries its time. The controller then knows that the present one is missing, and is handed
            the late one when it comes (`TightenedMPC.correct`), as the faults given before this one have left it.
            Without, it takes the old one for the present one.
    """

    kind: ClassVar[str] = "late measurement"
    delay: int = 1
    stamped: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        count("delay", self.delay)

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """See `SensorFault`."""
        return np.full_like(now, np.nan) if self.stamped else past[max(len(past) - 1 - self.delay, 0)]


class ActuatorFault(Fault):
    """Changes what the plant gets of a command."""

    @abstractmethod
    def flow(self, wanted: Array, last: Array) -> Array:
        """What the plant gets, shape (nu,), of the command ``wanted`` (nu,), where it got ``last`` (nu,) before."""


@dataclass(frozen=True, kw_only=True)
@typed()
class StuckActuator(ActuatorFault):
    """The actuator stays where it is. Arguments as `Fault`."""

    kind: ClassVar[str] = "stuck actuator"

    def flow(self, wanted: Array, last: Array) -> Array:  # noqa: ARG002
        """See `ActuatorFault`."""
        return last


@dataclass(frozen=True, kw_only=True)
@typed(infinite=("lower", "upper"))
class SaturatedActuator(ActuatorFault):
    """The actuator does not reach its whole range.

    Args:
        lower: Least that it gives.
        upper: Most that it gives.
    """

    kind: ClassVar[str] = "saturated actuator"
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        _ordered(self.lower, self.upper)

    def flow(self, wanted: Array, last: Array) -> Array:  # noqa: ARG002
        """See `ActuatorFault`."""
        return np.clip(wanted, self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
@typed()
class ActuatorOffset(ActuatorFault):
    """The plant gets more, or less, than was asked for.

    Args:
        size: Of either sign, in units of the input.
    """

    kind: ClassVar[str] = "actuator offset"
    size: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.size):
            raise SettingError(f"size must be a finite number, got {self.size!r}")

    def flow(self, wanted: Array, last: Array) -> Array:  # noqa: ARG002
        """See `ActuatorFault`."""
        return wanted + self.size


@dataclass(frozen=True, kw_only=True)
@typed()
class TimeOut(Fault):
    """The solver has no time to answer. Arguments as `Fault`; it knows no channel."""

    kind: ClassVar[str] = "solver time-out"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channel is not None:
            raise SettingError(f"a time-out has no channel, got {self.channel}: leave it out")


@dataclass(frozen=True, kw_only=True)
@typed()
class RandomFaults:
    """A programme of faults drawn for each run: what can happen, how often, how long.

    Args:
        choices: Faults to draw from, whose windows are replaced.
        rate: Mean number of faults that start per control step.
        duration: Shortest and longest window, in control steps.
        steps: Control steps that the programme covers.

    Raises:
        SettingError: There is nothing to draw from, or a number is out of range.
    """

    choices: tuple[Fault, ...]
    rate: float
    duration: tuple[int, int]
    steps: int

    def __post_init__(self) -> None:
        positive("rate", self.rate)
        count("steps", self.steps)
        shortest, longest = (count("duration", d) for d in self.duration)
        if not self.choices or shortest > longest:
            raise SettingError(
                f"RandomFaults needs choices and a duration (shortest, longest), got {len(self.choices)} choices and "
                f"{self.duration}"
            )

    def __call__(self, rng: np.random.Generator) -> tuple[Fault, ...]:
        """Draw one programme."""
        drawn = []
        for _ in range(int(rng.poisson(self.rate * self.steps))):
            fault = self.choices[int(rng.integers(len(self.choices)))]
            start = int(rng.integers(self.steps))
            drawn.append(
                replace(fault, start=start, stop=start + int(rng.integers(self.duration[0], self.duration[1] + 1)))
            )
        return tuple(drawn)


Faults = Sequence[Fault] | Callable[[np.random.Generator], Sequence[Fault]]


def _ordered(lower: float, upper: float) -> None:
    if not lower < upper:
        raise SettingError(f"a range must have lower < upper, got [{lower}, {upper}]")
