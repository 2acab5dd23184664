"""Difference system of a Lur'e system in ball arithmetic, ordered z = (dw, du, dx).

A chord of every neuron's function has a slope s in [a, b]: dw = s dv, hence (dw - a dv)(b dv - dw) >= 0, which
multipliers lambda >= 0 add up to

    z' S z >= 0,   S = (a + b)-weighted cross terms of dw and dv = N z, minus 2 lambda dw^2, minus 2 lambda a b dv^2.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball import intervals
from controlrnn.certification.ball.arithmetic import (
    Row,
    beside,
    diagonal,
    eliminate,
    exact_above,
    flint,
    from_rows,
    matrix,
    row,
    symmetric,
)
from controlrnn.certification.ball.laws import Function, functions
from controlrnn.certification.proof.intervals import slopes_by_step
from controlrnn.checks import Array
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from flint import arb, arb_mat

Slopes = Sequence[tuple["arb", "arb"]]  # least and greatest slope of each neuron
_NAMES = ("A", "B1", "B2", "C1", "D11", "D12", "C2", "D21", "D22")


@dataclass(frozen=True, eq=False)
class Plant:
    """Matrices of a Lur'e system as balls, without errors.

    Args:
        A, B1, B2, C1, D11, D12, C2, D21, D22: As in `controlrnn.systems.LureSystem`.
        functions: The function of each neuron.
    """

    A: arb_mat
    B1: arb_mat
    B2: arb_mat
    C1: arb_mat
    D11: arb_mat
    D12: arb_mat
    C2: arb_mat
    D21: arb_mat
    D22: arb_mat
    functions: Sequence[Function]

    @classmethod
    def of(cls, system: LureSystem) -> Plant:
        """Convert the matrices of a system."""
        return cls(
            **{name: matrix(getattr(system, name)) for name in _NAMES},
            functions=functions(system.activation, system.nv),
        )

    def observer(self, gain: Array) -> Plant:
        """Innovation observer x+ = f(x, u) + L (y - g(x, u)) with inputs (u, y); A - L C2 and so on are not rounded."""
        L, ny = matrix(gain), self.C2.nrows()
        none = flint().arb_mat
        return Plant(
            self.A - L * self.C2,
            self.B1 - L * self.D21,
            beside(self.B2 - L * self.D22, L),
            self.C1,
            self.D11,
            beside(self.D12, none(self.D12.nrows(), ny)),
            self.C2,
            self.D21,
            beside(self.D22, none(ny, ny)),
            self.functions,
        )


@dataclass(frozen=True, eq=False)
class Difference:
    """Difference system of two trajectories: dx+ = T z, dy = Y z, dv = N z.

    Args:
        T: Shape (nx, nz).
        Y: Shape (ny, nz).
        N: Shape (nv, nz).
        slopes: Of the neurons.
        nu: Number of inputs that differ.
    """

    T: arb_mat
    Y: arb_mat
    N: arb_mat
    slopes: Slopes
    nu: int

    @classmethod
    def of(
        cls,
        plant: Plant,
        channels: Sequence[int],
        slopes: Slopes | None = None,
        *,
        state: bool = True,
    ) -> Difference:
        """Difference system of a plant.

        Args:
            plant: The plant.
            channels: The inputs that differ.
            slopes: Of each neuron; None: those of the activation anywhere.
            state: Whether the states differ.
        """
        maps = [
            beside(W, _columns(U, channels), *([X] if state else []))
            for W, U, X in (
                (plant.B1, plant.B2, plant.A),
                (plant.D21, plant.D22, plant.C2),
                (plant.D11, plant.D12, plant.C1),
            )
        ]
        return cls(maps[0], maps[1], maps[2], slopes or [intervals.slope(f) for f in plant.functions], len(channels))

    @property
    def nv(self) -> int:
        """Number of neurons."""
        return self.N.nrows()

    def inputs_as_states(self, changing: Sequence[int]) -> Difference:
        """Difference system with state (dx, du), whose input is the change of du at the end of the step.

        Args:
            changing: Which of the inputs that differ may change.
        """
        nv, nu, n, none = self.nv, self.nu, self.T.nrows(), flint().arb_mat

        def spread(X: arb_mat) -> arb_mat:
            w, u, x = (_columns(X, range(*ends)) for ends in ((0, nv), (nv, nv + nu), (nv + nu, X.ncols())))
            return beside(w, _columns(u, changing), x, u)

        eye = diagonal(row(np.ones(nu)))
        hold = beside(none(nu, nv), _columns(eye, changing), none(nu, n), eye)
        T = from_rows([*spread(self.T).tolist(), *hold.tolist()], hold.ncols())
        return Difference(T, spread(self.Y), spread(self.N), self.slopes, len(changing))

    def sector(self, multipliers: Row) -> arb_mat:
        """Sector matrix S for the multipliers (nv,), shape (nz, nz)."""
        ends = list(zip(multipliers, self.slopes, strict=True))
        cross = diagonal([m * (a + b) for m, (a, b) in ends]) * self.N
        dw = from_rows([*cross.tolist()], self.N.ncols())
        for i, (m, _) in enumerate(ends):
            dw[i, i] = dw[i, i] - m
        # dw' (cross - lambda dw), twice its symmetric part; the first nv columns are dw
        half = from_rows(dw.tolist() + [[0] * self.N.ncols()] * (self.N.ncols() - self.nv), self.N.ncols())
        S = half + half.transpose()
        if not all((m * a * b).is_zero() for m, (a, b) in ends):
            S = S - self.N.transpose() * diagonal([2 * m * a * b for m, (a, b) in ends]) * self.N
        return S

    def inequality(self, demand: arb_mat, multipliers: Row, rho: Row, P: arb_mat | None = None) -> arb_mat:
        """The matrix blkdiag(0, diag rho, P) - demand - S, which has to be semidefinite for one step.

        Args:
            demand: Shape (nz, nz).
            multipliers: Shape (nv,).
            rho: Shape (nu,).
            P: Shape (nx, nx); None for zero.
        """
        M = -demand - self.sector(multipliers)
        for c, r in enumerate(rho):
            M[self.nv + c, self.nv + c] = M[self.nv + c, self.nv + c] + r
        if P is not None:
            first, n = self.nv + self.nu, P.nrows()
            for i in range(n):
                for j in range(n):
                    M[first + i, first + j] = M[first + i, first + j] + P[i, j]
        return M

    def storages(
        self, demand: arb_mat, multipliers: Array, rho: Array, slopes: Sequence[Slopes] | None = None
    ) -> Iterator[tuple[arb_mat, float]]:
        """Yield for 0, 1, .. steps to go a storage P a little above the least, and the margin of its inequality.

        Args:
            demand: Y'Y of the outputs looked at.
            multipliers: Shape (K, nv).
            rho: Shape (K, nu).
            slopes: Of the neurons at each of these numbers of steps; None: the form's own at all.
        """
        for lam, r, own in zip(multipliers, rho, slopes or [self.slopes] * len(rho), strict=True):
            # Without P, the Schur complement on dx is minus the least P.
            rest, least = eliminate(replace(self, slopes=own).inequality(demand, row(lam), row(r)), self.nv + self.nu)
            P = exact_above(symmetric(rest, -1))
            yield P, least
            demand = self.T.transpose() * P * self.T


def square(rows: arb_mat) -> arb_mat:
    """The matrix X'X."""
    return rows.transpose() * rows


