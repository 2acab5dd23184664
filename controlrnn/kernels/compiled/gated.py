# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Time loops of gated cells, LSTM and GRU, and of their adjoints; records one after the other.

The inputs' part of all gates, ``drive = W u + b``, is given. Kept for the way back are the gates after their activation
(i, f, o, g) and (r, z, n). Backwards, with lambda = dJ/dh, mu = dJ/dc and s' the slope from a gate's value,

    LSTM  mu += lambda o (1 - tanh(c+)^2),  dJ/dv = s' (mu g, mu c, lambda tanh(c+), mu i),  lambda <- U' dJ/dv,
          mu <- mu f
    GRU   dJ/dvn = s' lambda (1 - z),  e = Un' dJ/dvn,  dJ/dv(r, z) = s' (e h, lambda (h - n)),
          lambda <- lambda z + e r + U(r, z)' dJ/dv(r, z)

and dJ/dU = sum of dJ/dv h', for the candidate of the GRU dJ/dvn (r h)'. The equations are those of
`controlrnn.systems.gated`. (Werbos, "Backpropagation through time", Proc. IEEE 1990.)
"""

from __future__ import annotations

from controlrnn.kernels.compiled import simd
from controlrnn.kernels.compiled.scan import _entry, _part


@_part
def _squash(v, low, high):
    """Replace v[low:high] by the logistic function of it."""
    half = v.dtype.type(0.5)
    for k in range(low, high):
        v[k] = half + half * simd.tanh(half * v[k])


@_part
def _bend(v, low, high):
    """Replace v[low:high] by its hyperbolic tangent."""
    for k in range(low, high):
        v[k] = simd.tanh(v[k])


@_part
def _add_product(columns, first, h, low, high, v):
    """Add to v[low:high] the product of the matrix whose columns are rows of ``columns`` and h[first:first + n]."""
    for j in range(len(columns)):
        factor = h[first + j]
        for k in range(low, high):
            v[k] += columns[j, k] * factor


@_entry
def lstm_forward(drive, columns, x, gates):
    """Fill states x (B, T + 1, 2 n) from x[:, 0], and gates (B, T, 4 n); ``columns`` is U' (n, 4 n)."""
    B, T, n = drive.shape[0], drive.shape[1], len(columns)
    for b in range(B):
        for t in range(T):
            v, now, after = gates[b, t], x[b, t], x[b, t + 1]
            for k in range(4 * n):
                v[k] = drive[b, t, k]
            _add_product(columns, 0, now, 0, 4 * n, v)
            _squash(v, 0, 3 * n)
            _bend(v, 3 * n, 4 * n)
            for k in range(n):
                after[n + k] = v[n + k] * now[n + k] + v[k] * v[3 * n + k]
                after[k] = v[2 * n + k] * simd.tanh(after[n + k])


@_entry
def lstm_backward(U, x, gates, gx, gv):
    """Fill gv = dJ/dv (B, T, 4 n) from gx = dJ/dx (B, T + 1, 2 n), whose first sample becomes that by x0."""
    B, T, n = gv.shape[0], gv.shape[1], U.shape[1]
    one = U.dtype.type(1)
    for b in range(B):
        for t in range(T - 1, -1, -1):
            v, d, later, earlier = gates[b, t], gv[b, t], gx[b, t + 1], gx[b, t]
            for k in range(n):
                i, f, o, g = v[k], v[n + k], v[2 * n + k], v[3 * n + k]
                bent = simd.tanh(x[b, t + 1, n + k])
                mu = later[n + k] + later[k] * o * (one - bent * bent)
                d[k] = mu * g * i * (one - i)
                d[n + k] = mu * x[b, t, n + k] * f * (one - f)
                d[2 * n + k] = later[k] * bent * o * (one - o)
                d[3 * n + k] = mu * i * (one - g * g)
                earlier[n + k] += mu * f
            _add_product(U, 0, d, 0, n, earlier)


@_entry
def gru_forward(drive, columns, x, gates):
    """Fill states x (B, T + 1, n) from x[:, 0], and gates (B, T, 3 n); ``columns`` is U' (n, 3 n)."""
    B, T, n = drive.shape[0], drive.shape[1], len(columns)
    for b in range(B):
        for t in range(T):
            v, now, after = gates[b, t], x[b, t], x[b, t + 1]
            for k in range(3 * n):
                v[k] = drive[b, t, k]
            _add_product(columns, 0, now, 0, 2 * n, v)
            _squash(v, 0, 2 * n)
            for k in range(n):  # the place of the next state serves for r h
                after[k] = v[k] * now[k]
            _add_product(columns, 0, after, 2 * n, 3 * n, v)
            _bend(v, 2 * n, 3 * n)
            for k in range(n):
                after[k] = v[2 * n + k] + v[n + k] * (now[k] - v[2 * n + k])


@_entry
def gru_backward(U, x, gates, gx, gv):
    """Fill gv = dJ/dv (B, T, 3 n) from gx = dJ/dx (B, T + 1, n), whose first sample becomes that by x0."""
    B, T, n = gv.shape[0], gv.shape[1], U.shape[1]
    one, zero = U.dtype.type(1), U.dtype.type(0)
    for b in range(B):
        for t in range(T - 1, -1, -1):
            v, d, now, later, earlier = gates[b, t], gv[b, t], x[b, t], gx[b, t + 1], gx[b, t]
            for k in range(n):
                z, candidate = v[n + k], v[2 * n + k]
                d[2 * n + k] = later[k] * (one - z) * (one - candidate * candidate)
                d[n + k] = later[k] * (now[k] - candidate) * z * (one - z)
                earlier[k] += later[k] * z
                d[k] = zero
            _add_product(U[2 * n :], 2 * n, d, 0, n, d)  # the derivative by r h for the time being
            for k in range(n):
                earlier[k] += d[k] * v[k]
                d[k] *= now[k] * v[k] * (one - v[k])
            _add_product(U[: 2 * n], 0, d, 0, n, earlier)
