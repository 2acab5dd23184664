"""Ball-arithmetic check of a `TubeCertificate`: neighbours of a nominal trajectory stay near its outputs.

With o - n = L xi, |xi|^2 <= e at a step, every neuron's difference is bounded, |dv| <= d, which bounds its slopes (one
end of the chord is the nominal v) to m +- h. So dw = m dv + h d eta, eta^2 <= (dv / d)^2, and for any t, tau, rho >= 0

    tau |xi|^2 + rho du^2 + 2 t (eta^2 - (dv / d)^2)  =  z' W z  <=  tau e + rho b^2,      z = (eta, du, xi).

Where W > 0, (dx+, dy) = Z z lies in the ellipsoid of X = Z W^-1 Z' of that size. Nothing is padded: ellipsoids are
exact matrices a hair above X, and the nominal trajectory is a sequence of balls. What a pass proves of d and the slopes
the next one may use. The float64 pass suggests larger d and wider slopes, for which its multipliers were made: where
they hold what is proven here they are taken, since with equal ones a smaller ellipsoid leads to a smaller one.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball import arithmetic, fields, intervals
from controlrnn.certification.ball.arithmetic import (
    Row,
    UndecidedError,
    column,
    eliminate,
    exact_above,
    flint,
    from_rows,
    matrix,
    number,
    row,
    semidefinite,
    symmetric,
    total,
)
from controlrnn.certification.ball.horizon import holds, semidefinite_metric
from controlrnn.certification.ball.laws import functions
from controlrnn.certification.certificates.tube import TubeCertificate
from controlrnn.certification.proof.tube import Step as Suggestion
from controlrnn.certification.proof.tube import TubeClaim
from controlrnn.checks import Array
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from flint import arb, arb_mat

_REDUCTIONS = 100
Slope = tuple["arb", "arb"]


@dataclass(eq=False)
class Part:
    """Rows of outputs, neurons or states as coefficients of xi, of du, and of each neuron's rest w - m v."""

    xi: Row
    du: Row
    rest: Row


@dataclass(eq=False)
class Step:
    """Bounds that a pass proves at one step: largest |dv| and slopes of each neuron, and the outputs' bounds."""

    d: Row = field(default_factory=list)
    slopes: list[Slope] = field(default_factory=list)
    bounds: Row = field(default_factory=list)


def check_tube(system: LureSystem, c: TubeCertificate) -> float:
    """Prove every bound around the exact nominal trajectory; returns the least relative pivot."""
    N = fields.length("horizon", c.horizon)
    x0, u = fields.array("x0", c.x0, (system.nx,)), fields.array("u", c.u, (N + 1, system.nu))
    M = fields.metric("metric", c.metric, system.nx)
    radius = fields.scalar("initial_radius", c.initial_radius, above=-5e-324)
    b = fields.array("input_radius", c.input_radius, (system.nu,), least=0.0)
    bounds = fields.array("bounds", c.bounds, (N + 1, system.ny), least=0.0)
    steps, m = N + bool((system.D21 != 0).any()), int((b > 0).sum())
    passes = len(c.multipliers) if isinstance(c.multipliers, np.ndarray) and c.multipliers.ndim == 3 else 0
    lam = fields.array("multipliers", c.multipliers, (passes, steps, system.nv), least=0.0)
    shares = fields.array("shares", c.shares, (passes, steps, 1 + m), least=0.0)
    if not passes:
        raise CertificationError("a tube certificate needs at least one pass: the file was altered")
    v = _nominal(system, x0, u)
    margin, start = semidefinite_metric(M), _start(M, radius)
    known: list[Step] | None = None
    hints = _suggestions(system, c)
    for p, (one, share) in enumerate(zip(lam, shares, strict=True)):
        tube = _Pass(system, v, start, b, known)
        tube.hints = hints[p]
        for k in range(N + 1):
            tube.look(k)
            if k < steps:
                tube.advance(row(one[k]), row(share[k]))
        known, margin = tube.steps, min(margin, tube.margin)
    for claimed, step in zip(bounds, known or [], strict=True):
        for bound, reached in zip(claimed, step.bounds, strict=True):
            holds(reached <= number(bound), reached > number(bound))
    return margin


def _suggestions(system: LureSystem, c: TubeCertificate) -> list[list[Suggestion] | None]:
    """Values of d and the slopes at every step from the float64 passes; None for passes that fail there."""
    found: list[list[Suggestion] | None] = []
    tube = None
    try:
        with np.errstate(all="ignore"):
            case = TubeClaim(system, c.x0, c.u, c.initial_radius, c.metric, c.input_radius)
            for one, share in zip(c.multipliers, c.shares, strict=True):
                tube = case.run(one, share, c.padding, tube)
                found.append(list(tube.steps) if all(np.isfinite(s.d).all() for s in tube.steps) else None)
    except (ControlRnnError, ArithmeticError, TypeError, ValueError):
        pass  # nothing to go by
    return found + [None] * (len(c.multipliers) - len(found))


