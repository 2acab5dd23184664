"""The numbers that a system is executed in."""

from __future__ import annotations

from controlrnn.checks import Choice


class Precision(Choice):
    """Floating-point format that a system runs in."""

    FLOAT64 = "float64"
    """`LureSystem.simulate`, `controlrnn.kernels.simulate`, exported C code unless it says otherwise."""
    FLOAT32 = "float32"
    """Exported C code on request; weights, inputs and the initial state are rounded as well."""
