"""Functions that numpy and CasADi spell differently, so that a plant's physics is written once.

States, inputs and disturbances are rows: numpy arrays (..., n) with any leading batch axes, or CasADi matrices (1, n).
Operators ``+ - * /`` and ``@`` with a constant matrix on the right work on both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from controlrnn.checks import Array

# A row of either backend; numpy and CasADi share no common base class.
Value = Any


class Ops(Protocol):
    """Functions that a backend provides; those of values act elementwise."""

    def sqrt(self, v: Value) -> Value:
        """Square root."""

    def sin(self, v: Value) -> Value:
        """Sine."""

    def exp(self, v: Value) -> Value:
        """Exponential."""

    def log(self, v: Value) -> Value:
        """Natural logarithm."""

    def cos(self, v: Value) -> Value:
        """Cosine of an angle [rad]."""

    def tanh(self, v: Value) -> Value:
        """Hyperbolic tangent; ``tanh(v / width)`` is smooth friction."""

    def signed_root(self, v: Value, width: float) -> Value:
        """Torricelli's law in both directions, ``v / (v^2 + width^2)^(1/4)``."""

    def within(self, v: Value, low: Value, high: Value) -> Value:
        """The same value, declared to stay in a range: `controlrnn.greybox` needs it where boxes say too little."""

    def fmax(self, v: Value, bound: Value) -> Value:
        """Larger of two values."""

    def fmin(self, v: Value, bound: Value) -> Value:
        """Smaller of two values."""

    def row(self, values: Sequence[float] | Array) -> Value:
        """Constants, one per channel, in a shape that broadcasts against a row."""

    def columns(self, v: Value, start: int, stop: int) -> Value:
        """Channels ``start`` to ``stop - 1`` of a row."""

    def join(self, parts: Sequence[Value]) -> Value:
        """Join several rows to one."""


class NumpyOps:
    """Backend for numpy arrays (..., n)."""

    def sqrt(self, v: Value) -> Value:
        """Square root."""
        return np.sqrt(v)

    def sin(self, v: Value) -> Value:
        """Sine."""
        return np.sin(v)

    def exp(self, v: Value) -> Value:
        """Exponential."""
        return np.exp(v)

    def log(self, v: Value) -> Value:
        """Natural logarithm."""
        return np.log(v)

    def cos(self, v: Value) -> Value:
        """Cosine."""
        return np.cos(v)

    def tanh(self, v: Value) -> Value:
        """Hyperbolic tangent."""
        return np.tanh(v)

    def signed_root(self, v: Value, width: float) -> Value:
        """Torricelli's law in both directions."""
        return v / np.sqrt(np.sqrt(v * v + width * width))

    def within(self, v: Value, low: Value, high: Value) -> Value:  # noqa: ARG002  # declared for tracing
        """The same value."""
        return v

    def fmax(self, v: Value, bound: Value) -> Value:
        """Larger of two values."""
        return np.maximum(v, bound)

    def fmin(self, v: Value, bound: Value) -> Value:
        """Smaller of two values."""
        return np.minimum(v, bound)

    def row(self, values: Sequence[float] | Array) -> Value:
        """Constants in a shape that broadcasts against a row."""
        return np.asarray(values, dtype=np.float64)

    def columns(self, v: Value, start: int, stop: int) -> Value:
        """Channels ``start`` to ``stop - 1``."""
        return v[..., start:stop]

    def join(self, parts: Sequence[Value]) -> Value:
        """Join several rows to one."""
        return np.concatenate(parts, axis=-1)


class CasadiOps:
    """Backend for CasADi rows (1, n) of type SX, MX or DM; imports casadi on use only."""

    def sqrt(self, v: Value) -> Value:
        """Square root."""
        import casadi

        return casadi.sqrt(v)

    def sin(self, v: Value) -> Value:
        """Sine."""
        import casadi

        return casadi.sin(v)

    def exp(self, v: Value) -> Value:
        """Exponential."""
        import casadi

        return casadi.exp(v)

    def log(self, v: Value) -> Value:
        """Natural logarithm."""
        import casadi

        return casadi.log(v)

    def cos(self, v: Value) -> Value:
        """Cosine."""
        import casadi

        return casadi.cos(v)

    def tanh(self, v: Value) -> Value:
        """Hyperbolic tangent."""
        import casadi

        return casadi.tanh(v)

    def signed_root(self, v: Value, width: float) -> Value:
        """Torricelli's law in both directions."""
        return v / self.sqrt(self.sqrt(v * v + width * width))

    def within(self, v: Value, low: Value, high: Value) -> Value:  # noqa: ARG002  # declared for tracing
        """The same value."""
        return v

    def fmax(self, v: Value, bound: Value) -> Value:
        """Larger of two values."""
        import casadi

        return casadi.fmax(v, bound)

    def fmin(self, v: Value, bound: Value) -> Value:
        """Smaller of two values."""
        import casadi

        return casadi.fmin(v, bound)

    def row(self, values: Sequence[float] | Array) -> Value:
        """Constants in a shape that broadcasts against a row."""
        import casadi

        return casadi.DM(np.asarray(values, dtype=np.float64).reshape(1, -1))

    def columns(self, v: Value, start: int, stop: int) -> Value:
        """Channels ``start`` to ``stop - 1``."""
        return v[:, start:stop]

    def join(self, parts: Sequence[Value]) -> Value:
        """Join several rows to one."""
        import casadi

        return casadi.horzcat(*parts)


NUMPY, CASADI = NumpyOps(), CasadiOps()
