"""Ball-arithmetic check of an `ExecutionError`: bounds on rounding, from the claim and the certificates it rests on.

The theorem is that of `docs/execution.md`, the steps are others. A sum of n products, a bias among them, errs by at
most gamma_{n+1} = (n + 1) u / (1 - (n + 1) u) of the sum of absolute values, u being the unit of the format and a
little for results that are rounded twice; weights that are stored rounded are the one more. The ball that computed
states never leave is the smallest that a fixed-point iteration finds, the proof that it is one is an inequality of
balls. All values follow from the claimed boxes and proven gains; a claim holds if none of its numbers is smaller.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball import fields, intervals, laws
from controlrnn.certification.ball.arithmetic import Row, column, matrix, number, row, total
from controlrnn.certification.ball.contraction import check_contraction
from controlrnn.certification.ball.horizon import check_gains, holds
from controlrnn.certification.ball.laws import Function, functions
from controlrnn.certification.ball.model import Plant, neurons, next_states
from controlrnn.certification.certificates.contraction import ContractionCertificate
from controlrnn.certification.certificates.execution_error import ExecutionError
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.systems import Activation, LureSystem, Neuron, Precision

if TYPE_CHECKING:
    from flint import arb, arb_mat

_SETTLING = 200  # steps under the middle input after which a state is a good centre
_ITERATIONS = 30  # of the radius
_SHRINKINGS = 12  # of the box, at least as many as the proof in float64 does


@dataclass(frozen=True)
class _Format:
    """A floating-point format.

    Args:
        unit: Relative rounding error of one operation, results that are rounded twice included.
        tiny: Largest effect of underflow, and of flushing to zero, on one operand or result.
        largest: Numbers up to this one do not overflow.
        rounds_data: Whether weights, inputs and initial states are rounded when they are stored.
    """

    unit: arb
    tiny: arb
    largest: arb
    rounds_data: bool

    @classmethod
    def of(cls, precision: Precision) -> _Format:
        """The format of this name, with powers of two that are exact."""
        single, two = precision is Precision.FLOAT32, number(2)
        bits, tiny, largest = (24, -126, 125) if single else (53, -1019, 1020)
        return cls(two**-bits * (1 + two**-10), two**tiny, two**largest, single)

    def gamma(self, n: int) -> arb:
        """The most that n roundings change, relatively."""
        return n * self.unit / (1 - n * self.unit)

    def stored(self, size: Row) -> Row:
        """Bound on the rounding of numbers of at most this size when they are stored."""
        return [self.unit * s + self.tiny if self.rounds_data else number(0) for s in size]


def check_execution(system: LureSystem, c: ExecutionError) -> float:
    """Prove the bounds on rounding; returns the least relative pivot of the certificates that they rest on."""
    claim = _Claim(system, c)
    margin, P = np.inf, None
    for part in (c.gains, c.contraction):
        if part is None:
            continue
        if part.system_digest != system.digest:
            raise CertificationError("a certificate speaks of another system: the execution error was altered")
        if P is not None and not np.array_equal(P, part.metric):
            raise CertificationError("gains and contraction do not share a metric: the execution error was altered")
        P = part.metric
        if isinstance(part, ContractionCertificate):
            margin = min(margin, check_contraction(Plant.of(system), part))
        else:
            margin = min(margin, check_gains(system, part))
    if P is None:
        raise CertificationError("gains or contraction must be given: the execution error was altered")
    run = _Run(system, claim.format, number(c.tanh_ulps))
    stored = claim.format.stored(_sizes(claim.x))
    start = _wider(claim.x, stored)
    if c.contraction is not None:
        box = run.confined(start, claim.u, c.contraction)
    elif c.horizon is not None:
        box = run.carried(start, claim.u, c.horizon)
    else:
        raise CertificationError("gains alone bound a horizon only: the execution error was altered")
    state, output = run.step_error(box, claim.u)
    _below("state_error", state, c.state_error)
    _below("output_error", output, c.output_error)
    _below("computed_range", [-v for v in box[0]], -c.computed_range[0])
    _below("computed_range", box[1], c.computed_range[1])
    first, each = worst_norm(stored, P), worst_norm(state, P)
    gains = [output_gain(system, matrix(P))] if c.gains is None else [row(one) for one in c.gains.initial]
    rate = None if c.contraction is None else number(c.contraction.rate)
    for k, claimed in enumerate(c.bounds):
        lag = None if c.horizon is None else k
        _below("bounds", [o + e for o, e in zip(output, _passed(gains, first, each, rate, lag), strict=True)], claimed)
    return margin


class _Claim:
    """What is claimed, checked for its form."""

    def __init__(self, system: LureSystem, c: ExecutionError) -> None:
        nx, nu, ny = system.nx, system.nu, system.ny
        fields.scalar("tanh_ulps", c.tanh_ulps, above=0.0)
        steps = None if c.horizon is None else fields.length("horizon", c.horizon)
        fields.array("bounds", c.bounds, (1 if steps is None else steps + 1, ny), least=0.0)
        fields.array("state_error", c.state_error, (nx,), least=0.0)
        fields.array("output_error", c.output_error, (ny,), least=0.0)
        fields.array("computed_range", c.computed_range, (2, nx))
        boxes = fields.box(c.input_range, c.state_range, nu, nx)
        if boxes is None:
            raise CertificationError("input_range and state_range must be given: the file was altered")
        self.u, self.x = ((row(box[0]), row(box[1])) for box in boxes)
        self.format = _Format.of(Precision(c.precision))


@dataclass(frozen=True)
class _Run:
    """Bounds of one step's rounding, and boxes of all computed states."""

    system: LureSystem
    format: _Format
    ulps: arb

    def __post_init__(self) -> None:
        s = self.system
        terms, most = s.nx + s.nu + s.nv + 1, number(0.001)
        for n in (number(terms), self.ulps):
            if not n * self.format.unit <= most * (1 + number(2) ** -9):
                raise CertificationError(
                    "nothing can be proven in this precision: sums too long, or tanh too inaccurate"
                )

    def step_error(self, x: intervals.Box, u: intervals.Box) -> tuple[Row, Row]:
        """Bounds on the error of one computed next state and one computed output, for states and inputs in boxes."""
        s, zero = self.system, number(0)
        v, w = neurons(s, x, u)
        data = self.format.stored(_sizes(u))
        size = _sizes(x) + [a + b for a, b in zip(_sizes(u), data, strict=True)]
        error = [zero] * s.nx + data
        for start, stop in s.blocks:
            rows = np.hstack([s.C1[start:stop], s.D12[start:stop], s.D11[start:stop, :start]])
            before = self._sums(rows, s.bv[start:stop], size, error)
            box = v[0][start:stop], v[1][start:stop]
            of = functions(s.activation, s.nv)[start:stop]
            own = [self._activated(*one) for one in zip(of, *box, before, strict=True)]
            largest = _sizes((w[0][start:stop], w[1][start:stop]))
            size = size + [(a + b).upper() for a, b in zip(largest, own, strict=True)]
            error = error + own
        return (
            self._sums(np.hstack([s.A, s.B2, s.B1]), s.bx, size, error),
            self._sums(np.hstack([s.C2, s.D22, s.D21]), s.by, size, error),
        )

    def _sums(self, rows: Array, bias: Array, size: Row, error: Row) -> Row:
        """Bounds on |computed - exact| of M z + b; the computed z is within ``size`` and errs by ``error``."""
        f, found = self.format, []
        longest = self.system.nx + self.system.nu + self.system.nv + 1
        everything = total(size)
        for weights, b in zip(np.abs(rows), np.abs(bias), strict=True):
            m, own = row(weights), number(b)
            whole = total(a * s for a, s in zip(m, size, strict=True)) + own
            for largest in (whole, own, *m):
                if not largest <= f.largest:
                    raise CertificationError("sums of the system may overflow in this precision", margin=0.0)
            terms = int(np.count_nonzero(weights)) + int(b != 0)
            # Flushed weights and numbers err by tiny times each other, flushed products and sums by tiny.
            touched = total(m) + everything + 3 * longest
            passed = total(a * e for a, e in zip(m, error, strict=True))
            found.append((f.gamma(terms + 1) * whole + 2 * f.tiny * touched + passed).upper())
        return found

    def _activated(self, kind: Function, low: arb, high: arb, error: arb) -> arb:
        """Bound on |computed - exact| of a neuron with pre-activation in [low, high], computed with an error."""
        f = self.format
        low, high = (low - error).lower(), (high + error).upper()
        size, own = low.abs_upper().max(high.abs_upper()), number(0)
        if isinstance(kind, Neuron):
            if f.rounds_data:
                raise CertificationError("declared ranges are rounded in this precision", margin=0.0)
            # At most 20 operations, each within so many units of results that add up to the size.
            own = 21 * self.ulps.max(number(1)) * f.unit * laws.size(kind, low).max(laws.size(kind, high))
        if kind in (Activation.TANH, Activation.SIGMOID):
            # One unit in the last place is at most two units of rounding of the value, which is below min(size, 1).
            own = 2 * self.ulps * f.unit * size.min(number(1))
        if kind is Activation.SIGMOID:
            own = own / 2 + f.gamma(1) * (1 + own / 2)
        elif kind is Activation.LEAKY_RELU:
            own = f.gamma(4) * size
        steepest = intervals.slopes_between(kind, low, high)[1]
        return (steepest * error + own + 4 * f.tiny).upper()

    def carried(self, start: intervals.Box, u: intervals.Box, steps: int) -> intervals.Box:
        """Box of the computed states of the steps 0 .. ``steps``."""
        hull = here = start
        for _ in range(steps):
            here = self._image(here, u)
            hull = _joined(hull, here)
        return hull

    def _image(self, x: intervals.Box, u: intervals.Box) -> intervals.Box:
        """Box of the next computed states."""
        exact = next_states(self.system, x, neurons(self.system, x, u)[1], u)
        return _wider(exact, self.step_error(x, u)[0])

    def confined(self, start: intervals.Box, u: intervals.Box, c: ContractionCertificate) -> intervals.Box:
        """Box that computed states never leave, by a ball |x - c|_P <= R with rate R + drift + |E(R)|_P <= R."""
        s, rate, P = self.system, number(c.rate), matrix(c.metric)
        low, high = ([float(v.mid()) for v in end] for end in u)
        middle = 0.5 * np.array(low) + 0.5 * np.array(high)
        begin = np.array([float(((a + b) / 2).mid()) for a, b in zip(*start, strict=True)])
        centre = row(np.asarray(s.simulate(np.broadcast_to(middle, (_SETTLING, s.nu)), begin)[1])[-1])
        drift = self._drift(centre, row(middle), u, c).upper()
        widths = [v.sqrt().upper() for v in _inverse_diagonal(P)]
        away = _norm(_moved(start, centre), P).upper()

        def ball(radius: arb) -> intervals.Box:
            return _wider((centre, centre), [w * radius for w in widths])

        def rounding(radius: arb) -> arb:
            return worst_norm(self.step_error(ball(radius), u)[0], c.metric)

        radius = away
        for _ in range(_ITERATIONS):
            # Any radius is a guess until the inequality below is proven; slightly more than the last one needs.
            needed = (drift + rounding(radius)) / (1 - rate) * (1 + number(2) ** -20)
            grown = away.max(needed.upper()).max(radius).upper()
            if grown <= radius:
                break
            radius = grown
        left = rate * radius + drift + rounding(radius)
        holds(left <= radius and away <= radius, left > radius)
        box = ball(radius)
        for _ in range(_SHRINKINGS):
            box = _common(box, _joined(start, self._image(box, u)))
        return box

    def _drift(self, centre: Row, middle: Row, u: intervals.Box, c: ContractionCertificate) -> arb:
        """The most by which the exact step moves the centre, in the metric: by intervals, or by proven gains."""
        P, here = matrix(c.metric), (centre, centre)

        def moved(box: intervals.Box) -> arb:
            return _norm(_moved(next_states(self.system, here, neurons(self.system, here, box)[1], box), centre), P)

        radii = [(b - m).max(m - a) for a, b, m in zip(*u, middle, strict=True)]
        by_gains = moved((middle, middle)) + total(g * r for g, r in zip(row(c.input_gain), radii, strict=True))
        return moved(u).upper().min(by_gains.upper())


