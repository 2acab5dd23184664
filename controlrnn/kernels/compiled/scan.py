# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Time loops of a Lur'e system in packed form, and of its adjoint, which is a Lur'e system again.

Packed: ``z = [inputs, x, w]`` (the first input is the constant 1 that carries the biases) and

    [v; x+; y] = M z,     w = s(v)

The adjoint variables delta = dJ/dv, lambda = dJ/dx, for a cost J(y, x), run backwards in time:

    [g_w; lambda; g_u] = M' [delta; lambda+; g_y] + [0; g_x; 0],     delta = s'(v) g_w

With rows and columns flipped that is the same form with g_y as input, lambda as state and delta as neurons, and the
neurons in the order in which they can be evaluated. Hence one loop serves both directions, and the gradient of all
matrices is one product over time, dJ/dM = sum_t [delta; lambda+; g_y] z'.

Two loops, for two ways to fill a vector register (a line): `scan_lanes` puts a group of records side by side,
`scan_rows` does a single record and puts rows of M side by side. All sums have a fixed order, so results do not depend
on threads. A *panel* (row0, rows, low, high, kind, skip, on) is a group of rows that share the columns low..high, of
which skip..on are zero and left out: layers that do not touch cost nothing. CHAINED neurons also depend on each other,
through the columns high..ends[row]; a COPY is an identity matrix there. Everything is done in whole lines: entries that
a panel writes beyond its rows are overwritten by later panels, or lie in the padding at the end.

No variable in a loop stands for one array or another, and no row of an array is taken as an array: numba would count
references at every sample, with atomic instructions that take longer than the sums of a small network.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import numba
import numpy as np

from controlrnn.kernels.compiled import laws, simd
from controlrnn.kernels.compiled.cache import forget_stale

TANH, RELU, SIGMOID, LEAKY_RELU = 0, 1, 2, 3
MIXED = 4  # each neuron has a law of its own, from the table
SLOPE = 5  # SLOPE + code multiplies by the derivative instead
PRODUCT, CHAINED, COPY = 0, 1, 2  # kinds of panels
PANEL = 8  # rows of a panel where records fill the lines
PAD = 16  # rows of a matrix, or numbers, beyond the end that a loop may read but never uses
_log = logging.getLogger(__name__)
forget_stale()


def _entry_of(*signature: Any) -> Callable[[Callable[..., Any]], Any]:
    """Decorator that compiles a function to run without the GIL, cached on disk where that is possible.

    With a signature it compiles at once, otherwise at the first call.
    """

    def compiled(function: Callable[..., Any]) -> Any:
        try:
            return numba.njit(*signature, nogil=True, error_model="numpy", cache=True)(function)
        except RuntimeError as error:
            _log.warning("compiled kernels are not cached, every process compiles again: %s", error)
            return numba.njit(*signature, nogil=True, error_model="numpy")(function)

    return compiled


_entry = _entry_of()
# For functions that only compiled code calls: without wrappers for Python they compile faster.
_part = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)
# For small functions within a recursion, where a call takes as long as what is called.
_inlined = numba.njit(nogil=True, error_model="numpy", inline="always")


@_inlined
def activate_one(code, v, w):
    """Activation s(v), or for an adjoint v times the slope at the neuron output w."""
    if code == TANH:
        return simd.tanh(v)
    if code == SLOPE + TANH:
        return simd.tanh_slope(v, w)
    if code == RELU:
        return simd.relu(v, w)
    if code == SLOPE + RELU:
        return simd.relu_slope(v, w)
    if code == SIGMOID:
        return simd.sigmoid(v, w)
    if code == SLOPE + SIGMOID:
        return simd.sigmoid_slope(v, w)
    if code == LEAKY_RELU:
        return simd.leaky_relu(v, w)
    return simd.leaky_relu_slope(v, w)


@_part
def activate(code, lines, v, start, w, w0, out, o):
    """Compute ``out[o + k] = activate_one(code, v[start + k], w[w0 + k])`` for some lines."""
    line = simd.line_of(v)
    for i in range(lines):
        k = i * line
        if code == TANH:
            simd.tanh_line(v, start + k, w, w0 + k, out, o + k)
        elif code == SLOPE + TANH:
            simd.tanh_slope_line(v, start + k, w, w0 + k, out, o + k)
        elif code == RELU:
            simd.relu_line(v, start + k, w, w0 + k, out, o + k)
        elif code == SLOPE + RELU:
            simd.relu_slope_line(v, start + k, w, w0 + k, out, o + k)
        elif code == SIGMOID:
            simd.sigmoid_line(v, start + k, w, w0 + k, out, o + k)
        elif code == SLOPE + SIGMOID:
            simd.sigmoid_slope_line(v, start + k, w, w0 + k, out, o + k)
        elif code == LEAKY_RELU:
            simd.leaky_relu_line(v, start + k, w, w0 + k, out, o + k)
        else:
            simd.leaky_relu_slope_line(v, start + k, w, w0 + k, out, o + k)


