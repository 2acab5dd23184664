"""A chain of carts with piecewise-linear springs: the simulated example of the robust-RNN papers.

M. Revay, R. Wang, I. R. Manchester, "A convex parameterization of robust recurrent neural networks", IEEE L-CSS 2021,
section V (four carts). Cart 1 is tied to the wall and driven by a force, cart n is measured. With elongations
d_i = q_i - q_{i-1}, q_0 = 0, and forces f_i = k_i G(d_i) + c_i d(d_i)/dt:

    m_i d2q_i/dt2 = f_{i+1} - f_i + [i = 1] u,    G(d) = d / 4 for |d| <= 1,    G(d) = d - 3/4 sign(d) beyond

The papers interpolate the force linearly between samples; here, as everywhere in this package, it is held.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from controlrnn.checks import Array, evaluated, positive, size
from controlrnn.data import Signal
from controlrnn.typed import typed
from plants.base import Plant
from plants.ops import NUMPY, Ops, Value


@dataclass(frozen=True)
@typed()
class MassSpringDamperChain(Plant):
    """Chain of carts: force on the first [N] to position of the last [m]; states are positions, then velocities.

    With n carts, masses and dampers run evenly from 0.25 to 0.5, springs from 1 to 0.5; n = 4 gives the papers' values.

    Args:
        n_masses: Number of carts.
        dt: Sample time [s].
        force: Greatest force in either direction [N]; the papers use up to 5.25.
        position_limit: Limit of the measured position in either direction [m].
    """

    n_masses: int = 4
    dt: float = 0.5
    force: float = 6.0
    position_limit: float = 10.0

    def __post_init__(self) -> None:
        size("n_masses", self.n_masses)
        for name in ("dt", "force", "position_limit"):
            positive(name, getattr(self, name))

    @cached_property
    def masses(self) -> Array:
        """Masses m_i of the carts [kg], shape (n,)."""
        return np.linspace(0.25, 0.5, self.n_masses)

    @cached_property
    def dampers(self) -> Array:
        """Damper constants c_i between carts i - 1 and i [N s/m], shape (n,)."""
        return np.linspace(0.25, 0.5, self.n_masses)

    @cached_property
    def springs(self) -> Array:
        """Spring constants k_i between carts i - 1 and i [N/m], shape (n,)."""
        return np.linspace(1.0, 0.5, self.n_masses)

    @cached_property
    def inputs(self) -> tuple[Signal, ...]:
        """Force on the first cart [N]."""
        return (Signal("force", "N", -self.force, self.force),)

    @cached_property
    def outputs(self) -> tuple[Signal, ...]:
        """Position of the last cart [m]."""
        return (Signal(f"position {self.n_masses}", "m", -self.position_limit, self.position_limit),)

    @cached_property
    def states(self) -> tuple[Signal, ...]:
        """Positions [m], then velocities [m/s]; physics does not limit them."""
        carts = range(1, self.n_masses + 1)
        return (*(Signal(f"position {i}", "m") for i in carts), *(Signal(f"velocity {i}", "m/s") for i in carts))

    @cached_property
    def disturbances(self) -> tuple[Signal, ...]:
        """Unmeasured force on each cart [N]."""
        return tuple(Signal(f"disturbing force {i + 1}", "N", -math.inf, math.inf) for i in range(self.n_masses))

    @property
    def nominal_input(self) -> Array:
        """Zero force, shape (1,)."""
        return np.zeros(1)

    @cached_property
    def _elongation(self) -> Array:
        """Matrix (n, n) that maps a row of positions to a row of elongations."""
        return np.eye(self.n_masses) - np.eye(self.n_masses, k=1)

    def dynamics(self, x: Value, u: Value, ops: Ops = NUMPY, w: Value | None = None) -> Value:
        """Newton's law; see `Plant.dynamics`."""
        n = self.n_masses
        position, velocity = ops.columns(x, 0, n), ops.columns(x, n, 2 * n)
        d, rate = position @ self._elongation, velocity @ self._elongation
        # G(d) without branches: slope 1/4 everywhere, and 3/4 more beyond |d| = 1.
        pull = (0.25 * d + 0.75 * (ops.fmax(d - 1.0, 0.0) + ops.fmin(d + 1.0, 0.0))) * ops.row(self.springs)
        # The transpose turns forces between carts into forces on carts: cart i gets f_{i+1} - f_i.
        net = u @ np.eye(1, n) - (pull + rate * ops.row(self.dampers)) @ self._elongation.T
        if w is not None:
            net = net + w
        return ops.join([velocity, net / ops.row(self.masses)])

    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:  # noqa: ARG002  # a position needs no input
        """Position of the last cart [m]."""
        return ops.columns(x, self.n_masses - 1, self.n_masses)

    def energy(self, x: Any) -> Array:
        """Kinetic energy plus the energy in the springs [J], shape (...); without force it never grows.

        Args:
            x: States, shape (..., nx).
        """
        return evaluated(self._energy, x=self.checked_state(x))

    def _energy(self, x: Array) -> Array:
        """Energy as `energy`, unchecked."""
        d = np.abs(x[..., : self.n_masses] @ self._elongation)
        stored = 0.125 * d**2 + 0.375 * np.maximum(d - 1.0, 0.0) ** 2
        moving = 0.5 * self.masses * x[..., self.n_masses :] ** 2
        return np.asarray((self.springs * stored + moving).sum(axis=-1), dtype=np.float64)

    def _equilibrium(self, u: Array) -> Array:
        # At rest the first spring carries the force alone; all other springs are slack.
        pull = float(u[0] / self.springs[0])  # G(d) of the first spring, inverted below
        d = math.copysign(4.0 * abs(pull) if abs(pull) <= 0.25 else abs(pull) + 0.75, pull)
        return np.concatenate([np.full(self.n_masses, d), np.zeros(self.n_masses)])

    def _equilibrium_input(self, y: Array) -> Array:
        d = float(y[0])
        return np.array([self.springs[0] * math.copysign(0.25 * min(abs(d), 1.0) + max(abs(d) - 1.0, 0.0), d)])
