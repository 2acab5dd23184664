"""Dense quadratic programs with hard limits and exact-penalty soft limits, solved by daqp (imported only here).

    min  z'Hz / 2 + g'z + price' s     s.t.  lower <= z <= upper,   low - s <= Cz <= high + s,   s >= 0

The penalty acts inside the dual active-set method (Arnström, Bemporad, Axehill, IEEE TAC 2022), as an upper limit on
the multipliers: slacks are no variables of the solver, and limits that are kept cost no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array

_SOFT = 8  # daqp's flag of a soft constraint
# daqp adds a quadratic penalty on s with the reciprocal of this weight: negligible while s / _FLAT << price.
_FLAT = 1e8
# Where a row of constraints is longer in the metric of H (squared), daqp's absolute tolerances no longer tell active
# sets from singular ones: it wrote beyond its memory from 1e25 on.
_LONGEST = 1e20
_ACCURACY = 1e-9  # of the constraints, each scaled to the length that its row has in the metric of H


@dataclass(frozen=True, eq=False, slots=True)
class Minimum:
    """Solution of a quadratic program.

    Args:
        z: Minimiser, shape (n,).
        multipliers: Of the rows of C, shape (m,); positive at the upper limit.
        pivots: Changes of the active set.
    """

    z: Array
    multipliers: Array
    pivots: int


class QuadraticProgram:
    """Solver for a sequence of quadratic programs of one size; memory is allocated once.

    Args:
        n: Number of variables.
        prices: Price of each row of C, shape (m,); infinite where the limit must be kept.
    """

    def __init__(self, n: int, prices: Array) -> None:
        import daqp  # not with the package: what verifies imports no solver

        self.n = n
        self._prices = prices
        m = len(prices)
        hard = ~np.isfinite(prices)
        self._sense = np.concatenate([np.zeros(n), np.where(hard, 0, _SOFT)]).astype(np.int32)
        weights = np.concatenate([np.zeros(n), np.where(hard, 0.0, prices)])
        flat = np.full(n + m, _FLAT)
        self._model = daqp.Model()
        limit = np.ones(n + m)
        self._model.setup(np.eye(n), np.zeros(n), np.ones((m, n)), limit, -limit, self._sense.copy())
        self._model.settings = {"primal_tol": _ACCURACY, "eps_prox": 0.0}
        self._model.soft_weights(rho_l=flat, rho_u=flat, w_l=weights, w_u=weights)

    def __getstate__(self) -> tuple[int, Array]:
        """Size and prices, from which a copy is built anew: daqp's own memory cannot be copied."""
        return self.n, self._prices

    def __setstate__(self, state: tuple[int, Array]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def solve(self, H: Array, g: Array, C: Array, lower: Array, upper: Array) -> Minimum | None:
        """Solve one quadratic program.

        Args:
            H: Hessian, positive definite, shape (n, n).
            g: Gradient, shape (n,).
            C: Constraint matrix, shape (m, n).
            lower: Lower limits of the variables, then of the rows of C, shape (n + m,).
            upper: Upper limits, as ``lower``.

        Returns:
            The solution; None where there is none, or where rounding errors stop the method.
        """
        rows = C if len(C) else None
        longest = np.abs(C).max(axis=0, initial=1.0) ** 2  # 1: limits of the variables themselves
        if not (longest <= _LONGEST * H.diagonal()).all():
            return None
        # With the flags passed again daqp does not start from its last active set, so that results have no history.
        if self._model.update(H=H, f=g, A=rows, bupper=upper, blower=lower, sense=self._sense) < 0:
            return None
        z, _, flag, info = self._model.solve()
        if flag < 1 or not np.isfinite(z).all():
            return None
        return Minimum(np.array(z), np.array(info["lam"][self.n :]), int(info["iterations"]))
