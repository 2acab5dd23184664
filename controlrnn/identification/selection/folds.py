"""Blocked cross-validation inside the estimation records: contiguous blocks are left out, never single samples.

Neighbouring samples of a record are alike, so samples drawn at random would judge a model by what it has seen. (Burman,
Chow, Nolan, "A cross-validatory method for dependent data", Biometrika 1994: leave out blocks.) The first block always
stays in: only there the start-up is seen. Of long records one block is enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import DataError
from controlrnn.identification.scores.free_run import free_run, initial_states
from controlrnn.systems import LureSystem

LONG = 10_000  # samples from which on one block judges as well as several
_BLOCKS = 5
_PIECE = 2000  # samples of a record that tell as much as a whole one


@dataclass(frozen=True, eq=False)
class Fold:
    """Records to fit, and those that were left out."""

    train: tuple[Trajectory, ...]
    validation: tuple[Trajectory, ...]


def folds(train: Sequence[Trajectory], validation: Sequence[Trajectory], skip: int) -> tuple[Fold, ...]:
    """Folds of all records but the test records; one where the records are long.

    Args:
        train: Training records.
        validation: Validation records; where the records are long they are what is left out.
        skip: Samples that scores leave out; shorter pieces are dropped.

    Raises:
        DataError: The records are too short to leave anything out.
    """
    pool = (*train, *validation)
    if sum(map(len, train)) >= LONG and validation:
        return (Fold(tuple(train), tuple(validation)),)
    total = sum(map(len, pool))
    cuts = np.linspace(0, total, _BLOCKS + 1).astype(int)
    blocks = list(pairwise(cuts))[1:] if total < LONG else [(int(cuts[-2]), total)]
    least = max(2 * skip, 30)
    found = [_left_out(pool, a, b, least) for a, b in blocks]
    kept = tuple(fold for fold in found if fold.train and fold.validation)
    if not kept:
        raise DataError(
            f"the records must be long enough to leave out a fifth of them in pieces of {least} samples, got "
            f"{[len(r) for r in pool]} samples: record more, or lower skip"
        )
    return kept


def shortened(records: Sequence[Trajectory], most: int, *, pieces: int = 20) -> tuple[Trajectory, ...]:
    """At most ``most`` samples of the records, in at most ``pieces`` of them, spread over all."""
    records = tuple(records)
    if len(records) > pieces:
        records = tuple(records[i] for i in np.linspace(0, len(records) - 1, pieces).round().astype(int))
    total = sum(map(len, records))
    if total <= most:
        return records
    if len(records) > 1 and most < total * (len(records) - 1) // len(records):
        # Whole records rather than the beginning of each: a start-up is no more typical than what follows. But of long
        # ones a part of each rather than few: levels and operating points differ from record to record.
        count = min(len(records), max(1, round(len(records) * most / total), most // _PIECE))
        records = tuple(records[i] for i in np.linspace(0, len(records) - 1, count).round().astype(int))
        total = sum(map(len, records))
    share = min(1.0, most / total)
    return tuple(r[: max(2, int(share * len(r)))] for r in records)


def output_scale(records: Sequence[Trajectory]) -> Array:
    """Standard deviation of every output (ny,), one where it never moves: the unit of errors over left-out blocks."""
    scale = np.nanstd(np.concatenate([r.y for r in records]), axis=0)
    return np.where(scale > 0, scale, 1.0)


def errors_of(system: LureSystem, records: Sequence[Trajectory], scale: Array, skip: int) -> Array:
    """Free-run errors in units of ``scale`` (ny,), after ``skip`` samples, of every output that is not missing (n,)."""
    with np.errstate(over="ignore", invalid="ignore"):
        runs, _ = free_run(system, records, initial_states(system, records, skip))
        errors = np.concatenate([((y - r.y) / scale)[skip:] for y, r in zip(runs, records, strict=True)])
    known = np.concatenate([~r.missing[skip:] for r in records])
    return np.asarray(errors[known])


def root_mean_square(errors: Array) -> float:
    """Root mean square of errors (n,); infinite if they come from a free run that diverges."""
    with np.errstate(over="ignore", invalid="ignore"):
        value = float(np.sqrt(np.mean(np.square(errors))))
    return value if np.isfinite(value) else np.inf


def error_of(system: LureSystem, records: Sequence[Trajectory], scale: Array, skip: int) -> float:
    """Root mean square of `errors_of`."""
    return root_mean_square(errors_of(system, records, scale, skip))


def pooled(errors: Sequence[float], every: Sequence[Fold], skip: int) -> float:
    """Root mean square of the errors of several folds, weighted by the samples that they are computed from."""
    weights = [sum(int((~r.missing[skip:]).sum()) for r in fold.validation) for fold in every]
    with np.errstate(over="ignore"):
        return float(np.sqrt(np.average(np.square(errors), weights=weights)))


def _left_out(pool: Sequence[Trajectory], a: int, b: int, least: int) -> Fold:
    """Leave out samples ``a`` to ``b`` of the records one after the other; pieces below ``least`` are dropped."""
    train: list[Trajectory] = []
    validation: list[Trajectory] = []
    offset = 0
    for record in pool:
        n = len(record)
        low, high = min(max(a - offset, 0), n), min(max(b - offset, 0), n)
        cuts = [(train, 0, low), (validation, low, high), (train, high, n)] if high > low or low else [(train, 0, n)]
        for part, start, stop in cuts:
            if stop - start >= least and _tells(record, start, stop, least // 2):
                part.append(record[start:stop])
        offset += n
    return Fold(tuple(train), tuple(validation))


def _tells(record: Trajectory, start: int, stop: int, skip: int) -> bool:
    """Whether a piece has a measured sample of every output beyond the first ``skip``."""
    return not bool(record.missing[start + skip : stop].all(axis=0).any())
