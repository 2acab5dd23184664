"""The `ops` of plants on traced values: what is not affine becomes a neuron; see `controlrnn.greybox.values`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.greybox.values import Row, curved, each, joined, of_parameters, plain, widened
from controlrnn.systems import Law


class TracingOps:
    """Backend of `plants.ops` whose values are rows on a tape."""

    def sqrt(self, v: Row) -> Row:
        """Square root of values whose range is positive."""
        if v.fixed:
            return of_parameters(v, np.sqrt, lambda at: 0.5 / np.sqrt(at))
        return each(_root, v)

    def exp(self, v: Row) -> Row:
        """Exponential."""
        if v.fixed:
            return of_parameters(v, np.exp, np.exp)
        return each(lambda z: curved(z, Law.EXPONENTIAL, _ends(z, np.exp)), v)

    def sin(self, v: Row) -> Row:
        """Sine; beyond a right angle by the sine s of a third of the angle, as 3 s - 4 s^3."""
        if v.fixed:
            return of_parameters(v, np.sin, np.cos)
        return each(_sine, v)

    def cos(self, v: Row) -> Row:
        """Cosine, as the sine of an angle that is a right one larger."""
        if v.fixed:
            return of_parameters(v, np.cos, lambda at: -np.sin(at))
        return self.sin(v + 0.5 * np.pi)

    def log(self, v: Row) -> Row:
        """Natural logarithm of parameters.

        Raises:
            SettingError: The values depend on states or inputs: no law of a neuron is a logarithm.
        """
        if v.fixed:
            return of_parameters(v, np.log, lambda at: 1.0 / at)
        raise SettingError(
            "a logarithm of states or inputs is no neuron: take the logarithm as a state, or write the equations "
            "with exp"
        )

    def tanh(self, v: Row) -> Row:
        """Hyperbolic tangent; ``tanh(v / width)`` is smooth friction."""
        if v.fixed:
            return of_parameters(v, np.tanh, lambda at: 1 - np.tanh(at) ** 2)
        return each(lambda z: plain(z, Law.TANH, _ends(z, np.tanh)), v)

    def signed_root(self, v: Row, width: float) -> Row:
        """Torricelli's law in both directions, v / (v^2 + width^2)^(1/4)."""
        eps = float(width)

        def value(at: Any) -> Any:
            return at / np.sqrt(np.sqrt(at * at + eps * eps))

        return each(lambda z: curved(z, Law.SIGNED_ROOT, _ends(z, value), eps), v)

    def fmax(self, v: Any, bound: Any) -> Row:
        """Larger of two values."""
        v, bound = _together(v, bound)
        found = each(_larger, v, bound)
        if bound.fixed:
            found.above = v, bound
        return found

    def fmin(self, v: Any, bound: Any) -> Row:
        """Smaller of two values; of the larger of two it makes a saturation."""
        v, bound = _together(v, bound)
        if v.above is not None and bound.fixed:
            return each(_clipped, *v.above, bound)
        return -each(_larger, -v, -bound)

    def within(self, v: Row, low: Any, high: Any) -> Row:
        """The same values with a declared range, which operation has to stay in."""
        ends = [np.broadcast_to(np.asarray(end, dtype=np.float64).reshape(-1), v.low.shape) for end in (low, high)]
        low, high = np.maximum(v.low, ends[0]), np.minimum(v.high, ends[1])
        if not (low < high).all():
            raise SettingError(f"a value that ranges from {v.low} to {v.high} is never within {ends[0]} and {ends[1]}")
        return Row(v.tape, v.data, low, high)

    def row(self, values: Sequence[float] | Array) -> Array:
        """Constants, one per channel."""
        return np.asarray(values, dtype=np.float64).reshape(-1)

    def columns(self, v: Row, start: int, stop: int) -> Row:
        """Channels ``start`` to ``stop - 1``."""
        return v[start:stop]

    def join(self, parts: Sequence[Row]) -> Row:
        """Join several rows to one."""
        traced = next((part for part in parts if isinstance(part, Row)), None)
        if traced is None:
            raise SettingError("rows that are joined must hold at least one traced value")
        return joined([part if isinstance(part, Row) else _zero(traced) + part for part in parts])


TRACE = TracingOps()


def _zero(row: Row) -> Row:
    """A row of one zero on the same tape."""
    return row[0:1] * 0.0


def _together(v: Any, bound: Any) -> tuple[Row, Row]:
    """Both values as rows."""
    if isinstance(v, Row):
        return v, v.like(bound)
    if isinstance(bound, Row):
        return bound.like(v), bound
    raise SettingError("a larger or smaller value needs at least one traced value")


def _ends(row: Row, value: Any) -> tuple[float, float]:
    """Values of a rising function at the ends of a row of one."""
    with np.errstate(over="ignore"):  # a range that is too wide is refused with its law
        return float(value(row.low[0])), float(value(row.high[0]))


def _root(row: Row) -> Row:
    low, high = widened(row)
    if not low > 0:
        raise SettingError(
            f"a root is taken of a value that ranges from {low:.6g} to {high:.6g}: declare a box in which it is "
            "positive, its range by ops.within(value, low, high), or use ops.signed_root(value, width)"
        )
    return curved(row, Law.ROOT, (float(np.sqrt(low)), float(np.sqrt(high))))


def _sine(row: Row) -> Row:
    low, high = widened(row)
    if max(-low, high) < 1.5:
        return curved(row, Law.SINE, _ends(row, np.sin))
    third = _sine(row * (1.0 / 3.0))
    third = Row(third.tape, third.data, np.maximum(third.low, -1.0), np.minimum(third.high, 1.0))
    found = 3.0 * third - 4.0 * (third * (third * third))
    return Row(found.tape, found.data, -np.ones(1), np.ones(1))


def _larger(v: Row, bound: Row) -> Row:
    """Larger of two rows of one; no neuron where the ranges decide."""
    if v.low[0] >= bound.high[0]:
        return v
    if v.high[0] <= bound.low[0]:
        return bound
    over = v - bound
    if over.fixed:
        return v if over.data[0, 0, 0] >= 0 else bound
    above = plain(over, Law.RELU, (0.0, max(float(over.high[0]), 0.0)))
    found = bound + above
    return Row(v.tape, found.data, np.maximum(v.low, bound.low), np.maximum(v.high, bound.high))


def _clipped(v: Row, low: Row, high: Row) -> Row:
    """Row of one clipped between functions of parameters."""
    a, b = float(low.data[0, 0, 0]), float(high.data[0, 0, 0])
    if not a < b:
        return high
    if v.low[0] >= a or v.high[0] <= b or v.fixed:
        return -_larger(-_larger(v, low), -high)
    share = (v - low) / (high - low)
    place = v.tape.neuron(Law.SATURATION, share.grown()[0], 0.0, 1.0)
    data = np.zeros((1, v.tape.size, 1 + v.tape.parameters))
    data[0, place, 0] = 1.0
    found = low + (high - low) * Row(v.tape, data, np.zeros(1), np.ones(1))
    return Row(v.tape, found.data, np.array([a]), np.array([b]))
