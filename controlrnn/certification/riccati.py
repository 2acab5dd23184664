"""Multipliers by optimisation through the backward recursion; every iterate that exists is a valid bound.

The storage P_j of `incremental` is a Schur complement, hence P_j = max over z of a quadratic form that is linear in
(P_{j-1}, lambda_j, R_j). With the maximisers Z_j = [I; K^-1 G_zx] the envelope theorem gives the gradient of any
function of the storages in one forward sweep,

    Pi_{j-1} += T Z_j Pi_j Z_j' T',   d/dlambda_j = 2 diag(lower Z_j Pi_j Z_j' upper'),   d/drho_j = -diag(.)_u,

at the price of the recursion itself, O(horizon nz^3). The unknowns are logarithms, the method is L-BFGS with a
back-tracking line search whose first test is that all stages exist. No solver, no tolerance that a bound depends on.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from controlrnn.certification.incremental import IncrementalForm
from controlrnn.checks import Array
from controlrnn.errors import CertificationError

_log = logging.getLogger(__name__)
_MEMORY = 20
_MARGIN = 1.5  # how far inside the feasible set the search starts


@dataclass(frozen=True, eq=False)
class Task:
    """Minimise sum_k weight_k (radius^2 max eig(P_k) + sum_{j <= k} rho_j . b^2) over multipliers and rho.

    Coordinates are such that the set of initial differences is a ball of that radius.

    Args:
        form: The difference system.
        terminal: H_0, shape (nz, nz).
        weights: Shape (K,), >= 0; K - 1 is the horizon.
        radius: Radius of the ball of initial differences.
        b: Input radius per channel, shape (nu,), positive.
        smooth: Whether the trace of P_k takes the place of its largest eigenvalue: differentiable everywhere.
    """

    form: IncrementalForm
    terminal: Array
    weights: Array
    radius: float
    b: Array
    smooth: bool = False


def minimise(
    task: Task, start: tuple[Array, Array], *, steps: int = 300, tolerance: float = 1e-5
) -> tuple[Array, Array]:
    """Multipliers (K, nv) and rho (K, nu) that minimise the task, which is convex in them.

    Args:
        task: What to minimise.
        start: Multipliers and rho for which every stage exists, e.g. from `interior`.
        steps: Most iterations.
        tolerance: Stop when 20 iterations gain less than this, relative.

    Raises:
        CertificationError: ``start`` is not feasible.
    """
    theta = np.log(np.hstack(start))
    if not theta.size or not (task.radius > 0 or task.b.size):
        return start  # nothing to choose, or equal trajectories, whose bound is zero for any multipliers
    value, gradient = _value_and_gradient(task, theta)
    if not np.isfinite(value):
        raise CertificationError("the multipliers to start from are not feasible: take those of `interior`")
    pairs: deque[tuple[Array, Array]] = deque(maxlen=_MEMORY)
    history = [value]
    for _ in range(steps):
        direction = _two_loops(gradient, pairs)
        slope = float((direction * gradient).sum())
        if slope >= 0:
            pairs.clear()
            direction, slope = -gradient, -float((gradient**2).sum())
        size = min(1.0, 2.0 / max(float(np.abs(direction).max()), 1e-300))
        while size > 1e-10:
            trial = theta + size * direction
            new, new_gradient = _value_and_gradient(task, trial)
            if new <= value + 1e-4 * size * slope:
                break
            size *= 0.4
        else:
            if not pairs:
                break
            pairs.clear()
            continue
        s, y = trial - theta, new_gradient - gradient
        if (s * y).sum() > 1e-12 * np.sqrt((s**2).sum() * (y**2).sum()):
            pairs.append((s, y))
        theta, value, gradient = trial, new, new_gradient
        history.append(value)
        if len(history) > 20 and history[-21] - value < tolerance:
            break
    _log.debug("riccati: %d iterations, log objective %.6f -> %.6f", len(history) - 1, history[0], value)
    nv = task.form.nv
    values = np.exp(theta)
    return values[:, :nv], values[:, nv:]


def _value_and_gradient(task: Task, theta: Array) -> tuple[float, Array]:
    """Logarithm of the objective (infinity where a stage is missing) and its gradient, shape of theta (K, nv + nu)."""
    form, n, nv = task.form, task.form.nx, task.form.nv
    if np.abs(theta).max(initial=0.0) > 600:  # near overflow; fast forgetting makes storages of 1e-200
        return np.inf, theta
    values = np.exp(theta)
    lam, rho = values[:, :nv], values[:, nv:]
    demand, Zs, tops, P_all = task.terminal, [], [], []
    for j in range(len(theta)):
        found = _stage(form, demand, lam[j], rho[j])
        if found is None:
            return np.inf, theta
        P, Z = found
        Zs.append(Z)
        P_all.append(P)
        if task.radius > 0:
            tops.append(_size(P, task.smooth))
        demand = form.T.T @ P @ form.T
    # everything on hand: rho_j counts in every horizon k >= j
    later = np.cumsum(task.weights[::-1])[::-1]
    total = float((later[:, None] * rho * task.b**2).sum())
    if task.radius > 0:
        total += task.radius**2 * float(sum(w * top for w, (top, _) in zip(task.weights, tops, strict=True)))
    gradient = np.empty_like(theta)
    Pi = np.zeros((n, n))
    for j in range(len(theta) - 1, -1, -1):
        if task.radius > 0 and task.weights[j] > 0:
            Pi = Pi + task.weights[j] * task.radius**2 * tops[j][1]
        ZPi = Zs[j] @ Pi
        W = ZPi @ Zs[j].T
        gradient[j, :nv] = 2 * ((form.lower @ W) * form.upper).sum(axis=1)
        gradient[j, nv:] = later[j] * task.b**2 - W.diagonal()[n : n + form.nu]
        TZ = form.T @ Zs[j]
        Pi = TZ @ Pi @ TZ.T
    total = max(total, 1e-300)  # what was forgotten entirely leaves nothing to improve
    return float(np.log(total)), gradient * values / total


def _stage(form: IncrementalForm, demand: Array, lam: Array, rho: Array) -> tuple[Array, Array] | None:
    """P_j and its maximiser Z_j (nz, nx); None where the stage does not exist."""
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


def _size(P: Array, smooth: bool) -> tuple[float, Array]:
    """Trace or largest eigenvalue of P, and its gradient."""
    if smooth:
        return max(float(P.trace()), 0.0), np.eye(len(P))
    eigenvalues, vectors = np.linalg.eigh(P)
    return max(float(eigenvalues[-1]), 0.0), np.outer(vectors[:, -1], vectors[:, -1])


def _two_loops(gradient: Array, pairs: deque[tuple[Array, Array]]) -> Array:
    """The L-BFGS direction (Nocedal & Wright, algorithm 7.4)."""
    q = gradient.copy()
    weights = []
    for s, y in reversed(pairs):
        a = (s * q).sum() / (s * y).sum()
        q -= a * y
        weights.append(a)
    if pairs:
        s, y = pairs[-1]
        q *= (s * y).sum() / (y * y).sum()
    for (s, y), a in zip(pairs, reversed(weights), strict=True):
        q += s * (a - (y * q).sum() / (s * y).sum())
    return -q


def interior(task: Task) -> tuple[Array, Array]:
    """Multipliers (K, nv) and rho (K, nu) well inside the feasible set: stage after stage a small storage.

    Greedy, so loose over long horizons, but never absurd: deep networks need their layers weighted by orders of
    magnitude, which no fixed pattern hits.

    Raises:
        CertificationError: The gains over this horizon overflow, or the matrices are too badly scaled.
    """
    lams, rhos, demand, pattern = [], [], task.terminal, _neuron_weights(task.form)
    for j in range(len(task.weights)):
        first = _reach(task.form, demand, pattern)
        stage = Task(task.form, demand, np.ones(1), task.radius or 1.0, task.b, smooth=True)
        lam, rho = minimise(stage, first, steps=150 if j < 3 else 30, tolerance=1e-3)
        # The greedy minimum touches the boundary of the feasible set, where the joint search could not move.
        lam, rho = _MARGIN * lam, _MARGIN * rho
        while (found := _stage(task.form, demand, lam[0], rho[0])) is None and rho.max(initial=0.0) < 1e200:
            rho = 2 * rho
        if found is None:
            raise CertificationError("no feasible multipliers at a stage: the matrices are too badly scaled to certify")
        lams.append(lam[0])
        rhos.append(rho[0])
        pattern = lam[0]
        demand = task.form.T.T @ found[0] @ task.form.T
    return np.array(lams).reshape(len(lams), task.form.nv), np.array(rhos).reshape(len(rhos), task.form.nu)


def _reach(form: IncrementalForm, demand: Array, pattern: Array) -> tuple[Array, Array]:
    """Scale a multiplier ``pattern`` (nv,) until the stage exists, and find a rho for it; shapes (1, nv), (1, nu)."""
    n, u = form.nx, form.nu
    sector = form.multiplier_form(pattern)
    small = 1e-12 * max(float(np.trace(demand)), 1e-200)
    lam = pattern
    if form.nv:
        block = -sector[n + u :, n + u :]
        need = _largest_generalised(demand[n + u :, n + u :], block)
        lam = max(_MARGIN * need, small / float(np.trace(block))) * pattern
    G = demand + form.multiplier_form(lam)
    uw = G[n : n + u, n + u :]
    cost = G[n : n + u, n : n + u] + (uw @ np.linalg.solve(-G[n + u :, n + u :], uw.T) if form.nv else 0.0)
    rho = _MARGIN * max(u, 1) * np.maximum(cost.diagonal(), small)
    return lam[None, :], rho[None, :]


def _neuron_weights(form: IncrementalForm) -> Array:
    """A multiplier pattern (nv,) with -S_ww > 0; it exists since D11 is triangular: later neurons weigh less."""
    n, nv = form.nx + form.nu, form.nv
    pattern = np.ones(nv)
    for i in range(1, nv + 1):
        # Shrink neuron i - 1 until the leading block stays positive definite with room to spare.
        for _ in range(200):
            block = -form.multiplier_form(pattern)[n : n + i, n : n + i]
            scale = 1 / np.sqrt(np.abs(block.diagonal()))
            if np.linalg.eigvalsh(scale[:, None] * block * scale)[0] > 0.3 / i:
                break
            pattern[i - 1] *= 0.7
    return pattern


def _largest_generalised(a: Array, b: Array) -> float:
    """The largest eigenvalue of b^-1 a for symmetric a >= 0 and b > 0."""
    L = np.linalg.cholesky(b)
    half = np.linalg.solve(L, a)
    return max(float(np.linalg.eigvalsh(np.linalg.solve(L, half.T))[-1]), 0.0)