def _passed(gains: list[Row], first: arb, each: arb, rate: arb | None, lag: int | None) -> Row:
    """Effect on the outputs of an error ``first`` of the initial state and ``each`` of every step, after ``lag`` steps.

    None for the lag: after any number of steps.
    """
    if lag is not None and lag < len(gains):
        summed = [total(one) for one in zip(*gains[:lag], strict=True)] or [number(0)] * len(gains[0])
        return [g * first + s * each for g, s in zip(gains[lag], summed, strict=True)]
    if rate is None:
        raise CertificationError("gains bound no more steps than they have lags: the execution error was altered")
    found = []
    for column_ in zip(*gains, strict=True):
        largest = column_[0]
        for one in column_:
            largest = largest.max(one)
        found.append(largest * first + (total(column_) + column_[-1] * rate / (1 - rate)) * each)
    return found


def output_gain(system: LureSystem, P: arb_mat) -> Row:
    """Bound on |dy_i| over |dx|_P at equal inputs, by the triangle inequality through the neurons."""
    inverse, slope = P.inv(), [intervals.slope(f)[1] for f in functions(system.activation, system.nv)]

    def seen(line: Array) -> arb:
        m = matrix(line[None])
        return (m * inverse * m.transpose())[0, 0].upper().max(number(0)).sqrt()

    def through(line: Array, moved: Row) -> arb:
        return total(number(abs(a)) * b for a, b in zip(line, moved, strict=False))

    moved: Row = []
    for start, stop in system.blocks:
        moved += [slope[i] * (seen(system.C1[i]) + through(system.D11[i, :start], moved)) for i in range(start, stop)]
    return [seen(C) + through(D, moved) for C, D in zip(system.C2, system.D21, strict=True)]


