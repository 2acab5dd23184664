"""Integration of many experiments over one sample under zero-order hold, each with its own adaptive step size.

The Runge-Kutta pair of order 8(5) of Dormand and Prince with local extrapolation (E. Hairer, S. P. Norsett, G. Wanner,
"Solving ordinary differential equations I", 2nd ed. 1993, sections II.4 and II.5, code DOP853; coefficients from
scipy). Two things differ from ``scipy.integrate.solve_ivp(method="DOP853")``, both because plants have corners (rims,
springs) which different experiments meet at different times:

* Every experiment of a batch has its own step size, so a batch costs as many steps as its slowest member, not as all
  corners together, and gives the same result as one by one.
* The error estimate is the plain one of order 5, in the maximum norm. The code's sharper estimate of order 7 jumps
  over corners without noticing: with the sample as first step, a tolerance of 1e-8 left errors up to 2e-2.

None of the plants is stiff within a sample.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.integrate import DOP853

from controlrnn.checks import Array
from controlrnn.errors import DataError
from plants.ops import NUMPY, Ops, Value

_RTOL, _ATOL = 1e-8, 1e-9
_STAGES = 12
_MOST = 3000  # attempts within one sample; the plants here take some ten
_NODES, _WEIGHTS, _ERROR = DOP853.A, DOP853.B, DOP853.E5


class Dynamics(Protocol):
    """What the integrator needs of a `plants.Plant`."""

    @property
    def dt(self) -> float:
        """Sample time [s]."""

    @property
    def nx(self) -> int:
        """Number of states."""

    @property
    def nu(self) -> int:
        """Number of inputs."""

    @property
    def nw(self) -> int:
        """Number of disturbances."""

    def _rate(self, x: Value, u: Value, ops: Ops, w: Value | None) -> Value:
        """Time derivative of the states, unchecked."""


def integrate(plant: Dynamics, x: Array, u: Array, w: Array | None = None) -> Array:
    """States one sample later; the unchecked inner part of `Plant.step`.

    Args:
        plant: The process whose dynamics are integrated.
        x: States, shape (..., nx).
        u: Inputs held over the sample, shape (..., nu), same leading axes.
        w: Disturbances held over the sample, shape (..., nw), or None for none.

    Raises:
        DataError: A step size vanished, or the sample takes too many steps, so the state cannot be continued.
    """
    y = x.reshape(-1, plant.nx)
    held = u.reshape(-1, plant.nu)
    pushed = None if w is None else w.reshape(-1, plant.nw)
    result = np.empty_like(y)
    running = np.arange(len(y))
    left = np.full(len(y), plant.dt)
    h = left.copy()
    with np.errstate(over="ignore", invalid="ignore"):
        slope = np.asarray(plant._rate(y, held, NUMPY, pushed))
    attempts = 0
    while running.size:
        h = np.minimum(h, left)
        with np.errstate(over="ignore", invalid="ignore"):  # an attempt that overflows is repeated with a shorter step
            new, new_slope, error = _attempt(plant, y, slope, h[:, None], held, pushed)
        attempts += 1
        # NaN counts as a failed attempt; a step that cannot be made small enough is given up.
        accepted = error <= 1.0
        left = np.where(accepted, left - h, left)
        # Hairer et al., eq. (4.13): exponent 1 / (order of the error estimate + 1), with a safety factor of 0.9.
        with np.errstate(divide="ignore"):
            factor = np.where(np.isfinite(error), np.clip(0.9 * error ** (-1.0 / 6.0), 0.2, 10.0), 0.2)
        h = h * np.where(accepted, factor, np.minimum(factor, 0.9))
        y, slope = np.where(accepted[:, None], new, y), np.where(accepted[:, None], new_slope, slope)
        going = left > 0.0
        lost = going & (h < 1e-12 * plant.dt)
        if lost.any():
            stuck = int(running[lost][0])
            raise DataError(
                f"the integrator cannot go on from x = {y[lost][0]} under u = {held[lost][0]} (experiment {stuck}): "
                f"the dynamics of {type(plant).__name__} are not finite or not continuous there"
            )
        if attempts > _MOST and going.any():
            slow = int(np.argmax(going))
            pushes = "" if pushed is None else f", w = {pushed[slow]}"
            raise DataError(
                f"one sample of {type(plant).__name__} took more than {_MOST} steps, at x = {y[slow]} under u = "
                f"{held[slow]}{pushes} (experiment {running[slow]}): these are far beyond what moves the plant within "
                "a sample; check their units"
            )
        if not going.all():  # experiments at the end of their sample leave the batch
            result[running[~going]] = y[~going]
            running, y, slope, held = running[going], y[going], slope[going], held[going]
            left, h, pushed = left[going], h[going], None if pushed is None else pushed[going]
    return result.reshape(x.shape)


def _attempt(
    plant: Dynamics, y: Array, slope: Array, h: Array, u: Array, w: Array | None
) -> tuple[Array, Array, Array]:
    """Try one step of size ``h`` (B, 1): new states, slopes there, and each experiment's error over its tolerance."""
    stages = np.empty((_STAGES + 1, *y.shape))
    flat = stages.reshape(_STAGES + 1, -1)
    stages[0] = slope
    for s in range(1, _STAGES):
        stages[s] = plant._rate(y + h * (_NODES[s, :s] @ flat[:s]).reshape(y.shape), u, NUMPY, w)
    new = y + h * (_WEIGHTS @ flat[:_STAGES]).reshape(y.shape)
    stages[_STAGES] = plant._rate(new, u, NUMPY, w)
    tolerance = _ATOL + _RTOL * np.maximum(np.abs(y), np.abs(new))
    error = np.abs(h * (_ERROR @ flat).reshape(y.shape) / tolerance).max(axis=1)
    return new, stages[_STAGES], error
