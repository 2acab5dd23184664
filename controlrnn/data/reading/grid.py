"""Rows with time stamps to samples on one grid: order, doubled stamps, jitter, gaps, resampling, and where to cut.

The rule for the sample time: the median interval counts the samples between two rows; the slope of the stamps over
these counts is the sample time (`controlrnn.data.sampling.sample_time`), and every stamp has to lie near its place on
the grid.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data.reading.options import Doubled, Reading
from controlrnn.data.reading.resampling import resampled
from controlrnn.data.reading.table import Table
from controlrnn.data.sampling import same_dt, sample_time
from controlrnn.errors import DataError

_log = logging.getLogger(__name__)
_MOST_GAPS = 0.05  # share of the intervals that may be longer than one sample, before there is no one sample time
_HOUR = 3600.0
_MOST_SAMPLES = 50_000_000


@dataclass(frozen=True, eq=False)
class Samples:
    """Inputs (T, nu) and outputs (T, ny) on a grid of sample time ``dt`` [s]; NaN where they are missing."""

    u: Array
    y: Array
    dt: float


def on_grid(
    table: Table, t: Array, resolution: float, u: Array, y: Array, dt: float | None, options: Reading
) -> Samples:
    """Samples on a grid from rows with stamps ``t`` [s].

    Args:
        table: For messages: the rows.
        t: Stamps, shape (N,).
        resolution: Smallest difference that the stamps can hold [s].
        u: Inputs, shape (N, nu).
        y: Outputs, shape (N, ny).
        dt: Wanted sample time [s]; that of the stamps when left out.
        options: Options of reading.

    Raises:
        DataError: Stamps run backwards, are doubled, or lie on no grid, and the options do not say what to do.
    """
    if len(t) < 3:
        raise DataError(f"{table.source} has {len(t)} rows: at least 3 are needed to find a sample time")
    rows, t, u, y = _increasing(table, t, u, y, options)
    steps = np.diff(t)
    typical = float(np.median(steps))
    counts = np.maximum(np.rint(steps / typical), 1.0)
    n = np.concatenate([[0.0], np.cumsum(counts)])
    found = sample_time(t, n, resolution)
    off = t - found * n
    off = np.abs(off - np.median(off)) / found
    regular = off.max() <= options.jitter and np.mean(counts > 1) <= _MOST_GAPS
    if regular and (dt is None or same_dt(found, dt)):
        _say_faults(table, rows, t, counts, off, found)
        _few_enough(n[-1], table)
        at = n.astype(np.int64)
        all_u, all_y = (np.full((at[-1] + 1, z.shape[1]), np.nan) for z in (u, y))
        all_u[at], all_y[at] = u, y
        return Samples(all_u, all_y, found if dt is None else dt)
    if not options.resample or dt is None:
        _refuse_grid(table, rows, t, dt, found, off, counts, options.jitter)
    assert dt is not None
    if dt < typical * (1 - options.jitter):
        raise DataError(
            f"dt = {dt:g} s is less than the typical interval of {typical:g} s in {table.source}: samples cannot be "
            "made "
            "up; take a larger dt"
        )
    _few_enough((t[-1] - t[0]) / min(dt, typical), table)
    return Samples(*resampled(t, u, y, dt, typical, options.longest_hold), dt)


def _increasing(
    table: Table, t: Array, u: Array, y: Array, options: Reading
) -> tuple[NDArray[np.intp], Array, Array, Array]:
    """Rows of strictly increasing stamps: their numbers, stamps, inputs, outputs."""
    rows = np.arange(len(t))
    back = np.diff(t) < 0
    if back.any():
        if not options.sort:
            _refuse_reversed(table, t, back)
        rows = np.argsort(t, kind="stable")
        _log.warning("%s: rows are put into the order of their stamps", table.source)
        t, u, y = t[rows], u[rows], y[rows]
    again = np.diff(t) == 0
    if not again.any():
        return rows, t, u, y
    if options.doubled is Doubled.REFUSE:
        second = rows[1:][again]
        same = all(np.array_equal(z[1:][again], z[:-1][again], equal_nan=True) for z in (u, y))
        what = "rows are written twice" if same else "rows of one stamp differ"
        raise DataError(
            f"{table.source} has {int(again.sum())} doubled time stamps, at {table.at(second)}; {what}: say "
            "doubled='first', 'last' or 'mean'; if the clock is too coarse, leave time out and say dt"
        )
    starts = np.flatnonzero(np.concatenate([[True], ~again]))
    ends = np.concatenate([starts[1:], [len(t)]]) - 1
    _log.warning("%s: %d doubled stamps, the %s counts", table.source, int(again.sum()), options.doubled)
    if options.doubled is Doubled.FIRST:
        return rows[starts], t[starts], u[starts], y[starts]
    if options.doubled is Doubled.MEAN:
        known = np.add.reduceat(~np.isnan(y), starts, axis=0)
        sums = np.add.reduceat(np.nan_to_num(y), starts, axis=0)
        y = np.where(known > 0, sums / np.maximum(known, 1), np.nan)
        return rows[ends], t[ends], u[ends], y
    return rows[ends], t[ends], u[ends], y[ends]


def _refuse_reversed(table: Table, t: Array, back: NDArray[np.bool_]) -> None:
    """Raise the error of stamps that run backwards."""
    first = int(np.flatnonzero(back)[0])
    by = float(t[first] - t[first + 1])
    advice = "say sort=True if rows are only out of order; if the clock was reset or files were joined, cut them there"
    if abs(by - _HOUR) < 0.2 * _HOUR:
        advice = "by about an hour: were clocks put back? Say zone='Europe/Berlin' or where it was, or log in UTC"
    elif abs(by - 24 * _HOUR) < 0.2 * _HOUR:
        advice = "by about a day: times of day pass midnight; write the date with them"
    elif np.all(np.diff(t) < 0):
        advice = "all rows do, so the newest comes first: say sort=True"
    raise DataError(
        f"{table.source} has {int(back.sum())} time stamps that run backwards, by {by:g} s at "
        f"{table.at([first + 1])}: {advice}"
    )


def _say_faults(table: Table, rows: NDArray[np.intp], t: Array, counts: Array, off: Array, dt: float) -> None:
    """Log jitter and gaps, with their size and place."""
    if off.max() > 0.02:
        _log.warning("%s: stamps jitter by up to %.1f %% of dt = %g s", table.source, 100 * off.max(), dt)
    gaps = np.flatnonzero(counts > 1)
    if len(gaps):
        long = int(gaps[np.argmax(counts[gaps])])
        _log.warning(
            "%s: %d gaps, %d samples missing; the longest, %d samples, after %s (%g s)",
            table.source,
            len(gaps),
            int((counts - 1).sum()),
            int(counts[long]) - 1,
            table.at([rows[long]]),
            t[long],
        )


def _few_enough(samples: float, table: Table) -> None:
    """Refuse a grid that a stamp far away would make endless."""
    if samples > _MOST_SAMPLES:
        raise DataError(f"{table.source} would have {samples:.3g} samples: is a stamp wrong by years?")


def _refuse_grid(
    table: Table,
    rows: NDArray[np.intp],
    t: Array,
    dt: float | None,
    found: float,
    off: Array,
    counts: Array,
    most: float,
) -> None:
    """Raise the error of stamps without the one sample time that is wanted."""
    steps = np.diff(t)
    if off.max() <= most and np.mean(counts > 1) <= _MOST_GAPS:
        raise DataError(
            f"{table.source} is sampled every {found:.6g} s, got dt = {dt:.6g} s: leave dt out, or say resample=True"
        )
    worst = int(np.argmax(off))
    said = f"intervals from {steps.min():.4g} to {steps.max():.4g} s with median {np.median(steps):.4g} s"
    if np.mean(counts > 1) <= _MOST_GAPS:
        said += f", and {table.at([rows[worst]])} lies {100 * off[worst]:.0f} % of a sample off the grid"
    raise DataError(
        f"{table.source} has no one sample time: {said}. Say dt= and resample=True to bring it to one, or jitter= if "
        "the "
        "clock of the logger is at fault; without time= and with dt= rows are taken as equidistant"
    )


def cuts(samples: Samples, options: Reading) -> tuple[Array, list[slice]]:
    """Inputs held over short gaps, and the stretches in between what is missing for too long.

    Args:
        samples: Samples on a grid.
        options: ``longest_hold`` and ``longest_gap``.
    """
    u = _held(samples.u, options.longest_hold)
    silent = np.asarray(np.isnan(samples.y).all(axis=1))
    starts, ends = _runs(silent)
    long = [slice(a, b) for a, b in zip(starts, ends, strict=True) if b - a > options.longest_gap]
    use = np.asarray(~np.isnan(u).any(axis=1))
    for gap in long:
        use[gap] = False
    pieces = []
    for a, b in zip(*_runs(use), strict=True):
        known = np.flatnonzero(~silent[a:b])  # from the first to the last output
        if len(known):
            pieces.append(slice(int(a + known[0]), int(a + known[-1] + 1)))
    return u, pieces


def _held(u: Array, longest: int) -> Array:
    """Inputs with gaps of up to ``longest`` samples filled by their last value."""
    if not longest or not np.isnan(u).any():
        return u
    held = u.copy()
    for j in range(held.shape[1]):
        for a, b in zip(*_runs(np.isnan(held[:, j])), strict=True):
            if a > 0 and b - a <= longest:
                held[a:b, j] = held[a - 1, j]
    return held


def _runs(mask: NDArray[Any]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Starts and ends of the stretches where a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return edges[::2], edges[1::2]
