# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: ARG001, SIM110 (the two kinds of loops take the same arguments)
"""The time loops: a Lur'e system in packed form, and its adjoint, which is a Lur'e system again.

Packed: ``z = [inputs, x, w]`` (the first input is the constant 1 that carries the biases) and

    [v; x+; y] = M z,     w = s(v)

The adjoint variables delta = dJ/dv, lambda = dJ/dx, for a cost J(y, x), run backwards in time:

    [g_w; lambda; g_u] = M' [delta; lambda+; g_y] + [0; g_x; 0],     delta = s'(v) g_w

With rows and columns flipped that is the same form with g_y as input, lambda as state and delta as neurons, and the
neurons in the order in which they can be evaluated. Hence one loop serves both directions, and the gradient of all
matrices is one product over time, dJ/dM = sum_t [delta; lambda+; g_y] z'.

Two loops, for two ways to fill a vector register (a line): `scan_lanes` puts a group of records side by side,
`scan_rows` does a single record and puts rows of M side by side. All sums have a fixed order, so results do not depend
on threads. A *panel* (row0, rows, low, high, kind) is a group of rows that share the columns low..high. CHAINED neurons
also depend on each other, through the columns high..ends[row]; a COPY is an identity matrix there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from controlrnn.kernels._numba_simd import (
    DOT_COLS,
    DOT_ROWS,
    dot,
    product1,
    product1x2,
    product1x4,
    product4,
    product8,
    tanh,
)

TANH, RELU, SIGMOID, LEAKY_RELU, SLOPE = 0, 1, 2, 3, 4  # SLOPE + code multiplies with the derivative instead
PRODUCT, CHAINED, COPY = 0, 1, 2
TIME_BLOCK = 64  # samples of the matrix gradient that are summed at a time, so that they stay in the cache
_log = logging.getLogger(__name__)


def _entry(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compile without the GIL, into the cache if there is a folder for it."""
    try:
        return numba.njit(nogil=True, error_model="numpy", cache=True)(function)  # type: ignore[no-any-return]
    except RuntimeError as error:
        _log.warning("compiled kernels are not cached, every process compiles again: %s", error)
        return numba.njit(nogil=True, error_model="numpy")(function)  # type: ignore[no-any-return]


# Parts of the entries; without wrappers for Python they compile faster.
_part = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


@_part
def activate_one(like, code, leak, v, w):
    """s(v), or for an adjoint v times the slope at the neuron output w; ``like`` is an array of their precision."""
    one, half, zero = like.dtype.type(1), like.dtype.type(0.5), like.dtype.type(0)
    if code == TANH:
        return tanh(v)
    if code == SLOPE + TANH:
        return v * (one - w * w)
    if code == SIGMOID:
        return half + half * tanh(half * v)
    if code == SLOPE + SIGMOID:
        return v * (w * (one - w))
    at = v if code < SLOPE else w
    if at <= zero:
        return zero if code == RELU or code == SLOPE + RELU else leak * v
    return v


@_part
def activate(code, leak, v, start, n, w, w0, out, o):
    """``out[o + k] = activate_one(v[start + k], w[w0 + k])`` in loops that become vectors."""
    one, half, zero = v.dtype.type(1), v.dtype.type(0.5), v.dtype.type(0)
    # Of signed indices numba must think that they might count from the end, which keeps loops from being vectors.
    start, n, w0, o = np.uintp(start), np.uintp(n), np.uintp(w0), np.uintp(o)
    if code == TANH:
        for k in range(n):
            out[o + k] = tanh(v[start + k])
    elif code == SLOPE + TANH:
        for k in range(n):
            out[o + k] = v[start + k] * (one - w[w0 + k] * w[w0 + k])
    elif code == SIGMOID:
        for k in range(n):
            out[o + k] = half + half * tanh(half * v[start + k])
    elif code == SLOPE + SIGMOID:
        for k in range(n):
            out[o + k] = v[start + k] * (w[w0 + k] * (one - w[w0 + k]))
    elif code < SLOPE:
        for k in range(n):
            below = zero if code == RELU else leak * v[start + k]
            out[o + k] = below if v[start + k] <= zero else v[start + k]
    else:
        for k in range(n):
            below = zero if code == SLOPE + RELU else leak * v[start + k]
            out[o + k] = below if w[w0 + k] <= zero else v[start + k]


@_part
def put(code, v, start, n, out, o):
    """Copy n numbers; an adjoint adds them to what is there, the derivatives by the states themselves."""
    start, n, o = np.uintp(start), np.uintp(n), np.uintp(o)
    if code < SLOPE:
        for k in range(n):
            out[o + k] = v[start + k]
    else:
        for k in range(n):
            out[o + k] += v[start + k]


