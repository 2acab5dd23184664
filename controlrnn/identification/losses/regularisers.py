"""Regularisers: ridge, and the group lasso that removes whole states or inputs.

Both act on the explicit matrices in scaled units, so that they mean the same for every parameterisation.
(Hoerl & Kennard 1970; Yuan & Lin, "Model selection and estimation in regression with grouped variables", JRSS B 2006;
for states and inputs of recurrent models Bemporad, "An L-BFGS-B approach for linear and nonlinear system
identification under l1 and group-lasso regularization", IEEE TAC 2025.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from controlrnn.checks import Array, Choice, positive
from controlrnn.errors import SettingError
from controlrnn.identification.losses.base import Batch, Simulation, Term
from controlrnn.systems import MATRICES, LureSystem
from controlrnn.systems.ops import frozen
from controlrnn.typed import typed

NETWORK = ("B1", "C1", "D11", "D12", "D21")


class Group(Choice):
    """Groups of matrix entries that the group lasso removes together."""

    STATES = "states"
    """Row and column i of A, row i of B1 and B2, column i of C1 and C2, entry i of bx."""
    INPUTS = "inputs"
    """Column j of B2, D12 and D22."""


_PARTS = {
    Group.STATES: (("A", 0), ("A", 1), ("B1", 0), ("B2", 0), ("C1", 1), ("C2", 1), ("bx", 0)),
    Group.INPUTS: (("B2", 1), ("D12", 1), ("D22", 1)),
}


@dataclass(frozen=True)
@typed()
class L2(Term):
    """Ridge: sum of squares of matrix entries, by default of the nonlinear part only (shrinks to a linear model).

    Args:
        matrices: Names of the matrices.

    Raises:
        SettingError: A name is not one of a `LureSystem`'s matrices.
    """

    matrices: tuple[str, ...] = NETWORK
    washout = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "matrices", tuple(self.matrices))
        if not self.matrices:
            raise SettingError("matrices must name at least one matrix, got none")
        unknown = sorted(set(self.matrices) - set(MATRICES))
        if unknown:
            raise SettingError(f"matrices must be among {', '.join(MATRICES)}, got {', '.join(unknown)}")

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:  # noqa: ARG002
        """Sum of the squares."""
        return torch.stack([getattr(system, name).square().sum() for name in self.matrices]).sum()


@dataclass(frozen=True)
@typed()
class GroupLasso(Term):
    """Group lasso: sum of the groups' Euclidean norms, smoothed at zero so that they have a gradient there.

    Args:
        group: ``"states"`` or ``"inputs"``.
        rounding: Norm below which the smoothing acts; norms well below it are as good as zero.
    """

    group: Group = Group.STATES
    rounding: float = 1e-4
    washout = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "group", Group(self.group))
        positive("rounding", self.rounding)

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:  # noqa: ARG002
        """Sum of the norms."""
        # A state's entry A[i, i] counts twice, with its row and with its column.
        squares = sum(_squares(getattr(system, name), axis) for name, axis in _PARTS[self.group])
        return (torch.as_tensor(squares) + self.rounding**2).sqrt().sum()


@typed()
def group_norms(system: LureSystem, group: Group | str = Group.STATES) -> Array:
    """Norm of the group of each state or input of a frozen system, shape (nx,) or (nu,), as `GroupLasso` sums them.

    Args:
        system: A frozen system.
        group: Kind of groups, ``"states"`` or ``"inputs"``.
    """
    system = frozen(system)
    squares = sum(_squares(getattr(system, name), axis) for name, axis in _PARTS[Group(group)])
    return np.asarray(np.sqrt(np.asarray(squares)), dtype=np.float64)


@typed()
def without_states(system: LureSystem, dropped: Array) -> LureSystem:
    """Remove some states from a frozen system, as if they were always zero.

    Args:
        system: A frozen system.
        dropped: Mask of the states to remove, shape (nx,) of bool, e.g. ``group_norms(system) < 1e-3``.

    Raises:
        SettingError: No state would be left.
    """
    system = frozen(system)
    keep = ~np.asarray(dropped, dtype=bool)
    if keep.shape != (system.nx,) or not keep.any():
        raise SettingError(f"dropped must be {system.nx} flags that leave a state, got {np.asarray(dropped)}")
    s = system
    return replace(
        s, A=s.A[np.ix_(keep, keep)], B1=s.B1[keep], B2=s.B2[keep], bx=s.bx[keep], C1=s.C1[:, keep], C2=s.C2[:, keep]
    )


def _squares(matrix: Tensor | Array, axis: int) -> Tensor | Array:
    """Sums of squares of the rows (axis 0) or columns (axis 1) of a matrix."""
    if matrix.ndim == 1:
        return matrix**2
    return (matrix**2).sum(1 - axis)  # numpy and torch agree on the position of the axis
