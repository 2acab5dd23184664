# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Sensitivities: exact derivatives of a simulation by matrix entries and initial state, forwards in time.

In the packed form of `controlrnn.kernels.compiled.scan`, [v; x+; y] = M z with z = [1, u, x, w], the derivative of row
r by M[r, c] is z_c. Linearised along the run, with S = diag s'(v) and K = (I - S D11)^-1 S,

    dx+ = F dx + [B1 K, I, 0][:, r] z_c,    F = A + B1 K C1
    dy  = G dx + [D21 K, 0, I][:, r] z_c,   G = C2 + D21 K C1

All entries of a row share their source up to the number z_c, so one sample costs nx^2 multiplications an entry: cheaper
than the adjoint as soon as *every* output's derivative is wanted, as Gauss-Newton does.
(Dickinson & Gelinas, "Sensitivity analysis of ordinary differential equation systems", J. Comput. Phys. 1976, the
direct method.)
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import ShapeError
from controlrnn.kernels._engine import Sizes
from controlrnn.kernels.compiled.scan import _entry
from controlrnn.systems import MATRICES, LureSystem


class Sensitivities:
    """Derivatives of a frozen system's outputs by selected matrix entries and by the initial state.

    Args:
        system: A frozen system.
        selected: Mask, shape (p,) of bool, over all entries of the matrices, flattened and concatenated in the order
            of `MATRICES`; None selects none.

    Raises:
        ShapeError: ``selected`` does not fit, or names an entry of D11 that is zero by definition.
    """

    def __init__(self, system: LureSystem, selected: np.ndarray | None = None) -> None:
        self.system = system
        self._sizes = Sizes(system.nx, system.nu, system.ny, system.layers)
        rows, columns, real = _positions(self._sizes)
        chosen = np.zeros(len(rows), bool) if selected is None else np.asarray(selected, bool)
        if chosen.shape != rows.shape or (chosen & ~real).any():
            raise ShapeError(
                f"selected must have shape {rows.shape} and leave out D11 on and above its block diagonal, got "
                f"{chosen.shape}: flatten the matrices in the order of MATRICES"
            )
        rows, columns = rows[chosen], columns[chosen]
        # The loop wants the entries of one row together; `_target` says where each belongs in the caller's order.
        self._target = np.argsort(rows, kind="stable")
        self._columns = columns[self._target]
        self._starts = np.searchsorted(rows[self._target], np.arange(self._sizes.nr + 1))
        self.n_entries = len(rows)

    def start(self) -> Array:
        """Derivatives of the initial state, shape (nx, n_entries + nx): zero by the entries, identity by itself."""
        return np.concatenate([np.zeros((self.system.nx, self.n_entries)), np.eye(self.system.nx)], axis=1)

    def run(self, u: Array, x: Array, start: Array) -> tuple[Array, Array]:
        """Compute the derivatives along a run.

        Args:
            u: Inputs, shape (T, nu).
            x: States of the run, shape (T, nx).
            start: Derivatives of ``x[0]``, shape (nx, n_entries + nx): those of `start`, or those that the call for the
                samples before returned.

        Returns:
            ``(dy, dx)``: derivatives of the outputs (T, ny, n_entries + nx) and of the state after the last sample
            (nx, n_entries + nx).
        """
        system, sizes = self.system, self._sizes
        w = system._neurons(x, u @ system.D12.T + system.bv)
        K, KC = _neurons(system, w)
        T, nx, nv, ny = len(u), sizes.nx, sizes.nv, sizes.ny
        # Column r of `source` is the effect on (x+, y) of a unit added to row r of [v; x+; y].
        source = np.zeros((T, nx + ny, sizes.nr))
        source[:, :nx, :nv], source[:, nx:, :nv] = system.B1 @ K, system.D21 @ K
        source[:, :, nv:] = np.eye(nx + ny)
        F = np.concatenate([system.A + system.B1 @ KC, system.C2 + system.D21 @ KC], axis=1)
        z = np.concatenate([np.ones((T, 1)), u, x, w], axis=1)
        dy = np.empty((T, ny, self.n_entries + nx))
        dx = np.ascontiguousarray(np.concatenate([start[:, self._target], start[:, self.n_entries :]], axis=1))
        _follow(F, source, z, self._starts, self._columns, self._target, dx, dy)
        end = np.empty_like(dx)
        end[:, self._target], end[:, self.n_entries :] = dx[:, : self.n_entries], dx[:, self.n_entries :]
        return dy, end


def _positions(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Row and column in M of every matrix entry in the order of `MATRICES`, and whether it may differ from zero."""
    rows, columns, real = [], [], []
    for name in MATRICES:
        r, c = (np.arange(s.start, s.stop) for s in sizes.places[name])
        grid = np.meshgrid(r, c, indexing="ij")
        rows.append(grid[0].ravel())
        columns.append(grid[1].ravel())
        real.append(sizes.below.ravel() if name == "D11" else np.ones(grid[0].size, bool))
    return np.concatenate(rows), np.concatenate(columns), np.concatenate(real)


def _neurons(system: LureSystem, w: Array) -> tuple[Array, Array]:
    """Derivatives of the neurons' outputs by additions to v, K (T, nv, nv), and by the state, K C1 (T, nv, nx)."""
    T, nv = w.shape
    slope = system.activation.derivative(w)
    K, KC = np.zeros((T, nv, nv)), np.zeros((T, nv, system.nx))
    for a, b in system.blocks:
        # Block by block from the inputs' derivatives to the outputs': the slopes multiply at the end.
        K[:, a:b, a:b] = np.eye(b - a)
        K[:, a:b, :a] = system.D11[a:b, :a] @ K[:, :a, :a]
        KC[:, a:b] = system.C1[a:b] + system.D11[a:b, :a] @ KC[:, :a]
        K[:, a:b, :b] *= slope[:, a:b, None]
        KC[:, a:b] *= slope[:, a:b, None]
    return K, KC


@_entry
def _follow(F, source, z, starts, columns, target, dx, dy):
    """Advance dx (nx, k + nx) over all samples in place; fill dy (T, ny, k + nx), its columns put at ``target``."""
    nx, n = dx.shape
    ny, k = dy.shape[1], len(columns)
    new = np.empty((nx + ny, n), dx.dtype)
    for t in range(len(z)):
        for i in range(nx + ny):
            for r in range(len(starts) - 1):
                h = source[t, i, r]
                for e in range(starts[r], starts[r + 1]):
                    new[i, e] = h * z[t, columns[e]]
            for e in range(k, n):
                new[i, e] = 0
            for j in range(nx):
                f = F[t, i, j]
                for e in range(n):
                    new[i, e] += f * dx[j, e]
        for i in range(nx):
            for e in range(n):
                dx[i, e] = new[i, e]
        for i in range(ny):
            for e in range(k):
                dy[t, i, target[e]] = new[nx + i, e]
            for e in range(k, n):
                dy[t, i, e] = new[nx + i, e]
