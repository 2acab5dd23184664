"""Search for the multipliers of bounds around a trajectory (`controlrnn.certification.proof.tube`).

For given weights Lambda of the ellipsoid X+ that a step leads to, the best multipliers of that step minimise
tr(Lambda X+), which is convex; and the weights that make the greedy choice of every step the best one for what comes
later are the adjoints of a pass, Lambda = K' Lambda+ K + (what is bounded at this step). So passes alternate with
adjoints: where they agree, the multipliers of all steps are jointly stationary. One pass serves all outputs and steps;
with its slopes known, another pass may look at one output at one step alone, which no common ellipsoid fits best.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.linalg import lapack

from controlrnn.certification.proof.tube import Step, Tube, TubeClaim
from controlrnn.certification.search.riccati import lbfgs
from controlrnn.checks import Array
from controlrnn.systems import LureSystem

PADDINGS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5)  # relative enlargement of the ellipsoids, in the order tried
_ITERATIONS = 40  # most per step
_HALVINGS = 30
_PATIENCE = 5  # iterations over which the progress of one step is judged
_SLOPES = 0.1  # weight of a neuron, whose difference decides on slopes, against that of an output
_EVEN = 1e-4  # weight of every state, so that ellipsoids stay bounded where no output looks


class TubeSearch(TubeClaim):
    """The claim of a tube and the search for passes that prove it; arguments as `TubeClaim`."""

    system: LureSystem

    def search(
        self,
        known: Tube | None,
        weights: list[Array] | None,
        near: Sequence[Array] | None,
        iterations: int = _ITERATIONS,
    ) -> tuple[Tube, Array, Array]:
        """Run one pass that minimises tr(weights X+) at every step; returns the tube, its multipliers and shares.

        Args:
            known: A finished pass.
            weights: From `adjoint`; None to begin with.
            near: Multipliers and shares to start from.
            iterations: Most iterations per step.
        """
        tube, m = Tube(self.system, self.path, self.u, self.start, self.input_radius, known), len(self.b)
        multipliers, shares = np.empty((self.steps, self.system.nv)), np.empty((self.steps, 1 + m))
        theta = np.zeros(0)
        for k in range(self.horizon + 1):
            step = tube.look()
            if k == self.steps:
                break
            if near is not None:
                theta = np.concatenate([np.log(near[0][k]), np.log(near[1][k][1:] / near[1][k][0])])
            elif not k:
                theta = np.concatenate([np.log(_pattern(step)), np.zeros(m)])
            Q = _even(self.system, len(step.Z)) if weights is None else weights[k]
            theta = _minimise(step, Q, theta, iterations)
            multipliers[k], shares[k] = _unpack(step, theta)
            tube.advance(multipliers[k], shares[k], PADDINGS[0])
        return tube, multipliers, shares

    def adjoint(self, tube: Tube, shares: Array, focus: tuple[int, int] | None = None) -> list[Array]:
        """Weights (nx + rows, nx + rows) of every step: the cost of an increase of its ellipsoid.

        Args:
            tube: A finished pass.
            shares: Its shares.
            focus: The step and output that alone counts; None: all of them do, and slopes too.
        """
        s, n = self.system, self.system.nx
        later = np.zeros((n, n))
        found: list[Array] = []
        for k in reversed(range(self.horizon + 1)):
            step = tube.steps[k]
            weight = np.maximum(tube.bounds[k], 1e-150) ** -2.0
            if focus is not None:
                weight = weight * (np.arange(s.ny) == focus[1]) * (1.0 if k == focus[0] else 1e-3)
            now = (s.C2.T * weight) @ s.C2
            if k < self.steps:
                Q = np.zeros((len(step.Z), len(step.Z)))
                Q[:n, :n] = later
                if tube.rows:
                    Q[n:, n:], now = np.diag(weight), np.zeros((n, n))
                found.append(Q + _EVEN * np.diag(1 / np.maximum((tube.factors[k + 1] ** 2).sum(axis=1), 1e-240)))
                through = _through(step, tube.used[k], shares[k], found[-1])
                if k:
                    back, _ = lapack.dtrtri(tube.factors[k][:n, :n], lower=1)
                    now = now + back.T @ through @ back
            later = now
            if focus is None:
                later = now + _SLOPES * (s.C1.T / np.maximum(step.d * s.nv**0.5, 1e-150) ** 2) @ s.C1
        return found[::-1]


def _even(system: LureSystem, rows: int) -> Array:
    """Weights of the first pass: the next step's neurons and outputs, and a little of every state."""
    n = system.nx
    Q = np.zeros((rows, rows))
    seen = system.C1.T @ system.C1 + system.C2.T @ system.C2
    Q[:n, :n] = seen + 0.01 * float(np.trace(seen)) / n * np.eye(n)
    Q[n:, n:] = np.eye(rows - n)
    return Q


