# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Mean squared error of free runs and its gradient by all matrices in one compiled call.

The steps are those of `controlrnn.kernels.compiled.runs`, one group of records after the other.
"""

from __future__ import annotations

from controlrnn.kernels.compiled.pack import prepare, prepare_adjoint, unpack
from controlrnn.kernels.compiled.runs import backward_lanes, backward_rows, errors, forward_lanes, forward_rows, scored
from controlrnn.kernels.compiled.scan import PANEL, _entry


@_entry
def by_rows(ahead, back, law, data, scratch, layout, sizes):
    """Mean squared error of records that run one by one, and its gradient by each matrix to its address.

    Args:
        ahead: M, template of panels, panels, flat P of the system, as of `prepare`.
        back: The same of its adjoint.
        law: Code of the activation and table of laws.
        data: Inputs u (B, T, nu), measurements y (B, T, ny) and the number of samples that do not count.
        scratch: Initial states (B, 1, nx), which are given, outputs (B, T, ny), their derivatives (B, T, ny), gx
            (B, 0, nx), gu (B, T, 0), gx0 (B, nx), flat Z and L, and sums (tasks, rows, columns).
        layout: Addresses of the matrices, those of their gradients, places, ends, and ``need`` of the adjoint's rows.
        sizes: nx, nv, length of a line, records of a task.
    """
    M, template, panels, P = ahead
    N, mirrored, backwards, Q = back
    code, table = law
    u, y, washout = data
    x0, run, gy, gx, gu, gx0, Z, L, sums = scratch
    source, targets, places, ends, need = layout
    nx, nv, line, each = sizes
    nz, nr = M.shape[1], N.shape[1]
    count, width = prepare(source, places, ends, M, template, panels, nv, nx, line, 4 * line, P)
    turns, breadth = prepare_adjoint(M, N, mirrored, backwards, nv, nx, line, 4 * line, Q)
    n, total = scored(y, washout), 0.0
    sums[:] = 0
    for first in range(len(u)):
        forward_rows(P, width, nz, panels[:count], code, table, u, x0, first, 0, u.shape[1], line, Z, run)
        total = errors(run, y, first, first + 1, washout, n, gy, total)
        G = sums[first // each]
        backward_rows(Q, breadth, nr, backwards[:turns], code, table, gy, gx, first, line, Z, nz, need, L, gu, gx0, G)
    unpack(sums, places, ends, targets)
    return total / max(n, 1)


@_entry
def by_lanes(ahead, back, law, data, scratch, layout, sizes):
    """The same of records that run side by side; arguments as in `by_rows`, with ends in the place of P."""
    M, template, panels, stops = ahead
    N, mirrored, backwards, halts = back
    code, table = law
    u, y, washout = data
    x0, run, gy, gx, gu, gx0, Z, L, sums = scratch
    source, targets, places, ends, need = layout
    nx, nv, line, each = sizes
    nz, width, none = M.shape[1], PANEL, Z[:0]
    count, _ = prepare(source, places, ends, M, template, panels, nv, nx, width, width, none)
    turns, _ = prepare_adjoint(M, N, mirrored, backwards, nv, nx, width, width, none)
    n, total = scored(y, washout), 0.0
    sums[:] = 0
    for first in range(0, len(u), line):
        forward_lanes(M, panels[:count], stops, code, table, u, x0, first, 0, u.shape[1], line, Z, run)
        total = errors(run, y, first, min(first + line, len(u)), washout, n, gy, total)
        G = sums[first // each]
        backward_lanes(N, backwards[:turns], halts, code, table, gy, gx, first, line, Z, nz, need, L, gu, gx0, G)
    unpack(sums, places, ends, targets)
    return total / max(n, 1)