@_entry
def shrink(M, panels, nv, line, widest):
    """Narrow each panel to the columns where it is not exactly zero, then join those that see the same columns.

    An Elman network, for instance, has A = 0 and B1 = I.

    Args: panels of up to ``line`` rows, changed in place; joined ones have up to ``widest``. Returns their number.
    """
    count = 0
    for p in range(len(panels)):
        row, n, low, high, kind = panels[p]
        while low < high and is_zero(M, row, n, low):
            low += 1
        while high > low and kind != CHAINED and is_zero(M, row, n, high - 1):
            high -= 1
        if kind == PRODUCT and high - low == n and is_identity(M, row, n, low):
            kind = COPY
        if count and kind == PRODUCT and row != nv:
            _, rows, first, last, before = panels[count - 1]
            if first == low and last == high and before == PRODUCT and rows % line == 0 and rows + n <= widest:
                panels[count - 1, 1] += n
                continue
        panels[count, 0], panels[count, 1], panels[count, 2], panels[count, 3] = row, n, low, high
        panels[count, 4] = kind
        count += 1
    return count


@_part
def is_identity(M, row, n, column):
    for i in range(n):
        for j in range(n):
            if M[row + i, column + j] != (1 if i == j else 0):
                return False
    return True


@_part
def is_zero(M, row, n, column):
    for i in range(n):
        if M[row + i, column] != 0:
            return False
    return True


@_entry
def side_by_side(M, panels, P):
    """``P[p, j, i] = M[row of panel p + i, j]``, where the panel has something there."""
    for p in range(len(panels)):
        row, n, low, high, kind = panels[p]
        for i in range(n):
            for j in range(low, M.shape[1] if kind == CHAINED else high):
                P[p, j, i] = M[row + i, j]


@_part
def scan_lanes(M, panels, ends, n_in, nx, nv, code, leak, steps, line, Z, Y, W, nw):
    """Run a group of records side by side.

    Z (T + 1, nz, line) comes with the inputs, the first state, and in an adjoint what is to be added to the later ones;
    Y (T, outputs, line) is filled. W (T + 1, nw, line) is the forward run's Z, for the slopes of an adjoint. All flat.
    """
    nz, width = n_in + nx + nv, M.shape[1]
    n_out = len(Y) // (steps * line)
    v = np.zeros(8 * line, Z.dtype)
    for t in range(steps):
        for p in range(len(panels)):
            row, n, low, high, kind = panels[p]
            source, begin = v, 0
            for k in range(8 * line if kind != COPY else 0):
                v[k] = 0
            if kind == COPY:
                source, begin = Z, (t * nz + low) * line
            elif n > 4:
                product8(M, row * width + low, width, 1, Z, (t * nz + low) * line, line, v, 0, high - low)
            else:
                product4(M, row * width + low, width, 1, Z, (t * nz + low) * line, line, v, 0, high - low)
            if row < nv:
                # Adjoint neuron i belongs to neuron nv - 1 - i of the forward run at the mirrored time.
                target, mirror = t * nz + n_in + nx + row, (steps - t) * nw - 1 - row
                one_by_one = kind == CHAINED or code >= SLOPE
                for i in range(0, n, 1 if one_by_one else n):
                    if kind == CHAINED:
                        weights, others = (row + i) * width + high, (t * nz + high) * line
                        product1(M, weights, 0, 1, Z, others, line, v, i * line, ends[row + i] - high)
                    count = line if one_by_one else n * line
                    activate(
                        code, leak, source, begin + i * line, count, W, (mirror - i) * line, Z, (target + i) * line
                    )
                continue
            r = row - nv
            states = min(max(nx - r, 0), n)
            put(code, source, begin, states * line, Z, ((t + 1) * nz + n_in + r) * line)
            put(TANH, source, begin + states * line, (n - states) * line, Y, (t * n_out + r + states - nx) * line)