def only(X: arb_mat, index: int) -> arb_mat:
    """One row of a matrix, as a matrix."""
    return from_rows([[X[index, j] for j in range(X.ncols())]], X.ncols())


def _columns(X: arb_mat, index: Sequence[int]) -> arb_mat:
    """Some columns of a matrix."""
    return from_rows([[X[i, j] for j in index] for i in range(X.nrows())], len(index))


def boxed_slopes(system: LureSystem, inputs: Array, states: Array, steps: int) -> list[Slopes]:
    """Slopes of all neurons at each of the steps 0 .. ``steps`` of runs from a box of states under inputs in a box.

    Args:
        system: The system.
        inputs: Ends, shape (2, nu).
        states: Ends, shape (2, nx).
        steps: Number of steps.
    """
    u, x = (row(inputs[0]), row(inputs[1])), (row(states[0]), row(states[1]))
    of = functions(system.activation, system.nv)
    with np.errstate(all="ignore"):
        hints = slopes_by_step(system, (inputs[0], inputs[1]), (states[0], states[1]), steps)
    found: list[Slopes] = []
    for low, high in zip(*hints, strict=True):
        v, w = neurons(system, x, u)
        exact = [intervals.slopes_between(f, a, b) for f, a, b in zip(of, *v, strict=True)]
        found.append(intervals.suggested(exact, (low, high)))
        x = next_states(system, x, w, u)
    return found


def joined(slopes: Sequence[Slopes]) -> Slopes:
    """Slopes of all neurons that hold at all steps."""
    found = slopes[0]
    for step in slopes[1:]:
        found = [(a.min(low), b.max(high)) for (a, b), (low, high) in zip(found, step, strict=True)]
    return found


def neurons(system: LureSystem, x: intervals.Box, u: intervals.Box) -> tuple[intervals.Box, intervals.Box]:
    """Intervals of the neurons' arguments v and outputs w."""
    bias, of = row(system.bv), functions(system.activation, system.nv)
    v: intervals.Box = ([], [])
    w: intervals.Box = ([], [])
    rows = {name: [row(line) for line in getattr(system, name)] for name in ("C1", "D11", "D12")}
    for start, stop in system.blocks:
        zero = row(np.zeros(stop - start))
        here = intervals.added(
            intervals.image(rows["C1"][start:stop], x, bias[start:stop]),
            intervals.image(rows["D12"][start:stop], u, zero),
            intervals.image([line[:start] for line in rows["D11"][start:stop]], w, zero),
        )
        out = intervals.monotone(of[start:stop], here)
        v, w = (v[0] + here[0], v[1] + here[1]), (w[0] + out[0], w[1] + out[1])
    return v, w


def next_states(system: LureSystem, x: intervals.Box, w: intervals.Box, u: intervals.Box) -> intervals.Box:
    """Intervals of A x + B1 w + B2 u + bx."""
    zero = row(np.zeros(system.nx))
    parts = ((system.A, x, row(system.bx)), (system.B1, w, zero), (system.B2, u, zero))
    return intervals.added(*(intervals.image([row(line) for line in M], box, start) for M, box, start in parts))
