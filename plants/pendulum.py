"""A pendulum driven by a torque: the smallest plant whose nonlinearity is smooth and has no end.

    m l^2 d2a/dt2 = u - m g l sin(a) - c da/dt

with the angle a from hanging down. (Erichson et al., "Lipschitz recurrent neural networks", ICLR 2021, figure 1, shows
vector fields of networks that were trained on a simple pendulum, without its constants.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from controlrnn.checks import Array, evaluated, number, positive
from controlrnn.data import Signal
from controlrnn.typed import typed
from plants.base import Plant
from plants.ops import NUMPY, Ops, Value

_GRAVITY = 9.81


@dataclass(frozen=True)
@typed()
class Pendulum(Plant):
    """Pendulum: torque [N m] to angle [rad] from hanging down; states are the angle and its rate [rad/s].

    The greatest torque is a share of the one that holds the pendulum horizontally, so that it hangs below at rest;
    swung up and down it goes over the top, where angles beyond pi count on.

    Args:
        dt: Sample time [s].
        mass: Mass m at the end [kg].
        length: Length l [m].
        damping: Friction c [N m s].
        strength: Greatest torque in either direction over m g l, below one.
        angle_limit: Limit of the measured angle in either direction [rad].
    """

    dt: float = 0.1
    mass: float = 1.0
    length: float = 1.0
    damping: float = 0.5
    strength: float = 0.9
    angle_limit: float = 1.5

    def __post_init__(self) -> None:
        for name in ("dt", "mass", "length", "damping", "angle_limit"):
            positive(name, getattr(self, name))
        number("strength", self.strength, above=0.0, below=1.0, what="a number between 0 and 1")

    @property
    def weight(self) -> float:
        """Torque m g l of the weight when the pendulum is horizontal [N m]."""
        return self.mass * _GRAVITY * self.length

    @cached_property
    def inputs(self) -> tuple[Signal, ...]:
        """Torque [N m]."""
        return (Signal("torque", "N m", -self.strength * self.weight, self.strength * self.weight),)

    @cached_property
    def outputs(self) -> tuple[Signal, ...]:
        """Angle [rad]."""
        return (Signal("angle", "rad", -self.angle_limit, self.angle_limit),)

    @cached_property
    def states(self) -> tuple[Signal, ...]:
        """Angle [rad] and its rate [rad/s]; physics does not limit them."""
        return Signal("angle", "rad"), Signal("angular velocity", "rad/s")

    @cached_property
    def disturbances(self) -> tuple[Signal, ...]:
        """Unmeasured torque [N m]."""
        return (Signal("disturbing torque", "N m", -math.inf, math.inf),)

    @property
    def nominal_input(self) -> Array:
        """No torque, shape (1,)."""
        return np.zeros(1)

    def dynamics(self, x: Value, u: Value, ops: Ops = NUMPY, w: Value | None = None) -> Value:
        """Euler's law of rotation; see `Plant.dynamics`."""
        angle, rate = ops.columns(x, 0, 1), ops.columns(x, 1, 2)
        torque = u - self.weight * ops.sin(angle) - self.damping * rate
        if w is not None:
            torque = torque + w
        return ops.join([rate, torque / (self.mass * self.length**2)])

    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:  # noqa: ARG002  # an angle needs no input
        """Angle [rad]."""
        return ops.columns(x, 0, 1)

    def energy(self, x: Any) -> Array:
        """Kinetic and potential energy [J], zero at rest, shape (...); without torque it never grows.

        Args:
            x: States, shape (..., 2).
        """
        return evaluated(self._energy, x=self.checked_state(x))

    def _energy(self, x: Array) -> Array:
        """Energy as `energy`, unchecked."""
        moving = 0.5 * self.mass * self.length**2 * x[..., 1] ** 2
        # 1 - cos(a) without cancellation
        return np.asarray(moving + 2 * self.weight * np.sin(0.5 * x[..., 0]) ** 2)

    def _equilibrium(self, u: Array) -> Array:
        return np.array([math.asin(float(u[0]) / self.weight), 0.0])

    def _equilibrium_input(self, y: Array) -> Array:
        return np.array([self.weight * math.sin(float(y[0]))])