def _nominal(system: LureSystem, x0: Array, u: Array) -> list[Row]:
    """Pre-activations of the nominal trajectory at every step, as balls."""
    A, B1, B2, C1, D11, D12 = (matrix(getattr(system, n)) for n in ("A", "B1", "B2", "C1", "D11", "D12"))
    of = functions(system.activation, system.nv)
    x, bx, bv, found = column(row(x0)), column(row(system.bx)), column(row(system.bv)), []
    for one in u:
        here = column(row(one))
        drive = C1 * x + D12 * here + bv
        v: Row = []
        w = flint().arb_mat(system.nv, 1)
        for start, stop in system.blocks:
            through = D11 * w  # layers to come are still zero and have zero weights
            for i in range(start, stop):
                v.append(drive[i, 0] + through[i, 0])
            for i in range(start, stop):
                w[i, 0] = intervals.apply(of[i], v[i])
        x = A * x + B1 * w + B2 * here + bx
        found.append(v)
    return found


def _start(M: Array, radius: float) -> list[Row]:
    """Matrix L without errors, as rows (nx, nx), with {dx' M dx <= radius^2} proven inside of {L xi: |xi| <= 1}."""
    n, r = len(M), number(radius)
    if not radius:
        return [[number(0)] * n for _ in range(n)]
    G = from_rows(_cholesky(matrix(M)), n)
    exact: arb_mat = r * G.inv().transpose()
    L: arb_mat = (exact * (1 + _hair())).mid()
    # L'M L >= radius^2 I: what is outside of the ellipsoid is outside of the set.
    outside = L.transpose() * matrix(M) * L
    for i in range(n):
        outside[i, i] = outside[i, i] - r**2
    semidefinite(outside)
    rows: list[Row] = L.tolist()
    return rows


