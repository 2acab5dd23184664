"""Structural reachability: which outputs cannot differ, from zeros of the matrices alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlrnn.systems import LureSystem

Flags = NDArray[np.bool_]


def differing(system: LureSystem, states: Flags, inputs: Flags, steps: int) -> Flags:
    """Which outputs may differ at steps 0, 1, .. (steps, ny) when only some states and some first inputs do.

    Args:
        system: The system.
        states: Which initial states differ, shape (nx,).
        inputs: Which inputs differ at step 0, shape (nu,); later ones are equal.
        steps: Number of steps.
    """
    found = np.zeros((steps, system.ny), bool)
    x, u = states.copy(), inputs.copy()
    for k in range(steps):
        w = np.zeros(system.nv, bool)
        for start, stop in system.blocks:
            here = slice(start, stop)
            w[here] = _any(system.C1[here], x) | _any(system.D12[here], u) | _any(system.D11[here], w)
        found[k] = _any(system.C2, x) | _any(system.D21, w) | _any(system.D22, u)
        x = _any(system.A, x) | _any(system.B1, w) | _any(system.B2, u)
        # Inputs differ at the first step alone.
        u = np.zeros_like(u)
    return found


def _any(M: NDArray[np.float64], flags: Flags) -> Flags:
    """Which rows of M have an entry other than zero in the flagged columns."""
    return np.asarray((M[:, flags] != 0).any(axis=1))