def worst_norm(error: Row, metric: Array) -> arb:
    """The most that |e|_P can be for |e_i| <= ``error``: sqrt(sum |P_ij| e_i e_j)."""
    e = column(error)
    return ((e.transpose() * matrix(np.abs(metric)) * e)[0, 0]).upper().max(number(0)).sqrt()


def _norm(box: intervals.Box, P: arb_mat) -> arb:
    """Bound on |x|_P over a box: of its middle, and of the farthest point from there."""
    middle = column([((a + b) / 2).mid() for a, b in zip(*box, strict=True)])
    radii = [(b - m).max(m - a) for a, b, m in zip(*box, [middle[i, 0] for i in range(len(box[0]))], strict=True)]
    n = len(radii)
    spread = total(abs(P[i, j]) * radii[i] * radii[j] for i in range(n) for j in range(n))
    own = (middle.transpose() * P * middle)[0, 0].upper().max(number(0))
    return own.sqrt() + spread.upper().max(number(0)).sqrt()


def _inverse_diagonal(P: arb_mat) -> Row:
    """Diagonal of the inverse: the squares of the half widths of the metric's unit ball."""
    inverse = P.inv()
    return [inverse[i, i] for i in range(P.nrows())]


def _sizes(box: intervals.Box) -> Row:
    """Largest absolute values in a box."""
    return [a.abs_upper().max(b.abs_upper()) for a, b in zip(*box, strict=True)]


