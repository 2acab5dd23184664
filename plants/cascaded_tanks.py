"""Two cascaded tanks with overflow: a simulator of the benchmark rig.

M. Schoukens, P. Mattsson, T. Wigren, J. P. Noel, "Cascaded tanks benchmark combining soft and hard nonlinearities",
2016, eqs. (1)-(3): a pump fills the upper tank, which drains into the lower one, whose level is measured:

    dx1/dt = -k1 sqrt(x1) + k4 (u - u0),    dx2/dt = k1 sqrt(x1) - k3 sqrt(x2),    y = x2

(the tanks have equal cross sections, so what leaves the upper one enters the lower one: k2 = k1). When the upper tank
overflows, a part of the spilt water falls into the lower one, which overflows in turn. Levels are in volts of the
lower tank's sensor. The constants, also the pump's dead zone u0, were fitted to the benchmark's estimation record (free
run from sample 0, both initial levels fitted): RMSE 0.26 V there, 0.34 V on the test record, first 50 samples left out.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from controlrnn.checks import Array, positive
from controlrnn.data import Signal
from controlrnn.errors import InfeasibleError, SettingError
from controlrnn.typed import typed
from plants.ops import NUMPY, Ops, Value
from plants.tanks import TankPlant, disturbed, head_for, positives, spill, torricelli


@dataclass(frozen=True)
@typed()
class CascadedTanks(TankPlant):
    """Cascaded tanks: pump voltage [V] to level of the lower tank [V]; equations in the module docstring.

    Args:
        dt: Sample time [s].
        upper_drain: k1 [V^0.5/s].
        lower_drain: k3 [V^0.5/s].
        pump_gain: k4 [1/s].
        dead_zone: Pump voltage u0 up to which nothing flows [V].
        caught: Share of the upper tank's overflow that falls into the lower tank.
        pump: Greatest pump voltage [V].
        level_limit: Upper limit of the lower level that a controller has to keep [V].
        heights: Rims of the upper and the lower tank [V]; at 10 V the sensor saturates as well.
        layer: See `TankPlant` [V].
        eps: Head below which flow is laminar, see `plants.tanks` [V].
    """

    dt: float = 4.0
    upper_drain: float = 0.0392
    lower_drain: float = 0.0463
    pump_gain: float = 0.0527
    dead_zone: float = 0.74
    caught: float = 0.88
    pump: float = 10.0
    level_limit: float = 9.0
    heights: tuple[float, float] = (12.47, 10.0)
    layer: float = 0.1
    eps: float = 0.02

    def __post_init__(self) -> None:
        for name in ("dt", "upper_drain", "lower_drain", "pump_gain", "pump", "level_limit", "layer", "eps"):
            positive(name, getattr(self, name))
        object.__setattr__(self, "heights", positives("heights", self.heights, 2))
        positive("dead_zone", self.dead_zone, zero=True, what="a voltage >= 0")
        if not 0.0 <= self.caught <= 1.0:
            raise SettingError(f"caught must be a share in [0, 1], got {self.caught}")
        if self.dead_zone >= self.pump or self.level_limit + self.layer > self.heights[1]:
            raise InfeasibleError(
                f"dead_zone must be below pump = {self.pump} V and level_limit + layer at most the lower rim, "
                f"{self.heights[1]} V, got {self.dead_zone} V and {self.level_limit} + {self.layer} V: lower them"
            )

    @cached_property
    def inputs(self) -> tuple[Signal, ...]:
        """Pump voltage [V]."""
        return (Signal("pump", "V", 0.0, self.pump),)

    @cached_property
    def outputs(self) -> tuple[Signal, ...]:
        """Lower level [V], up to `level_limit`."""
        return (Signal("lower level", "V", 0.0, self.level_limit),)

    @cached_property
    def states(self) -> tuple[Signal, ...]:
        """Both levels [V], up to their rims."""
        return tuple(Signal(f"{n} level", "V", 0.0, h) for n, h in zip(("upper", "lower"), self.heights, strict=True))

    @cached_property
    def disturbances(self) -> tuple[Signal, ...]:
        """Unmeasured inflow to each tank [V/s]; negative: a leak."""
        return (Signal("upper inflow", "V/s"), Signal("lower inflow", "V/s"))

    @property
    def nominal_input(self) -> Array:
        """Pump voltage that holds the lower level at half of its limit, shape (1,)."""
        return self._equilibrium_input(np.array([0.5 * self.level_limit]))

    @property
    def rims(self) -> tuple[float, ...]:
        """Heights of the upper and the lower tank [V]."""
        return self.heights

    @property
    def capacities(self) -> tuple[float, ...]:
        """Capacities of the tanks: one, since flows are in V/s already."""
        return (1.0, 1.0)

    def net_flow(self, x: Value, u: Value, ops: Ops, w: Value | None) -> Value:
        """Net flow to both tanks [V/s] before they spill; see `TankPlant.net_flow`."""
        upper, lower = ops.columns(x, 0, 1), ops.columns(x, 1, 2)
        w1, w2 = (None, None) if w is None else (ops.columns(w, 0, 1), ops.columns(w, 1, 2))
        fall = self.upper_drain * torricelli(upper, self.eps, ops)
        net1 = disturbed(self.pump_gain * ops.fmax(u - self.dead_zone, 0.0) - fall, upper, w1, self.layer, ops)
        caught = self.caught * spill(net1, upper, self.heights[0], self.layer, ops)
        out = self.lower_drain * torricelli(lower, self.eps, ops)
        return ops.join([net1, disturbed(fall + caught - out, lower, w2, self.layer, ops)])

    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:  # noqa: ARG002  # a level needs no input
        """Level of the lower tank [V]."""
        return ops.columns(x, 1, 2)

    def _equilibrium(self, u: Array) -> Array:
        # At rest the upper tank passes its inflow on: through its outlet up to the rim, the rest as caught overflow.
        inflow = self.pump_gain * max(float(u[0]) - self.dead_zone, 0.0)
        upper = min(float(head_for(inflow / self.upper_drain, self.eps)), self.heights[0])
        fall = self.upper_drain * float(torricelli(upper, self.eps, NUMPY))
        down = fall + self.caught * (inflow - fall)
        return np.array([upper, min(float(head_for(down / self.lower_drain, self.eps)), self.heights[1])])

    def _equilibrium_input(self, y: Array) -> Array:
        down = self.lower_drain * float(torricelli(y[0], self.eps, NUMPY))
        # Beyond what the upper tank lets through without spilling, only the caught share of the rest arrives.
        most = self.upper_drain * float(torricelli(self.heights[0], self.eps, NUMPY))
        surplus = max(down - most, 0.0)
        if surplus > 0.0 and self.caught == 0.0:
            raise InfeasibleError(f"y = {y} needs more water than the upper tank lets through: lower the set point")
        inflow = min(down, most) + (surplus / self.caught if surplus > 0.0 else 0.0)
        return np.array([self.dead_zone + inflow / self.pump_gain])
