"""Ellipsoids around a known trajectory that no neighbouring trajectory leaves: slopes and ellipsoids prove each other.

Let n be the nominal trajectory and o one that starts within its initial radius of n and whose inputs stay within their
radii of the nominal ones. At every step o - n = L xi with |xi|^2 <= e (`Tube.factors`). Then, at that very step,

    |v_i(o) - v_i(n)| <= d_i                     rows of C1 L, of D12 on the inputs, of D11 with the slopes before,
    dw_i = m_i dv_i + r_i d_i eta_i, |eta_i| <= |dv_i| / d_i      chords with one end at v_i(n), `secant_slopes`,
    [W  Z'; Z  F F'] >= 0,   W = blkdiag(tau I, rho, 2 diag t) - 2 N' diag(t) N,   dv / d = N z,   (dx+, dy) = Z z

with z = (xi, du, eta): the form of diagonal multipliers t / (r d)^2 (`incremental`), with its slopes centred, so that
every quantity is of order one, also where an ellipsoid is flat or a point. Hence (dx+, dy) = F xi+ with |xi+|^2 <=
tau e + rho b^2: the next ellipsoid. No fixed point is needed, and nothing is assumed: one pass forward proves slopes
and ellipsoids together, for all steps, neurons and outputs at once. The smallest F F' is Z W^-1 Z' (Schur complement).

The nominal trajectory is computed in float64. What rounding does to it is another small difference, r+ <= sqrt(tau) r +
rounding in the same ellipsoids, for which the ends of the chords have room and which the bounds include: they hold
around the exact trajectory and around the computed one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import lapack

from controlrnn.certification.psd import UNIT, proven_margins
from controlrnn.certification.slopes import Box, secant_slopes
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.systems import LureSystem

_FLATTEST = 1e-6  # half width that slopes are given at least
_REDUCTIONS = 100
_ROUNDING = 1e5  # how much larger than its rounding an ellipsoid is kept in every direction
_MORE = 1 + 1e-13  # far more than the rounding of a handful of operations


@dataclass(frozen=True, eq=False)
class Step:
    """One step in the coordinates z = (xi, du, eta): what the search and the proof of a stage need.

    Args:
        N: dv / d = N z, shape (nv, nz).
        Z: (dx+, dy) = Z z, shape (nx + rows, nz).
        N_error: What rounding did to N at most, likewise.
        Z_error: What rounding did to Z at most, likewise.
        slopes: Alpha and beta, each shape (nv,).
        d: Largest differences |dv|, shape (nv,).
        b: Input radii, shape (m,).
    """

    N: Array
    Z: Array
    N_error: Array
    Z_error: Array
    slopes: Box
    d: Array
    b: Array

    def supply(self, multipliers: Array, shares: Array) -> Array:
        """Diagonal of blkdiag(tau I, rho, 2 diag t), shape (nz,), where ``shares`` (1 + m,) = (tau, rho b^2)."""
        n = self.N.shape[1] - len(self.b) - len(self.N)
        return np.concatenate([np.full(n, shares[0]), shares[1:] / self.b**2, 2 * multipliers])

    def form(self, multipliers: Array, shares: Array) -> Array:
        """W, shape (nz, nz)."""
        root = np.sqrt(2 * multipliers)[:, None] * self.N
        W = -(root.T @ root)
        W[np.diag_indices(len(W))] += self.supply(multipliers, shares)
        return np.asarray(W)

    def smallest(self, multipliers: Array, shares: Array) -> Array | None:
        """Z W^-1 Z', shape (nx + rows, nx + rows); None where W is not positive definite."""
        factor, info = lapack.dpotrf(self.form(multipliers, shares), lower=1)
        if info != 0:
            return None
        root, _ = lapack.dtrtrs(factor, self.Z.T, lower=1)
        return np.asarray(root.T @ root)


