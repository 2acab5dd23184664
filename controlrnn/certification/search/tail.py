"""Stationary multipliers for the far stages of a long horizon, whose effect decays geometrically.

With a metric P, multipliers lambda and R that satisfy, for some s < 1,

    blkdiag(s P, R, 0) - T'PT - S(lambda) >= 0,

storages that start below sigma P stay below sigma s^j P under the multipliers sigma s^j lambda and sigma s^j R: a tail
of any length needs no search, and its inputs add up to no more than sigma R b^2 / (1 - s).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.search.riccati import Multipliers
from controlrnn.certification.search.stationary import contract, slowed, top_ratio
from controlrnn.checks import Array

_SLACK = 0.15  # of 1 - s: how much slower than the best proven rate, which makes R finite and the metric better
_ROOM = 1 + 1e-6


@dataclass(frozen=True, eq=False)
class Tail:
    """Stationary multipliers, which extend a head of optimised stages to any length.

    Args:
        metric: P, shape (nx, nx).
        multipliers: lambda, shape (nv,).
        rho: Diagonal of R, shape (nu,).
        s: Factor per step, in (0, 1).
    """

    metric: Array
    multipliers: Array
    rho: Array
    s: float

    @classmethod
    def of(cls, form: IncrementalForm) -> Tail:
        """Find the tail of a contracting system; raises CertificationError where contraction is not shown."""
        best = contract(form).s
        s = slowed(best, _SLACK)
        point = contract(form, s)
        n, u = form.nx, form.nu
        G = form.T.T @ point.metric @ form.T + form.multiplier_form(point.multipliers)
        rest = np.r_[0:n, n + u : form.nz]
        inner = -G[np.ix_(rest, rest)]
        inner[:n, :n] += s * _ROOM * point.metric
        cross = G[n : n + u][:, rest]
        need = G[n : n + u, n : n + u] + cross @ np.linalg.solve(inner, cross.T)
        # A diagonal R above the matrix that is needed: row sums (Gershgorin).
        return cls(point.metric, point.multipliers, np.abs(need).sum(axis=1) * _ROOM, s * _ROOM)

    def extend(self, P: Array, found: Multipliers, stages: int) -> Multipliers:
        """Continue the multipliers of a head, whose last storage is P, to ``stages`` stages."""
        count = stages - len(found[0])
        # The head's last storage lies below sigma times the tail's metric.
        sigma = top_ratio(P, self.metric) * _ROOM * self.s ** np.arange(count)
        return (
            np.vstack([found[0], sigma[:, None] * self.multipliers]),
            np.vstack([found[1], sigma[:, None] * self.rho]),
        )

    def cost(self, stages: int, b: Array, radius: float, metric: Array) -> float:
        """Squared bound that ``stages`` more stages add, per unit of sigma."""
        decay = self.s**stages
        start = radius**2 * top_ratio(self.metric, metric)
        return float(self.rho @ b**2) * (1 - decay) / (1 - self.s) + decay * start
