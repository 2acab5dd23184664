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
from controlrnn.kernels.compiled import simd
from controlrnn.kernels.compiled.scan import _entry, _part
from controlrnn.kernels.compiled.simd import line_length
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
        self._arrange(rows[chosen], columns[chosen])

    def _arrange(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Lay the entries out in lines of one row each, then the initial state; places at the ends are padding."""
        line = line_length(8)
        self.n_entries, nx = len(rows), self.system.nx
        groups = [(r, np.flatnonzero(rows == r)) for r in np.unique(rows)]
        groups.append((-1, self.n_entries + np.arange(nx)))
        self._rows = np.repeat([r for r, _ in groups], [-(-len(g) // line) for _, g in groups])
        # Where each place belongs in the caller's order, -1 for padding, and its number in z.
        self._target = np.concatenate([np.pad(g, (0, -len(g) % line), constant_values=-1) for _, g in groups])
        self._columns = np.where(self._target < 0, 0, np.concatenate([columns, np.zeros(nx, int)])[self._target])
        self._used = np.flatnonzero(self._target >= 0)

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
        line, used = line_length(8), self._target[self._used]
        places = np.zeros((nx, len(self._target)))
        places[:, self._used] = start[:, used]
        dx = np.zeros((2, len(self._rows), nx + ny, line))
        dx[0, :, :nx] = places.reshape(nx, -1, line).transpose(1, 0, 2)
        last = _follow(F, source, z, self._rows, self._columns, self._target, dx, dy)
        end = np.empty((nx, self.n_entries + nx))
        end[:, used] = dx[last, :, :nx].transpose(1, 0, 2).reshape(nx, -1)[:, self._used]
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


@_part
def _add_rows(S, s, si, V, v, out, o, rows, n):
    """``out[o + i line] += sum_k S[s + i si + k] line V[v + k line]`` for all rows i, k < n."""
    line, i = simd.line_of(V), 0
    while i + 8 <= rows:
        simd.add_product8(S, s + i * si, si, 1, V, v, line, out, o + i * line, n)
        i += 8
    while i + 4 <= rows:
        simd.add_product4(S, s + i * si, si, 1, V, v, line, out, o + i * line, n)
        i += 4
    while i < rows:
        simd.add_product1(S, s + i * si, si, 1, V, v, line, out, o + i * line, n)
        i += 1


@_entry
def _follow(F, source, z, rows, columns, target, dx, dy):
    """Advance dx[0] (blocks, nx + ny, line) over all samples; fill dy (T, ny, k + nx), its columns put at ``target``.

    ``dx`` holds two buffers, of the sample before and the sample after; returns which of them holds the last one.
    """
    blocks, height, line = dx.shape[1:]
    nx, nr, ny, now = F.shape[2], source.shape[2], dy.shape[1], 0
    own = np.empty(line, dx.dtype)  # numbers z_c of one block
    for t in range(len(z)):
        here, there = now * blocks * height * line, (1 - now) * blocks * height * line
        for b in range(blocks):
            r, o = rows[b], there + b * height * line
            for e in range(line):
                own[e] = z[t, columns[b * line + e]]
            dx[1 - now, b] = 0
            if r >= 0:  # the initial state enters no row
                _add_rows(source, t * height * nr + r, nr, own, 0, dx, o, height, 1)
            if r < nr - ny:  # entries of the outputs' own rows never move the state
                _add_rows(F, t * height * nx, nx, dx, here + b * height * line, dx, o, height, nx)
            for e in range(line):
                place = target[b * line + e]
                if place >= 0:
                    for i in range(ny):
                        dy[t, i, place] = dx[1 - now, b, nx + i, e]
        now = 1 - now
    return now
