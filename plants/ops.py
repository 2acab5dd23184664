"""The few functions that numpy and CasADi spell differently, so that a plant's physics is written once.

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
    """What a backend provides. All functions act elementwise."""

    def sqrt(self, v: Value) -> Value:
        """Square root."""

    def fmax(self, v: Value, bound: Value) -> Value:
        """The larger of both."""

    def fmin(self, v: Value, bound: Value) -> Value:
        """The smaller of both."""

    def row(self, values: Sequence[float] | Array) -> Value:
        """Constants, one a channel, in a shape that meets a row."""

    def columns(self, v: Value, start: int, stop: int) -> Value:
        """Channels ``start`` to ``stop - 1`` of a row."""

    def join(self, parts: Sequence[Value]) -> Value:
        """One row from several."""


class NumpyOps:
    """numpy arrays (..., n)."""

    def sqrt(self, v: Value) -> Value:
        """See `Ops`."""
        return np.sqrt(v)

    def fmax(self, v: Value, bound: Value) -> Value:
        """See `Ops`."""
        return np.maximum(v, bound)

    def fmin(self, v: Value, bound: Value) -> Value:
        """See `Ops`."""
        return np.minimum(v, bound)

    def row(self, values: Sequence[float] | Array) -> Value:
        """See `Ops`."""
        return np.asarray(values, dtype=np.float64)

    def columns(self, v: Value, start: int, stop: int) -> Value:
        """See `Ops`."""
        return v[..., start:stop]

    def join(self, parts: Sequence[Value]) -> Value:
        """See `Ops`."""
        return np.concatenate(parts, axis=-1)


class CasadiOps:
    """CasADi rows (1, n): SX, MX or DM. CasADi is imported by whoever made the values."""

    def sqrt(self, v: Value) -> Value:
        """See `Ops`."""
        import casadi

        return casadi.sqrt(v)

    def fmax(self, v: Value, bound: Value) -> Value:
        """See `Ops`."""
        import casadi

        return casadi.fmax(v, bound)

    def fmin(self, v: Value, bound: Value) -> Value:
        """See `Ops`."""
        import casadi

        return casadi.fmin(v, bound)

    def row(self, values: Sequence[float] | Array) -> Value:
        """See `Ops`."""
        import casadi

        return casadi.DM(np.asarray(values, dtype=np.float64).reshape(1, -1))

    def columns(self, v: Value, start: int, stop: int) -> Value:
        """See `Ops`."""
        return v[:, start:stop]

    def join(self, parts: Sequence[Value]) -> Value:
        """See `Ops`."""
        import casadi

        return casadi.horzcat(*parts)


NUMPY, CASADI = NumpyOps(), CasadiOps()
