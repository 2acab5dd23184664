"""Bounds on the rounding of a Lur'e system that runs in float64 or float32: per step, and over all steps.

One step. Every pre-activation, next state and output is a sum of m <= nx + nu + nv + 1 products and a bias. Whatever
the order of summation, fused or not, it errs by at most gamma of the sum of absolute values (Higham, "Accuracy and
Stability of Numerical Algorithms", ch. 3 and 4); weights and inputs that are stored in float32 add their own rounding.
An error of a pre-activation passes an activation with at most its slope there, and the library's tanh errs by no more
units in the last place than the caller says. That gives |xc[k+1] - f(xc[k], u[k])| <= E, entry by entry, on a box
which holds the computed states xc, and a bound F of the outputs' own error.

All steps. The run in real arithmetic and the computed one are joined by the exact runs that start at xc[0], xc[1], ..:
neighbours differ by one step's rounding, so that with proven gains l_j from a state to the outputs j steps later

    |yc[k] - y[k]| <= F + l_k |xc[0] - x[0]| + (l_0 + .. + l_{k-1}) |E|        (norms in the gains' metric).

The box. Either an interval that starts in the initial states is carried on, E added at every step; or a contraction
(rate p, metric P) keeps the computed states in a ball about any state c: with D = sup_u |f(c, u) - c|_P a radius R
that covers the start and p R + D + |E(R)|_P <= R is never left, E(R) being the rounding on that very ball.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import (
    TINY,
    UNIT,
    Array,
    Enclosure,
    cumulated_up,
    divide_up,
    dot_up,
    root_up,
    sum_up,
    times_up,
)
from controlrnn.certification.proof.arithmetic.matrices import Matrices
from controlrnn.certification.proof.incremental import largest_ratios
from controlrnn.certification.proof.intervals import _OF_ALL, between, intersection, neurons, next_state, norm_up
from controlrnn.certification.proof.laws import Laws, hull, sizes
from controlrnn.certification.proof.slopes import global_slopes, slopes_on, within
from controlrnn.errors import CertificationError

_SETTLING = 200  # steps after which a run under the middle input is a good centre
_SHRINKINGS = 10  # always as many, so that every processor finds the same box but for rounding
_ROOMS = (1.01, 1.1, 2.0, 16.0)  # candidates for the radius, relative to what it would be without rounding


class Format(NamedTuple):
    """A format of floating-point numbers.

    Args:
        unit: Largest relative error of one operation.
        tiny: Covers what underflow and flushing to zero do to one operand or result.
        largest: Numbers up to this one do not overflow.
        rounds_data: Whether weights, inputs and the initial state are rounded when they are stored.
    """

    unit: float
    tiny: float
    largest: float
    rounds_data: bool


FORMATS = {
    "float64": Format(UNIT, TINY, 2.0**1020, False),
    "float32": Format(2.0**-24, 2.0**-126, 2.0**125, True),
}


def plus(*values: Any) -> Array:
    """Upper bound of the sum of nonnegative arrays of one shape."""
    return sum_up(np.stack(values), axis=0)


@dataclass(frozen=True)
class Execution:
    """Rounding-error bounds of a system run in a floating-point format with a given accuracy of tanh.

    Args:
        system: A frozen system.
        format: The numbers that it is computed in.
        ulps: Largest error of tanh, units in the last place; trusted.

    Raises:
        CertificationError: The sums are too long for this format.
    """

    system: Matrices
    format: Format
    ulps: float

    def __post_init__(self) -> None:
        if not isinstance(self.system.activation, str) and self.format.rounds_data:
            raise CertificationError(
                "declared ranges are rounded in this precision, which no proof here covers: use float64"
            )
        if not self._terms * self.format.unit <= 1e-3 or not self.ulps * self.format.unit <= 1e-3:
            raise CertificationError("nothing can be proven in this precision: sums too long, or tanh too inaccurate")

    @property
    def _terms(self) -> int:
        """Largest number of terms in any sum: products with states, inputs and neurons, and a bias."""
        return int(self.system.nx + self.system.nu + self.system.nv + 1)

    def stored(self, size: Array) -> Array:
        """Bound on the rounding of numbers of at most this size when they are stored; zero where they stay exact."""
        if not self.format.rounds_data:
            return np.zeros(np.shape(size))
        return plus(times_up(self.format.unit, size), np.full(np.shape(size), self.format.tiny))

    def step_error(self, states: Enclosure, inputs: Enclosure) -> tuple[Array, Array]:
        """Bounds on |xc+ - f(xc, u)| (nx,) and |yc - g(xc, u)| (ny,) for computed states xc and inputs u in boxes.

        Raises:
            CertificationError: Something may overflow.
        """
        s = self.system
        v, w = neurons(s, states, inputs)
        u_error = self.stored(inputs.magnitude())
        size = np.concatenate([states.magnitude(), plus(inputs.magnitude(), u_error), np.zeros(s.nv)])
        error = np.concatenate([np.zeros(s.nx), u_error, np.zeros(s.nv)])
        first = s.nx + s.nu
        for start, stop in s.blocks:
            rows, here = slice(start, stop), slice(first + start, first + stop)
            known = slice(0, first + start)  # layers before this one
            weights = np.hstack([s.C1[rows], s.D12[rows], s.D11[rows, :start]])
            before = self._sum_error(weights, s.bv[rows], size[known], error[known])
            error[here] = self._activation_error(within(s.activation, start, stop), v[rows], before)
            size[here] = plus(w[rows].magnitude(), error[here])
        return (
            self._sum_error(np.hstack([s.A, s.B2, s.B1]), s.bx, size, error),
            self._sum_error(np.hstack([s.C2, s.D22, s.D21]), s.by, size, error),
        )

    def _sum_error(self, matrix: Array, bias: Array, size: Array, error: Array) -> Array:
        """Bound on |computed - exact| of M z + b, where the computed z is within ``size`` and errs by ``error``.

        gamma_n <= 1.0016 n unit for n unit <= 1e-3, a little more where results are rounded twice, from a longer
        register; stored weights add one unit. Flushing an operand to zero errs by tiny times the other one.
        """
        unit, tiny, largest, _ = self.format
        M, b = np.abs(matrix), np.abs(bias)
        total = plus(dot_up(M, size), b)
        if not (total <= largest).all() or not (max(M.max(), b.max()) <= largest):
            raise CertificationError(
                f"sums of the system may reach {np.max(total, initial=0.0):.3g}, which overflows in this precision: "
                "narrow input_range or state_range, or rescale the states"
            )
        # Zeros are neither rounded nor do they round what they are added to.
        terms = np.count_nonzero(M, axis=1) + np.count_nonzero(b[:, None], axis=1)
        rounding = times_up(1.05 * (terms + 1) * unit, total)
        touched = plus(sum_up(M, axis=1), np.full(len(b), float(sum_up(size)) + 3.0 * self._terms))
        return plus(rounding, times_up(4 * tiny, touched), dot_up(M, error))

    def _activation_error(self, kind: str | Laws, v: Enclosure, error: Array) -> Array:
        """Bound on |computed - exact| of neurons whose pre-activations lie in ``v`` and are computed with errors."""
        unit, tiny, _, _ = self.format
        if not isinstance(kind, str):
            return self._law_error(kind, v, error)
        low, high = np.nextafter(v.lower() - error, -np.inf), np.nextafter(v.upper() + error, np.inf)
        size = np.maximum(np.abs(low), np.abs(high))
        own = np.zeros_like(size)
        if kind in ("tanh", "sigmoid"):
            own = times_up(2.03 * self.ulps * unit, np.minimum(size, 1.0))
        if kind == "sigmoid":  # 0.5 + 0.5 tanh(v / 2): halving is exact, the sum, of size <= 1, rounds
            own = plus(0.5 * own, np.full(size.shape, 1.05 * unit))
        elif kind == "leaky_relu":  # at most four roundings: of the two slopes, two products, the sum
            own = times_up(4.1 * unit, size)
        steepest = slopes_on(kind, (low, high))[1]
        return plus(times_up(steepest, error), own, np.full(size.shape, 4 * tiny))

    def _law_error(self, laws: Laws, v: Enclosure, error: Array) -> Array:
        """`_activation_error` of neurons with laws of their own.

        A law is computed with at most 20 operations, each of which errs by at most ``ulps`` units of its result, from
        the value inside of the range and the straight lines beyond it, whose sizes add up.
        """
        found = np.empty_like(error)
        for law, start, stop in laws.groups:
            here, parameters = slice(start, stop), laws.parameters[start:stop]
            if str(law) in _OF_ALL:
                found[here] = self._activation_error(str(law), v[here], error[here])
                continue
            low = np.nextafter(v[here].lower() - error[here], -np.inf)
            high = np.nextafter(v[here].upper() + error[here], np.inf)
            steepest = hull(str(law), parameters, (low, high))[1]
            size = np.maximum(sizes(str(law), parameters, low), sizes(str(law), parameters, high))
            own = times_up(21 * max(self.ulps, 1.0) * self.format.unit, size)
            found[here] = plus(times_up(steepest, error[here]), own, np.full(size.shape, 4 * self.format.tiny))
        return found

    def carried(self, start: Enclosure, inputs: Enclosure, steps: int) -> Enclosure:
        """Box that holds the computed states of the steps 0..N if the first one lies in ``start``, by intervals.

        Raises:
            CertificationError: The intervals explode.
        """
        hull = here = start
        for _ in range(steps):
            error = self.step_error(here, inputs)[0]
            exact = next_state(self.system, here, inputs)
            here = Enclosure(exact.mid, plus(exact.rad, error))
            hull = _hull(hull, here)
        return hull

    def confined(self, start: Enclosure, inputs: Enclosure, rate: float, metric: Array, input_gain: Array) -> Enclosure:
        """Box that holds all computed states for ever if the first one lies in ``start``, by a proven contraction.

        Args:
            start: Box that holds the computed initial state.
            inputs: Box that holds the inputs.
            rate: Proven, in (0, 1).
            metric: P of that proof, shape (nx, nx).
            input_gain: Gains of that proof, shape (nu,).

        Raises:
            CertificationError: Rounding moves the state by more than contraction takes back.
        """
        s = self.system
        middle = np.broadcast_to(inputs.mid, (_SETTLING, s.nu))
        # Any centre is valid; a settled state makes the drift, and so the ball, small.
        c = Enclosure.of(np.asarray(s.simulate(middle, start.mid)[1])[-1])
        at_middle = norm_up(next_state(s, c, Enclosure.of(inputs.mid)) - c, metric)
        by_gains = float(plus(np.float64(at_middle), sum_up(times_up(input_gain, inputs.rad))))
        drift = min(norm_up(next_state(s, c, inputs) - c, metric), by_gains)
        units = np.eye(s.nx)
        # Half widths of the metric's unit ball: |e_i|^2 <= max x_i^2 / x'Px.
        widths = root_up(
            largest_ratios(Enclosure.of(units[:, :, None] * units[:, None, :]), Enclosure.of(metric[None]))
        )
        still = self._norm(self.step_error(c, inputs)[0], metric)
        # A guess, and not below the first of the two: what counts is the inequality.
        least = max(norm_up(start - c, metric), drift / (1 - rate)) + float(still) / (1 - rate)
        for room in _ROOMS:
            radius = room * least
            ball = Enclosure(c.mid, times_up(widths, radius))
            pushed = [times_up(rate, radius), np.float64(drift), self._norm(self.step_error(ball, inputs)[0], metric)]
            if plus(*pushed) <= radius:
                return self._shrunk(ball, start, inputs)
        raise CertificationError(
            f"rounding moves the state by {float(pushed[-1]):.3g} a step in the metric, more than contraction at rate "
            f"{rate:.6g} takes back from a ball of radius {radius:.3g}: use a higher precision, or narrow input_range"
        )

    def _shrunk(self, box: Enclosure, start: Enclosure, inputs: Enclosure) -> Enclosure:
        """Shrink a box of all computed states by intersecting it with its start and image, several times.

        Every computed state is in ``start``, or follows from another one in the box.
        """
        for _ in range(_SHRINKINGS):
            exact = next_state(self.system, box, inputs)
            image = Enclosure(exact.mid, plus(exact.rad, self.step_error(box, inputs)[0]))
            box = intersection(box, _hull(start, image))
        return box

    @staticmethod
    def _norm(error: Array, metric: Array) -> Array:
        """Upper bound of |e|_metric for any |e_i| <= error_i."""
        return np.asarray(norm_up(Enclosure(np.zeros_like(error), error), metric))

    def accumulated(
        self,
        box: Enclosure,
        inputs: Enclosure,
        start: Array,
        gains: Array,
        metric: Array,
        rate: float | None,
        horizon: int | None,
    ) -> Array:
        """Bounds on |yc - y| after all rounding: shape (horizon + 1, ny), or one row for all steps.

        Args:
            box: Box that holds the computed states.
            inputs: Box that holds the inputs.
            start: Bound on |xc[0] - x[0]|, shape (nx,).
            gains: l, shape (N + 1, ny), from a state to outputs, of the lags 0..N.
            metric: Norm of the state in ``gains``, shape (nx, nx).
            rate: l_{N+j} <= l_N rate^j for all j: of a contraction in the same metric. None: not known.
            horizon: Number of steps; None for all, which needs a rate.
        """
        state, output = self.step_error(box, inputs)
        first, each = (float(self._norm(error, metric)) for error in (start, state))
        if horizon is None or horizon >= len(gains):
            if rate is None:
                raise CertificationError(f"gains of {len(gains) - 1} lags bound no more steps, got horizon {horizon}")
            # Geometric series of the gains beyond the last lag: l_N (p + p^2 + ..).
            tail = times_up(divide_up(rate, np.nextafter(1 - rate, 0.0)), gains[-1])
            whole = plus(sum_up(gains, axis=0), tail)
            rows = np.array([plus(output, times_up(gains.max(axis=0), first), times_up(whole, each))])
            if horizon is None:
                return rows
            # Beyond the last lag the gains fall: l_N covers each, and all of them together the sum.
            later = np.broadcast_to(rows, (horizon + 1 - len(gains), rows.shape[1]))
            return np.vstack([self.accumulated(box, inputs, start, gains, metric, None, len(gains) - 1), later])
        before = np.vstack([np.zeros((1, gains.shape[1])), cumulated_up(gains[:horizon])])
        own = np.broadcast_to(output, before.shape)
        return plus(own, times_up(gains[: horizon + 1], first), times_up(before, each))


def output_gain(system: Matrices, metric: Array) -> Array:
    """Bound on |dy_i| over |dx|_metric at equal inputs, shape (ny,), from the gains of single rows and neurons."""

    def seen(rows: Array) -> Array:
        products = Enclosure.of(rows[:, :, None]) * Enclosure.of(rows[:, None, :])
        return np.where(rows.any(axis=1), root_up(largest_ratios(products, Enclosure.of(metric[None]))), 0.0)

    slope = np.broadcast_to(global_slopes(system.activation)[1], (system.nv,))
    moved = np.zeros(system.nv)
    own = seen(system.C1)
    for start, stop in system.blocks:
        through = dot_up(np.abs(system.D11[start:stop, :start]), moved[:start])
        moved[start:stop] = times_up(slope[start:stop], plus(own[start:stop], through))
    return plus(seen(system.C2), dot_up(np.abs(system.D21), moved))


def _hull(a: Enclosure, b: Enclosure) -> Enclosure:
    """The smallest box, rounded outwards, that holds two boxes."""
    low, high = np.minimum(a.lower(), b.lower()), np.maximum(a.upper(), b.upper())
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise CertificationError(
            "the box of the computed states grows beyond all numbers: pass contraction=, or shorten the horizon"
        )
    return between(low, high)