def _wider(box: intervals.Box, by: Row) -> intervals.Box:
    """A box with more room on both sides."""
    low, high = box
    return [(a - e).lower() for a, e in zip(low, by, strict=True)], [
        (b + e).upper() for b, e in zip(high, by, strict=True)
    ]


def _moved(box: intervals.Box, centre: Row) -> intervals.Box:
    """A box minus a point."""
    return [(a - c).lower() for a, c in zip(box[0], centre, strict=True)], [
        (b - c).upper() for b, c in zip(box[1], centre, strict=True)
    ]


def _joined(a: intervals.Box, b: intervals.Box) -> intervals.Box:
    """The smallest box that holds both."""
    return [x.min(y) for x, y in zip(a[0], b[0], strict=True)], [x.max(y) for x, y in zip(a[1], b[1], strict=True)]


def _common(a: intervals.Box, b: intervals.Box) -> intervals.Box:
    """The intersection of two boxes that have a common point."""
    return [x.max(y) for x, y in zip(a[0], b[0], strict=True)], [x.min(y) for x, y in zip(a[1], b[1], strict=True)]


def _below(name: str, found: Row, claimed: Array) -> None:
    """Raise unless every number is at most what is claimed.

    Raises:
        CertificationError: One is larger.
        UndecidedError: It is not known.
    """
    for one, most in zip(found, row(claimed), strict=True):
        try:
            holds(one <= most, one > most)
        except CertificationError as error:
            raise type(error)(
                f"{name} is less than what is proven: the execution error was altered", margin=0.0
            ) from error