def _hair() -> arb:
    """Relative enlargement that covers the width of balls at the present precision."""
    hair: arb = number(2) ** (-(flint().ctx.prec // 2))
    return hair


def _cholesky(A: arb_mat) -> list[Row]:
    """Lower triangular factor of a positive semidefinite matrix, as rows; rows of zeros stay."""
    n, rows = A.nrows(), A.tolist()
    L: list[Row] = [[number(0)] * n for _ in range(n)]
    for j in range(n):
        pivot = rows[j][j] - total(v * v for v in L[j][:j])
        if not pivot > 0:
            if all(v.is_zero() for v in rows[j]):
                continue
            raise UndecidedError("an ellipsoid is too flat for this precision", margin=0.0)
        L[j][j] = pivot.sqrt()
        for i in range(j + 1, n):
            L[i][j] = (rows[i][j] - total(a * b for a, b in zip(L[i][:j], L[j][:j], strict=True))) / L[j][j]
    return L


class _Pass:
    """A forward pass along the trajectory, in ball arithmetic: `look` at a step, then `advance`."""

    def __init__(self, system: LureSystem, v: list[Row], start: list[Row], b: Array, known: list[Step] | None) -> None:
        self.system = system
        self.functions = functions(system.activation, system.nv)
        self.v = v
        self.L = start
        self.known = known
        self.use = np.flatnonzero(b > 0)
        self.level = number(1)
        self.margin = np.inf
        self.b = row(b[self.use])
        self.steps = list[Step]()
        self.seen = bool((system.D21 != 0).any())
        self.hints: list[Suggestion] | None = None

    def look(self, k: int) -> None:
        """Bound the neurons and outputs of step k, layer by layer."""
        s, step = self.system, Step()
        self.parts = list[Part]()
        self.half = list["arb"]()
        state = s.nx
        for start, stop in s.blocks:
            layer = [self._part(s.C1[i], s.D12[i], s.D11[i, :start]) for i in range(start, stop)]
            d = [self._reach(part, step.d) for part in layer]
            if self.known is not None:
                d = [a.min(b) for a, b in zip(d, self.known[k].d[start:stop], strict=True)]
            if self.hints is not None:
                # Larger differences are as valid, and the multipliers were made for these.
                d = [a.max(number(b)) for a, b in zip(d, self.hints[k].d[start:stop], strict=True)]
            slopes = [
                intervals.chords_from(f, a, b) if b > 0 else intervals.slope(f)
                for f, a, b in zip(self.functions[start:stop], self.v[k][start:stop], d, strict=True)
            ]
            if self.known is not None:
                before = self.known[k].slopes[start:stop]
                slopes = [(a.max(c), b.min(e)) for (a, b), (c, e) in zip(slopes, before, strict=True)]
            if self.hints is not None:
                low, high = self.hints[k].slopes
                slopes = intervals.suggested(slopes, (low[start:stop], high[start:stop]))
            step.d += d
            step.slopes += slopes
            self.parts += layer
            self.half += [(b - a) / 2 for a, b in slopes]
            self.middle = [(a + b) / 2 for a, b in step.slopes]
        if not s.nv:
            self.middle = []
        outputs = [self._part(s.C2[i], s.D22[i], s.D21[i]) for i in range(s.ny)]
        step.bounds = [self._reach(part, step.d) for part in outputs]
        if self.known is not None:
            step.bounds = [a.min(b) for a, b in zip(step.bounds, self.known[k].bounds, strict=True)]
        self.after = [self._part(s.A[i], s.B2[i], s.B1[i]) for i in range(state)] + (outputs if self.seen else [])
        self.steps.append(step)

    def _part(self, x: Array, u: Array, w: Array) -> Part:
        """Coefficients of the part x' dx + u' du + w' dw, for the neurons looked at so far."""
        xi = [total(number(a) * line[j] for a, line in zip(x, self.L, strict=True) if a) for j in range(len(self.L))]
        du, rest = row(u[self.use]), row(w) + [number(0)] * (self.system.nv - len(w))
        for j, a in enumerate(w):
            if a:
                through, part = number(a) * self.middle[j], self.parts[j]
                xi = [p + through * q for p, q in zip(xi, part.xi, strict=True)]
                du = [p + through * q for p, q in zip(du, part.du, strict=True)]
                rest = [p + through * q for p, q in zip(rest, part.rest, strict=True)]
        return Part(xi, du, rest)

    def _reach(self, part: Part, d: Row) -> arb:
        """Largest absolute value that a part can have."""
        by_rest = total(abs(a) * h * e for a, h, e in zip(part.rest, self.half, d, strict=False))
        by_input = total(abs(a) * b for a, b in zip(part.du, self.b, strict=True))
        most: arb = (self.level.sqrt() * total(a * a for a in part.xi).sqrt() + by_input + by_rest).upper()
        return most

    def advance(self, multipliers: Row, shares: Row) -> None:
        """Compute the next ellipsoid, with multipliers reduced where they are too large.

        Any multipliers >= 0 with W > 0 prove an ellipsoid.
        """
        step = self.steps[-1]
        N = from_rows(
            [self._row(p, 1 / d if d > 0 else number(0)) for p, d in zip(self.parts, step.d, strict=True)],
            len(self.half) + len(self.b) + len(self.L),
        )
        Z = [self._row(p, number(1)) for p in self.after]
        failure: CertificationError | None = None
        for _ in range(_REDUCTIONS):
            try:
                X, least = self._ellipsoid(N, Z, multipliers, shares)
                break
            except CertificationError as error:
                multipliers, failure = [t * number(0.7) for t in multipliers], error
        else:
            raise failure or CertificationError("no ellipsoid")
        F = self._factor(X)
        self.margin = min(self.margin, least)
        # |xi+|^2 <= tau e + rho b^2.
        self.level = (shares[0] * self.level + total(shares[1:])).upper()
        n, root = len(self.L), self.level.sqrt()
        for i, line in enumerate(F[n:]):
            step.bounds[i] = step.bounds[i].min((root * total(v * v for v in line).sqrt()).upper())
        self.L = [line[:n] for line in F[:n]]

    def _row(self, part: Part, scale: arb) -> Row:
        """Coefficients of z = (eta, du, xi) of a part, times ``scale``."""
        d = self.steps[-1].d
        eta = [a * h * e for a, h, e in zip(part.rest, self.half, d, strict=True)]
        return [scale * v for v in (*eta, *part.du, *part.xi)]

    def _ellipsoid(self, N: arb_mat, Z: list[Row], t: Row, shares: Row) -> tuple[arb_mat, float]:
        """Matrix without errors above X = Z W^-1 Z', and the least relative pivot of W."""
        nz, count = N.ncols(), len(Z)
        rho = [share / b**2 for share, b in zip(shares[1:], self.b, strict=True)]
        supply = [2 * v for v in t] + rho + [shares[0]] * len(self.L)
        W = -(N.transpose() * arithmetic.diagonal([2 * v for v in t]) * N) + arithmetic.diagonal(supply)
        right = from_rows(Z, nz).transpose()
        top = arithmetic.beside(W, right).tolist()
        zero = [number(0)] * (nz + count)
        # Eliminating W from [W Z'; Z 0] leaves -Z W^-1 Z'.
        rest, least = eliminate(from_rows([*top, *[zero] * count], nz + count), nz)
        return exact_above(symmetric(rest, -1)), least

    def _factor(self, X: arb_mat) -> list[Row]:
        """Lower triangular factor F without errors, with F F' >= X proven."""
        larger = X.mid()
        for i in range(X.nrows()):
            larger[i, i] = X[i, i] * (1 + _hair())
        F: arb_mat = from_rows(_cholesky(larger), X.nrows()).mid()
        semidefinite(F * F.transpose() - X)
        rows: list[Row] = F.tolist()
        return rows
