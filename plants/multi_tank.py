"""Tanks in a row, joined at the bottom: the three-tank process, for any number of tanks.

Pumps fill the first and the last tank; pipes join neighbours, so water flows both ways; the last tank drains:

    A dh_1/dt = q_1 - s_1,    A dh_i/dt = s_{i-1} - s_i,    A dh_n/dt = q_2 + s_{n-1} - s_n
    s_i = c S sign(h_i - h_{i+1}) sqrt(2 g |h_i - h_{i+1}|),    s_n = c_out S sqrt(2 g h_n)

Dimensions are those of the laboratory rig DTS200 (Amira GmbH, "Laboratory setup three tank system"; A = 154 cm^2,
S = 0.5 cm^2, tanks a good 60 cm high), a standard plant of fault diagnosis and nonlinear control.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.optimize import brentq

from controlrnn.checks import Array, positive, size
from controlrnn.data import Signal
from controlrnn.errors import InfeasibleError
from controlrnn.typed import typed
from plants.ops import NUMPY, Ops, Value
from plants.tanks import GRAVITY, TankPlant, disturbed, head_for, torricelli

_LITRES = 60.0 / 1000.0  # [L/min] per [cm^3/s]


@dataclass(frozen=True)
@typed()
class MultiTank(TankPlant):
    """Tanks in a row: pump flows [L/min] to levels [cm]; equations in the module docstring.

    At its initial state the three-tank process has the time constants 540, 66 and 31 s, so that the default sample
    time resolves the slowest with 18 samples.

    Args:
        n_tanks: Number of tanks; a single one has one pump.
        dt: Sample time [s].
        area: Cross section A of a tank [cm^2].
        pipe: Cross section S of each pipe [cm^2].
        joint_discharge: Discharge coefficient c of the pipes between tanks.
        drain_discharge: Discharge coefficient c_out of the drain.
        pump: Greatest flow of a pump [L/min].
        level_limit: Upper limit of the levels that a controller has to keep [cm].
        height: The rim [cm]; above ``level_limit``, so that a violation shows before water is lost.
        layer: See `TankPlant` [cm].
        eps: Head below which flow is laminar, see `plants.tanks` [cm].
    """

    n_tanks: int = 3
    dt: float = 30.0
    area: float = 154.0
    pipe: float = 0.5
    joint_discharge: float = 0.46
    drain_discharge: float = 0.60
    pump: float = 4.0
    level_limit: float = 60.0
    height: float = 65.0
    layer: float = 0.5
    eps: float = 0.1

    def __post_init__(self) -> None:
        size("n_tanks", self.n_tanks)
        constants = ("dt", "area", "pipe", "joint_discharge", "drain_discharge", "pump", "level_limit", "height")
        for name in (*constants, "layer", "eps"):
            positive(name, getattr(self, name))
        if self.level_limit + self.layer > self.height:
            raise InfeasibleError(
                f"level_limit + layer must be at most the height, got {self.level_limit} + {self.layer} > "
                f"{self.height} cm: lower the limit"
            )

    @cached_property
    def inputs(self) -> tuple[Signal, ...]:
        """Pump flows [L/min]."""
        return tuple(Signal(f"pump {i + 1}", "L/min", 0.0, self.pump) for i in range(min(self.n_tanks, 2)))

    @cached_property
    def outputs(self) -> tuple[Signal, ...]:
        """All levels [cm], up to `level_limit`."""
        return tuple(Signal(f"level {i + 1}", "cm", 0.0, self.level_limit) for i in range(self.n_tanks))

    @cached_property
    def states(self) -> tuple[Signal, ...]:
        """All levels [cm], up to the rim."""
        return tuple(Signal(f"level {i + 1}", "cm", 0.0, self.height) for i in range(self.n_tanks))

    @cached_property
    def disturbances(self) -> tuple[Signal, ...]:
        """Unmeasured inflow to each tank [L/min]; negative: a leak."""
        return tuple(Signal(f"inflow {i + 1}", "L/min") for i in range(self.n_tanks))

    @property
    def nominal_input(self) -> Array:
        """Flows that hold the first tank at 0.75 and the last at 0.4 of the level limit, if the pumps can."""
        levels = self.level_limit * np.linspace(0.75, 0.4, self.n_tanks)
        return np.clip(self._equilibrium_input(levels), 0.0, self.pump)

    @cached_property
    def rims(self) -> tuple[float, ...]:
        """Heights of the tanks [cm]."""
        return (self.height,) * self.n_tanks

    @cached_property
    def capacities(self) -> tuple[float, ...]:
        """Cross sections of the tanks [L/min per cm/s]."""
        return (self.area * _LITRES,) * self.n_tanks

    @cached_property
    def _coefficients(self) -> tuple[float, float]:
        """Flow coefficients of a joint and of the drain [L/min per cm^0.5]: flow per square root of head."""
        unit = self.pipe * float(np.sqrt(2.0 * GRAVITY)) * _LITRES
        return self.joint_discharge * unit, self.drain_discharge * unit

    @cached_property
    def _incidence(self) -> tuple[Array, Array]:
        """Incidence matrices: the tank that each pump fills (nu, n), those that each pipe fills and drains (n, n)."""
        pumps = np.zeros((self.nu, self.n_tanks))
        pumps[0, 0] = pumps[-1, -1] = 1.0
        return pumps, np.eye(self.n_tanks, k=1) - np.eye(self.n_tanks)

    def net_flow(self, x: Value, u: Value, ops: Ops, w: Value | None) -> Value:
        """Net flow to each tank [L/min] before it spills; see `TankPlant.net_flow`."""
        joint, drain = self._coefficients
        pumps, pipes = self._incidence
        n = self.n_tanks
        through = drain * torricelli(ops.columns(x, n - 1, n), self.eps, ops)
        if n > 1:
            heads = ops.columns(x, 0, n - 1) - ops.columns(x, 1, n)
            through = ops.join([joint * torricelli(heads, self.eps, ops), through])
        return disturbed(u @ pumps + through @ pipes, x, w, self.layer, ops)

    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:  # noqa: ARG002  # a level needs neither
        """All levels [cm]."""
        return 1.0 * x

    def _levels(self, through: float, last: float) -> Array:
        """Levels when ``through`` flows along all joints to a last tank whose level is ``last``."""
        drop = float(head_for(through / self._coefficients[0], self.eps))
        return last + drop * np.arange(self.n_tanks - 1.0, -1.0, -1.0)

    def _equilibrium(self, u: Array) -> Array:
        drain = self._coefficients[1]
        if self.n_tanks == 1:
            return np.array([min(float(head_for(u[0] / drain, self.eps)), self.height)])

        def levels(through: float) -> Array:
            last = min(float(head_for((through + u[1]) / drain, self.eps)), self.height)
            return self._levels(through, last)

        if levels(u[0])[0] <= self.height:
            return levels(u[0])
        # The first tank stands at its rim and spills what does not fit through the joint: find that flow.
        through = brentq(lambda q: levels(q)[0] - self.height, 0.0, u[0], xtol=1e-14, rtol=1e-14)
        return np.minimum(levels(through), self.height)

    def _equilibrium_input(self, y: Array) -> Array:
        joint, drain = self._coefficients
        out = drain * float(torricelli(y[-1], self.eps, NUMPY))
        if self.n_tanks == 1:
            return np.array([out])
        # All joints carry the same flow, so levels at rest fall by equal steps; first and last tell everything.
        through = joint * float(torricelli((y[0] - y[-1]) / (self.n_tanks - 1), self.eps, NUMPY))
        return np.array([through, out - through])