class Tube:
    """The pass forward: `look` at a step, then `advance` to the next.

    Args:
        system: A frozen system.
        x0: Nominal initial state, shape (nx,).
        u: Nominal inputs, shape (K, nu).
        start: L at step 0, shape (nx, nx).
        input_radius: Shape (nu,).
        known: A finished pass, whose slopes and differences are proven already.
    """

    def __init__(
        self, system: LureSystem, x0: Array, u: Array, start: Array, input_radius: Array, known: Tube | None = None
    ) -> None:
        self.system, use = system, input_radius > 0
        self.b = input_radius[use]
        # The output is a row of Z only where neurons reach it; otherwise its bound follows from L directly.
        self.rows = system.ny if (system.D21 != 0).any() else 0
        # Neurons, outputs and next states are rows of (dx, du, dw).
        self.C = np.vstack([system.C1, system.C2, system.A])
        self.D = np.vstack([system.D12, system.D22, system.B2])[:, use]
        self.E = np.vstack([system.D11, system.D21, system.B1])
        self.v, self.v_error, self.x_error, self.y_error = _nominal(system, x0, u)
        self.level, self.drift, self.known = 1.0, 0.0, known
        self.factors, self.steps, self.bounds, self.used = [start], list[Step](), list[Array](), list[Array]()

    def look(self) -> Step:
        """Differences, slopes and output bounds at the present step."""
        system, k, m = self.system, len(self.steps), len(self.b)
        n, ny, nv = system.nx, system.ny, system.nv
        L, gamma = self.factors[-1][:n, :n], 2 * (n + nv + 4) * UNIT
        # Rows of (xi, du, rest), where dw_j = middle_j dv_j + rest_j, |rest_j| <= half_j d_j; and their rounding.
        R = np.hstack([self.C @ L, self.D, np.zeros((len(self.C), nv))])
        blur = gamma * np.hstack([np.abs(self.C) @ np.abs(L), np.zeros((len(self.C), m + nv))])
        low, high, middle, half, d, error = (np.zeros(nv) for _ in range(6))
        for start, stop in (*system.blocks, (nv, len(R))):
            E, here = self.E[start:stop, :start], slice(start, stop)
            through = E * middle[:start]
            R[here] += through @ R[:start]
            R[here, n + m : n + m + start] += E
            blur[here] += np.abs(through) @ (blur[:start] + gamma * np.abs(R[:start])) + gamma * np.abs(R[here])
            size = np.abs(R[here]) + blur[here]
            spread, rest = np.linalg.norm(size[:, :n], axis=1), size[:, n + m : n + m + start] * half[:start]
            reach = (np.sqrt(self.level) * spread + size[:, n : n + m] @ self.b + rest @ d[:start]) * _MORE
            small = (self.drift * spread + rest @ error[:start]) * _MORE
            if start < nv:
                error[here] = small + self.v_error[k, here]
                d[here] = np.maximum(reach, 2 * error[here]) + 1e-200
                self._slopes(here, low, high, d, error)
                middle[here] = 0.5 * (low[here] + high[here])
                half[here] = np.maximum(0.5 * (high[here] - low[here]) + 4 * UNIT, _FLATTEST)
        bound = (reach + small)[:ny] + 2 * self.y_error[k]
        self.bounds.append(bound if self.known is None else np.minimum(bound, self.known.bounds[k]))
        R[:, n + m :] *= half * d
        blur[:, n + m :] *= half * d
        blur += 4 * UNIT * np.abs(R)
        seen = np.r_[nv + ny : len(R), nv : nv + self.rows]
        scale = 1 / d[:, None]
        N, N_error = scale * R[:nv], scale * (blur[:nv] + 4 * UNIT * np.abs(R[:nv]))
        self.steps.append(Step(N, R[seen], N_error, blur[seen], (low, high), d, self.b))
        return self.steps[-1]

    def _slopes(self, layer: slice, low: Array, high: Array, d: Array, error: Array) -> None:
        """Fill in the slopes of a layer, and shrink d to what is known."""
        k = len(self.steps)
        if self.known is not None:
            d[layer] = np.minimum(d[layer], np.maximum(self.known.steps[k].d[layer], 2 * error[layer]))
        low[layer], high[layer] = secant_slopes(self.system.activation, self.v[k, layer], error[layer], d[layer])
        if self.known is not None:
            low[layer] = np.maximum(low[layer], self.known.steps[k].slopes[0][layer])
            high[layer] = np.minimum(high[layer], self.known.steps[k].slopes[1][layer])

    def advance(self, multipliers: Array, shares: Array, padding: float) -> None:
        """Go on by one step with these multipliers t.

        Around another trajectory than that of the search they may be too large: they are reduced until W is positive
        definite, which it is for small ones.
        """
        step, n, k = self.steps[-1], self.system.nx, len(self.steps) - 1
        X = step.smallest(multipliers, shares)
        for _ in range(_REDUCTIONS):
            if X is not None:
                break
            multipliers = 0.7 * multipliers
            X = step.smallest(multipliers, shares)
        if X is None or not np.isfinite(X).all():
            raise CertificationError(f"step {k} of the tube has no ellipsoid for these multipliers")
        # Room for the proof, and for the rounding of the nominal trajectory, which must be small in every direction.
        room = np.concatenate([(_ROUNDING * self.x_error[k]) ** 2, np.zeros(self.rows)])
        X[np.diag_indices(len(X))] += padding * X.diagonal() + room + 1e-250
        size = np.sqrt(X.diagonal())
        factor, info = lapack.dpotrf(X / np.outer(size, size), lower=1, clean=1)
        if info != 0:
            raise CertificationError(f"step {k} of the tube is too flat for its padding", margin=-1.0)
        F = size[:, None] * factor
        self.level = (shares[0] * self.level + float(shares[1:].sum())) * _MORE
        # F is triangular: the state is a function of its first columns. Its inverse is good to some digits, 2 is ample.
        inverse, _ = lapack.dtrtri(factor[:n, :n], lower=1)
        moved = 2 * float(np.linalg.norm(np.abs(inverse) @ (self.x_error[k] / size[:n])))
        drift = np.sqrt(shares[0]) * self.drift
        if self.rows:
            reached = (np.sqrt(self.level) + drift) * np.linalg.norm(F[n:], axis=1) * _MORE + 2 * self.y_error[k]
            self.bounds[-1] = np.minimum(self.bounds[-1], reached)
        self.drift = (drift + moved) * _MORE
        self.factors.append(F)
        self.used.append(multipliers)

    def margin(self, shares: Array) -> float:
        """Prove every step; see `proven_margin` for the value. ``shares``: (K, 1 + m), those that were used."""
        done = self.steps[: len(self.used)]
        if not done:
            return np.inf
        N, Z, N_error, Z_error = (
            np.array([getattr(step, name) for step in done]) for name in ("N", "Z", "N_error", "Z_error")
        )
        count, nz = len(done), N.shape[2]
        gamma = 1.01 * (nz + Z.shape[1] + 8) * UNIT
        t, F, size = np.array(self.used)[:, :, None], np.array(self.factors[1:]), np.abs(N)
        full = np.zeros((count, nz + Z.shape[1], nz + Z.shape[1]))
        error = np.zeros_like(full)
        full[:, :nz, :nz] = -2 * (N.swapaxes(1, 2) @ (t * N))
        part = 2 * (size.swapaxes(1, 2) @ (t * (gamma * size + 1.01 * N_error)))
        error[:, :nz, :nz] = part + part.swapaxes(1, 2)
        index = np.arange(nz)
        supply = np.array([step.supply(*used) for step, *used in zip(done, self.used, shares, strict=True)])
        full[:, index, index] += supply
        error[:, index, index] += 4 * UNIT * supply
        full[:, nz:, :nz], full[:, :nz, nz:] = Z, Z.swapaxes(1, 2)
        error[:, nz:, :nz], error[:, :nz, nz:] = Z_error, Z_error.swapaxes(1, 2)
        full[:, nz:, nz:] = F @ F.swapaxes(1, 2)
        error[:, nz:, nz:] = gamma * (np.abs(F) @ np.abs(F).swapaxes(1, 2))
        return float(proven_margins(full, error + 2 * UNIT * np.abs(full)).min())


