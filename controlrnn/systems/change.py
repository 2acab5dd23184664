"""Change of an output over a number of samples, as the output of another Lur'e system."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlrnn.checks import count
from controlrnn.systems.lure import LureSystem
from controlrnn.systems.ops import frozen
from controlrnn.typed import typed


@typed()
def change_system(system: LureSystem, delay: int) -> LureSystem:
    """Lur'e system with output y[t] - y[t - delay]; exact, its state holds the last ``delay`` outputs besides x.

    A certificate of this system bounds how fast the difference of two trajectories can change.

    Args:
        system: Frozen model.
        delay: Number of samples k >= 1.

    Returns:
        System with nx + k ny states (x[t], y[t - 1], ..., y[t - k]) and the model's inputs.
    """
    system = frozen(system)
    k, nx, ny = count("delay", delay), system.nx, system.ny
    stored = k * ny
    # The stored outputs form a shift register that the model's output enters at the top.
    older = np.eye(stored, k=-ny)  # every stored output moves on by one place

    def rows(above: np.ndarray, first: np.ndarray) -> np.ndarray:
        """Stack rows for x+, for the newest stored output, and zeros for the older ones."""
        return np.vstack([above, first, np.zeros((stored - ny, first.shape[1]))])

    return replace(
        system,
        A=np.hstack([rows(system.A, system.C2), np.vstack([np.zeros((nx, stored)), older])]),
        B1=rows(system.B1, system.D21),
        B2=rows(system.B2, system.D22),
        bx=np.concatenate([system.bx, system.by, np.zeros(stored - ny)]),
        C1=np.hstack([system.C1, np.zeros((system.nv, stored))]),
        C2=np.hstack([system.C2, np.zeros((ny, stored - ny)), -np.eye(ny)]),
    )
