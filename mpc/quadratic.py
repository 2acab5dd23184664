"""Dense quadratic programs with hard limits and exact-penalty soft limits, solved by daqp (imported only here).

    min  z'Hz / 2 + g'z + price' s     s.t.  lower <= z <= upper,   low - s <= Cz <= high + s,   s >= 0

The penalty acts inside the dual active-set method (Arnström, Bemporad, Axehill, IEEE TAC 2022), as an upper limit on
the multipliers: slacks are no variables of the solver, and limits that are kept cost no time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels import dense

_SOFT = 8  # daqp's flag of a soft constraint
# daqp adds a quadratic penalty on s with the reciprocal of this weight: negligible while s / _FLAT << price.
_FLAT = 1e8
_USUAL = 1e8  # largest entry of a Hessian that is solved as it is, and the reciprocal of the smallest
_BROKEN = 1e-4  # excess over a hard limit, relative to the row's value and to its entries, that is no solution
_DEAREST = 1e30  # highest price, in units of the Hessian's largest entry
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
        self._hard = ~np.isfinite(prices)
        self._sense = np.concatenate([np.zeros(n), np.where(self._hard, 0, _SOFT)]).astype(np.int32)
        self._model = daqp.Model()
        limit = np.ones(n + m)
        self._model.setup(np.eye(n), np.zeros(n), np.ones((m, n)), limit, -limit, self._sense.copy())
        self._model.settings = {"primal_tol": _ACCURACY, "eps_prox": 0.0}
        self._price(1.0)

    def _price(self, unit: float) -> None:
        """Set the prices in a unit of the objective."""
        with np.errstate(over="ignore"):
            prices = np.minimum(np.where(self._hard, 0.0, self._prices) / unit, _DEAREST)
        weights, flat = np.append(np.zeros(self.n), prices), np.full(self.n + len(prices), _FLAT)
        self._model.soft_weights(rho_l=flat, rho_u=flat, w_l=weights, w_u=weights)
        self._unit = unit

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
        # daqp's tolerances are absolute: objectives far from one are divided by a power of two, which rounds nothing.
        size = float(H.diagonal().max())
        if not 0.0 < size < np.inf or np.isnan(np.minimum(lower, upper)).any():
            return None
        unit = 1.0 if 1.0 / _USUAL <= size <= _USUAL else 2.0 ** round(np.log2(size))
        if unit != 1.0:
            H, g = H / unit, g / unit
        if not _short(H, C):
            return None
        if unit != self._unit:
            self._price(unit)
        rows = C if len(C) else None
        # With the flags passed again daqp does not start from its last active set, so that results have no history.
        if self._model.update(H=H, f=g, A=rows, bupper=upper, blower=lower, sense=self._sense) < 0:
            return None
        found, _, flag, info = self._model.solve()
        if flag < 1 or not np.isfinite(found).all():
            return None
        z = np.minimum(np.maximum(found, lower[: self.n]), upper[: self.n])  # within them to the last bit
        if self._hard.any():
            rows, low, high = C[self._hard], lower[self.n :][self._hard], upper[self.n :][self._hard]
            value, reach = dense.product(rows, z), np.abs(rows).sum(axis=1)
            # Rows that are very short in the metric of H are none to daqp.
            if not (np.maximum(low - value, value - high) <= _BROKEN * (np.abs(value) + reach)).all():
                return None
        return Minimum(z, unit * np.array(info["lam"][self.n :]), int(info["iterations"]))


def _short(H: Array, C: Array) -> bool:
    """Whether c'H^-1 c <= _LONGEST for rows c of C (m, n) and of the variables' own limits; H positive definite."""
    with np.errstate(all="ignore"):
        # Enough for most: H's eigenvalues reach what a row of all of C's length needs, so that the rest has a factor.
        rows, shifted = C.ravel(), H.copy()
        diagonal = shifted.ravel()[:: len(H) + 1]
        needed = (1.0 + dense.dot(rows, rows)) / _LONGEST + len(H) * np.finfo(float).eps * diagonal.sum()
        if not np.isfinite(needed):
            return False
        diagonal -= needed
        if dense.positive_definite(shifted):
            return True
        for row in (*np.eye(len(H)), *C):
            toward = dense.cholesky_solve(H, row)  # None where H is not positive definite
            if toward is None or not abs(dense.dot(row, toward)) <= _LONGEST:
                return False
        return True
