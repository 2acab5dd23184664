"""Values that record how they were computed: affine in constants, inputs, states and neurons, with derivatives.

Equations written with the `ops` of `plants` are evaluated once on such values. A row of n values is

    z = sum_k basis_k (c_k + dc_k dp),     basis = (1, u, x, w),

affine in what a Lur'e system is affine in, with the derivatives of all coefficients by the parameters p (forward mode,
exact), and an interval that it stays in while states and inputs are in their declared boxes. What is not affine adds a
neuron, whose declared range is that interval:

    a b = m_b a + m_a b - m_a m_b + r_a r_b ((s + t)^2 - (s - t)^2) / 4,     s = (a - m_a) / r_a, t = (b - m_b) / r_b,

with middles m and half widths r of the intervals: two squares, and everything as small as the box allows. Functions of
parameters alone need no neuron.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.systems import Law, Neuron

_MOST = 20_000  # neurons
_ROOM = 1e-9  # share by which a range is declared wider than what the boxes lead to: rounding must not leave it


class Tape:
    """Neurons that equations need, in the order in which they were found.

    Args:
        first: Number of constants, inputs and states together, the basis before the neurons'.
        parameters: Number of parameters.
    """

    def __init__(self, first: int, parameters: int) -> None:
        self.first = first
        self.parameters = parameters
        self.neurons: list[Neuron] = []
        self.arguments: list[Array] = []  # coefficients of each argument, (K, 1 + P), K known at that time
        self.depths: list[int] = []
        self._known: dict[Any, int] = {}

    @property
    def size(self) -> int:
        """Present length of the basis."""
        return self.first + len(self.neurons)

    def depth(self, coefficients: Array) -> int:
        """Number of layers below a value."""
        used = np.flatnonzero(coefficients[self.first :].any(axis=1))
        return max((self.depths[i] for i in used), default=0)

    def neuron(self, law: Law, argument: Array, low: float = 0.0, high: float = 0.0, width: float = 0.0) -> int:
        """Place in the basis of a neuron with this argument, which is added unless it is known."""
        if len(self.neurons) >= _MOST:
            raise SettingError(f"the equations need more than {_MOST} neurons: take fewer or larger sub-steps")
        made = Neuron(law, low, high, width)
        key = made, _trimmed(argument)
        if key not in self._known:
            self._known[key] = self.size
            self.depths.append(1 + self.depth(argument))
            self.neurons.append(made)
            self.arguments.append(argument)
        return self._known[key]


def _trimmed(argument: Array) -> bytes:
    """Coefficients without the zeros at the end, which newer neurons add."""
    used = np.flatnonzero(argument.any(axis=1))
    return np.ascontiguousarray(argument[: used[-1] + 1 if len(used) else 0]).tobytes()


class Row:
    """A row of n values on a tape.

    Args:
        tape: The tape.
        data: Coefficients and their derivatives, shape (n, K, 1 + P).
        low: Lower ends, shape (n,).
        high: Upper ends, shape (n,).
    """

    __array_ufunc__ = None  # so that numpy leaves ``array + value`` to us
    __hash__: ClassVar[None]  # type: ignore[assignment]

    def __init__(self, tape: Tape, data: Array, low: Array, high: Array) -> None:
        self.tape = tape
        self.data = data
        self.low = low
        self.high = high
        self.above: tuple[Row, Array] | None = None  # (z, bound) of a row that is the larger of the two

    @property
    def shape(self) -> tuple[int, int]:
        """Shape (1, n), as of a CasADi row."""
        return 1, len(self.low)

    @property
    def fixed(self) -> bool:
        """Whether it depends on parameters alone."""
        return not self.data[:, 1:].any()

    def grown(self) -> Array:
        """Coefficients, with zeros for the neurons that were added since."""
        missing = self.tape.size - self.data.shape[1]
        return np.pad(self.data, ((0, 0), (0, missing), (0, 0))) if missing else self.data

    def like(self, value: Any) -> Row:
        """Any value as a row of this tape; one value is repeated."""
        n = len(self.low)
        row = value if isinstance(value, Row) else _constant(self.tape, value)
        if len(row.low) in (n, 1) or n == 1:
            return row
        raise SettingError(f"rows of {n} and {len(row.low)} values do not go together")

    def __add__(self, other: Any) -> Row:
        other = self.like(other)
        a, b = self.grown(), other.grown()
        return Row(self.tape, a + b, self.low + other.low, self.high + other.high)

    __radd__ = __add__

    def __neg__(self) -> Row:
        return Row(self.tape, -self.data, -self.high, -self.low)

    def __sub__(self, other: Any) -> Row:
        return self + -self.like(other)

    def __rsub__(self, other: Any) -> Row:
        return self.like(other) + -self

    def __mul__(self, other: Any) -> Row:
        other = self.like(other)
        if other.fixed:
            return _scaled(self, other)
        if self.fixed:
            return _scaled(other, self)
        return each(_product, self, other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Row:
        return self * inverse(self.like(other))

    def __rtruediv__(self, other: Any) -> Row:
        return self.like(other) * inverse(self)

    def __pow__(self, power: int) -> Row:
        if power != 2:
            raise SettingError(f"the power of a value must be 2, got {power}: write it as products")
        return self * self

    def __matmul__(self, matrix: Any) -> Row:
        M = np.asarray(matrix, dtype=np.float64)
        if M.ndim != 2 or len(M) != len(self.low):
            raise SettingError(f"a row of {len(self.low)} takes a constant matrix with as many rows, got {M.shape}")
        up, down = np.maximum(M, 0.0), np.minimum(M, 0.0)
        low, high = self.low @ up + self.high @ down, self.high @ up + self.low @ down
        return Row(self.tape, np.einsum("nkp,nm->mkp", self.data, M), low, high)

    def __getitem__(self, place: Any) -> Row:
        columns = place[-1] if isinstance(place, tuple) else place
        columns = slice(columns, columns + 1) if isinstance(columns, int) else columns
        return Row(self.tape, self.data[columns], self.low[columns], self.high[columns])


def joined(parts: Sequence[Row]) -> Row:
    """Concatenate rows."""
    first = parts[0]
    rows = [first.like(part) if isinstance(part, Row) else _constant(first.tape, part) for part in parts]
    data = np.concatenate([part.grown() for part in rows])
    return Row(first.tape, data, *(np.concatenate([getattr(p, end) for p in rows]) for end in ("low", "high")))


def _constant(tape: Tape, value: Any) -> Row:
    """Numbers as a row."""
    numbers = np.atleast_1d(np.asarray(value, dtype=np.float64))
    if numbers.ndim > 1 and numbers.shape[0] != 1:
        raise SettingError(f"constants are numbers or rows, got an array of shape {numbers.shape}")
    numbers = numbers.reshape(-1)
    data = np.zeros((len(numbers), tape.size, 1 + tape.parameters))
    data[:, 0, 0] = numbers
    return Row(tape, data, numbers.copy(), numbers.copy())


def _scaled(row: Row, factor: Row) -> Row:
    """Row times a function of parameters: the product rule for the derivatives."""
    a, f = row.grown(), factor.data[:, :1]
    data = a * f[..., :1]
    data[..., 1:] += a[..., :1] * f[..., 1:]
    by = f[:, 0, 0]
    ends = np.stack(np.broadcast_arrays(row.low * by, row.high * by))
    return Row(row.tape, data, ends.min(axis=0), ends.max(axis=0))


def each(of: Any, *rows: Row) -> Row:
    """Apply a function of single values to each of a row."""
    n = max(len(row.low) for row in rows)
    return joined([of(*(row[i if len(row.low) > 1 else 0] for row in rows)) for i in range(n)])


def _wired(row: Row, ends: tuple[float, float], place: int) -> Row:
    """A neuron's value as a row of one."""
    tape = row.tape
    data = np.zeros((1, tape.size, 1 + tape.parameters))
    data[0, place, 0] = 1.0
    return Row(tape, data, np.array([ends[0]]), np.array([ends[1]]))


