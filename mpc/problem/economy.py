"""Economic stage cost: linear prices of inputs and outputs, and squared distances of inputs from reference values.

    l(y, u) = q'y + p'u + |u - v|_S^2      per step; q, p: prices, either sign; S: weights; v: reference input

Prices are linear, so that the cheapest plan lies at limits or where other costs balance them, and the cost may be
negative (economic MPC: Rawlings, Angeli, Bates, CDC 2012). No set point is needed; with one, tracking is traded against
economy. With a terminal set the artificial steady state has this cost, too, which draws the loop to the cheapest steady
state (Limon, Pereira, Munoz de la Pena, Alamo, Grosso, IEEE TAC 2014).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, per_channel, read_only
from controlrnn.kernels.dense import dot
from mpc.predictor import Predictor
from mpc.problem.settings import Prices


@dataclass(frozen=True, kw_only=True, eq=False)
class Economy:
    """Coefficients of the economic stage cost l(y, u) of the module docstring.

    Args:
        input_price: p, shape (nu,) [cost / input unit].
        output_price: q, shape (ny,) [cost / output unit].
        input_weight: Diagonal of S, shape (nu,) [cost / input unit^2].
        input_reference: v, shape (nu,).
    """

    input_price: Array
    output_price: Array
    input_weight: Array
    input_reference: Array

    def of_inputs(self, u: Array) -> float:
        """Cost of inputs (..., nu), summed."""
        squares = (u - self.input_reference) ** 2 * self.input_weight
        return float((u * self.input_price).sum() + squares.sum())

    def of_outputs(self, y: Array) -> float:
        """Cost of outputs (..., ny), summed."""
        return float((y * self.output_price).sum())

    def range(self, lower: Array, upper: Array, scale: Array) -> float:
        """Largest difference of one step's cost for inputs within ``lower``, ``upper`` and outputs over ``scale``."""
        # Linear costs differ most between the ends of the ranges, quadratic ones between the reference and the far end.
        furthest = np.maximum(np.abs(lower - self.input_reference), np.abs(upper - self.input_reference))
        linear = np.abs(self.input_price) @ (upper - lower) + np.abs(self.output_price) @ scale
        return float(linear + self.input_weight @ furthest**2)


def economy_of(predictor: Predictor, prices: Prices) -> Economy | None:
    """Make an `Economy` from prices, scalar or per channel, with defaults; None if all costs are zero."""
    of_inputs = _signed("input_price", prices.input_price, predictor.nu)
    of_outputs = _signed("output_price", prices.output_price, predictor.ny)
    weight = per_channel("input_weight", prices.input_weight, predictor.nu)
    if not any(part.any() for part in (of_inputs, of_outputs, weight)):
        return None
    reference = np.mean(predictor.input_limits(), axis=0) if prices.input_reference is None else prices.input_reference
    return Economy(
        input_price=of_inputs,
        output_price=of_outputs,
        input_weight=weight,
        input_reference=_signed("input_reference", reference, predictor.nu),
    )


def _signed(name: str, value: ArrayLike, n: int) -> Array:
    each = np.full(n, value, dtype=np.float64) if np.ndim(value) == 0 else value
    return read_only(as_array(name, each, (n,)))


@dataclass(frozen=True, eq=False, slots=True)
class ScaledEconomy:
    """`Economy` of a whole plan in scaled inputs z: |root (z - wanted)|^2 / 2 + price'z + base + cost of outputs.

    The scaling is that of `mpc.solvers.condensed_problem`.

    Args:
        root: Square roots of the weights, shape (M nu,).
        wanted: Scaled reference inputs, shape (M nu,).
        price: Prices of scaled inputs, shape (M nu,).
        base: Linear cost of the inputs at z = 0.
        output_price: Prices of scaled outputs, shape (N + 1, ny).
    """

    root: Array
    wanted: Array
    price: Array
    base: float
    output_price: Array

    @property
    def slope(self) -> Array:
        """Gradient of the inputs' cost with respect to z, at z = 0, shape (M nu,)."""
        return np.asarray(self.price - self.root**2 * self.wanted)

    def cost(self, z: Array, y: Array) -> tuple[float, float]:
        """Cost of inputs z (M nu,) and scaled outputs y (N + 1, ny), and the sum of its terms' absolute values."""
        missed = self.root * (z - self.wanted)
        square, inputs, outputs = 0.5 * dot(missed, missed), self.price * z, self.output_price * y
        cost = square + inputs.sum() + outputs.sum() + self.base
        return float(cost), float(square + np.abs(inputs).sum() + np.abs(outputs).sum() + abs(self.base))


def scaled(
    economy: Economy,
    held: Array,
    middle: Array,
    half: Array,
    chosen: NDArray[np.intp],
    scale: Array,
    steps: int,
    unit: float,
) -> ScaledEconomy:
    """Scale an economic cost for a whole plan.

    Args:
        economy: In physical units.
        held: Number of samples that each of the M inputs is held for, shape (M,).
        middle: Middles of the chosen inputs' ranges.
        half: Half ranges of the chosen inputs.
        chosen: Indices of the inputs that plans decide about, shape (nu,).
        scale: Of outputs, shape (ny,).
        steps: N + 1.
        unit: One over the cost scale.
    """
    # u = middle + half z: the price of u becomes price * half for z and a constant.
    price, weight = unit * economy.input_price[chosen], unit * economy.input_weight[chosen]
    root = np.sqrt(2.0 * np.outer(held, weight)) * half
    wanted = np.broadcast_to((economy.input_reference[chosen] - middle) / half, root.shape)
    return ScaledEconomy(
        root=root.ravel(),
        wanted=wanted.ravel(),
        price=np.outer(held, price * half).ravel(),
        base=float(held.sum() * (price @ middle)),
        output_price=np.tile(unit * economy.output_price * scale, (steps, 1)),
    )
