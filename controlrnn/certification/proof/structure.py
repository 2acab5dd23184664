"""Structural reachability: which states and inputs cannot affect an output, from zeros of the matrices alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification.proof.arithmetic.matrices import Matrices

Flags = NDArray[np.bool_]


def reaching(system: Matrices, row: int, lags: int) -> tuple[Flags, Flags]:
    """Which states and inputs can make a difference to an output some steps later.

    Args:
        system: A frozen system.
        row: The output.
        lags: Number of lags K: 0, 1, .., K - 1.

    Returns:
        Flags (K, nx) of the states and (K, nu) of the inputs; where one is False, the output that many steps later does
        not depend on it, at equal other values.
    """
    states, inputs = np.zeros((lags, system.nx), bool), np.zeros((lags, system.nu), bool)
    # What the quantity looked at depends on directly: neurons, then, through them and by itself, states and inputs.
    through, straight, push = system.D21[row] != 0, system.C2[row] != 0, system.D22[row] != 0
    for lag in range(lags):
        active = through.copy()
        for start, stop in reversed(system.blocks):  # neurons of later layers look at those before
            later = active[start:stop]
            active |= (system.D11[start:stop][later] != 0).any(axis=0)
        states[lag] = straight | (system.C1[active] != 0).any(axis=0)
        inputs[lag] = push | (system.D12[active] != 0).any(axis=0)
        here = states[lag]
        through, straight, push = ((matrix[here] != 0).any(axis=0) for matrix in (system.B1, system.A, system.B2))
    return states, inputs
