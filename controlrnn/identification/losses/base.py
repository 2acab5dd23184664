"""Loss terms: functions of a system, a batch of windows and its simulation, which can be added and scaled.

A term is a frozen dataclass, called with the system of the current optimiser step, the batch, and the one simulation
that all terms share, so that a regulariser may use the matrices, the states or the outputs; for example
``SimulationError(washout=50) + 0.01 * other``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from torch import Tensor

from controlrnn.checks import count, shown
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.systems import LureSystem
from controlrnn.typed import typed


@dataclass(frozen=True, eq=False)
class Batch:
    """Batch of windows of records, in scaled units.

    Args:
        u: Inputs, shape (B, T, nu).
        y: Measured outputs, shape (B, T, ny); NaN where a sample is missing.
        x0: States at the start of the windows, shape (B, nx).
        step: Optimiser step, from 0, for terms that fade in or out.
    """

    u: Tensor
    y: Tensor
    x0: Tensor
    step: int

    def __post_init__(self) -> None:
        # Sizes only: tensors under torch's transforms have no values yet.
        shapes = [tuple(t.shape) for t in (self.u, self.y, self.x0)]
        if [len(s) for s in shapes] != [3, 3, 2] or shapes[0][:2] != shapes[1][:2] or shapes[2][0] != shapes[0][0]:
            raise ShapeError(f"u, y, x0 must have shapes (B, T, nu), (B, T, ny), (B, nx), got {shapes}")
        if not self.u.shape[0] or not self.u.shape[1]:
            raise DataError(f"a batch must hold at least one window of one sample, got shapes {shapes}")


@dataclass(frozen=True, eq=False)
class Simulation:
    """Free run of the system over a batch, in scaled units.

    Args:
        y: Outputs, shape (B, T, ny).
        x: States, shape (B, T + 1, nx).
    """

    y: Tensor
    x: Tensor


@runtime_checkable
class Loss(Protocol):
    """Protocol of a loss term; derive from `Term` to get ``+`` and ``*``."""

    @property
    def washout(self) -> int:
        """Samples at the start of a window that the term does not use."""

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:
        """Value of the term, a scalar tensor that gradients flow through."""


class Term:
    """Base class of loss terms, with addition and multiplication by a number."""

    def __add__(self, other: Loss) -> WeightedSum:
        return WeightedSum(_terms(self) + _terms(other))

    def __mul__(self, weight: float) -> WeightedSum:
        return WeightedSum(tuple((float(weight) * w, term) for w, term in _terms(self)))

    __rmul__ = __mul__


@dataclass(frozen=True)
@typed()
class WeightedSum(Term):
    """Weighted sum of several loss terms.

    Args:
        terms: Pairs (weight, term).
    """

    terms: tuple[tuple[float, Loss], ...]

    def __post_init__(self) -> None:
        if not self.terms:
            raise SettingError("terms must hold at least one pair (weight, term), got none")
        for _, term in self.terms:
            if not isinstance(term, Loss):
                raise SettingError(f"terms must be pairs (weight, term) of losses, got {shown(term)} for a term")

    @property
    def washout(self) -> int:
        """Longest washout of the terms."""
        return max(term.washout for _, term in self.terms)

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:
        """Value of the weighted sum."""
        values = [weight * term(system, batch, simulation) for weight, term in self.terms]
        return sum(values[1:], start=values[0])


@dataclass(frozen=True)
@typed()
class Decaying(Term):
    """Loss term that fades out: another one, with a weight that falls as 1, 1/2, 1/3, ... from period to period.

    ``0.015 * Decaying(NoiseUpperBound(0.1), period=100)`` has the weight 0.015 / (epoch + 1) with epochs of 100 steps.

    Args:
        term: The term.
        period: Optimiser steps after which the weight falls, such as those of an epoch.

    Raises:
        SettingError: ``period`` is not positive.
    """

    term: Loss
    period: int

    def __post_init__(self) -> None:
        if not isinstance(self.term, Loss):
            raise SettingError(f"term must be a loss, got {shown(self.term)}")
        count("period", self.period)

    @property
    def washout(self) -> int:
        """Washout of the term."""
        return self.term.washout

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:
        """Value of the term times the weight at the batch's step."""
        return self.term(system, batch, simulation) / (1 + batch.step // self.period)


@dataclass(frozen=True)
@typed()
class SimulationError(Term):
    """Mean squared free-run error in scaled units, in which all outputs have the same weight.

    Args:
        washout: Samples at the start of each window that are simulated but not scored, because the initial state of a
            window is not known; choose some of the model's time constants.
    """

    washout: int = 0

    def __post_init__(self) -> None:
        count("washout", self.washout, least=0)

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:  # noqa: ARG002
        """Mean over windows, scored samples and outputs; those that were not measured (NaN) do not count."""
        error = (simulation.y - batch.y)[:, self.washout :]
        missing = batch.y[:, self.washout :].isnan()
        if not missing.any():
            return error.square().mean()
        return error.masked_fill(missing, 0.0).square().sum() / (~missing).sum().clamp_min(1)


def _terms(loss: object) -> tuple[tuple[float, Loss], ...]:
    """Pairs (weight, term) of a loss, after checking that it is one."""
    if isinstance(loss, WeightedSum):
        return loss.terms
    if isinstance(loss, Loss):
        return ((1.0, loss),)
    raise TypeError(f"a loss adds up with other losses only, got {type(loss).__name__}")
