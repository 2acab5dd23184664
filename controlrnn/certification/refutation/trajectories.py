"""Simulation in ball arithmetic: states and outputs with proven error bounds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.certification.ball import intervals
from controlrnn.certification.ball.arithmetic import (
    Row,
    column,
    diagonal,
    flint,
    matrix,
    number,
    row,
    total,
)
from controlrnn.certification.ball.laws import Function, derivative, functions
from controlrnn.checks import Array, as_array, read_only
from controlrnn.errors import ShapeError
from controlrnn.systems import Activation, GatedSystem, LureSystem, Neuron
from controlrnn.systems.activations import LEAK
from controlrnn.systems.gated import Cell

if TYPE_CHECKING:
    from flint import arb, arb_mat

BITS = 424  # more than enough for numbers of order one; with less a claim is just not refuted


@dataclass(frozen=True, eq=False)
class Pair:
    """Two runs of one system, given by their initial states and inputs.

    Args:
        x0: Initial state of one, shape (nx,).
        u: Its inputs, shape (T, nu).
        other_x0: Initial state of the other.
        other_u: Its inputs, likewise.

    Raises:
        ShapeError, DataError: They do not fit together, or are not finite.
    """

    x0: Array
    u: Array
    other_x0: Array
    other_u: Array

    def __post_init__(self) -> None:
        for name, shape in (("x0", ("nx",)), ("other_x0", ("nx",)), ("u", ("T", "nu")), ("other_u", ("T", "nu"))):
            object.__setattr__(self, name, read_only(as_array(name, getattr(self, name), shape)))
        if self.x0.shape != self.other_x0.shape or self.u.shape != self.other_u.shape or not len(self.u):
            raise ShapeError(
                f"both runs must have states and inputs of one shape and at least one step, got {self.x0.shape} and "
                f"{self.other_x0.shape}, {self.u.shape} and {self.other_u.shape}"
            )

    def fits(self, system: Any) -> bool:
        """Whether the runs have the dimensions of this system."""
        return bool((len(self.x0), self.u.shape[1]) == (system.nx, system.nu))

    def initial_difference(self) -> list[Fraction]:
        """Exact initial difference, the other run's minus this one's."""
        return _minus(self.other_x0, self.x0)

    @property
    def bits(self) -> int:
        """Precision in bits at which the effect of the smallest difference is visible."""
        differences = [v for one in (self.initial_difference(), *self.input_differences()) for v in one if v]
        return BITS + max([v.denominator.bit_length() - abs(v.numerator).bit_length() for v in differences] + [0])

    def input_differences(self) -> list[list[Fraction]]:
        """Exact input differences, the other run's minus this one's, T lists of nu."""
        return [_minus(a, b) for a, b in zip(self.other_u, self.u, strict=True)]


@dataclass(frozen=True, eq=False)
class Run:
    """States 0 .. T and outputs 0 .. T - 1 of a run, as balls."""

    x: list[Row]
    y: list[Row]


def simulate(system: LureSystem | GatedSystem, x0: Row, u: Sequence[Sequence[Any]]) -> Run:
    """Simulate in balls from an initial state (nx,) under inputs (T, nu)."""
    x, run = list(x0), Run([list(x0)], [])
    for one in u:
        after, y = step(system, x, [v if not isinstance(v, float) else number(v) for v in one])
        run.x.append(after)
        run.y.append(y)
        x = after
    return run


def step(system: LureSystem | GatedSystem, x: Row, u: Row) -> tuple[Row, Row]:
    """Next state and present output of a system."""
    return _lure(system, x, u) if isinstance(system, LureSystem) else _gated(system, x, u)


def _lure(s: LureSystem, x: Row, u: Row) -> tuple[Row, Row]:
    """Next state and present output of a Lur'e system."""
    w = neurons(s, x, u)[1]
    after = column(row(s.bx)) + matrix(s.A) * column(x) + matrix(s.B1) * column(w) + matrix(s.B2) * column(u)
    y = column(row(s.by)) + matrix(s.C2) * column(x) + matrix(s.D21) * column(w) + matrix(s.D22) * column(u)
    return _entries(after), _entries(y)


