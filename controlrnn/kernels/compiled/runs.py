# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Runs of one group of records, forwards and backwards: the functions around the time loops that Python calls.

The gradient of all matrices is one product over time and records, dJ/dM = sum_t [delta; lambda+; g_y] z'.
"""

from __future__ import annotations

import numpy as np

from controlrnn.kernels.compiled import simd
from controlrnn.kernels.compiled.scan import PAD, SLOPE, _entry, _part, scan_lanes, scan_rows
from controlrnn.kernels.compiled.simd import DOT_COLS, DOT_ROWS, dot, product8

BLOCK_BYTES = 2**20  # bytes of samples whose matrix gradient is summed at a time, so that they stay in the cache


@_part
def from_lanes(Z, z, nz, steps, out, first, start):
    """Copy lines to records, in rising order: ``out[first + b, start + t, i] = Z[z + (t nz + i) line + b]``."""
    line, n = simd.line_of(Z), out.shape[2]
    records, size = min(line, len(out) - first), out.shape[1] * n
    for t in range(steps):
        here, there, i = z + t * nz * line, (start + t) * n, 0
        # A whole line reaches into rows that are written later, but must not reach into the next record.
        while records == line and n - i >= 4 and there + i + line <= size:
            simd.transpose(Z, here + i * line, line, out, first * size + there + i, size)
            i += line
        for b in range(records):
            for k in range(i, n):
                out[first + b, start + t, k] = Z[here + k * line + b]


@_entry
def forward_lanes(M, panels, ends, code, table, u, x, first, start, steps, line, Z, y):
    """Simulate a line of records from ``first`` on over samples start..start + steps; fill x and y.

    u (B, T, nu), x (B, T + 1, nx) with x[:, start] given, or (B, 1, nx), which is not filled, y (B, T, ny); Z
    flat (steps + 1, nz, line), for the adjoint.
    """
    nu, nx, ny, last = u.shape[2], x.shape[2], y.shape[2], len(u) - 1
    nz = M.shape[1]
    Y = np.empty((steps * ny + PAD) * line, Z.dtype)
    for t in range(steps):
        for b in range(line):
            Z[t * nz * line + b] = 1
        for b in range(line):
            # The last record fills idle lanes: zeros there could diverge where the records do not.
            record = min(first + b, last)
            for j in range(nu):
                Z[(t * nz + 1 + j) * line + b] = u[record, start + t, j]
            for i in range(nx if t == 0 else 0):
                Z[(1 + nu + i) * line + b] = x[record, start, i]
    scan_lanes(M, panels, ends, 1 + nu, nx, nz - 1 - nu - nx, code, table, False, steps, Z, Y, Z, 0)
    from_lanes(Z, (nz + 1 + nu) * line, nz, steps if x.shape[1] > 1 else 0, x, first, start + 1)
    from_lanes(Y, 0, ny, steps, y, first, start)


@_entry
def forward_rows(P, width, nz, panels, code, table, u, x, first, start, steps, line, Z, y):
    """Simulate the record ``first`` alone; arguments as in `forward_lanes`."""
    nu, nx, ny = u.shape[2], x.shape[2], y.shape[2]
    stride = nz + line
    Y = y[first, start : start + steps].reshape(steps * ny)
    for t in range(steps):
        Z[t * stride] = 1
        for j in range(nu):
            Z[t * stride + 1 + j] = u[first, start + t, j]
    for i in range(nx):
        Z[1 + nu + i] = x[first, start, i]
    scan_rows(P, width, panels, 1 + nu, nx, nz - 1 - nu - nx, ny, code, table, False, steps, Z, stride, Y, Z, 0, 0)
    size = x.shape[1] * nx
    for t in range(steps if x.shape[1] > 1 else 0):
        here, there, i = (t + 1) * stride + 1 + nu, (start + t + 1) * nx, 0
        while i < nx and there + i + line <= size:  # as in `from_lanes`
            simd.copy_line(Z, here + i, Z, here + i, x, first * size + there + i)
            i += line
        for k in range(i, nx):
            x[first, start + t + 1, k] = Z[here + k]


@_entry
def backward_lanes(M, panels, ends, code, table, gy, gx, first, line, Z, nz, need, L, gu, gx0, G):
    """Compute the gradients of a run of `forward_lanes`: fill gu and gx0, add the matrix gradients to G.

    M, panels, ends and ``need`` belong to the flipped system. The cost's derivatives are gy (B, T, ny) and gx
    (B, T + 1, nx), or gx (B, 0, nx) for zero; gu has shape (B, T, nu or 0), gx0 (B, nx). L flat (T + 1, nr, line) is
    scratch.
    """
    steps, ny, nx, nu, nr = gy.shape[1], gy.shape[2], gx.shape[2], gu.shape[2], M.shape[1]
    records, adds = min(line, len(gy) - first), gx.shape[1] > 0
    U = np.empty((steps * nu + PAD) * line, Z.dtype)
    for t in range(steps + 1):
        for b in range(line):
            # Idle lanes have no cost, so that they add nothing to the gradient.
            used = b < records
            for i in range(ny if t < steps else 0):
                L[(t * nr + i) * line + b] = gy[first + b, steps - 1 - t, ny - 1 - i] if used else 0
            for i in range(nx if adds or t == 0 else 0):
                L[(t * nr + ny + i) * line + b] = gx[first + b, steps - t, nx - 1 - i] if adds and used else 0
    scan_lanes(M, panels, ends, ny, nx, nr - ny - nx, SLOPE + code, table, adds, steps, L, U, Z, nz)
    for b in range(records):
        for i in range(nx):
            gx0[first + b, i] = L[(steps * nr + ny + nx - 1 - i) * line + b]
    for t in range(steps if nu else 0):
        for b in range(records):
            for j in range(nu):
                gu[first + b, t, j] = U[((steps - 1 - t) * nu + nu - 1 - j) * line + b]
    outer_lanes(L, nr, Z, nz, steps, line, need, G)


@_entry
def backward_rows(P, width, nr, panels, code, table, gy, gx, first, line, Z, nz, need, L, gu, gx0, G):
    """Compute the gradients of a run of `forward_rows`; arguments as in `backward_lanes`."""
    steps, ny, nx, nu = gy.shape[1], gy.shape[2], gx.shape[2], gu.shape[2]
    stride, adds = nr + line, gx.shape[1] > 0
    U = np.empty(steps * nu, Z.dtype)
    for t in range(steps):
        for i in range(ny):
            L[t * stride + i] = gy[first, steps - 1 - t, ny - 1 - i]
    for t in range(steps + 1 if adds else 1):
        for i in range(nx):
            L[t * stride + ny + i] = gx[first, steps - t, nx - 1 - i] if adds else 0
    scan_rows(
        P, width, panels, ny, nx, nr - ny - nx, nu, SLOPE + code, table, adds, steps, L, stride, U, Z, nz + line, nz
    )
    for i in range(nx):
        gx0[first, i] = L[steps * stride + ny + nx - 1 - i]
    for t in range(steps):
        for j in range(nu):
            gu[first, t, j] = U[(steps - 1 - t) * nu + nu - 1 - j]
    outer_rows(L, stride, Z, nz + line, steps, line, need, G)


@_entry
def scored(y, washout):
    """Number of measurements y (B, T, ny) from sample ``washout`` on that are not NaN."""
    n = 0
    for b in range(y.shape[0]):
        for t in range(washout, y.shape[1]):
            for i in range(y.shape[2]):
                n += not np.isnan(y[b, t, i])
    return n


@_entry
def errors(run, y, first, end, washout, n, gy, total):
    """Add the squares of (run - y) of the records first..end to ``total``, and fill gy with the mean's derivatives.

    What `scored` does not count among the n measurements has none.
    """
    two, share = run.dtype.type(2), run.dtype.type(1) / run.dtype.type(max(n, 1))
    for b in range(first, end):
        for t in range(run.shape[1]):
            for i in range(run.shape[2]):
                counts = t >= washout and not np.isnan(y[b, t, i])
                error = run[b, t, i] - y[b, t, i] if counts else run.dtype.type(0)
                total += np.float64(error) * error
                gy[b, t, i] = two * error * share
    return total


@_part
def outer_lanes(L, nr, Z, nz, steps, line, need, G):
    """Add ``sum_t L[t] Z[T - 1 - t]'`` over records and time to G, in the columns need[a] of each row a."""
    width = G.shape[1]
    block = max(16, BLOCK_BYTES // ((nr + nz) * line * Z.itemsize))
    for t in range(0, steps, block):
        n = min(block, steps - t)
        for a in range(0, nr, DOT_ROWS):
            low, high, skip, on = hull(need, a, min(a + DOT_ROWS, nr))
            for c in range(low - low % DOT_COLS, high, DOT_COLS):
                if skip <= c and c + DOT_COLS <= on:
                    continue
                left, right = (t * nr + a) * line, ((steps - 1 - t) * nz + c) * line
                dot(L, left, nr * line, Z, right, -nz * line, n, G, a * width + c, width)


@_part
def outer_rows(L, l_stride, Z, z_stride, steps, line, need, G):
    """Add the same sum as `outer_lanes` for one record; L is (T + 1, l_stride), Z (T + 1, z_stride)."""
    v = np.empty(8 * line, G.dtype)
    block = max(64, BLOCK_BYTES // ((l_stride + z_stride) * Z.itemsize))
    for t in range(0, steps, block):
        n = min(block, steps - t)
        for a in range(0, len(need), 8):
            low, high, skip, on = hull(need, a, min(a + 8, len(need)))
            for c in range(low - low % line, high, line):
                if skip <= c and c + line <= on:
                    continue
                product8(L, t * l_stride + a, 1, l_stride, Z, (steps - 1 - t) * z_stride + c, -z_stride, v, 0, n)
                for i in range(8):
                    for b in range(line):
                        G[a + i, c + b] += v[i * line + b]


@_part
def hull(need, start, stop):
    """Smallest column range that covers the non-empty ranges of some rows, and the columns that all of them skip."""
    low, high, skip, on = need[start]
    for a in range(start + 1, stop):
        if need[a, 1] > need[a, 0]:
            if high > low:
                low, high = min(low, need[a, 0]), max(high, need[a, 1])
                skip, on = max(skip, need[a, 2]), min(on, need[a, 3])
            else:
                low, high, skip, on = need[a]
    return low, high, skip, on
