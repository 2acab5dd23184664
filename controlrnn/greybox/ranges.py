"""Whether operation stays in the declared ranges of a system's neurons: the premise on which a grey box is its physics.

A certificate holds for the system as it is, straight lines outside of the ranges included. That the system is the
plant's physics holds within.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError
from controlrnn.systems import Laws, LureSystem
from controlrnn.typed import typed


@typed()
def beyond_ranges(system: LureSystem, x: Array, u: Array) -> Array:
    """Distance of each neuron's argument from its declared range, as a share of the range; zero inside.

    Saturations and dead zones are exact everywhere and count as inside, like laws without a range.

    Args:
        system: A frozen system.
        x: States, shape (T, nx).
        u: Inputs, shape (T, nu).

    Returns:
        Shape (T, nv).
    """
    if not system.is_frozen:
        raise SettingError("ranges need a frozen system, got one of tensors: call frozen() first")
    x = as_array("x", x, ("T", system.nx))
    u = as_array("u", u, (len(x), system.nu), hint="one input per state")
    found = np.zeros((len(x), system.nv))
    if not isinstance(system.activation, Laws):
        return found
    drive = u @ system.D12.T + system.bv
    v = x @ system.C1.T + drive + system.neurons(x, drive) @ system.D11.T
    for law, start, stop in system.activation.groups:
        if law.is_curved:
            low, high, _ = system.activation.parameters[start:stop].T
            here = v[:, start:stop]
            found[:, start:stop] = np.maximum(np.maximum(low - here, here - high), 0.0) / (high - low)
    return found
