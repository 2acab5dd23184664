"""Faults of sensors, actuators and the solver, described before the run.

A fault acts within a window of control steps, at each sample with its probability. Sensor faults change the readings,
in the order in which they are given; actuator faults change the command; a `TimeOut` leaves the controller without a
solution, so that its fallbacks are used.
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
    """Base of faults: the window, the probability and the channel.

    Args:
        start: First control step of the window.
        stop: First control step after the window; None: no end.
        probability: Probability of acting at a sample within the window.
        channel: Index of the output or input; None for all, each drawn independently.

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
        """Draw the samples and channels at which the fault acts, shape (steps, channels).

        Args:
            rng: Generator for the samples.
            steps: Control steps of the run.
            channels: Number of outputs (sensors), inputs (actuators), or 1 (solver).

        Raises:
            SettingError: There is no such channel.
        """
        # Drawn for the whole run and all channels, so that a fault's window and channel do not change later draws.
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
    """Base of faults that change readings."""

    @abstractmethod
    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:
        """Faulty readings, shape (ny,).

        Args:
            now: Readings without this fault, shape (ny,).
            past: True readings of this sample and those before, the latest last, shape (k, ny).
            last: Faulty readings one sample before, shape (ny,).
            sign: Random signs -1 or 1, shape (ny,).
        """


@dataclass(frozen=True, kw_only=True)
@typed()
class DropOut(SensorFault):
    """Missing reading (NaN). Arguments as `Fault`."""

    kind: ClassVar[str] = "sensor drop-out"

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """Faulty readings, shape (ny,); see `SensorFault.reading`."""
        return np.full_like(now, np.nan)


@dataclass(frozen=True, kw_only=True)
@typed()
class Outlier(SensorFault):
    """Reading with an error of ``size``, of random sign.

    Args:
        size: Size of the error, positive, in units of the output.
    """

    kind: ClassVar[str] = "outlier"
    size: float

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("size", self.size)

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """Faulty readings, shape (ny,); see `SensorFault.reading`."""
        return now + self.size * sign


@dataclass(frozen=True, kw_only=True)
@typed()
class FrozenSensor(SensorFault):
    """Sensor that repeats its last reading. Arguments as `Fault`."""

    kind: ClassVar[str] = "frozen sensor"

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """Faulty readings, shape (ny,); see `SensorFault.reading`."""
        return last


@dataclass(frozen=True, kw_only=True)
@typed(infinite=("lower", "upper"))
class SaturatedSensor(SensorFault):
    """Sensor that saturates at the ends of a range.

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
        """Faulty readings, shape (ny,); see `SensorFault.reading`."""
        return np.clip(now, self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
@typed()
class Late(SensorFault):
    """Reading that arrives ``delay`` samples late.

    Args:
        delay: Delay in samples.
        stamped: Whether it has a time stamp. The controller then knows that the present one is missing, and gets the
            late one when it arrives (`TightenedMPC.correct`), with the faults given before this one applied. Without a
            time stamp the old reading is used as the present one.
    """

    kind: ClassVar[str] = "late measurement"
    delay: int = 1
    stamped: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        count("delay", self.delay)

    def reading(self, now: Array, past: Array, last: Array, sign: Array) -> Array:  # noqa: ARG002
        """Faulty readings, shape (ny,); see `SensorFault.reading`."""
        return np.full_like(now, np.nan) if self.stamped else past[max(len(past) - 1 - self.delay, 0)]


class ActuatorFault(Fault):
    """Base of faults that change the command on its way to the plant."""

    @abstractmethod
    def flow(self, wanted: Array, last: Array) -> Array:
        """Input that reaches the plant, shape (nu,), for the command ``wanted`` (nu,), after ``last`` (nu,)."""


@dataclass(frozen=True, kw_only=True)
@typed()
class StuckActuator(ActuatorFault):
    """Actuator that keeps its last input. Arguments as `Fault`."""

    kind: ClassVar[str] = "stuck actuator"

    def flow(self, wanted: Array, last: Array) -> Array:  # noqa: ARG002
        """Input that reaches the plant, shape (nu,); see `ActuatorFault.flow`."""
        return last


@dataclass(frozen=True, kw_only=True)
@typed(infinite=("lower", "upper"))
class SaturatedActuator(ActuatorFault):
    """Actuator that saturates within its range.

    Args:
        lower: Least input that it gives.
        upper: Largest input that it gives.
    """

    kind: ClassVar[str] = "saturated actuator"
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        super().__post_init__()
        _ordered(self.lower, self.upper)

    def flow(self, wanted: Array, last: Array) -> Array:  # noqa: ARG002
        """Input that reaches the plant, shape (nu,); see `ActuatorFault.flow`."""
        return np.clip(wanted, self.lower, self.upper)


@dataclass(frozen=True, kw_only=True)
@typed()
class ActuatorOffset(ActuatorFault):
    """Actuator with a constant offset.

    Args:
        size: Offset of either sign, in units of the input.
    """

    kind: ClassVar[str] = "actuator offset"
    size: float

    def __post_init__(self) -> None:
        super().__post_init__()
        if not math.isfinite(self.size):
            raise SettingError(f"size must be a finite number, got {self.size!r}")

    def flow(self, wanted: Array, last: Array) -> Array:  # noqa: ARG002
        """Input that reaches the plant, shape (nu,); see `ActuatorFault.flow`."""
        return wanted + self.size


@dataclass(frozen=True, kw_only=True)
@typed()
class TimeOut(Fault):
    """Time-out of the solver. Arguments as `Fault`; it has no channel."""

    kind: ClassVar[str] = "solver time-out"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.channel is not None:
            raise SettingError(f"a time-out has no channel, got {self.channel}: leave it out")


@dataclass(frozen=True, kw_only=True)
@typed()
class RandomFaults:
    """Random sequence of faults, drawn for each run.

    Args:
        choices: Faults to draw from, whose windows are replaced.
        rate: Mean number of faults that start per control step.
        duration: Shortest and longest window, in control steps.
        steps: Number of control steps to cover.

    Raises:
        SettingError: There are no choices, or a number is out of range.
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
        """Draw the faults of one run."""
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
