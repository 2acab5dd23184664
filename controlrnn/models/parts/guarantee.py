"""Guarantees by construction, as plain numbers that a verifier can check without trusting the model.

With the metric P, the multipliers lambda of the neurons (as in `certification.proof.incremental`) and the supply
s(du, dy) = dy'Q dy + 2 du'S dy + du'R du, any two trajectories satisfy

    |dx+|_P^2 <= rate^2 |dx|_P^2 + s(du, dy)        and, where Q <= 0, contract with the same rate at equal inputs.

The multipliers belong to the slope interval of the system's own activation. A parameterisation proves its theorem for
[0, 1]; `sector_factor` turns its multipliers into those of a narrower interval.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlrnn.checks import Array, number, read_only
from controlrnn.data import Scaler
from controlrnn.errors import ControlRnnError, SettingError
from controlrnn.systems import Activation

_LARGEST_GAIN = 1e15  # of signals in units of their sizes; parameters may be float32, in which squares have to fit


def gain_bound(value: Any) -> float:
    """Return a bound on a gain as float, after checking that parameters can hold the matrices that are made of it."""
    what = f"a number from {1 / _LARGEST_GAIN:g} to {_LARGEST_GAIN:g}, as signals are scaled"
    return number("gamma", value, least=1 / _LARGEST_GAIN, most=_LARGEST_GAIN, what=what)


@contextmanager
def representable(what: str) -> Iterator[None]:
    """Turn the errors of linear algebra with numbers that float64 cannot hold beside each other into a SettingError."""
    try:
        with np.errstate(all="ignore"):  # what overflows is refused
            yield
    except ControlRnnError:
        raise
    except (np.linalg.LinAlgError, RuntimeError, OverflowError) as error:  # numpy's, torch's, Python's
        raise SettingError(
            f"{what} cannot be computed with in float64 ({error}): measure signals in units of their sizes, and keep "
            "all weights within some powers of ten"
        ) from error


@dataclass(frozen=True, eq=False)
class Supply:
    """Supply rate s(du, dy) = dy'Q dy + 2 du'S dy + du'R du.

    Args:
        Q: Weight of the outputs, shape (ny, ny).
        S: Cross weight, shape (nu, ny).
        R: Weight of the inputs, shape (nu, nu).
        gamma: Gain, where the supply is gamma |du|^2 - |dy|^2 / gamma in units of the two scales, else None.
        input_scale: Unit in which the gain measures each input, shape (nu,).
        output_scale: Unit in which the gain measures each output, shape (ny,).
    """

    Q: Array
    S: Array
    R: Array
    gamma: float | None
    input_scale: Array
    output_scale: Array

    def __post_init__(self) -> None:
        for name in ("Q", "S", "R", "input_scale", "output_scale"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def of(cls, Q: Array, S: Array, R: Array) -> Supply:
        """Make a general supply, in units of the signals themselves."""
        return cls(Q, S, R, None, np.ones(len(R)), np.ones(len(Q)))

    @classmethod
    def gain(cls, gamma: float, nu: int, ny: int) -> Supply:
        """Make the supply of an incremental l2 gain of at most ``gamma``."""
        Q, S, R = -np.eye(ny) / gamma, np.zeros((nu, ny)), gamma * np.eye(nu)
        return cls(Q, S, R, float(gamma), np.ones(nu), np.ones(ny))

    def times(self, factor: float) -> Supply:
        """Supply multiplied by a positive number, which makes the same statement."""
        return Supply.of(factor * self.Q, factor * self.S, factor * self.R)

    def in_units(self, inputs: Scaler, outputs: Scaler) -> Supply:
        """Convert a supply of scaled signals to one of physical signals."""
        u, y = inputs.scale, outputs.scale
        Q, S, R = self.Q / np.outer(y, y), self.S / np.outer(u, y), self.R / np.outer(u, u)
        return Supply(Q, S, R, self.gamma, self.input_scale * u, self.output_scale * y)


@dataclass(frozen=True, eq=False)
class Guarantee:
    """Guarantee of the frozen system, not verified yet; the inequality is in the module docstring.

    Args:
        metric: Metric P, shape (nx, nx).
        multipliers: Multipliers lambda of the neurons, shape (nv,).
        rate: Contraction rate in (0, 1].
        supply: Supply that the system dissipates; None where the guarantee is contraction alone.
    """

    metric: Array
    multipliers: Array
    rate: float
    supply: Supply | None = None

    def __post_init__(self) -> None:
        for name in ("metric", "multipliers"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


@dataclass(frozen=True, eq=False)
class Promise:
    """Guarantee as a parameterisation states it: tensors, in scaled units, for activations with slopes in [0, 1]."""

    metric: Tensor
    multipliers: Tensor
    rate: float
    supply: Supply | None = None

    def numbers(
        self, activation: Activation, inputs: Scaler, outputs: Scaler, states: Scaler | None = None
    ) -> Guarantee:
        """Convert to the guarantee of the frozen system, for its activation and in physical units."""
        supply = None if self.supply is None else self.supply.in_units(inputs, outputs)
        P, multipliers = self.metric.detach().numpy(), self.multipliers.detach().numpy()
        if states is not None:
            P = P / np.outer(states.scale, states.scale)
        return Guarantee(0.5 * (P + P.T), sector_factor(*activation.slope) * multipliers, self.rate, supply)


def metric_of(E: Tensor, P: Tensor) -> Tensor:
    """Metric E' P^-1 E, by a Cholesky factor of P, whose rounding is like a change of P in its last digits."""
    half: Tensor = torch.linalg.solve_triangular(torch.linalg.cholesky(P), E, upper=False)
    metric: Tensor = half.T @ half
    return metric


def sector_factor(alpha: float, beta: float) -> float:
    """Factor from multipliers for slopes in [0, 1] to those for [alpha, beta].

    It is a number c with c (w - alpha v)(beta v - w) <= w (v - w) for all v, w.

    The quadratic form w (v - w) - c (w - alpha v)(beta v - w) is nonnegative where its discriminant
    c^2 (beta - alpha)^2 - 2 c (alpha + beta - 2 alpha beta) + 1 is not positive; this is the middle of that interval.
    """
    return (alpha + beta - 2 * alpha * beta) / (beta - alpha) ** 2
