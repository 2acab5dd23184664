"""Excitation: what the inputs of records can teach, by input, by direction and by frequency.

A direction in which the inputs never move together teaches nothing: whatever gain a fit finds along it comes from noise
or from where the fit began. `unmoved_directions` finds these; gains along them have to be zero or declared. An input is
persistently exciting of order n if the covariance of n successive samples is regular (Ljung, "System Identification",
2nd ed. 1999, definition 13.2): a model with n coefficients of that input can then be told from every other one.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data.scaling import Scaler
from controlrnn.data.trajectory import Trajectory
from controlrnn.errors import DataError

_log = logging.getLogger(__name__)

STILL = 1e-9
"""Movement, relative to the largest value, below which an input is taken never to move."""
TOGETHER = 1e-3
"""Movement along a direction, relative to that along the strongest one, below which inputs move together."""
_WIDE = 1e9  # times its size: the scale of an input that never moves
_ORDER = 40  # successive samples that the order of excitation is looked for in
_REGULAR = 1e-3  # smallest singular value of these samples, relative to the largest


def still_inputs(records: Sequence[Trajectory]) -> NDArray[np.bool_]:
    """Whether each input never moves in all of the records, shape (nu,).

    Args:
        records: Records of the same channels.
    """
    u = np.concatenate([r.u for r in records])
    return np.asarray(np.ptp(u, axis=0) <= STILL * np.maximum(np.abs(u).max(axis=0), np.finfo(np.float64).tiny))


def unmoved_directions(records: Sequence[Trajectory], scaler: Scaler | None = None) -> Array:
    """Orthonormal directions of the scaled inputs along which the records do not move, shape (nu, k).

    Args:
        records: Records of the same channels.
        scaler: Scaling of the inputs; fitted to the records when left out.
    """
    u = np.concatenate([r.u for r in records])
    still = still_inputs(records)
    scaled = (Scaler.fit([u]) if scaler is None else scaler).apply(u)
    scaled = np.where(still, 0.0, scaled - scaled.mean(axis=0))
    _, values, directions = np.linalg.svd(scaled, full_matrices=False)
    weak = values <= TOGETHER * max(float(values.max(initial=0.0)), np.finfo(np.float64).tiny)
    if len(values) < u.shape[1]:  # fewer samples than inputs
        return np.asarray(np.linalg.svd(scaled, full_matrices=True)[2][int((~weak).sum()) :].T)
    return np.asarray(directions[weak].T)


def moved_directions(records: Sequence[Trajectory], scaler: Scaler) -> Array:
    """Orthonormal directions of the scaled inputs along which the records move, shape (nu, r).

    Fits along these, and zero along all others, give no gain to what the data do not hold. Where every direction moves
    they are the inputs themselves.

    Args:
        records: Records of the same channels.
        scaler: Scaling of the inputs.

    Raises:
        DataError: The inputs never move.
    """
    missing, nu = unmoved_directions(records, scaler), records[0].nu
    if not missing.shape[1]:
        return np.eye(nu)
    if missing.shape[1] == nu:
        raise DataError("the inputs never move in these records and excite nothing: no gain is in the data; move them")
    names = [s.label for s, part in zip(records[0].inputs, np.abs(missing).max(axis=1), strict=True) if part > 0.1]
    _log.warning(
        "inputs %s never move, or move together: %d of %d directions get gain zero; see check_data",
        ", ".join(names),
        missing.shape[1],
        nu,
    )
    return np.asarray(np.linalg.svd(missing, full_matrices=True)[0][:, missing.shape[1] :])


def input_scaler(records: Sequence[Trajectory]) -> Scaler:
    """Scaler of the inputs for training: of an input that never moves, so wide that no model has a gain for it.

    Args:
        records: Records of the same channels.
    """
    fitted, still = Scaler.fit([r.u for r in records]), still_inputs(records)
    if not still.any():
        return fitted
    names = ", ".join(s.label for s, quiet in zip(records[0].inputs, still, strict=True) if quiet)
    _log.warning("inputs %s never move in the training records: the model has no gain for them", names)
    size = np.array([_size(s.lower, s.upper, c) for s, c in zip(records[0].inputs, fitted.shift, strict=True)])
    return Scaler(fitted.shift, np.where(still, _WIDE * size, fitted.scale))


def _size(lower: float, upper: float, value: float) -> float:
    """Size of an input: its range where it has one, else the value that it has; 1 where that is zero."""
    return upper - lower if np.isfinite([lower, upper]).all() else abs(value) or 1.0


def excitation_orders(records: Sequence[Trajectory]) -> NDArray[np.int64]:
    """Order to which each input is persistently exciting, up to 40, shape (nu,); 0 for one that never moves.

    Args:
        records: Records of the same channels.
    """
    nu, still = records[0].nu, still_inputs(records)
    mean = np.concatenate([r.u for r in records]).mean(axis=0)
    length = min(_ORDER, max(len(r) for r in records) // 3)
    orders = np.zeros(nu, dtype=np.int64)
    for j in range(nu):
        if still[j] or length < 1:
            continue
        rows = [
            np.lib.stride_tricks.sliding_window_view(r.u[:, j] - mean[j], length) for r in records if len(r) >= length
        ]
        n, total = sum(map(len, rows)), np.sum([z.sum(axis=0) for z in rows], axis=0)
        covariance = np.sum([z.T @ z for z in rows], axis=0) - np.outer(total, total) / n
        values = np.sqrt(np.maximum(np.linalg.eigvalsh(covariance), 0.0))
        orders[j] = int((values > _REGULAR * values.max()).sum())
    return orders


def power_shares(records: Sequence[Trajectory], edges: Array) -> Array:
    """Shares of the power of each input in the bands between frequencies [Hz], shape (bands, nu).

    Args:
        records: Records of the same channels and sample time.
        edges: Increasing frequencies that part the bands, shape (bands - 1,).
    """
    nu = records[0].nu
    total = np.zeros((len(edges) + 1, nu))
    mean = np.concatenate([r.u for r in records]).mean(axis=0)
    for r in records:
        power = np.abs(np.fft.rfft(r.u - mean, axis=0)) ** 2
        band = np.searchsorted(edges, np.fft.rfftfreq(len(r), r.dt))
        for b in range(len(total)):
            total[b] += power[band == b].sum(axis=0)
    whole = total.sum(axis=0)
    return np.asarray(total / np.where(whole > 0, whole, 1.0))