@_part
def scan_rows(P, panels, n_in, nx, nv, code, leak, steps, line, Z, stride, Y, W, w_stride, nw):
    """Run one record, rows of M side by side: P comes from `side_by_side`.

    Z (T + 1, stride), Y (T, outputs) and W (T + 1, w_stride) as for `scan_lanes`, flat.
    """
    nz, width = n_in + nx + nv, P.shape[2]
    n_out = len(Y) // steps
    v, out, slopes = np.zeros(4 * line, Z.dtype), np.zeros(4 * line, Z.dtype), np.zeros(4 * line, Z.dtype)
    for t in range(steps):
        for p in range(len(panels)):
            row, n, low, high, kind = panels[p]
            source, begin = v, 0
            block, first = p * nz * width, t * stride + n_in + nx + row
            for k in range(4 * line if kind != COPY else 0):
                v[k] = 0
            if kind == COPY:
                source, begin = Z, t * stride + low
            elif n <= line:
                product1(Z, t * stride + low, 0, 1, P, block + low * width, width, v, 0, high - low)
            elif n <= 2 * line:
                product1x2(Z, t * stride + low, 0, 1, P, block + low * width, width, v, 0, high - low)
            else:
                product1x4(Z, t * stride + low, 0, 1, P, block + low * width, width, v, 0, high - low)
            if row >= nv:
                r = row - nv
                states = min(max(nx - r, 0), n)
                put(code, source, begin, states, Z, (t + 1) * stride + n_in + r)
                put(TANH, source, begin + states, n - states, Y, t * n_out + r + states - nx)
                continue
            if code >= SLOPE:
                for i in range(n):
                    slopes[i] = W[(steps - 1 - t) * w_stride + nw - 1 - row - i]
            if kind != CHAINED:
                activate(code, leak, source, begin, (n + line - 1) // line * line, slopes, 0, out, 0)
                put(TANH, out, 0, n, Z, first)
                continue
            total = v[0]
            for i in range(n):
                w = activate_one(v, code, leak, total, slopes[i])
                Z[first + i] = w
                if i + 1 < n:
                    # The next neuron's sum is finished on its own, so that it does not wait for the vector update.
                    column = n_in + nx + row + i
                    total = v[i + 1] + P[p, column, i + 1] * w
                    product1(Z, first + i, 0, 1, P, block + column * width, width, v, 0, 1)


@_part
def outer_lanes(L, nr, Z, nz, steps, line, need, G):
    """``G += sum_t L[t] Z[T - 1 - t]'`` over records and time, where row a needs the columns need[a]."""
    width = G.shape[1]
    for t in range(0, steps, TIME_BLOCK):
        n = min(TIME_BLOCK, steps - t)
        for a in range(0, nr, DOT_ROWS):
            low, high = hull(need, a, min(a + DOT_ROWS, nr))
            for c in range(low - low % DOT_COLS, high, DOT_COLS):
                left, right = (t * nr + a) * line, ((steps - 1 - t) * nz + c) * line
                dot(L, left, nr * line, Z, right, -nz * line, n, G, a * width + c, width)


@_part
def outer_rows(L, l_stride, Z, z_stride, steps, line, need, G):
    """As `outer_lanes` for one record; L is (T + 1, l_stride), Z (T + 1, z_stride)."""
    v = np.zeros(8 * line, G.dtype)
    for t in range(0, steps, TIME_BLOCK):
        n = min(TIME_BLOCK, steps - t)
        for a in range(0, len(need), 8):
            low, high = hull(need, a, min(a + 8, len(need)))
            for c in range(low - low % line, high, line):
                for k in range(8 * line):
                    v[k] = 0
                product8(L, t * l_stride + a, 1, l_stride, Z, (steps - 1 - t) * z_stride + c, -z_stride, v, 0, n)
                for i in range(8):
                    for b in range(line):
                        G[a + i, c + b] += v[i * line + b]


@_part
def hull(need, start, stop):
    """Smallest column range that covers the non-empty ranges of some rows."""
    low, high = need[start, 0], need[start, 1]
    for a in range(start + 1, stop):
        if need[a, 1] > need[a, 0]:
            low = min(low, need[a, 0]) if high > low else need[a, 0]
            high = max(high, need[a, 1]) if high > low else need[a, 1]
    return low, high


@_entry
def forward_lanes(M, panels, ends, code, leak, u, x, first, start, steps, line, Z, y):
    """Simulate the records from ``first`` on over samples start..start + steps; x[:, start] is given, x, y are filled.

    u (B, T, nu), x (B, T + 1, nx), y (B, T, ny), Z flat (steps + 1, nz, line), kept for the adjoint.
    """
    nu, nx, ny, last = u.shape[2], x.shape[2], y.shape[2], len(u) - 1
    nz = M.shape[1]
    Y = np.empty(steps * ny * line, Z.dtype)
    for t in range(steps):
        for b in range(line):
            # The last record fills idle lanes: zeros there could diverge where the records do not.
            record = min(first + b, last)
            Z[t * nz * line + b] = 1
            for j in range(nu):
                Z[(t * nz + 1 + j) * line + b] = u[record, start + t, j]
            for i in range(nx if t == 0 else 0):
                Z[(1 + nu + i) * line + b] = x[record, start, i]
    scan_lanes(M, panels, ends, 1 + nu, nx, nz - 1 - nu - nx, code, leak, steps, line, Z, Y, Z, 0)
    for t in range(steps):
        for b in range(min(line, len(u) - first)):
            for i in range(nx):
                x[first + b, start + t + 1, i] = Z[((t + 1) * nz + 1 + nu + i) * line + b]
            for i in range(ny):
                y[first + b, start + t, i] = Y[(t * ny + i) * line + b]


@_entry
def forward_rows(P, panels, ends, code, leak, u, x, first, start, steps, line, Z, y):
    """As `forward_lanes` for the record ``first`` alone."""
    nu, nx, ny = u.shape[2], x.shape[2], y.shape[2]
    nz, stride = P.shape[1], P.shape[1] + line
    Y = np.empty(steps * ny, Z.dtype)
    for t in range(steps):
        Z[t * stride] = 1
        for j in range(nu):
            Z[t * stride + 1 + j] = u[first, start + t, j]
    for i in range(nx):
        Z[1 + nu + i] = x[first, start, i]
    scan_rows(P, panels, 1 + nu, nx, nz - 1 - nu - nx, code, leak, steps, line, Z, stride, Y, Z, 0, 0)
    for t in range(steps):
        for i in range(nx):
            x[first, start + t + 1, i] = Z[(t + 1) * stride + 1 + nu + i]
        for i in range(ny):
            y[first, start + t, i] = Y[t * ny + i]


@_entry
def backward_lanes(M, panels, ends, code, leak, gy, gx, first, line, Z, nz, need, gu, gx0, G):
    """Adjoint of `forward_lanes`; M, panels, ends and ``need`` belong to the flipped system, G is added to.

    The cost's derivatives are gy (B, T, ny) and gx (B, T + 1, nx), or gx (B, 0, nx) for zero; gu (B, T, nu or 0) and
    gx0 (B, nx) are filled.
    """
    steps, ny, nx, nu, nr = gy.shape[1], gy.shape[2], gx.shape[2], gu.shape[2], M.shape[1]
    L = np.zeros((steps + 1) * nr * line, Z.dtype)
    U = np.empty(steps * nu * line, Z.dtype)
    records = min(line, len(gy) - first)
    for t in range(steps + 1):
        for b in range(records):
            for i in range(nx if gx.shape[1] else 0):
                L[(t * nr + ny + i) * line + b] = gx[first + b, steps - t, nx - 1 - i]
            for i in range(ny if t < steps else 0):
                L[(t * nr + i) * line + b] = gy[first + b, steps - 1 - t, ny - 1 - i]
    scan_lanes(M, panels, ends, ny, nx, nr - ny - nx, SLOPE + code, leak, steps, line, L, U, Z, nz)
    for b in range(records):
        for i in range(nx):
            gx0[first + b, i] = L[(steps * nr + ny + nx - 1 - i) * line + b]
        for t in range(steps):
            for j in range(nu):
                gu[first + b, t, j] = U[((steps - 1 - t) * nu + nu - 1 - j) * line + b]
    outer_lanes(L, nr, Z, nz, steps, line, need, G)


@_entry
def backward_rows(P, panels, ends, code, leak, gy, gx, first, line, Z, nz, need, gu, gx0, G):
    """As `backward_lanes` for the record ``first`` alone."""
    steps, ny, nx, nu, nr = gy.shape[1], gy.shape[2], gx.shape[2], gu.shape[2], P.shape[1]
    stride = nr + 8
    L = np.zeros((steps + 1) * stride, Z.dtype)
    U = np.empty(steps * nu, Z.dtype)
    for t in range(steps + 1):
        for i in range(nx if gx.shape[1] else 0):
            L[t * stride + ny + i] = gx[first, steps - t, nx - 1 - i]
        for i in range(ny if t < steps else 0):
            L[t * stride + i] = gy[first, steps - 1 - t, ny - 1 - i]
    scan_rows(P, panels, ny, nx, nr - ny - nx, SLOPE + code, leak, steps, line, L, stride, U, Z, nz + line, nz)
    for i in range(nx):
        gx0[first, i] = L[steps * stride + ny + nx - 1 - i]
    for t in range(steps):
        for j in range(nu):
            gu[first, t, j] = U[(steps - 1 - t) * nu + nu - 1 - j]
    outer_rows(L, stride, Z, nz + line, steps, line, need, G)
