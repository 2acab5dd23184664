"""Bounds on the innovations of an observer, and on the jump of its estimate.

The jump is L times the innovation, L (y - g(xhat, u)) = L (r + g(x*, u_true) - g(xhat, u)). The difference of the
outputs is linear in the state error up to the neurons' slopes, dw = m dv + delta with |delta| <= h |dv|, m and h the
middle and the half width of the slope interval:

    dy = G dx + E,   G = C2 + m D21 M C1,   M = (I - m D11)^-1,
    |E| <= |D22 + m D21 M D12| d_u + |D21 + m D21 M D11| h |dv|,
    |dv| <= (I - h |M D11|)^-1 ( |M C1 dx| + |M D12| d_u ),

hence |jump|_S <= |S^1/2 L G S^-1/2| e + max over the signs of |L (E + r)|_S with e the certified error, and each
innovation is at most |G_i dx| + E_i + rmax_i. (Notation: `mpc.observers.innovation`.)
"""

from __future__ import annotations

import itertools

import numpy as np

from controlrnn.checks import Array
from controlrnn.systems import LureSystem
from mpc.observers.state_error import ROUNDING, StateError

_CORNERS = 12  # up to so many outputs all corners of the residuals' box are evaluated


def innovation_radius(system: LureSystem, gain: Array, error: StateError, input_error: Array, residual: Array) -> float:
    """Bound on the jump |L (y - g(xhat, u))| in the metric of ``error``; see the module docstring.

    Args:
        system: Frozen model.
        gain: L, shape (nx, ny).
        error: Ball that contains x* - xhat.
        input_error: Bound on |true - recorded input|, shape (nu,).
        residual: Bound on |y - g(x*, u)|, shape (ny,).
    """
    R = np.asarray(np.linalg.cholesky(error.metric).T)  # |x|_S = |R x|
    G, rest = _innovation(system, R, error.radius, input_error, residual)
    linear = np.linalg.norm(np.linalg.solve(R.T, (R @ gain @ G).T), 2) * error.radius
    return float(linear + _farthest_corner(R @ gain, rest)) * ROUNDING


def largest_innovations(system: LureSystem, error: StateError, input_error: Array, residual: Array) -> Array:
    """Bound on the innovation |y - g(xhat, u)| per output, shape (ny,); arguments as of `innovation_radius`."""
    R = np.asarray(np.linalg.cholesky(error.metric).T)
    G, rest = _innovation(system, R, error.radius, input_error, residual)
    return np.asarray(np.linalg.norm(np.linalg.solve(R.T, G.T), axis=0) * error.radius + rest)


def _innovation(
    system: LureSystem, R: Array, radius: float, input_error: Array, residual: Array
) -> tuple[Array, Array]:
    """Matrix G (ny, nx) and a bound on |E + r|, shape (ny,), of the module docstring, for |R dx| <= radius."""
    # The slopes of all neurons lie in [m - h, m + h].
    low, high = system.activation.slope
    m, h, one = 0.5 * (low + high), 0.5 * (high - low), np.eye(system.nv)
    M = np.linalg.inv(one - m * system.D11)
    state_part = np.linalg.norm(np.linalg.solve(R.T, (M @ system.C1).T), axis=0) * radius
    dv = np.linalg.solve(one - h * np.abs(M @ system.D11), state_part + np.abs(M @ system.D12) @ input_error)
    through = np.abs(system.D22 + m * system.D21 @ M @ system.D12) @ input_error
    rest = through + np.abs(system.D21 + m * system.D21 @ M @ system.D11) @ (h * dv) + residual
    return system.C2 + m * system.D21 @ M @ system.C1, rest


def _farthest_corner(matrix: Array, size: Array) -> float:
    """Largest |matrix e|_2 over the box |e_j| <= size_j, or an upper bound where the box has too many corners."""
    # A convex function is largest at a corner; by symmetry one sign may be fixed.
    columns = matrix * size
    if columns.shape[1] > _CORNERS:
        return float(np.linalg.norm(columns, axis=0).sum())
    signs = np.array(list(itertools.product((1.0,), *[(-1.0, 1.0)] * (columns.shape[1] - 1))))
    return float(np.linalg.norm(signs @ columns.T, axis=1).max())
