"""Comparison system of a gated network (LSTM, GRU): upper bounds on how differences grow, never rounded down.

With s = sigmoid and bars for the largest values over the inputs' range, the states of two runs differ by at most

    GRU    |dh+| <= z |dh| + (1 - z) |dn| + |dz| |h - n|,   |dn| <= n' (|Wn||du| + |Un|(r |dh| + |dr| |h|))
    LSTM   |dc+| <= f |dc| + c |df| + i |dg| + g |di|,      |dh+| <= o |dc+| + |do| tanh c,   c = i g / (1 - f)

entrywise, where every gate's difference is at most its largest slope times |W||du| + |U||dh| (proof:
docs/theory/delta_iss.md).

All that follows the bounds of the gates adds and multiplies nonnegative numbers, products rounded up, so that one
factor for their number covers the rounding of sums. exp, tanh and cosh of numpy are trusted to 45 units in the last
place, and what underflows counts: a state may be bounded by 1e308, and a scale may be 1e-300.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import (
    TINY,
    UNIT,
    Array,
    Enclosure,
    divide_up,
    dot_up,
    times_up,
)
from controlrnn.certification.proof.arithmetic.matrices import Gates
from controlrnn.certification.proof.intervals import box_of
from controlrnn.certification.proof.slopes import Box
from controlrnn.errors import CertificationError

_SUMS = 1 + 16 * UNIT  # for the rounding of at most eight sums that a bound goes through, beside those of `dot_up`
_ULP = 1e-14  # of exp, tanh and what is made of them: far more than they err


class Comparison:
    """The monotone map that bounds |dx+| of a gated network by |dx| and |du|, entry by entry.

    Args:
        system: A frozen gated system.
        inputs: Lower and upper limits of the inputs, each shape (nu,).
        state: Bound on |x| that is claimed, shape (nx,); None for the least that the gates imply.

    Attributes:
        state: Bound on |x| that no run from within leaves, shape (nx,).
        forgets: What every cell forgets at least in a step, shape (units,), rounded down; one for a GRU.
        lowest: Least pre-activations of all gates, one after the other, rounded down.
        highest: Largest ones, rounded up.

    Raises:
        CertificationError: A forget gate may stay open, so that memory has no bound; or the claim is too small.
    """

    def __init__(self, system: Gates, inputs: Box, state: Array | None = None) -> None:
        n = system.units
        self._system = system
        self._W = np.abs(system.W)
        self._U = np.abs(system.U)
        # Of the hidden state only |h| <= 1 is used; the GRU's candidate sees r h, which is no larger.
        hidden = Enclosure(np.zeros(n), np.ones(n))
        gates = Enclosure.of(system.W) @ box_of(inputs) + Enclosure.of(system.U) @ hidden + Enclosure.of(system.b)
        self.lowest = gates.lower()
        self.highest = gates.upper()
        if not (np.isfinite(self.lowest).all() and np.isfinite(self.highest).all()):
            raise CertificationError("delta-ISS cannot be shown: the gates overflow; narrow input_range")
        least, self.forgets = np.ones(n), np.ones(n)
        if system.cell == "lstm":
            i, f, _ = (self.largest(k, sigmoid) for k in range(3))
            if not (f < 1).all():
                raise CertificationError("delta-ISS cannot be shown: a forget gate may stay open; narrow input_range")
            self.forgets = np.nextafter(1 - f, 0.0)
            # The cell's bound |c| <= i |g| / (1 - f) is kept, since |c+| <= f |c| + i |g|.
            cells = divide_up(times_up(i, self.largest(3, np.tanh)), self.forgets)
            least = np.concatenate([least, cells])
        self.state = least if state is None else state
        if not (self.state >= least).all() or not (self.state[:n] == 1).all():
            raise CertificationError("state_bound is less than what the gates imply: the certificate was altered")

    def __call__(self, dx: Array, du: Array) -> Array:
        """Bound on the next |dx| (nx,), given |dx| (nx,) and |du| (nu,)."""
        grown = self._gru(dx, du) if self._system.cell == "gru" else self._lstm(dx, du)
        return times_up(grown, _SUMS)

    def rate(self, scale: Array) -> float:
        """Upper bound of max_i |dx_i+| / scale_i over |dx| <= scale and equal inputs."""
        return float(divide_up(self(scale, np.zeros(self._system.nu)), scale).max())

    def gains(self, scale: Array) -> Array:
        """Distance, in units of ``scale``, that a unit difference of each input makes in one step, shape (nu,)."""
        still = np.zeros(self._system.nx)
        return np.array([divide_up(self(still, e), scale).max() for e in np.eye(self._system.nu)])

    def _gru(self, dh: Array, du: Array) -> Array:
        """Bound on the next |dh| of a GRU, before `__call__` covers the rounding of sums."""
        n = self._system.units
        rows = [slice(k * n, (k + 1) * n) for k in range(3)]
        dr, dz = (times_up(self.slope(k, 0.25), self._driven(rows[k], du, dh)) for k in range(2))
        r, largest_z, least_z = self.largest(0, sigmoid), *self.between(1, sigmoid)[::-1]
        least_n, largest_n = self.between(2, np.tanh)
        dn = times_up(self.slope(2, 1.0), self._driven(rows[2], du, times_up(r, dh) + dr))
        # z |dh| + (1 - z) |dn| is linear in z, so that one end of the range of z is the worst case.
        mixed = [times_up(z, dh) + times_up(np.nextafter(1 - z, np.inf), dn) for z in (largest_z, least_z)]
        return np.asarray(np.maximum(*mixed) + times_up(dz, np.maximum(1 - least_n, 1 + largest_n)))

    def _lstm(self, dx: Array, du: Array) -> Array:
        """Bound on the next (|dh|, |dc|) of an LSTM, before `__call__` covers the rounding of sums."""
        n = self._system.units
        gates = self._driven(slice(None), du, dx[:n])
        di, df, do = (times_up(self.slope(k, 0.25), gates[k * n : (k + 1) * n]) for k in range(3))
        dg = times_up(self.slope(3, 1.0), gates[3 * n :])
        i, f, o = (self.largest(k, sigmoid) for k in range(3))
        c = self.state[n:]
        dc = times_up(f, dx[n:]) + times_up(c, df) + times_up(i, dg) + times_up(self.largest(3, np.tanh), di)
        return np.concatenate([times_up(o, dc) + times_up(np.tanh(c) * (1 + _ULP), do), dc])

    def _driven(self, rows: slice, du: Array, dh: Array) -> Array:
        """Bound |W| du + |U| dh on the differences of the pre-activations of some gates."""
        return np.asarray(dot_up(self._W[rows], du) + dot_up(self._U[rows], dh))

    def between(self, gate: int, function: Callable[[Array], Array]) -> tuple[Array, Array]:
        """Least and largest value of a gate, shape (n,) each, widened by its rounding."""
        n = self._system.units
        rows = slice(gate * n, (gate + 1) * n)
        least, largest = function(self.lowest[rows]), function(self.highest[rows])
        return least - _ULP * np.abs(least) - TINY, np.minimum(largest + _ULP * np.abs(largest) + TINY, 1.0)

    def largest(self, gate: int, function: Callable[[Array], Array]) -> Array:
        """Largest absolute value of a gate, shape (n,)."""
        least, largest = self.between(gate, function)
        return np.asarray(np.minimum(np.maximum(np.abs(least), np.abs(largest)), 1.0))

    def slope(self, gate: int, most: float) -> Array:
        """Largest derivative of a gate over its range, shape (n,); ``most`` at zero: 1/4 for sigmoid, 1 for tanh."""
        n = self._system.units
        rows = slice(gate * n, (gate + 1) * n)
        nearest = np.maximum(np.maximum(self.lowest[rows], -self.highest[rows]), 0.0)
        # 1 / cosh^2, of v for tanh and of v / 2 for the sigmoid, is even and falls.
        steep = np.cosh(np.minimum(nearest * (1.0 if most == 1.0 else 0.5), 300.0)) ** -2.0
        return np.asarray(np.minimum(most * steep * (1 + 100 * _ULP), most))


def sigmoid(v: Array) -> Array:
    """The logistic function 1 / (1 + exp(-v))."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-v)))
