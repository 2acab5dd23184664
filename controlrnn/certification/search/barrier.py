"""Barrier method for small dense linear matrix inequalities, whose iterates are strictly feasible.

    minimise  cost'p   subject to   M_b(p) = constant_b + sum_i p_i (L_i'U_i + U_i'L_i) > 0,   p_+ > 0

with phi(p) = -sum_b log det M_b(p) - sum log p_+ followed along its central path (Nesterov & Nemirovskii, 1994; Boyd &
Vandenberghe, "Convex optimization", ch. 11). Every unknown enters through products of two vectors, so with W = M^-1

    d phi/dp_i = -2 L_i W U_i',    d2 phi/dp_i dp_j = 2 (L_i W L_j')(U_i W U_j') + 2 (L_i W U_j')(U_i W L_j')

and a Newton step costs a few products of matrices. A general solver returns points on the boundary, or just outside;
these lie inside, with room for a proof in floating point, and need no tolerance in anybody's units.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.kernels.barrier_curvature import add_curvature

_log = logging.getLogger(__name__)
_CENTRED = 0.1  # Newton decrement at which a point counts as central
_FASTER = 8.0  # growth of the weight of the cost


class Term(NamedTuple):
    """Term of a matrix inequality: sum_k p[which_k] weight_k (L_a' U_b + U_b' L_a), a = left_k, b = right_k.

    Args:
        which: Indices of the unknowns, distinct, shape (q,).
        L: Rows, shape (l, n).
        U: Rows, shape (m, n).
        left: Rows of L, shape (q,).
        right: Rows of U, shape (q,).
        weight: Shape (q,).
    """

    which: NDArray[np.intp]
    L: Array
    U: Array
    left: NDArray[np.intp]
    right: NDArray[np.intp]
    weight: Array


@dataclass(frozen=True, eq=False)
class Block:
    """One linear matrix inequality: constant + sum of terms > 0.

    Args:
        constant: Shape (n, n), symmetric.
        terms: Contributions of the unknowns.
    """

    constant: Array
    terms: tuple[Term, ...]

    def at(self, p: Array) -> Array:
        """The matrix M(p), shape (n, n)."""
        M = self.constant.copy()
        for term in self.terms:
            inner = np.zeros((len(term.L), len(term.U)))
            inner[term.left, term.right] = p[term.which] * term.weight
            half = term.L.T @ inner @ term.U
            M += half + half.T
        return M

    def add_derivatives(self, inverse: Array, gradient: Array, hessian: Array) -> None:
        """Add the derivatives of -log det M to ``gradient`` (m,) and the lower triangle of ``hessian`` (m, m).

        Args:
            inverse: M^-1.
            gradient: Changed in place.
            hessian: Changed in place.
        """
        for n, one in enumerate(self.terms):
            LW, UW = one.L @ inverse, one.U @ inverse
            gradient[one.which] -= 2 * one.weight * (LW @ one.U.T)[one.left, one.right]
            for other in self.terms[: n + 1]:
                products = LW @ other.L.T, UW @ other.U.T, LW @ other.U.T, UW @ other.L.T
                add_curvature(hessian, *_entries(one), *_entries(other), *products, other is one)


@dataclass(frozen=True, eq=False)
class BarrierProgram:
    """A set of linear matrix inequalities over p (m,), some of whose entries are positive.

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
        """The barrier function phi(p); infinity outside of the feasible set."""
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
        """Follow the central path to a strictly feasible point whose cost is within ``tolerance`` of the minimum.

        Args:
            p: A strictly feasible point, shape (m,).
            cost: Shape (m,); the minimum of cost'p is >= 0.
            tolerance: Relative to the cost, which is positive.
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
        """Newton step (m,) of linear'p + phi(p) at p, and the Newton decrement."""
        m = len(p)
        gradient, hessian = linear.copy(), np.zeros((m, m))
        for block in self.blocks:
            factor = _cholesky(block.at(p))
            if factor is None:  # p is feasible, and only rounding can say otherwise
                raise CertificationError("the barrier's numbers are beyond what float64 can tell apart: check units")
            half = lapack.dtrtri(factor, lower=1)[0]
            block.add_derivatives(half.T @ half, gradient, hessian)
        own = np.flatnonzero(self.positive)
        gradient[own] -= 1 / p[own]
        hessian[own, own] += p[own] ** -2.0
        scale = 1 / np.sqrt(np.maximum(hessian.diagonal(), 1e-300))
        hessian *= scale[:, None]
        hessian *= scale
        # Near the end of the path the Hessian can be singular to rounding: regularise as little as works.
        for more in (1e-14, 1e-11, 1e-8, 1e-5):
            hessian[np.diag_indices(m)] += more
            # The lower triangle read by columns, as LAPACK wants it, is an upper one: nothing has to be transposed.
            factor, info = lapack.dpotrf(hessian.T, lower=0, clean=0)
            if info == 0:
                step = -scale * lapack.dpotrs(factor, scale * gradient, lower=0)[0]
                return step, float(np.sqrt(max(-gradient @ step, 0.0)))
        raise CertificationError("the inequalities are too badly scaled: scale the states, or the inputs and outputs")


def _entries(term: Term) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp], Array]:
    """The arrays of a term that the compiled kernel takes."""
    return term.which, term.left, term.right, term.weight


def _cholesky(matrix: Array) -> Array | None:
    """Lower Cholesky factor; None where ``matrix`` is not positive definite."""
    factor, info = lapack.dpotrf(matrix, lower=1, clean=1)
    return factor if info == 0 and np.isfinite(factor).all() else None