def _pattern(step: Step) -> Array:
    """Multipliers (nv,) with W > 0 on the neurons: each is twice what its neuron does to later ones."""
    nv = len(step.N)
    M, t = step.N[:, step.N.shape[1] - nv :], np.ones(nv)
    if not M.any():
        return 0.5 * t
    for j in reversed(range(nv)):
        later = M[j + 1 :, j:]
        G = -later.T @ (t[j + 1 :, None] * later)
        G[np.diag_indices(nv - j)] += t[j:]
        need = t[j] - G[0, 0] + G[0, 1:] @ np.linalg.solve(G[1:, 1:], G[1:, 0])
        t[j] = max(1.0, 2 * need)
    return np.asarray(0.5 * t / t.max())


def _unpack(step: Step, theta: Array) -> tuple[Array, Array]:
    """Multipliers and shares from theta = (log multipliers, log of each input's share over the state's)."""
    nv = len(step.N)
    parts = np.exp(np.concatenate([[0.0], theta[nv:]]))
    return np.exp(theta[:nv]), parts / parts.sum()


def _minimise(step: Step, Q: Array, theta: Array, iterations: int) -> Array:
    """Find the theta that minimises log tr(Q X+)."""
    nv, m, nz = len(step.N), len(step.b), step.N.shape[1]
    if not len(theta):
        return theta
    n = nz - m - nv

    def value(theta: Array) -> tuple[float, Array]:
        if np.abs(theta).max() > 300:
            return np.inf, theta
        t, shares = _unpack(step, theta)
        factor, info = lapack.dpotrf(step.form(t, shares), lower=1)
        if info != 0:
            return np.inf, theta
        V, _ = lapack.dpotrs(factor, step.Z.T, lower=1)
        VQ = V @ Q
        total = float((step.Z * VQ.T).sum())
        if not total > 0:
            return np.inf, theta
        own = (VQ * V).sum(axis=1)
        by_t = 2 * t * (((step.N @ VQ) * (step.N @ V)).sum(axis=1) - own[n + m :])
        by_share = -np.concatenate([[own[:n].sum()], own[n : n + m] / step.b**2]) * shares
        return np.log(total), np.concatenate([by_t, by_share[1:] - shares[1:] * by_share.sum()]) / total

    less = np.log(2.0) * (np.arange(nv + m) < nv)
    for trial in range(3 * _HALVINGS):
        # Barely positive definite is no place to start from.
        if value(theta)[0] < value(theta - less)[0]:
            break
        theta = theta - less
        if trial == _HALVINGS:  # layers need other weights at this step
            theta = np.concatenate([np.log(_pattern(step)), np.zeros(m)])
    return lbfgs(value, theta, iterations, 1e-3, patience=_PATIENCE)[0]


def _through(step: Step, multipliers: Array, shares: Array, Q: Array) -> Array:
    """Derivative of tr(Q X+) by the ellipsoid before: tau E' W^-1 Z' Q Z W^-1 E, with E the columns of xi."""
    n = step.N.shape[1] - len(step.b) - len(step.N)
    V = np.linalg.solve(step.form(multipliers, shares), step.Z.T)[:n]
    return np.asarray(shares[0] * V @ Q @ V.T)
