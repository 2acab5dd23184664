"""Faults of readings that show without a model: constant, copied, coarse, clipped, stuck."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from controlrnn.checks import Array
from controlrnn.data.checking.findings import Finding, Level
from controlrnn.data.trajectory import Trajectory

_COARSE = (0.05, 0.3)  # step of a reading over its spread: worth a note, worth a warning
_CLIPPED = 0.01  # share of the samples at the largest or smallest value
_STUCK = 20  # equal readings in a row
_SAME = 1e-6  # 1 - |correlation| of two outputs that are one


def reading_faults(records: Sequence[Trajectory]) -> Iterator[Finding]:
    """Findings on each output of the records.

    Args:
        records: Records of the same channels.
    """
    y = np.concatenate([r.y for r in records])
    for i, signal in enumerate(records[0].outputs):
        known = y[~np.isnan(y[:, i]), i]
        spread, name = float(known.std()), signal.label
        missing = 1.0 - len(known) / len(y)
        if missing > 0:
            level = Level.WARNING if missing > 0.3 else Level.NOTE
            yield Finding(level, f"output {name}", f"{100 * missing:.2g} % of the samples are missing", "")
        if spread <= 1e-12 * np.abs(known).max(initial=0.0) or len(known) < 3:
            yield Finding(
                Level.FAULT, f"output {name}", f"never moves from {known[0]:g}", "leave it out, or mend the sensor"
            )
            continue
        yield from _coarse(name, known, spread)
        yield from _clipped(name, known)
        yield from _stuck(records, i, name)
    yield from _copied(records, y)


def quantum(values: Array) -> float:
    """Step of which all values are multiples apart; 0 where there is none that is coarser than rounding.

    Args:
        values: Readings of one sensor, shape (N,).
    """
    levels = np.unique(values)
    if len(levels) < 3 or len(levels) > 0.5 * len(values):
        return 0.0
    steps = np.diff(levels)
    step = float(steps[steps > 1e-9 * np.abs(levels).max()].min(initial=np.inf))
    if not np.isfinite(step):
        return 0.0
    ratio = (levels - levels[0]) / step
    return step if np.abs(ratio - np.rint(ratio)).max() < 0.02 else 0.0


def _coarse(name: str, known: Array, spread: float) -> Iterator[Finding]:
    step = quantum(known)
    if step > _COARSE[0] * spread:
        level = Level.WARNING if step > _COARSE[1] * spread else Level.NOTE
        yield Finding(
            level,
            f"output {name}",
            f"reads in steps of {step:.3g}, {100 * step / spread:.0f} % of its spread",
            f"no model is better than {step / 12**0.5:.2g} rms; take a finer range of the converter",
        )


def _clipped(name: str, known: Array) -> Iterator[Finding]:
    levels, counts = np.unique(known, return_counts=True)
    if len(levels) < 4:
        return
    for side, at, next_to in (("largest", -1, -2), ("smallest", 0, 1)):
        often = int(counts[at])
        if often > max(_CLIPPED * len(known), 3 * counts[next_to], 5) and _runs(known == levels[at]).max() >= 3:
            yield Finding(
                Level.WARNING,
                f"output {name}",
                f"is at its {side} value {levels[at]:g} in {often} samples: clipped",
                "set these samples to NaN: they are missing, and would be learnt as a bend of the plant",
            )


def _stuck(records: Sequence[Trajectory], i: int, name: str) -> Iterator[Finding]:
    for r in records:
        column = r.y[:, i]
        same = np.concatenate([[False], np.diff(column) == 0])
        inside = (column > np.nanmin(column)) & (column < np.nanmax(column))  # at its ends it is clipped
        lengths = _runs(same)
        longest = int(lengths.max(initial=0)) + 1
        usual = float(np.quantile(lengths, 0.9)) + 1 if len(lengths) > 1 else 1.0
        if longest < max(_STUCK, 5 * usual):
            continue
        end = int(_ends(same)[np.argmax(lengths)])
        stretch = slice(end - longest + 1, end + 1)
        moved = np.ptp(r.u[stretch], axis=0).max(initial=0.0) > 0
        if moved and inside[stretch].all():
            yield Finding(
                Level.WARNING,
                f"output {name}",
                f"stays at {column[end]:g} for {longest} samples of record {r.name!r} while inputs move: stuck",
                "set these samples to NaN if the sensor hung",
            )
            return


def _copied(records: Sequence[Trajectory], y: Array) -> Iterator[Finding]:
    known = y[~np.isnan(y).any(axis=1)]
    moving = [i for i in range(y.shape[1]) if len(known) > 2 and known[:, i].std() > 0]
    for a, i in enumerate(moving):
        for j in moving[a + 1 :]:
            if 1 - abs(float(np.corrcoef(known[:, i], known[:, j])[0, 1])) < _SAME:
                one, two = (records[0].outputs[k].label for k in (i, j))
                yield Finding(
                    Level.WARNING,
                    f"outputs {one} and {two}",
                    "are one signal, but for scale and offset",
                    "leave one of them out, or compute it from the other",
                )


def _runs(mask: Array) -> Array:
    """Lengths of the stretches where a mask is true."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))
    return np.asarray(edges[1::2] - edges[::2])


def _ends(mask: Array) -> Array:
    """Last samples of these stretches."""
    return np.asarray(np.flatnonzero(np.diff(np.concatenate([[False], mask, [False]]).astype(np.int8)))[1::2] - 1)
