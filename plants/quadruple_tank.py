"""The quadruple-tank process: two pumps, four tanks, a zero that crosses the imaginary axis with the valves.

K. H. Johansson, "The quadruple-tank process: a multivariable laboratory process with an adjustable zero", IEEE Trans.
Control Systems Technology 8(3), 2000, eq. (2), Tables I-III:

    A1 dh1/dt = -a1 sqrt(2 g h1) + a3 sqrt(2 g h3) + g1 k1 v1        A3 dh3/dt = -a3 sqrt(2 g h3) + (1 - g2) k2 v2
    A2 dh2/dt = -a2 sqrt(2 g h2) + a4 sqrt(2 g h4) + g2 k2 v2        A4 dh4/dt = -a4 sqrt(2 g h4) + (1 - g1) k1 v1

With 1 < g1 + g2 < 2 the process is minimum phase, with 0 < g1 + g2 < 1 it is not. What spills over a rim is lost.
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
from plants.tanks import GRAVITY, TankPlant, disturbed, head_for, positives, torricelli

# Row i: what outlet i takes from and gives to each tank; tank 3 stands above 1, tank 4 above 2.
_FALLS = np.array([[-1.0, 0, 0, 0], [0, -1.0, 0, 0], [1.0, 0, -1.0, 0], [0, 1.0, 0, -1.0]])


@dataclass(frozen=True)
@typed()
class QuadrupleTank(TankPlant):
    """Quadruple tank: two pump voltages [V] to the levels of the two lower tanks [cm].

    The defaults are Johansson's minimum-phase setting P-, with time constants 23 to 90 s; see `nonminimum_phase`.

    Args:
        split: Shares (g1, g2) of each pump's flow that go to the lower tank.
        gains: Pump gains (k1, k2) [cm^3/(V s)].
        nominal: Pump voltages (v1, v2) at the operating point [V].
        dt: Sample time [s].
        areas: Cross sections of the tanks [cm^2].
        outlets: Cross sections of their outlets [cm^2].
        pump: Greatest pump voltage [V].
        level_limit: Upper limit of the levels that a controller has to keep [cm].
        height: The rim [cm].
        layer: See `TankPlant` [cm].
        eps: Head below which flow is laminar, see `plants.tanks` [cm].
    """

    split: tuple[float, float] = (0.70, 0.60)
    gains: tuple[float, float] = (3.33, 3.35)
    nominal: tuple[float, float] = (3.00, 3.00)
    dt: float = 5.0
    areas: tuple[float, float, float, float] = (28.0, 32.0, 28.0, 32.0)
    outlets: tuple[float, float, float, float] = (0.071, 0.057, 0.071, 0.057)
    pump: float = 10.0
    level_limit: float = 18.0
    height: float = 20.0
    layer: float = 0.2
    eps: float = 0.1

    def __post_init__(self) -> None:
        for name, n in (("split", 2), ("gains", 2), ("nominal", 2), ("areas", 4), ("outlets", 4)):
            object.__setattr__(self, name, positives(name, getattr(self, name), n))
        for name in ("dt", "pump", "level_limit", "height", "layer", "eps"):
            positive(name, getattr(self, name))
        if max(self.split) >= 1.0:
            raise SettingError(f"split must hold two shares in (0, 1), got {self.split}")
        if max(self.nominal) > self.pump or self.level_limit + self.layer > self.height:
            raise InfeasibleError(
                f"nominal voltages must be at most pump = {self.pump} V and level_limit + layer at most height = "
                f"{self.height} cm, got {self.nominal} V and {self.level_limit} + {self.layer} cm: lower them"
            )

    @classmethod
    def nonminimum_phase(cls) -> QuadrupleTank:
        """Johansson's non-minimum-phase setting P+, with a zero in the right half plane at 0.013 rad/s."""
        return cls(split=(0.43, 0.34), gains=(3.14, 3.29), nominal=(3.15, 3.15))

    @cached_property
    def inputs(self) -> tuple[Signal, ...]:
        """Pump voltages [V]."""
        return tuple(Signal(f"pump {i + 1}", "V", 0.0, self.pump) for i in range(2))

    @cached_property
    def outputs(self) -> tuple[Signal, ...]:
        """Levels of the lower tanks [cm], up to `level_limit`."""
        return tuple(Signal(f"level {i + 1}", "cm", 0.0, self.level_limit) for i in range(2))

    @cached_property
    def states(self) -> tuple[Signal, ...]:
        """All levels [cm], up to the rim; 1 and 2 are the lower tanks."""
        return tuple(Signal(f"level {i + 1}", "cm", 0.0, self.height) for i in range(4))

    @cached_property
    def disturbances(self) -> tuple[Signal, ...]:
        """Unmeasured inflow to each tank [cm^3/s]; negative: a leak."""
        return tuple(Signal(f"inflow {i + 1}", "cm^3/s") for i in range(4))

    @property
    def nominal_input(self) -> Array:
        """Pump voltages at Johansson's operating point [V], shape (2,)."""
        return np.array(self.nominal)

    @cached_property
    def rims(self) -> tuple[float, ...]:
        """Heights of the tanks [cm]."""
        return (self.height,) * 4

    @cached_property
    def capacities(self) -> tuple[float, ...]:
        """Cross sections of the tanks [cm^2]."""
        return self.areas

    @cached_property
    def _pumps(self) -> Array:
        """Flow to each tank per volt [cm^3/(V s)], shape (2, 4)."""
        (g1, g2), (k1, k2) = self.split, self.gains
        return np.array([[g1 * k1, 0.0, 0.0, (1.0 - g1) * k1], [0.0, g2 * k2, (1.0 - g2) * k2, 0.0]])

    @cached_property
    def _coefficients(self) -> Array:
        """Outflow coefficients: outflow per square root of level [cm^2.5/s], shape (4,)."""
        return np.array([a * float(np.sqrt(2.0 * GRAVITY)) for a in self.outlets])

    def net_flow(self, x: Value, u: Value, ops: Ops, w: Value | None) -> Value:
        """Net flow to each tank [cm^3/s] before it spills; see `TankPlant.net_flow`."""
        out = torricelli(x, self.eps, ops) * ops.row(self._coefficients)
        return disturbed(u @ self._pumps + out @ _FALLS, x, w, self.layer, ops)

    def output(self, x: Value, u: Value, ops: Ops = NUMPY) -> Value:  # noqa: ARG002  # a level needs no input
        """Levels of the two lower tanks [cm]."""
        return ops.columns(x, 0, 2)

    def _equilibrium(self, u: Array) -> Array:
        inflow = u @ self._pumps
        # A tank that overflows stands at its rim, and what it spills is lost to the tank below.
        upper = np.minimum(head_for(inflow[2:] / self._coefficients[2:], self.eps), self.height)
        fall = self._coefficients[2:] * torricelli(upper, self.eps, NUMPY)
        lower = np.minimum(head_for((inflow[:2] + fall) / self._coefficients[:2], self.eps), self.height)
        return np.concatenate([lower, upper])

    def _equilibrium_input(self, y: Array) -> Array:
        # Without overflow all that a pump sends up comes down: the lower tanks' flows are linear in the voltages.
        if abs(sum(self.split) - 1.0) < 1e-9:
            raise InfeasibleError("with g1 + g2 = 1 the two levels cannot be chosen freely: change the split")
        down = self._pumps[:, :2] + self._pumps[:, 2:]
        return np.asarray(
            np.linalg.solve(down.T, self._coefficients[:2] * torricelli(y, self.eps, NUMPY)), dtype=np.float64
        )
