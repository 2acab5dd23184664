"""Innovation observers as Lur'e systems, so that everything written for models serves them as well.

xhat+ = f(xhat, u) + L (y - g(xhat, u))
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import as_array
from controlrnn.portable import product
from controlrnn.systems.lure import LureSystem
from controlrnn.systems.ops import frozen
from controlrnn.typed import typed


@typed()
def observer_system(system: LureSystem, gain: ArrayLike) -> LureSystem:
    """Innovation observer of a model as a Lur'e system with inputs (u, y).

    Its matrices have the same bits on every processor, so that a certificate of it is recognised everywhere. They are
    rounded to float64; a certificate is about the rounded ones, which are what runs.

    Args:
        system: Frozen model.
        gain: L, shape (nx, ny).

    Returns:
        System with the model's state and output and nu + ny inputs.
    """
    system = frozen(system)
    L = as_array("gain", gain, (system.nx, system.ny))
    none = np.zeros
    # y - g(xhat, u) = y - (C2 xhat + D21 w + D22 u + by) enters through L; the measurement y is a new input.
    return replace(
        system,
        A=system.A - product(L, system.C2),
        B1=system.B1 - product(L, system.D21),
        B2=np.hstack([system.B2 - product(L, system.D22), L]),
        bx=system.bx - product(L, system.by),
        D12=np.hstack([system.D12, none((system.nv, system.ny))]),
        D22=np.hstack([system.D22, none((system.ny, system.ny))]),
    )