def neurons(s: LureSystem, x: Row, u: Row) -> tuple[Row, Row]:
    """Arguments v and outputs w of the neurons."""
    drive = _entries(column(row(s.bv)) + matrix(s.C1) * column(x) + matrix(s.D12) * column(u))
    v: Row = []
    w: Row = []
    of = functions(s.activation, s.nv)
    for start, stop in s.blocks:
        through = [total(number(a) * b for a, b in zip(line, w, strict=True)) for line in s.D11[start:stop, :start]]
        layer = [a + b for a, b in zip(drive[start:stop], through, strict=True)]
        v += layer
        w += [intervals.apply(f, a) for f, a in zip(of[start:stop], layer, strict=True)]
    return v, w


def _gated(s: GatedSystem, x: Row, u: Row) -> tuple[Row, Row]:
    """Next state and present output of a gated system."""
    n = s.units
    h, drive = x[:n], _entries(column(row(s.b)) + matrix(s.W) * column(u))
    through = _entries(matrix(s.U) * column(h))
    if s.cell is Cell.GRU:
        r, z = ([intervals.sigmoid(drive[i] + through[i]) for i in range(k * n, (k + 1) * n)] for k in range(2))
        seen = _entries(matrix(s.U[2 * n :]) * column([a * b for a, b in zip(r, h, strict=True)]))
        made = [(drive[2 * n + i] + seen[i]).tanh() for i in range(n)]
        after = [(1 - z[i]) * made[i] + z[i] * h[i] for i in range(n)]
    else:
        v = [a + b for a, b in zip(drive, through, strict=True)]
        i, f, o = ([intervals.sigmoid(a) for a in v[k * n : (k + 1) * n]] for k in range(3))
        c = [f[j] * x[n + j] + i[j] * v[3 * n + j].tanh() for j in range(n)]
        after = [a * b.tanh() for a, b in zip(o, c, strict=True)] + c
    # With feedthrough outputs are read from the new hidden state.
    read = after if s.feedthrough else x
    return after, _entries(column(row(s.by)) + matrix(s.C) * column(read[:n]))


def jacobian(system: LureSystem, x: Array, u: Array) -> arb_mat | None:
    """Derivative of the next state by the state at (x, u), (nx, nx); None at a kink of an activation.

    Args:
        system: A frozen system.
        x: Shape (nx,).
        u: Shape (nu,).
    """
    v, _ = neurons(system, row(x), row(u))
    slopes = [_derivative(f, a) for f, a in zip(functions(system.activation, system.nv), v, strict=True)]
    if any(s is None for s in slopes):
        return None
    D = diagonal([s for s in slopes if s is not None])
    eye = matrix(np.eye(system.nv))
    # dv = C1 dx + D11 dw with dw = D dv.
    moved = (eye - matrix(system.D11) * D).solve(matrix(system.C1)) if system.nv else matrix(system.C1)
    made: arb_mat = matrix(system.A) + matrix(system.B1) * D * moved
    return made


def _derivative(activation: Function, v: arb) -> arb | None:
    """Derivative of an activation or law on a ball; None where it contains a kink."""
    if isinstance(activation, Neuron):
        return derivative(activation, v)
    if activation in (Activation.TANH, Activation.SIGMOID):
        return intervals.derivative(activation, v)
    if v > 0:
        return number(1)
    return number(LEAK if activation is Activation.LEAKY_RELU else 0) if v < 0 else None


def quadratic(P: Array, x: Row) -> arb:
    """The value x' P x."""
    return total(x[i] * number(P[i, j]) * x[j] for i in range(len(x)) for j in range(len(x)))


def ball(value: Fraction) -> arb:
    """Convert a rational number to a ball."""
    made: arb = flint().arb(flint().fmpq(value.numerator, value.denominator))
    return made


def minus(a: Row, b: Row) -> Row:
    """Difference a - b, entry by entry."""
    return [p - q for p, q in zip(a, b, strict=True)]


def _minus(a: Array, b: Array) -> list[Fraction]:
    """Exact difference of two float64 arrays."""
    return [Fraction(float(p)) - Fraction(float(q)) for p, q in zip(a, b, strict=True)]


def _entries(A: arb_mat) -> Row:
    """Entries of a matrix of one column."""
    return [A[i, 0] for i in range(A.nrows())]
