"""Small dense linear matrix inequalities by a barrier method: every iterate is strictly feasible.

    minimise  cost'p   subject to   M_b(p) = constant_b + L_b' diag(p[index_b]) U_b + its transpose > 0,   p_+ > 0

with phi(p) = -sum_b log det M_b(p) - sum log p_+ followed along its central path (Nesterov & Nemirovskii, 1994; Boyd &
Vandenberghe, "Convex optimization", ch. 11). Every unknown enters through products of two vectors, so with W = M^-1

    d phi/dp_i = -2 L_i W U_i',    d2 phi/dp_i dp_j = 2 (L_i W L_j')(U_i W U_j') + 2 (L_i W U_j')(U_i W L_j')

and a Newton step costs a few products of matrices. A general solver returns points on the boundary, or just outside;
these lie inside, with room for a proof in floating point, and need no tolerance in anybody's units.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from controlrnn.checks import Array
from controlrnn.errors import CertificationError

_log = logging.getLogger(__name__)
_CENTRED = 0.1  # Newton decrement at which a point counts as central
_FASTER = 8.0  # growth of the weight of the cost


@dataclass(frozen=True, eq=False)
class Block:
    """One inequality constant + sum_k p[index_k] (L_k' U_k + U_k' L_k) > 0.

    Args:
        constant: Shape (n, n), symmetric.
        terms: Triples (index (q,), L (q, n), U (q, n)); the indices of one triple are distinct.
    """

    constant: Array
    terms: tuple[tuple[NDArray[np.intp], Array, Array], ...]

    def at(self, p: Array) -> Array:
        """M(p), shape (n, n)."""
        M = self.constant.copy()
        for index, L, U in self.terms:
            half = L.T @ (p[index, None] * U)
            M += half + half.T
        return M

    def add_derivatives(self, inverse: Array, gradient: Array, hessian: Array) -> None:
        """Add those of -log det M to ``gradient`` (m,) and ``hessian`` (m, m); ``inverse`` is M^-1."""
        through = [(L @ inverse, U @ inverse) for _, L, U in self.terms]
        for (i, _, U), (LW, UW) in zip(self.terms, through, strict=True):
            gradient[i] -= 2 * np.einsum("qn,qn->q", LW, U)
            for j, L2, U2 in self.terms:
                hessian[np.ix_(i, j)] += 2 * ((LW @ L2.T) * (UW @ U2.T) + (LW @ U2.T) * (UW @ L2.T))


@dataclass(frozen=True, eq=False)
class Program:
    """Inequalities over p (m,).

    Args:
        blocks: The inequalities.
        positive: Which unknowns are positive, shape (m,).
    """

    blocks: tuple[Block, ...]
    positive: NDArray[np.bool_]

    @property
    def degree(self) -> float:
        """Parameter of the barrier: at a central point of weight t the cost is within degree / t of its minimum."""
        return float(sum(len(b.constant) for b in self.blocks) + self.positive.sum())

    def barrier(self, p: Array) -> float:
        """phi(p); infinity outside."""
        inside = p[self.positive]
        if not (inside > 0).all():
            return np.inf
        total = -float(np.log(inside).sum())
        for block in self.blocks:
            factor = _cholesky(block.at(p))
            if factor is None:
                return np.inf
            total -= 2 * float(np.log(factor.diagonal()).sum())
        return total

    def centre(self, p: Array, cost: Array | None = None, *, steps: int = 60) -> Array:
        """Minimise cost'p + phi(p) by Newton's method from a strictly feasible ``p``."""
        linear = np.zeros_like(p) if cost is None else cost
        value = float(linear @ p) + self.barrier(p)
        for _ in range(steps):
            step, decrement = self._newton(p, linear)
            size, moved = 1.0, np.inf
            while size > 1e-9:
                moved = float(linear @ (p + size * step)) + self.barrier(p + size * step)
                if moved <= value - 0.1 * size * decrement**2:
                    break
                size *= 0.5
            if not moved < value:
                break  # what rounding leaves; the point before it is as feasible
            p, value = p + size * step, moved
            if decrement < _CENTRED:
                break
        return p

    def minimise(self, p: Array, cost: Array, *, tolerance: float) -> Array:
        """A strictly feasible point whose cost is within ``tolerance`` of the minimum, relative to a positive cost.

        Args:
            p: A strictly feasible point, shape (m,).
            cost: Shape (m,); the minimum of cost'p is >= 0.
            tolerance: Relative.
        """
        p = self.centre(p)
        t = self.degree / float(cost @ p)
        for _ in range(60):
            p = self.centre(p, t * cost)
            _log.debug("barrier: cost %.9g, gap %.2g", cost @ p, self.degree / t)
            if self.degree / t <= tolerance * float(cost @ p):
                break
            t *= _FASTER
        return p

    def _newton(self, p: Array, linear: Array) -> tuple[Array, float]:
        m = len(p)
        gradient, hessian = linear.copy(), np.zeros((m, m))
        for block in self.blocks:
            factor = _cholesky(block.at(p))
            assert factor is not None  # p is feasible
            half = lapack.dtrtri(factor, lower=1)[0]
            block.add_derivatives(half.T @ half, gradient, hessian)
        own = np.flatnonzero(self.positive)
        gradient[own] -= 1 / p[own]
        hessian[own, own] += p[own] ** -2.0
        scale = 1 / np.sqrt(np.maximum(hessian.diagonal(), 1e-300))
        scaled = scale[:, None] * hessian * scale
        for more in (1e-14, 1e-11, 1e-8, 1e-5):
            factor = _cholesky(scaled + more * np.eye(m))
            if factor is not None:
                step = -scale * lapack.dpotrs(factor, scale * gradient, lower=1)[0]
                return step, float(np.sqrt(max(-gradient @ step, 0.0)))
        raise CertificationError("the inequalities are too badly scaled: scale the states, or the inputs and outputs")


def _cholesky(matrix: Array) -> Array | None:
    """Lower factor, None where ``matrix`` is not positive definite."""
    factor, info = lapack.dpotrf(matrix, lower=1, clean=1)
    return factor if info == 0 and np.isfinite(factor).all() else None