def curved(row: Row, law: Law, ends: tuple[float, float], width: float = 0.0) -> Row:
    """Value of a law with a declared range, that of the row, at a row of one.

    Args:
        row: The argument.
        law: The law.
        ends: Values of the law at the ends of the range.
        width: Width of a signed root.
    """
    low, high = widened(row)
    return _wired(row, ends, row.tape.neuron(law, row.grown()[0], low, high, width))


def plain(row: Row, law: Law, ends: tuple[float, float]) -> Row:
    """Value of a law without a range; arguments as of `curved`."""
    return _wired(row, ends, row.tape.neuron(law, row.grown()[0]))


def widened(row: Row) -> tuple[float, float]:
    """The range of a row of one, a little wider.

    Raises:
        SettingError: It is not bounded.
    """
    low, high = float(row.low[0]), float(row.high[0])
    if not (np.isfinite(low) and np.isfinite(high)):
        raise SettingError(
            f"a value that a law is applied to ranges from {low} to {high}: declare finite boxes of states and inputs, "
            "or the range of this value by ops.within(value, low, high)"
        )
    room = _ROOM * max(abs(low), abs(high), 1e-6)
    return low - room, high + room


def squared(row: Row) -> Row:
    """Square of a row of one: of the distance from its lower end, and the rest, which is linear."""
    low, high = widened(row)
    if low >= 0:
        return curved(row, Law.SQUARE, (low**2, high**2))
    v = Row(row.tape, (row - low).data, np.zeros(1), np.array([high - low]))
    w = _wired(v, (0.0, (high - low) ** 2), v.tape.neuron(Law.SQUARE, v.grown()[0], 0.0, high - low))
    found = w + 2 * low * row - low * low
    most = max(low**2, high**2)
    return Row(row.tape, found.data, np.array([0.0 if high >= 0 else high**2]), np.array([most]))


