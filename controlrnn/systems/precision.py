"""Floating-point precision in which a system is executed."""

from __future__ import annotations

from controlrnn.checks import Choice


class Precision(Choice):
    """Floating-point precision in which a system is computed."""

    FLOAT64 = "float64"
    """`LureSystem.simulate`, `controlrnn.kernels.simulate`, exported C code unless it says otherwise."""
    FLOAT32 = "float32"
    """Exported C code on request; weights, inputs and the initial state are rounded as well."""
