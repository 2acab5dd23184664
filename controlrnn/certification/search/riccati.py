"""Optimise multipliers through the backward recursion of storages; every feasible iterate is a valid bound.

The storage P_j of `incremental` is a Schur complement, hence P_j = max over z of a quadratic form that is linear in
(P_{j-1}, lambda_j, R_j). With the maximisers Z_j = [I; K^-1 G_zx] the envelope theorem gives the gradient of any
function of the storages in one forward sweep,

    Pi_{j-1} += T Z_j Pi_j Z_j' T',   d/dlambda_j = 2 diag(lower Z_j Pi_j Z_j' upper'),   d/drho_j = -diag(.)_u,

at the price of the recursion itself, O(horizon nz^3). No solver, no tolerance that a bound depends on.

Two things make plain L-BFGS converge in some hundred iterations. The unknowns are logarithms of multipliers *relative*
to the size of the storage before them, (lambda_j, rho_j) = tr(P_{j-1}) exp(theta_j): a stage that grows then carries
all later ones along instead of making them infeasible. And the largest eigenvalue, at which several eigenvalues meet in
the optimum, is replaced by a Schatten norm of high order while optimising.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import numpy as np
from scipy.linalg import lapack

from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.kernels.storage_sweep import backward, forward
from controlrnn.quasi_newton import lbfgs_direction

_log = logging.getLogger(__name__)
_MEMORY = 30
_PATIENCE = 20  # iterations over which progress is judged
SMALLEST = 1e-250  # of a storage
_LIMIT = 650.0  # of |theta|: exp overflows beyond it

Multipliers = tuple[Array, Array]


class Objective(Enum):
    """Objectives of the optimisation."""

    WEIGHTED_SUM = "sum"
    """sum_k (state_weight_k max eig(P_k) + weight_k sum_{j <= k} rho_j . b^2)"""
    LARGEST = "largest"
    """The largest of all eigenvalues of P_k and all rho_j, k the last step: one gain for everything, as in RNN-SDP."""
    TRACE = "trace"
    """Like the weighted sum, with the trace for the largest eigenvalue: smooth, for starting points."""


@dataclass(frozen=True, eq=False)
class HorizonObjective:
    """An optimisation over multipliers and rho, in coordinates in which the set of initial differences is a ball.

    Args:
        form: The difference system.
        terminal: H_0, shape (nz, nz).
        weights: Weights of the input part of each horizon k, shape (K,), >= 0; K - 1 is the longest horizon.
        state_weights: Weights of the initial state's part times the squared radius, shape (K,), >= 0.
        b: Input radius per channel, shape (nu,), positive.
        goal: What the optimisation minimises.
        order: Order of the norm that replaces the largest value.
        few: Number of steps at which inputs may differ, of which the worst count; None for all.
    """

    form: IncrementalForm
    terminal: Array
    weights: Array
    state_weights: Array
    b: Array
    goal: Objective = Objective.WEIGHTED_SUM
    order: float = 128.0
    few: int | None = None


def minimise(task: HorizonObjective, start: Multipliers, *, steps: int = 300, tolerance: float = 2e-4) -> Multipliers:
    """Minimise a task, convex in multipliers (K, nv) and rho (K, nu); returns both.

    Args:
        task: The optimisation to solve.
        start: Multipliers and rho for which every stage exists, e.g. from `controlrnn.certification.search.interior`.
        steps: Largest number of iterations.
        tolerance: Stop when 20 iterations gain less than this, relative.

    Raises:
        CertificationError: ``start`` is not feasible.
    """
    if not np.hstack(start).size or not (task.state_weights.any() or task.b.size):
        return start  # nothing to choose, or equal trajectories, whose bound is zero for any multipliers
    theta = np.log(np.hstack(start)) - np.log(sizes(task, *start))[:, None]
    sweep = Sweep(task)
    theta, history = lbfgs(sweep.value_and_gradient, theta, steps, tolerance)
    _log.debug("riccati: %d iterations, log objective %.6f -> %.6f", len(history) - 1, history[0], history[-1])
    return sweep.multipliers(theta)


class Sweep:
    """Objective of a task and its gradient as functions of theta (K, nv + nu)."""

    def __init__(self, task: HorizonObjective) -> None:
        form = task.form
        self.task = task
        self.later = np.cumsum(task.weights[::-1])[::-1]
        # One pair for all stages, or one for each.
        lower, upper = (a if a.ndim == 3 else a[None] for a in (form.lower, form.upper))
        arrays = (form.T, lower, upper, task.terminal)
        self.T, self.lower, self.upper, self.terminal = (np.ascontiguousarray(a, dtype=np.float64) for a in arrays)

    def multipliers(self, theta: Array) -> Multipliers:
        """Convert theta to multipliers (K, nv) and rho (K, nu)."""
        found = self.forward(theta)
        if found is None:
            raise CertificationError("the multipliers found do not exist at every stage")
        values, nv = found[0], self.task.form.nv
        return values[:, :nv], values[:, nv:]

    def value_and_gradient(self, theta: Array) -> tuple[float, Array]:
        """Logarithm of the objective, infinity where a stage does not exist, and its gradient."""
        found = self.forward(theta)
        if found is None:
            return np.inf, theta
        values, scales, P, Z, through = found
        total, d_rho, d_P = self._objective(values[:, self.task.form.nv :], P)
        gradient = np.empty_like(theta)
        backward(self.lower, self.upper, values, scales, Z, through, d_P, d_rho, gradient)
        total = max(total, 1e-300)  # what was forgotten entirely leaves nothing to improve
        return float(np.log(total)), gradient / total

    def forward(self, theta: Array) -> tuple[Array, Array, Array, Array, Array] | None:
        """Run the recursion: multipliers, their scales, storages, maximisers Z and T Z; None where a stage fails."""
        if not np.isfinite(theta).all() or np.abs(theta).max(initial=0.0) > _LIMIT:
            return None
        (K, m), n, nz = theta.shape, self.task.form.nx, self.task.form.nz
        values, scales = np.empty((K, m)), np.empty(K)
        P, Z, through = np.empty((K, n, n)), np.empty((K, nz, n)), np.empty((K, n, n))
        # A diverging recursion overflows; the next Cholesky factor then says so.
        stages = forward(self.T, self.lower, self.upper, self.terminal, theta, values, scales, P, Z, through, SMALLEST)
        return (values, scales, P, Z, through) if stages == K else None

    def _objective(self, rho: Array, P: Array) -> tuple[float, Array, Array]:
        """Value of the objective, its derivative by rho (K, nu), and by each storage (K, nx, nx)."""
        task, d_P = self.task, np.zeros_like(P)
        if task.goal is Objective.LARGEST:
            eigenvalues, vectors = np.linalg.eigh(P[-1])
            value, slopes = _norm(np.concatenate([np.maximum(eigenvalues, 0.0), rho.ravel()]), task.order)
            d_P[-1] = (vectors * slopes[: len(eigenvalues)]) @ vectors.T
            return value, np.ascontiguousarray(slopes[len(eigenvalues) :].reshape(rho.shape)), d_P
        d_rho = (self.later if task.few is None else self._few(rho @ task.b**2, task.few))[:, None] * task.b**2
        value = float((d_rho * rho).sum())
        for j in np.flatnonzero(task.state_weights):
            part, slope = _trace(P[j]) if task.goal is Objective.TRACE else _schatten(P[j], task.order)
            value, d_P[j] = value + task.state_weights[j] * part, task.state_weights[j] * slope
        return value, d_rho, d_P

    def _few(self, energy: Array, few: int) -> Array:
        """Weights (K,) with which the stages' ``energy`` (K,) sums up when only the ``few`` largest count.

        With |e|_p the p-norm few^(1 - 1/p) |e|_p is above the sum of the few largest, and smooth; being homogeneous, it
        is the sum of e times its gradient.
        """
        order = 1 + 15 / few
        total = np.zeros_like(energy)
        for k in np.flatnonzero(self.task.weights):
            slope = _norm(energy[: k + 1], order)[1]
            total[: k + 1] += self.task.weights[k] * few ** (1 - 1 / order) * slope
        return total


def stage_of(form: IncrementalForm, demand: Array, lam: Array, rho: Array) -> Multipliers | None:
    """Storage P_j of one stage and its maximiser Z_j (nz, nx); None where the stage does not exist."""
    n = form.nx
    G = demand + form.multiplier_form(lam)
    K = -G[n:, n:]
    if not len(K):  # LAPACK refuses empty matrices
        return G, np.eye(n)
    index = np.arange(form.nu)
    K[index, index] += rho
    factor, info = lapack.dpotrf(K, lower=1)
    if info != 0:
        return None
    gain, _ = lapack.dpotrs(factor, G[n:, :n], lower=1)
    P = G[:n, :n] + G[:n, n:] @ gain
    return 0.5 * (P + P.T), np.vstack([np.eye(n), gain])


def size(P: Array) -> float:
    """Scale of the multipliers of the stage after storage P: its trace."""
    return max(float(P.trace()), SMALLEST)


def lbfgs(
    function: Callable[[Array], tuple[float, Array]],
    x: Array,
    steps: int,
    tolerance: float,
    *,
    patience: int = _PATIENCE,
) -> tuple[Array, list[float]]:
    """Minimise with L-BFGS and a back-tracking line search; infinity marks points that are not allowed.

    Args:
        function: Value and gradient.
        x: Start, with a finite value.
        steps: Largest number of iterations.
        tolerance: Stop when ``patience`` iterations gain less than this, absolute.
        patience: Iterations over which progress is judged.

    Returns:
        The last iterate, and the values met.

    Raises:
        CertificationError: The start is not allowed.
    """
    value, gradient = function(x)
    if not np.isfinite(value):
        raise CertificationError("the multipliers to start from are not feasible")
    pairs: deque[Multipliers] = deque(maxlen=_MEMORY)
    history = [value]
    for _ in range(steps):
        direction = lbfgs_direction(gradient, pairs)
        slope = float((direction * gradient).sum())
        if slope >= 0:
            pairs.clear()
            direction, slope = -gradient, -float((gradient**2).sum())
        # theta is logarithmic: a step of 3 is a factor of 20, more would leave the quadratic model.
        length = min(1.0, (3.0 if pairs else 1.0) / max(float(np.abs(direction).max()), 1e-300))
        while length > 1e-10:
            trial = x + length * direction
            new, new_gradient = function(trial)
            if new <= value + 1e-4 * length * slope:
                break
            length *= 0.4
        else:
            if not pairs:
                break
            pairs.clear()
            continue
        s, y = trial - x, new_gradient - gradient
        # Only pairs of positive curvature keep the direction one of descent.
        if (s * y).sum() > 1e-10 * np.sqrt((s**2).sum() * (y**2).sum()):
            pairs.append((s, y))
        x, value, gradient = trial, new, new_gradient
        history.append(value)
        if len(history) > patience and history[-patience - 1] - value < tolerance:
            break
    return x, history


def sizes(task: HorizonObjective, lam: Array, rho: Array) -> Array:
    """Scales of each stage's multipliers, shape (K,), as the recursion of theta uses them."""
    scales, demand = np.ones(len(lam)), task.terminal
    for j in range(len(lam) - 1):
        stage = stage_of(task.form.at(j), demand, lam[j], rho[j])
        if stage is None:
            raise CertificationError(f"the multipliers to start from are not feasible at stage {j}")
        scales[j + 1] = size(stage[0])
        demand = task.form.T.T @ stage[0] @ task.form.T
    return scales


def _norm(values: Array, order: float) -> tuple[float, Array]:
    """Norm of high order of values >= 0, which is a smooth maximum and never below it, and its gradient."""
    top = float(values.max(initial=0.0))
    if top <= 0:
        return 0.0, np.zeros_like(values)
    ratio = values / top
    total = float((ratio**order).sum())
    return top * total ** (1 / order), total ** (1 / order - 1) * ratio ** (order - 1)


def _schatten(P: Array, order: float) -> tuple[float, Array]:
    """Schatten norm of high order of P >= 0, and its gradient."""
    eigenvalues, vectors = np.linalg.eigh(P)
    value, slopes = _norm(np.maximum(eigenvalues, 0.0), order)
    return value, (vectors * slopes) @ vectors.T


def _trace(P: Array) -> tuple[float, Array]:
    """Trace of P >= 0, and its gradient."""
    return max(float(P.trace()), 0.0), np.eye(len(P))
