"""Physics that all tank plants share: Torricelli's law, overflow at the rim, leaks.

* Flow through an opening under the head z is ``c sign(z) sqrt(|z|)``, whose slope is infinite at z = 0. Here it is
  ``c z / (z^2 + eps^2)^(1/4)``: odd, infinitely smooth, Torricelli's law up to a share (eps / 2z)^2, and proportional
  to the head below ``eps``, as laminar flow is. A level cannot become negative: outflow vanishes with it.
* At the rim all surplus spills, so the level cannot exceed it. The spill sets in over a thin ``layer`` below the rim,
  which keeps the right-hand side Lipschitz; a rim without it would be a jump that no solver likes.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any, final

import numpy as np

from controlrnn.checks import Array, positive
from controlrnn.errors import SettingError
from plants.base import Plant, checked
from plants.ops import NUMPY, Ops, Value

GRAVITY = 981.0  # [cm/s^2]


class TankPlant(Plant):
    """Base class of plants whose states are the levels of tanks; flows are in the unit of the disturbances.

    Attributes:
        layer: Height below the rim over which spilling sets in [unit of the levels].
    """

    layer: float

    @property
    @abstractmethod
    def rims(self) -> tuple[float, ...]:
        """Heights of the tanks [unit of the levels]."""

    @property
    @abstractmethod
    def capacities(self) -> tuple[float, ...]:
        """Cross sections of the tanks: net flow that makes a level rise by one unit per second."""

    @abstractmethod
    def net_flow(self, x: Value, u: Value, ops: Ops, w: Value | None) -> Value:
        """Inflow minus outflow of each tank, before it spills over its own rim; arguments as in `dynamics`."""

    @final
    def dynamics(self, x: Value, u: Value, ops: Ops = NUMPY, w: Value | None = None) -> Value:
        """Mass balance of every tank; arguments as in `Plant.dynamics`."""
        net = self.net_flow(x, u, ops, w)
        return (net - spill(net, x, ops.row(self.rims), self.layer, ops)) / ops.row(self.capacities)

    @final
    def overflow(self, x: Any, u: Any, w: Any = None) -> Array:
        """Flow that spills over each rim, shape (..., nx), in the unit of the disturbances; arguments as in `step`."""
        x, u = self.checked_state(x), self.checked_input(u)
        net = self.net_flow(x, u, NUMPY, None if w is None else checked("w", w, self.disturbances))
        return np.asarray(spill(net, x, NUMPY.row(self.rims), self.layer, NUMPY), dtype=np.float64)


def torricelli(head: Value, eps: float, ops: Ops) -> Value:
    """Regularised ``sign(head) sqrt(|head|)``, which is linear below a head of ``eps``; see the module docstring."""
    return ops.signed_root(head, eps)


def head_for(flow: Any, eps: float) -> Any:
    """Head at which `torricelli` gives ``flow``; the inverse function."""
    # With s = sqrt(z^2 + eps^2), flow^2 s = z^2 = s^2 - eps^2 is quadratic in s.
    square = np.square(flow)
    s = 0.5 * (square + np.sqrt(square**2 + 4.0 * eps**2))
    return flow * np.sqrt(s)


def spill(net: Value, level: Value, rim: Value, layer: float, ops: Ops) -> Value:
    """Overflow over a rim: no share of the surplus ``net`` below the layer, all of it at the rim."""
    share = ops.fmin(ops.fmax((level - rim) / layer + 1.0, 0.0), 1.0)
    return ops.fmax(net, 0.0) * share


def disturbed(net: Value, level: Value, w: Value | None, layer: float, ops: Ops) -> Value:
    """Add disturbance flows to ``net``; a negative one is a leak, which dries up within ``layer`` above the bottom."""
    if w is None:
        return net
    wet = ops.fmin(ops.fmax(level / layer, 0.0), 1.0)
    return net + ops.fmax(w, 0.0) + ops.fmin(w, 0.0) * wet


def positives(name: str, values: Sequence[float], n: int) -> tuple[float, ...]:
    """Return ``values`` as a tuple after checking that they are ``n`` positive numbers."""
    if len(values) != n:
        raise SettingError(f"{name} must hold {n} numbers, one each, got {len(values)}: {values!r}")
    return tuple(positive(f"{name}[{i}]", v) for i, v in enumerate(values))