@_part
def law_one(like, code, table, i, v, w):
    """Law of neuron i at v, or for an adjoint v times its slope where its value is w; ``like`` sets the precision."""
    own = int(table[i, 0])
    if own <= LEAKY_RELU:
        return activate_one(own if code < SLOPE else SLOPE + own, v, w)
    if code < SLOPE:
        return like.dtype.type(laws.value(table, i, np.float64(v)))
    return like.dtype.type(v * laws.slope(table, i, np.float64(w)))


@_part
def law_line(code, table, i, v, start, w, w0, out, o):
    """`law_one` of one neuron for a line of records."""
    own = int(table[i, 0])
    if own <= LEAKY_RELU:
        activate(own if code < SLOPE else SLOPE + own, 1, v, start, w, w0, out, o)
        return
    for b in range(simd.line_of(v)):
        if code < SLOPE:
            out[o + b] = v.dtype.type(laws.value(table, i, np.float64(v[start + b])))
        else:
            out[o + b] = v.dtype.type(v[start + b] * laws.slope(table, i, np.float64(w[w0 + b])))


@_part
def put(adds, lines, v, start, out, o):
    """Copy some lines to ``out``, or add them to it."""
    line = simd.line_of(v)
    for i in range(lines):
        if adds:
            simd.add_line(v, start + i * line, out, o + i * line, out, o + i * line)
        else:
            simd.copy_line(v, start + i * line, out, o + i * line, out, o + i * line)


@_part
def sums(n, M, row, width, Z, here, step, low, skip, on, high, v):
    """Compute the sums of a panel of n rows to v, for the line of each column c at ``here + c step`` in Z."""
    weights, first, terms = row * width + low, here + low * step, skip - low
    others, later, more = row * width + on, here + on * step, high - on
    if n > 4:
        simd.product8(M, weights, width, 1, Z, first, step, v, 0, terms)
        if more > 0:
            simd.add_product8(M, others, width, 1, Z, later, step, v, 0, more)
    elif n > 1:
        simd.product4(M, weights, width, 1, Z, first, step, v, 0, terms)
        if more > 0:
            simd.add_product4(M, others, width, 1, Z, later, step, v, 0, more)
    else:
        simd.product1(M, weights, width, 1, Z, first, step, v, 0, terms)
        if more > 0:
            simd.add_product1(M, others, width, 1, Z, later, step, v, 0, more)


@_part
def scan_lanes(M, panels, ends, n_in, nx, nv, code, table, adds, steps, Z, Y, W, nw):
    """Run a group of records side by side, one record in each place of a line.

    Z (T + 1, nz, line) comes with the inputs and the first state, and with ``adds`` also with terms to add to the later
    states; Y (T, outputs, line) is filled. W (T + 1, nw, line) is the forward run's Z, for the slopes of an adjoint.
    All are flat.
    """
    nz, width, line = n_in + nx + nv, M.shape[1], simd.line_of(Z)
    n_out = len(M) - PAD - nv - nx
    v = np.empty(8 * line, Z.dtype)
    for t in range(steps):
        for p in range(len(panels)):
            row, n, low, high, kind = panels[p, 0], panels[p, 1], panels[p, 2], panels[p, 3], panels[p, 4]
            if kind == COPY:
                begin = (t * nz + low) * line
                if row >= nv:
                    put(adds, n, Z, begin, Z, ((t + 1) * nz + n_in + row - nv) * line)
                    continue
                put(False, n, Z, begin, v, 0)
            else:
                sums(n, M, row, width, Z, t * nz * line, line, low, panels[p, 5], panels[p, 6], high, v)
            if row >= nv + nx:
                put(False, n, v, 0, Y, (t * n_out + row - nv - nx) * line)
            elif row >= nv:
                put(adds, n, v, 0, Z, ((t + 1) * nz + n_in + row - nv) * line)
            elif kind != CHAINED and code < MIXED:
                activate(code, n, v, 0, W, 0, Z, (t * nz + n_in + nx + row) * line)
            else:
                # Adjoint neuron i belongs to neuron nv - 1 - i of the forward run at the mirrored time.
                target, mirror = t * nz + n_in + nx + row, (steps - t) * nw - 1 - row
                for i in range(n):
                    if kind == CHAINED:
                        weights, first = (row + i) * width + high, (t * nz + high) * line
                        simd.add_product1(M, weights, 0, 1, Z, first, line, v, i * line, ends[row + i] - high)
                    slopes = (mirror - i) * line if code >= SLOPE else 0
                    if code == MIXED or code == SLOPE + MIXED:
                        own = row + i if code < SLOPE else nv - 1 - row - i
                        law_line(code, table, own, v, i * line, W, slopes, Z, (target + i) * line)
                        continue
                    activate(code, 1, v, i * line, W, slopes, Z, (target + i) * line)


