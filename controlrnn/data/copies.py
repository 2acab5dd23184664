"""Copies: stretches of measurements that two records have in common.

A record that is loaded twice, or windows of one record that overlap, look like independent evidence and are none: what
is chosen on one of them is scored on the same samples, and a bound that is calibrated on them promises what one record
cannot. Two records share a stretch if they agree bit by bit in inputs and outputs over `LEAST` samples in a row in
which they move; a plant at rest, or one whose noise-free simulations start alike, is no copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data.trajectory import Trajectory

LEAST = 20
"""Samples in a row that make a copy; all samples of a record that is shorter."""
_MOVES = 0.5  # share of these samples that have to be different from each other
_SOME, _MANY = 12, 24  # bits in the moves of the inputs that chance does not repeat, over most of a record, and a part
_TURNS = 0.5  # share of the samples in which noisy readings turn; for white noise two in three
_ODD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class Shared:
    """Stretch that two records have in common.

    Args:
        first: Number of the first record.
        second: Number of the second one.
        samples: Number of samples that they share, at least.
    """

    first: int
    second: int
    samples: int


def shared_stretches(records: Sequence[Trajectory]) -> tuple[Shared, ...]:
    """Find all pairs of records that have a stretch of measurements in common, by the hashes of short windows.

    Args:
        records: Records of the same channels.
    """
    if len(records) < 2:
        return ()
    length = min(LEAST, *(len(r) for r in records))
    found = [_windows(_hashes(np.concatenate([r.u, r.y], axis=1)), length) for r in records]
    marks, start = (np.concatenate([f[k] for f in found]) for k in (0, 1))
    owner = np.concatenate([np.full(len(f[0]), i) for i, f in enumerate(found)])
    order = np.lexsort((owner, marks))
    marks, start, owner = marks[order], start[order], owner[order]
    # Windows of one hash stand in a row, so that neighbours of different records are what two records share.
    same = np.flatnonzero((marks[1:] == marks[:-1]) & (owner[1:] != owner[:-1]))
    pairs: dict[tuple[int, int], int] = {}
    seen: set[tuple[int, int, int]] = set()
    for k in same.tolist():
        i, j, at = int(owner[k]), int(owner[k + 1]), int(start[k])
        offset = int(start[k + 1]) - at
        if (i, j, offset) not in seen and (i, j) not in pairs:
            seen.add((i, j, offset))
            if n := _longest_copy(records[i], records[j], offset, length):
                pairs[i, j] = n
    return tuple(Shared(i, j, n) for (i, j), n in sorted(pairs.items()))


def _longest_copy(one: Trajectory, two: Trajectory, offset: int, least: int) -> int:
    """Samples of the longest stretch that is a copy, with two.u[t + offset] = one.u[t]; 0 where none is."""
    a = max(0, -offset)
    n = min(len(one) - a, len(two) - a - offset)
    u, y = one.u[a : a + n], one.y[a : a + n]
    v, z = two.u[a + offset : a + offset + n], two.y[a + offset : a + offset + n]
    equal = (u == v).all(axis=1) & ((y == z) | (np.isnan(y) & np.isnan(z))).all(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], equal, [False]]).astype(np.int8)))
    found = 0
    for first, last in zip(edges[::2], edges[1::2], strict=True):
        if last - first >= max(least, found + 1) and _tells(u[first:last], y[first:last], min(len(one), len(two))):
            found = int(last - first)
    return found


def _tells(u: Array, y: Array, shorter: int) -> bool:
    """Whether a stretch that two records have in common is more than two noise-free runs that happen to meet.

    It is where it is all of the shorter record, where inputs move too often for chance, or where readings are noisy
    over twice as many samples.
    """
    if len(np.unique(np.concatenate([u, y], axis=1), axis=0)) < _MOVES * len(u):
        return False
    # Each move goes to one of the levels that the inputs take.
    bits = int((np.diff(u, axis=0) != 0).any(axis=1).sum()) * np.log2(max(len(np.unique(u, axis=0)), 2))
    if len(u) == shorter or bits >= _MANY or (4 * len(u) >= 3 * shorter and bits >= _SOME):
        return True
    turns = np.diff(y, axis=0)[1:] * np.diff(y, axis=0)[:-1] < 0
    return len(u) >= 2 * LEAST and bool(turns.mean(axis=0).max(initial=0.0) > _TURNS)


def _hashes(rows: Array) -> NDArray[np.uint64]:
    """One number for each row (T, n): equal rows have equal ones."""
    bits = np.where(np.isnan(rows), np.nan, rows + 0.0).view(np.uint64)  # one NaN of many, one zero of two
    total = np.zeros(len(rows), dtype=np.uint64)
    for column in bits.T:
        total = _mixed(total + column + _ODD)
    return total


def _windows(rows: NDArray[np.uint64], length: int) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Hashes of all windows in which the rows move, and where these start."""
    moves = np.concatenate([[0], np.cumsum(rows[1:] != rows[:-1])])
    total = np.zeros(len(rows) - length + 1, dtype=np.uint64)
    for k in range(length):
        total = total * _ODD + rows[k : k + len(total)]
    start = np.flatnonzero(moves[length - 1 :] - moves[: len(total)] >= _MOVES * length - 1)
    return _mixed(total)[start], start


def _mixed(z: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Finaliser of SplitMix64 (Steele, Lea, Flood 2014): a bijection that spreads every bit over all."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
