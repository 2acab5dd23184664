"""Nonlinear least squares for the states and input errors over a window of samples, with exact derivatives.

    min  |zeta|^2 + sum_t |(y_t - g(x_t, u_t + o_t) - b) / s|^2 + 3 |o_t / d|^2 + |b / c|^2
    over x_0 = m + R zeta, |o_t| <= d, b,    with x_{t+1} = f(x_t, u_t + o_t),  x_0 and x_T within limits

d is the bound on the inputs' errors (uniform ones have variance d^2 / 3), b an offset of the outputs; missing samples
are left out. Gauss-Newton with Levenberg's damping (Marquardt 1963); where limits are active each step is a quadratic
program. The number of steps is bounded, and the best point so far is returned in all cases.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels import rollout
from controlrnn.kernels.dense import cholesky_solve, dot, product, weighted_squares
from controlrnn.kernels.linearisation import Linearisation, Lineariser
from controlrnn.systems import LureSystem
from mpc.quadratic import QuadraticProgram

_UNIFORM = 3.0  # reciprocal variance of a uniform error within [-1, 1]
_PRICE = 1e4  # penalty on states outside their limits by their width: as for a residual of 100 standard deviations
_FIRST, _LAST = 1e-4, 1e8  # damping after the first refused step, and where the search ends
_FAR = 1e20  # stands for "no limit" in the QP


@dataclass(frozen=True, eq=False)
class Window:
    """Data of a window of T samples, with the prior of its first state.

    Args:
        u: Recorded inputs, shape (T, nu).
        y: Measurements, shape (T, ny); NaN where missing.
        mean: Prior mean m, shape (nx,).
        root: Root R of the prior covariance, shape (nx, nx).
    """

    u: Array
    y: Array
    mean: Array
    root: Array


@dataclass(frozen=True, eq=False)
class Fit:
    """Point of the least-squares problem, with the run and the residuals that follow from it.

    Args:
        z: Variables (zeta, o_0 / d, .., o_{T-1} / d, b / c), without the parts that are fixed at zero.
        u: Inputs with their estimated errors, shape (T, nu).
        x: States, shape (T + 1, nx).
        w: Outputs of the neurons, shape (T, nv).
        offset: Offset b of the outputs, shape (ny,).
        residual: In standard deviations, shape (T, ny); 0 where nothing was measured.
        cost: Half the sum of squares; infinite where the run diverges.
    """

    z: Array
    u: Array
    x: Array
    w: Array
    offset: Array
    residual: Array
    cost: float


class WindowFitter:
    """Damped Gauss-Newton solver of the least-squares problem over a window.

    Args:
        system: A frozen system.
        output_std: s, shape (ny,), positive.
        input_error: d, shape (nu,).
        offset_std: c, shape (ny,).
        state_limits: Lower and upper limits of the states, each (nx,), or None.
        iterations: Most steps.
        time_limit: Seconds after which no further step is begun.
        tolerance: Decrease of the cost, relative to one plus the cost, at which to stop.
    """

    def __init__(
        self,
        system: LureSystem,
        *,
        output_std: Array,
        input_error: Array,
        offset_std: Array,
        state_limits: tuple[Array, Array] | None,
        iterations: int,
        time_limit: float,
        tolerance: float,
    ) -> None:
        self.system = system
        self.output_std = output_std
        self.input_error = input_error
        self.offset_std = offset_std
        self.state_limits = state_limits
        self.iterations = iterations
        self.time_limit = time_limit
        self.tolerance = tolerance
        self.inexact = bool(input_error.any())
        self.shifted = bool(offset_std.any())
        self.linearise = Lineariser(system)
        self._programs: dict[tuple[int, int], QuadraticProgram] = {}

    def size(self, samples: int) -> int:
        """Number of variables for a window of ``samples`` samples."""
        system = self.system
        return system.nx + samples * system.nu * self.inexact + system.ny * self.shifted

    def fit(self, window: Window, guess: Array) -> tuple[Fit, int, bool]:
        """Minimise from ``guess``; returns the best point, the number of steps, and whether the time limit was hit."""
        began = time.perf_counter()
        best = self.run(window, guess)
        if not np.isfinite(best.cost):
            best = self.run(window, np.zeros_like(guess))
        damping = 0.0
        for taken in range(self.iterations):
            if time.perf_counter() - began > self.time_limit:
                return best, taken, True
            better, damping = self._improve(window, best, damping)
            if better is None:
                return best, taken, False
            gained, best = best.cost - better.cost, better
            if gained <= self.tolerance * (1.0 + best.cost):
                return best, taken + 1, False
        return best, self.iterations, False

    def run(self, window: Window, z: Array) -> Fit:
        """Simulate the window for variables z (n,) and evaluate residuals and cost."""
        system, T = self.system, len(window.u)
        u = window.u
        if self.inexact:
            u = u + self.input_error * z[system.nx : system.nx + T * system.nu].reshape(T, -1)
        offset = self.offset_std * z[-system.ny :] if self.shifted else np.zeros(system.ny)
        y, x, w = rollout(system, np.ascontiguousarray(u), window.mean + product(window.root, z[: system.nx]))
        error = (y + offset - window.y) / self.output_std
        residual = np.where(np.isnan(window.y), 0.0, error)
        cost = 0.5 * float((residual**2).sum() + dot(self._weights(z), z**2))
        return Fit(z, u, x, w, offset, residual, cost if np.isfinite(cost) and np.isfinite(x).all() else np.inf)

    def _improve(self, window: Window, at: Fit, damping: float) -> tuple[Fit | None, float]:
        """Try one damped step; returns the better point, or None if there is none, and the damping to go on with."""
        J, ends = self.derivatives(window, self.linearise.at(at.w))
        weights = self._weights(at.z)
        H = weighted_squares(J, np.ones(len(J))) + np.diag(weights)
        g = product(at.residual.ravel(), J) + weights * at.z
        while damping < _LAST and np.isfinite(H).all() and np.isfinite(g).all():
            step = self._step(at, H + damping * np.diag(np.diag(H)), g, ends)
            tried = None if step is None else self.run(window, at.z + step)
            if tried is not None and tried.cost <= at.cost:
                return tried, damping / 10 if damping > _FIRST else 0.0
            damping = max(10 * damping, _FIRST)
        return None, damping

    def derivatives(self, window: Window, lin: Linearisation) -> tuple[Array, Array]:
        """Jacobians by z of the residuals, shape (T ny, n), and of the states at both window ends, shape (2 nx, n)."""
        system, T = self.system, len(window.u)
        nx, nu, n = system.nx, system.nu, self.size(T)
        A, B, D = lin.A, lin.B, lin.D
        Z = np.zeros((T + 1, n, nx))  # transposed, so that the rows that can differ from zero lie together
        Z[0, :nx] = window.root.T
        for t in range(T):
            m = nx + t * nu * self.inexact
            Z[t + 1, :m] = product(Z[t, :m], A[t].T)  # later input errors do not change x_{t+1}: their rows stay zero
            if self.inexact:
                Z[t + 1, m : m + nu] = (B[t] * self.input_error).T
        J = product(Z[:-1], lin.C.transpose(0, 2, 1))
        if self.inexact and D.any():
            for t in range(T):
                J[t, nx + t * nu : nx + (t + 1) * nu] += (D[t] * self.input_error).T
        if self.shifted:
            J[:, n - system.ny :] = np.diag(self.offset_std)
        J = np.where(np.isnan(window.y)[:, None, :], 0.0, J / self.output_std)
        return J.transpose(0, 2, 1).reshape(-1, n), Z[[0, -1]].transpose(0, 2, 1).reshape(-1, n)

    def _step(self, at: Fit, H: Array, g: Array, ends: Array) -> Array | None:
        nx, n = self.system.nx, len(g)
        free = cholesky_solve(H, -g)
        if self.state_limits is None and not self.inexact:
            return free
        low, high = np.full(n, -_FAR), np.full(n, _FAR)
        if self.inexact:
            part = slice(nx, nx + at.u.size)
            low[part], high[part] = -1.0 - at.z[part], 1.0 - at.z[part]
        rows, low_rows, high_rows = np.zeros((0, n)), np.zeros(0), np.zeros(0)
        if self.state_limits is not None:
            width = np.tile(self.state_limits[1] - self.state_limits[0], 2)
            low_rows, high_rows = ((np.tile(side, 2) - at.x[[0, -1]].ravel()) / width for side in self.state_limits)
            rows = ends / width[:, None]
        if free is not None and _within(free, low, high) and _within(product(rows, free), low_rows, high_rows):
            return free  # no limit is active: the common case
        key = (n, len(rows))
        if key not in self._programs:
            self._programs[key] = QuadraticProgram(n, np.full(len(rows), _PRICE))
        found = self._programs[key].solve(H, g, rows, np.append(low, low_rows), np.append(high, high_rows))
        return None if found is None else found.z

    def _weights(self, z: Array) -> Array:
        weights = np.ones_like(z)
        if self.inexact:
            weights[self.system.nx : len(z) - self.system.ny * self.shifted] = _UNIFORM
        return weights


def _within(value: Array, low: Array, high: Array) -> bool:
    return bool((value >= low).all() and (value <= high).all())