@_part
def read_rows(P, width, panels, inner, nz, first_row, n_out, steps, Z, stride, Y):
    """Compute the outputs of all samples of one record, those of the panels from ``inner`` on, as in `scan_rows`."""
    line = simd.line_of(Z)
    v = np.empty(8 * line, Z.dtype)
    for p in range(inner, len(panels)):
        row, n, low, high, skip, on = (
            panels[p, 0], panels[p, 1], panels[p, 2], panels[p, 3], panels[p, 5], panels[p, 6],
        )  # fmt: skip
        for t in range(0, steps, 8):
            block, first, terms = (p * nz + low) * width, t * stride + low, skip - low
            other, later, more = (p * nz + on) * width, t * stride + on, high - on
            samples = min(8, steps - t)
            if samples == 8:
                simd.product8(Z, first, stride, 1, P, block, width, v, 0, terms)
                if more > 0:
                    simd.add_product8(Z, later, stride, 1, P, other, width, v, 0, more)
            for s in range(samples):
                if samples < 8:
                    simd.product1(Z, first + s * stride, 0, 1, P, block, width, v, s * line, terms)
                    if more > 0:
                        simd.add_product1(Z, later + s * stride, 0, 1, P, other, width, v, s * line, more)
                for i in range(n):
                    Y[(t + s) * n_out + row - first_row + i] = v[s * line + i]


@_part
def scan_rows(P, width, panels, n_in, nx, nv, n_out, code, table, adds, steps, Z, stride, Y, W, w_stride, nw):
    """Run one record, with rows of M side by side in a line, as `arrange` puts them into P.

    Z (T + 1, stride), Y (T, outputs) and W (T + 1, w_stride) are flat and used as in `scan_lanes`.
    """
    nz, line = n_in + nx + nv, simd.line_of(Z)
    v, slopes = np.empty(8 * line, Z.dtype), np.empty(4 * line, Z.dtype)
    mixed = code == MIXED or code == SLOPE + MIXED
    inner = 0  # number of panels within the recursion; those of the outputs follow and are computed at the end
    while inner < len(panels) and panels[inner, 0] < nv + nx:
        inner += 1
    for t in range(steps):
        for p in range(inner):
            row, n, low, high, kind = panels[p, 0], panels[p, 1], panels[p, 2], panels[p, 3], panels[p, 4]
            skip, on = panels[p, 5], panels[p, 6]
            block, first, terms = (p * nz + low) * width, t * stride + low, skip - low
            other, later, more = (p * nz + on) * width, t * stride + on, high - on
            lines = (n - 1) // line + 1
            if kind == COPY:
                if row >= nv:
                    put(adds, lines, Z, first, Z, (t + 1) * stride + n_in + row - nv)
                    continue
                put(False, lines, Z, first, v, 0)
            elif lines == 1:
                simd.product1(Z, first, 0, 1, P, block, width, v, 0, terms)
                if more > 0:
                    simd.add_product1(Z, later, 0, 1, P, other, width, v, 0, more)
            elif lines == 2:
                simd.product1x2(Z, first, 0, 1, P, block, width, v, 0, terms)
                if more > 0:
                    simd.add_product1x2(Z, later, 0, 1, P, other, width, v, 0, more)
            else:
                simd.product1x4(Z, first, 0, 1, P, block, width, v, 0, terms)
                if more > 0:
                    simd.add_product1x4(Z, later, 0, 1, P, other, width, v, 0, more)
            if row >= nv:
                put(adds, lines, v, 0, Z, (t + 1) * stride + n_in + row - nv)
                continue
            if code >= SLOPE:
                for i in range(lines):
                    mirror = (steps - 1 - t) * w_stride + nw - row - (i + 1) * line
                    simd.reverse_line(W, mirror, W, mirror, slopes, i * line)
            target = t * stride + n_in + nx + row
            if kind != CHAINED:
                if mixed:
                    for i in range(n):
                        own = row + i if code < SLOPE else nv - 1 - row - i  # an adjoint has them in reverse order
                        Z[target + i] = law_one(v, code, table, own, v[i], slopes[i])
                else:
                    activate(code, lines, v, 0, slopes, 0, Z, target)
                continue
            total = v[0]
            for i in range(n):
                if mixed:
                    own = row + i if code < SLOPE else nv - 1 - row - i
                    w = law_one(v, code, table, own, total, slopes[i])
                else:
                    w = activate_one(code, total, slopes[i])
                Z[target + i] = w
                if i + 1 < n:
                    # The next neuron's sum is finished on its own, so that it does not wait for the vector update.
                    column = (p * nz + n_in + nx + row + i) * width
                    total = v[i + 1] + P[column + i + 1] * w
                    simd.add_scaled_line(w, P, column, v, 0)
    read_rows(P, width, panels, inner, nz, nv + nx, n_out, steps, Z, stride, Y)
