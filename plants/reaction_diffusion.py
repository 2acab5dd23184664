"""A reaction-diffusion equation on a line: the observer benchmark of the REN and R2DN papers.

M. Revay, R. Wang, I. R. Manchester, "Recurrent equilibrium networks", IEEE TAC 2023, section VIII-B, and I. R.
Manchester, N. Barbara, R. Wang, "R2DN", 2025:

    dxi/dt = d2xi/dz2 + R(xi) / 2,   R(xi) = xi (1 - xi) (xi - 1/2),   xi(0, t) = xi(L, t) = u(t),   y = xi(L / 2, t)

Here the line is cut at n inner points, L / (n + 1) apart, with u beyond both ends (the papers count the two ends among
their 51 points and take explicit Euler steps of a tenth of the squared distance, five a sample: 0.02 s). The reaction
drives xi to 0 or to 1, whichever is nearer; beyond L = 2 pi sqrt(2) it wins against diffusion in the middle, so that
near u = 1/2 there are three equilibria, of which the middle one is unstable.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from controlrnn.checks import Array, count, positive
from controlrnn.data import Signal
from controlrnn.errors import SettingError
from controlrnn.typed import typed
from plants.base import Plant
from plants.ops import NUMPY, Ops, Value

_MOST_STEPS = 200


@dataclass(frozen=True)
@typed()
class ReactionDiffusion(Plant):
    """Reaction-diffusion equation: concentration at both ends to that in the middle; states are those at all points.

    Args:
        points: Number n of points, odd, so that one lies in the middle.
        dt: Sample time [s]; the papers use 0.02.
        length: Length L [m], with a diffusion constant of 1 m^2/s.
        reaction: Rate of the reaction [1/s].
    """

    points: int = 51
    dt: float = 0.1
    length: float = 10.0
    reaction: float = 0.5

    def __post_init__(self) -> None:
        count("points", self.points, least=3)
        if not self.points % 2:
            raise SettingError(f"points must be odd, so that one lies in the middle, got {self.points}")
        for name in ("dt", "length", "reaction"):
            positive(name, getattr(self, name))

    @property
    def distance(self) -> float:
        """Distance of two points [m]."""
        return self.length / (self.points + 1)

    @cached_property
    def inputs(self) -> tuple[Signal, ...]:
        """Concentration at both ends."""
        return (Signal("concentration at the ends", "1", 0.0, 1.0),)

    @cached_property
    def outputs(self) -> tuple[Signal, ...]:
        """Concentration in the middle."""
        return (Signal("concentration in the middle", "1", -0.5, 1.5),)

    @cached_property
    def states(self) -> tuple[Signal, ...]:
        """Concentrations at the points; between 0 and 1 as long as nothing disturbs."""
        return tuple(Signal(f"concentration {i + 1}", "1") for i in range(self.points))

    @cached_property
    def disturbances(self) -> tuple[Signal, ...]:
        """Unmeasured source, the same at all points [1/s]."""
        return (Signal("source", "1/s", -math.inf, math.inf),)

    @property
    def nominal_input(self) -> Array:
        """A fifth at both ends, shape (1,)."""
        return np.array([0.2])

    def dynamics(self, x: Value, u: Value, ops: Ops = NUMPY, w: Value | None = None) -> Value:
        """Diffusion and reaction; see `Plant.dynamics`."""
        n = self.points
        ends = u + 0.0 * ops.columns(x, 0, 1)  # as many rows as x has
        left, right = ops.join([ends, ops.columns(x, 0, n - 1)]), ops.join([ops.columns(x, 1, n), ends])
        rate = (left - 2.0 * x + right) / self.distance**2 + self.reaction * x * (1.0 - x) * (x - 0.5)
        return rate if w is None else rate + w

    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:  # noqa: ARG002  # the middle needs no input
        """Concentration in the middle."""
        return ops.columns(x, self.points // 2, self.points // 2 + 1)

    def _equilibrium(self, u: Array) -> Array:
        """The equilibrium that is reached from concentrations of 0, or, for ends above one half, of 1.

        Implicit Euler steps of growing length end as Newton's method (Kelley & Keyes, "Convergence analysis of
        pseudo-transient continuation", SIAM J. Numer. Anal. 1998).
        """
        x, h, size = np.full(self.points, 1.0 if u[0] > 0.5 else 0.0), 1.0, math.inf
        diffusion = (np.eye(self.points, k=1) - 2 * np.eye(self.points) + np.eye(self.points, k=-1)) / self.distance**2
        for _ in range(_MOST_STEPS):
            rate = self._rate(x, u, NUMPY, None)
            new = float(np.abs(rate).max())
            if new >= size and new < 1e-10:  # no better in this arithmetic
                break
            h, size = (h * min(max(size / max(new, 1e-300), 1.0), 1e3) if math.isfinite(size) else h), new
            slope = self.reaction * (-3 * x**2 + 3 * x - 0.5)
            x = x + np.linalg.solve(np.eye(self.points) / h - diffusion - np.diag(slope), rate)
        return np.asarray(x)

    def _equilibrium_input(self, y: Array) -> Array:
        # The middle rises with the ends; where it jumps, no input holds what lies between, as the caller finds out.
        middle = self.points // 2

        def error(u: float) -> float:
            return float(self._equilibrium(np.array([u]))[middle] - y[0])

        low, high = 0.0, 1.0
        if error(low) >= 0 or error(high) <= 0:
            return np.array([low if error(low) >= 0 else high])
        return np.array([brentq(error, low, high, xtol=1e-14, rtol=1e-14)])
