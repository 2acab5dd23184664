"""Ball-arithmetic check of a `DeltaIssCertificate`: runs of a gated network approach each other.

From |x| <= s and inputs in their range follow the ranges of all gates, without rounding; these show that s is never
left and how far apart two runs are a step later, entrywise, by a monotone and sublinear function of |dx| and |du|:

    GRU    |dh+| <= max_z (z |dh| + (1 - z) |dn|) + |dz| max |h - n|,    |d(r h)| <= max r |dh| + |dr| s
    LSTM   |dc+| <= max f |dc| + s_c |df| + max i |dg| + max |g| |di|,   |dh+| <= max o |dc+| + max |tanh c+| |do|
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball import fields, intervals
from controlrnn.certification.ball.arithmetic import Row, number, row, total
from controlrnn.certification.ball.horizon import holds
from controlrnn.certification.certificates.delta_iss import DeltaIssCertificate
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.systems import Activation, GatedSystem
from controlrnn.systems.gated import Cell

if TYPE_CHECKING:
    from flint import arb


@dataclass(frozen=True, eq=False)
class Gate:
    """Range and steepest slope of one unit of one gate, and the sizes of its weights."""

    low: arb
    high: arb
    steepest: arb
    W: Row
    U: Row

    @property
    def largest(self) -> arb:
        """Largest absolute value of the unit."""
        return self.low.abs_upper().max(self.high.abs_upper())

    def moved(self, du: Row, dh: Row) -> arb:
        """Largest change of the unit for input and state differences of these sizes."""
        pairs = [*zip(self.W, du, strict=True), *zip(self.U, dh, strict=True)]
        return self.steepest * total(a * b for a, b in pairs)


def check_delta_iss(system: GatedSystem, c: DeltaIssCertificate) -> float:
    """Prove the states' bound, the rate and the gains; returns 1 - rate."""
    nx, nu = system.nx, system.nu
    rate = fields.scalar("rate", c.rate, above=0.0)
    if not rate < 1:
        raise CertificationError(f"rate must be below 1, got {rate}: the file was altered")
    scale = row(fields.array("scale", c.scale, (nx,), least=5e-324))
    gains = fields.array("input_gain", c.input_gain, (nu,), least=0.0)
    low, high = (fields.array(n, getattr(c, n), (nu,)) for n in ("input_low", "input_high"))
    if (low > high).any():
        raise CertificationError("input_low must be <= input_high: the file was altered")
    bound = row(fields.array("state_bound", c.state_bound, (nx,), least=0.0))
    network = Network(system, low, high, bound)
    # What is not left in one step is never left.
    for after, before in zip(network.reached(), bound, strict=True):
        holds(after <= before, after > before)
    still, at_rest = [number(0)] * nu, [number(0)] * nx
    for after, d in zip(network.apart(scale, still), scale, strict=True):
        holds(after <= number(rate) * d, after > number(rate) * d)
    for i, gain in enumerate(gains):
        unit = row(np.eye(nu)[i])
        for after, d in zip(network.apart(at_rest, unit), scale, strict=True):
            holds(after <= number(gain) * d, after > number(gain) * d)
    return 1 - rate


class Network:
    """Gates of a network over a box of inputs and states, and the bounds that they imply.

    For |x| <= ``bound`` and inputs between ``low`` and ``high``, each an array of its size.
    """

    def __init__(self, system: GatedSystem, low: Array, high: Array, bound: Row) -> None:
        n = system.units
        self.cell = system.cell
        self.bound = bound
        self.h = bound[:n]
        kinds = [Activation.SIGMOID] * (system.cell.gates - 1) + [Activation.TANH]
        states = [-v for v in self.h], self.h  # the GRU's candidate sees r h, which is no larger
        self.gates: list[list[Gate]] = []
        for g, kind in enumerate(kinds):
            rows = slice(g * n, (g + 1) * n)
            W, U = ([row(line) for line in M[rows]] for M in (system.W, system.U))
            v = intervals.added(
                intervals.image(W, (row(low), row(high)), row(system.b[rows])),
                intervals.image(U, states, [number(0)] * n),
            )
            ends = intervals.monotone([kind] * len(v[0]), v)
            steep = [intervals.slopes_between(kind, a, b)[1] for a, b in zip(*v, strict=True)]
            self.gates.append(
                [
                    Gate(a, b, s, [abs(x) for x in w], [abs(x) for x in u])
                    for a, b, s, w, u in zip(*ends, steep, W, U, strict=True)
                ]
            )

    def reached(self) -> Row:
        """Bound on |x| one step later."""
        if self.cell is Cell.GRU:  # a mean of n and h
            return [n.largest.max(s) for n, s in zip(self.gates[2], self.h, strict=True)]
        i, f, o, g = self.gates
        c = [a.largest * e.largest + b.largest * s for a, b, e, s in zip(i, f, g, self._cells(), strict=True)]
        return [a.largest * m.min(s).tanh() for a, m, s in zip(o, c, self._cells(), strict=True)] + c

    def apart(self, dx: Row, du: Row) -> Row:
        """Bound on |dx| one step later."""
        n = len(self.h)
        dh = dx[:n]
        return self._gru(dh, du) if self.cell is Cell.GRU else self._lstm(dh, dx[n:], du)

    def _cells(self) -> Sequence[arb]:
        """Bound on the cell states of an LSTM."""
        return self.bound[len(self.h) :]

    def _gru(self, dh: Row, du: Row) -> Row:
        """Bound on |dh| of a GRU one step later."""
        r, z, n = self.gates
        seen = [a.largest * d + a.moved(du, dh) * s for a, d, s in zip(r, dh, self.h, strict=True)]
        made = []
        for gate, candidate, d, s in zip(z, n, dh, self.h, strict=True):
            dn = candidate.moved(du, seen)
            mixed = (gate.high * d + (1 - gate.high) * dn).max(gate.low * d + (1 - gate.low) * dn)
            made.append(mixed + gate.moved(du, dh) * (s - candidate.low).max(s + candidate.high))
        return made

    def _lstm(self, dh: Row, dc: Row, du: Row) -> Row:
        """Bound on (|dh|, |dc|) of an LSTM one step later."""
        hidden, cells = [], []
        for i, f, o, g, d, s in zip(*self.gates, dc, self._cells(), strict=True):
            after = f.largest * d + s * f.moved(du, dh) + i.largest * g.moved(du, dh) + g.largest * i.moved(du, dh)
            cells.append(after)
            hidden.append(o.largest * after + s.tanh() * o.moved(du, dh))
        return hidden + cells