def _nominal(s: LureSystem, x0: Array, u: Array) -> tuple[Array, Array, Array, Array]:
    """Pre-activations (K, nv) of the computed nominal trajectory, and what rounding did to each of v, x+ and y."""
    gamma, steepest = 4 * (s.nx + s.nu + s.nv + 8) * UNIT, s.activation.slope[1]
    with np.errstate(over="ignore", invalid="ignore"):
        x, drive = s.simulate(u, x0)[1][:-1], u @ s.D12.T + s.bv
    if not np.isfinite(x).all():
        raise CertificationError("the nominal trajectory overflows: shorten the horizon")
    w = s.neurons(x, drive)
    v = x @ s.C1.T + w @ s.D11.T + drive

    def sizes(*names: str) -> Array:
        parts = (abs(value) @ np.abs(getattr(s, name)).T for value, name in zip((x, w, u), names, strict=False))
        return np.asarray(gamma * (sum(parts) + np.abs(getattr(s, names[3]))))

    v_error = sizes("C1", "D11", "D12", "bv")
    w_error = np.zeros_like(v_error)
    for start, stop in s.blocks:  # an error in one layer goes on to the next
        v_error[:, start:stop] += w_error[:, :start] @ np.abs(s.D11[start:stop, :start]).T
        w_error[:, start:stop] = steepest * v_error[:, start:stop] + 4 * UNIT * np.abs(w[:, start:stop])
    x_error = sizes("A", "B1", "B2", "bx") + w_error @ np.abs(s.B1).T
    return v, v_error, x_error, sizes("C2", "D21", "D22", "by") + w_error @ np.abs(s.D21).T
