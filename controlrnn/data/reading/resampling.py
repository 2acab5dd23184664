"""Resampling: outputs through an anti-alias filter, inputs by hold.

A windowed sinc of linear phase, applied without delay: it keeps what lies below the new Nyquist frequency and shows
none of what lies above it as something slower (Oppenheim & Schafer, "Discrete-Time Signal Processing", 3rd ed.,
section 4.6). An input keeps the value that it has at a sample; what it does between two samples is lost, and said.
"""

from __future__ import annotations

import logging

import numpy as np

from controlrnn.checks import Array

_log = logging.getLogger(__name__)
_HALF = 8  # half length of the filter in new samples


def resampled(t: Array, u: Array, y: Array, dt: float, typical: float, longest_hold: int) -> tuple[Array, Array]:
    """Inputs and outputs at the times t[0], t[0] + dt, ...; NaN where nothing is known.

    Args:
        t: Increasing stamps [s], shape (N,).
        u: Inputs, shape (N, nu).
        y: Outputs, shape (N, ny).
        dt: New sample time [s].
        typical: Typical interval of the stamps [s].
        longest_hold: Typical intervals for which an input keeps its value where none is logged.
    """
    fine = max(1, round(dt / typical))
    h = dt / fine
    n = int(np.floor((t[-1] - t[0]) / h + 1e-6)) + 1
    grid = t[0] + h * np.arange(n)
    before = np.clip(np.searchsorted(t, grid + 1e-6 * h, side="right") - 1, 0, len(t) - 1)
    stale = grid - t[before] > max(dt, (longest_hold + 1.5) * typical)
    held = np.where(stale[:, None], np.nan, u[before])[::fine]
    _say_lost_moves(u, t, dt)
    # Straight lines between readings that the new samples cannot tell apart; nothing is made up over longer gaps.
    fine_y = np.stack([_interpolated(t, column, grid, max(dt, 1.5 * typical)) for column in y.T], axis=1)
    filtered = fine_y if fine == 1 else np.stack([_filtered(c, fine) for c in fine_y.T], axis=1)
    return held, filtered[::fine]


def _interpolated(t: Array, values: Array, grid: Array, longest: float) -> Array:
    """Values of one channel on a grid by straight lines, NaN inside of intervals longer than ``longest`` [s]."""
    known = ~np.isnan(values)
    if known.sum() < 2:
        return np.full(len(grid), np.nan)
    s, v = t[known], values[known]
    found = np.interp(grid, s, v, left=np.nan, right=np.nan)
    after = np.clip(np.searchsorted(s, grid), 1, len(s) - 1)
    inside = (s[after] - s[after - 1] > longest * (1 + 1e-9)) & (grid > s[after - 1]) & (grid < s[after])
    return np.where(inside, np.nan, found)


def _filtered(values: Array, factor: int) -> Array:
    """One channel through the low-pass filter; NaN where the filter's support is not known, at the ends as well."""
    k = np.arange(-_HALF * factor, _HALF * factor + 1)
    kernel = np.sinc(0.8 * k / factor) * np.hamming(len(k))
    kernel /= kernel.sum()
    if len(values) < len(kernel):
        return np.full(len(values), np.nan)
    known = ~np.isnan(values)
    level = float(values[known].mean()) if known.any() else 0.0
    sums = np.convolve(np.where(known, values - level, 0.0), kernel, mode="same")
    weight = np.convolve(known.astype(np.float64), np.abs(kernel), mode="same") / np.abs(kernel).sum()
    return np.where(weight > 1 - 1e-9, sums + level, np.nan)


def _say_lost_moves(u: Array, t: Array, dt: float) -> None:
    """Log how often inputs move more than once between two new samples."""
    moves = np.flatnonzero((np.diff(u, axis=0) != 0).any(axis=1)) + 1
    at = np.floor((t[moves] - t[0]) / dt)
    lost = len(at) - len(np.unique(at))
    if lost > 0.01 * max(len(at), 1):
        _log.warning(
            "%d of %d moves of the inputs come before the next new sample and are lost: take a smaller dt",
            lost,
            len(at),
        )
