"""Estimation of the initial state of a record from its first samples: nonlinear least squares, Levenberg-Marquardt.

min over x0 of sum_{t < n} |y_t - yhat_t(x0)|^2, each output scaled by its spread. The Jacobian of a Lur'e system is
exact: S_{t+1} = F_t S_t, dy_t / dx0 = G_t S_t with the system linearised along the run, so that the units of the states
do not matter. Gated systems, whose states are of order one, take central differences. Records are solved side by side.
(Marquardt 1963, with his diagonal scaling.)
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array, as_array, count
from controlrnn.errors import DataError, SettingError
from controlrnn.kernels import simulate
from controlrnn.kernels.linearisation import Lineariser
from controlrnn.systems import GatedSystem, LureSystem
from controlrnn.typed import typed

_STEP = 1e-5  # central differences: truncation and rounding both stay below 1e-9 for states of order one
_UNSEEN = 1e-10  # effect of a state on the outputs, relative to that of the others, below which it is rounding


@typed(infinite=("y",))
def estimate_initial_state(
    system: LureSystem | GatedSystem, u: Array, y: Array, n: int, *, iterations: int = 30
) -> Array:
    """Estimate the state at sample 0 that fits the first ``n`` samples best.

    Args:
        system: A frozen system, physical units.
        u: Inputs, shape (T, nu), T >= n.
        y: Measured outputs, shape (T, ny); NaN where a sample is missing.
        n: Samples to use; at least nx / ny of them are needed for a unique answer.
        iterations: Largest number of steps.

    Returns:
        Shape (nx,). Unobservable directions stay at zero.

    Raises:
        DataError: The record is shorter than ``n``.
        SettingError: The system is not frozen, or ``n`` is not a positive number.
        ShapeError: ``u`` or ``y`` does not fit the system.
    """
    n = count("n", n)
    u, y = as_array("u", u, ("T", system.nu)), as_array("y", y, ("T", system.ny), finite=False)
    if np.isinf(y).any():
        raise DataError("y must be finite or NaN (missing), got infinite values: clean the data")
    if min(len(u), len(y)) < n:
        raise DataError(f"u and y must have at least n = {n} samples, got {len(u)} and {len(y)}: lower n")
    return np.asarray(estimate_initial_states(system, u[None, :n], y[None, :n], iterations=iterations)[0])


def estimate_initial_states(system: LureSystem | GatedSystem, u: Array, y: Array, *, iterations: int = 30) -> Array:
    """Estimate the initial states (R, nx) of R records u (R, n, nu), y (R, n, ny) at once; unchecked arrays."""
    if not system.is_frozen:
        raise SettingError("an initial state is estimated for a frozen system: pass model.freeze()")
    known = np.isnan(y).mean(axis=(0, 1)) < 1
    filled = np.where(known, y, 0.0)  # a channel without any number has no weight
    scale = np.nanstd(filled, axis=(0, 1))
    # A channel that never moves keeps weight 1.
    weight = 1.0 / np.where(scale > 1e-12 * np.maximum(1.0, np.nanmax(np.abs(filled), axis=(0, 1))), scale, 1.0)
    R, nx = len(u), system.nx
    x, damping = np.zeros((R, nx)), np.full(R, 1e-3)
    with np.errstate(over="ignore", invalid="ignore"):  # an unstable system may overflow on a trial step
        return _descend(system, u, y, x, weight, damping, iterations)


def _descend(
    system: LureSystem | GatedSystem, u: Array, y: Array, x: Array, weight: Array, damping: Array, iterations: int
) -> Array:
    """Iterate from the states ``x`` (R, nx), with a damping (R,) for each record; changes ``x`` and returns it."""
    nx = system.nx
    error, jacobian = _measured(system, u, y, x, weight)
    cost = np.square(error).sum(axis=1)
    for _ in range(iterations):
        # The normal equations of all records at once, (R, nx, nx) and (R, nx, 1).
        normal, slope = jacobian.transpose(0, 2, 1) @ jacobian, jacobian.transpose(0, 2, 1) @ error[..., None]
        # In units in which every state has the same effect; one without any keeps its own and stays at rest.
        size = np.sqrt(np.einsum("rii->ri", normal))
        size = np.maximum(size, _UNSEEN * size.max(axis=1, keepdims=True))
        size = np.where(size > 0, size, 1.0)
        damped = normal / (size[:, :, None] * size[:, None]) + (damping[:, None, None] + 1e-12) * np.eye(nx)
        trial = x - np.linalg.solve(damped, slope / size[..., None])[..., 0] / size
        trial_error, trial_jacobian = _measured(system, u, y, trial, weight)
        trial_cost = np.square(trial_error).sum(axis=1)
        better = trial_cost < cost  # False as well where the trial overflowed
        gain = np.where(better, (cost - trial_cost) / np.maximum(cost, 1e-300), 0.0)
        x[better], cost[better] = trial[better], trial_cost[better]
        error[better], jacobian[better] = trial_error[better], trial_jacobian[better]
        damping = np.clip(np.where(better, damping / 5, damping * 4), 1e-12, 1e8)
        if np.all(np.where(better, gain < 1e-10, damping > 1e6) | (cost < 1e-24)):
            break
    return x


def _measured(system: LureSystem | GatedSystem, u: Array, y: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """Residuals and Jacobian of `_linearise`, zero where nothing was measured."""
    missing = np.isnan(y)
    if not missing.any():
        return _linearise(system, u, y, x, weight)
    error, jacobian = _linearise(system, u, np.where(missing, 0.0, y), x, weight)
    rows = missing.reshape(len(y), -1)
    return np.where(rows, 0.0, error), np.where(rows[:, :, None], 0.0, jacobian)


def _linearise(system: LureSystem | GatedSystem, u: Array, y: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted residuals (R, n ny) and their Jacobian with respect to the initial state (R, n ny, nx)."""
    R, nx = x.shape
    if isinstance(system, LureSystem):
        return _exactly(system, u, y, x, weight)
    width = _STEP * np.maximum(1.0, np.abs(x))
    moves = width[:, None, :] * np.eye(nx)
    starts = np.concatenate([x[:, None], x[:, None] + moves, x[:, None] - moves], axis=1)  # (R, 1 + 2 nx, nx)
    copies = 1 + 2 * nx
    run, _ = simulate(system, np.repeat(u, copies, axis=0), starts.reshape(-1, nx))
    run = run.reshape(R, copies, -1, system.ny) * weight
    error = run[:, 0] - y * weight
    slope = (run[:, 1 : 1 + nx] - run[:, 1 + nx :]) / (2 * width[:, :, None, None])
    jacobian = slope.reshape(R, nx, -1).transpose(0, 2, 1)
    return error.reshape(R, -1), np.nan_to_num(np.ascontiguousarray(jacobian), posinf=0.0, neginf=0.0)


def _exactly(system: LureSystem, u: Array, y: Array, x: Array, weight: Array) -> tuple[Array, Array]:
    """Weighted residuals and their exact Jacobian, as `_linearise`."""
    (R, nx), T = x.shape, u.shape[1]
    run, states = simulate(system, u, x)
    w = system._neurons(states[:, :-1], u @ system.D12.T + system.bv)
    at = Lineariser(system).at(w.reshape(R * T, -1))
    F, G = at.A.reshape(R, T, nx, nx), at.C.reshape(R, T, system.ny, nx)
    S, jacobian = np.broadcast_to(np.eye(nx), (R, nx, nx)), np.empty((R, T, system.ny, nx))
    for t in range(T):
        jacobian[:, t] = weight[:, None] * (G[:, t] @ S)
        S = F[:, t] @ S
    error = ((run - y) * weight).reshape(R, -1)
    return error, np.nan_to_num(jacobian.reshape(R, -1, nx), posinf=0.0, neginf=0.0)