def _product(a: Row, b: Row) -> Row:
    """Product of two rows of one; see the module docstring."""
    same = a.grown().tobytes() == b.grown().tobytes()
    if same:
        return squared(a)
    middles, halves, units = [], [], []
    for one in (a, b):
        low, high = widened(one)
        middles.append(0.5 * (low + high))
        halves.append(max(0.5 * (high - low), 1e-9 * max(abs(low), abs(high), 1e-3)))
        unit = (one - middles[-1]) * (1 / halves[-1])
        units.append(Row(one.tape, unit.data, -np.ones(1), np.ones(1)))
    (s, t), (ma, mb) = units, middles
    cross = 0.25 * halves[0] * halves[1] * (squared(s + t) - squared(s - t))
    found = mb * a + ma * b - ma * mb + cross
    ends = [x * y for x in (a.low[0], a.high[0]) for y in (b.low[0], b.high[0])]
    return Row(a.tape, found.data, np.array([min(ends)]), np.array([max(ends)]))


def of_parameters(row: Row, value: Any, slope: Any) -> Row:
    """Function of parameters alone, by its value and slope as functions of numbers."""
    data = np.zeros_like(row.data[:, :1])
    at = row.data[:, 0, 0]
    data[:, 0, 0] = value(at)
    data[:, 0, 1:] = slope(at)[:, None] * row.data[:, 0, 1:]
    if not np.isfinite(data).all():
        raise SettingError(f"a function of parameters is not finite at {at}: bound the parameters")
    found = data[:, 0, 0]
    return Row(row.tape, np.pad(data, ((0, 0), (0, row.tape.size - 1), (0, 0))), found.copy(), found.copy())


def inverse(row: Row) -> Row:
    """One over a row, whose range must not hold zero."""
    if row.fixed:
        return of_parameters(row, lambda v: 1 / v, lambda v: -1 / v**2)
    return each(_inverse, row)


def _inverse(row: Row) -> Row:
    low, high = widened(row)
    if low <= 0 <= high:
        raise SettingError(
            f"a value that is divided by ranges from {low:.6g} to {high:.6g}, which holds zero: declare narrower "
            "boxes, or its range by ops.within(value, low, high)"
        )
    if high < 0:
        return -_inverse(-row)
    return -curved(row, Law.RECIPROCAL, (-1 / low, -1 / high))
