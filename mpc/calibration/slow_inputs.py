"""Errors where inputs have moved slowly for as long as a model remembers, and which predictions these are.

What a model does not know of its plant shows most just after large moves: fast modes, actuators, hysteresis. A
controller with a move limit makes none, so that errors after them say nothing about its operation. With
`Operation.move_limit` a bound is calibrated on those predictions alone before and during which every input kept the
limit, back to ``washout`` samples before their start. That is a group of samples that inputs decide, known before any
error is: Mondrian conformal prediction (Vovk, Gammerman & Shafer 2005, section 4.5), with the record as its unit. See
docs/theory/statistical_promise.md.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.portable import told_apart
from mpc.promises.premises import Premises
from mpc.promises.promise import Operation

_log = logging.getLogger(__name__)

SLACK = 1e-9  # of a limit, and a few units in the last place of inputs: a move of just the limit keeps it
LAST_PLACES = 8 * np.finfo(np.float64).eps


def slow(before: Array, after: Array, limit: Array) -> NDArray[np.bool_]:
    """Whether moves from one input to the next, rows (..., nu) each, keep a limit (nu,) in all channels.

    Args:
        before: Inputs.
        after: Inputs one sample later.
        limit: Largest |after - before|, infinite where any is slow.
    """
    room = limit * (1 + SLACK) + LAST_PLACES * np.maximum(np.abs(before), np.abs(after))
    return np.asarray((np.abs(after - before) <= room).all(axis=-1))


def slow_runs(u: Array, limit: Array) -> NDArray[np.intp]:
    """Number of inputs in a row, ending with the one before each sample, between which all moves were slow.

    Args:
        u: Inputs of a record, shape (T, nu).
        limit: As for `slow`.

    Returns:
        Shape (T + 1,): 0 at the first sample, before which nothing is known.
    """
    t = np.arange(len(u))
    broken = np.r_[True, ~slow(u[:-1], u[1:], limit)][: len(u)]  # a run begins with the input after a large move
    return np.asarray(np.r_[0, t - np.maximum.accumulate(np.where(broken, t, 0)) + 1], dtype=np.intp)


def slow_predictions(
    u: Array, limit: Array, *, window: int, first: int, starts: int, horizon: int
) -> NDArray[np.bool_]:
    """Which predictions had slow inputs from ``window`` samples before their start on, shape (starts, horizon + 1).

    Args:
        u: Inputs of the record, shape (T, nu).
        limit: As for `slow`.
        window: Inputs before the start that have to be slow.
        first: Sample of the first prediction.
        starts: Number of predictions.
        horizon: Their steps.
    """
    t, k = np.arange(first, first + starts)[:, None], np.arange(horizon + 1)[None]
    return np.asarray(slow_runs(u, limit)[t + k] >= window + k)


def becoming_slow(u: Array, limit: Array, window: int) -> NDArray[np.intp]:
    """Samples before which inputs have just been slow for the window, where an estimate of errors starts anew.

    Args:
        u: Inputs of a record, shape (T, nu).
        limit: As for `slow`.
        window: Inputs in a row that have to be slow.
    """
    kept = slow_runs(u, limit)[:-1] >= window
    return np.flatnonzero(kept[1:] & ~kept[:-1]) + 1


@dataclass(frozen=True, eq=False)
class Counted:
    """Records with a prediction that counts to its last step, and their errors: others are of another group.

    Args:
        records: The records.
        errors: Of each, shape (starts, horizon + 1, ny), NaN where they do not count.
        rows: Of each, which predictions count, shape (starts, horizon + 1).
    """

    records: tuple[Trajectory, ...]
    errors: list[Array]
    rows: list[NDArray[np.bool_]]

    def where_slow(self, operation: Operation) -> Counted:
        """Those that are left under a move limit.

        Args:
            operation: Gives the limit.

        Raises:
            DataError: There is none.
        """
        if operation.move_limit is None:
            return self
        # A prediction that counts to the last step counts at all steps before: so no step is without errors.
        kept = [i for i, e in enumerate(self.errors) if not np.isnan(e[:, -1]).all()]
        n = len(self.records)
        if not kept:
            raise DataError(
                f"in none of {n} records inputs keep move_limit {operation.move_limit} as long as washout and "
                "horizon: record with slower inputs, or give operation, and the controller, a larger limit"
            )
        if len(kept) < n:
            _log.info("inputs are slow for long enough in %d of %d records: these count", len(kept), n)
        return Counted(
            tuple(self.records[i] for i in kept), [self.errors[i] for i in kept], [self.rows[i] for i in kept]
        )

    @property
    def stretches(self) -> tuple[int, ...]:
        """Length of the longest stretch of predictions that count to their last step, of each record."""
        longest = []
        for rows in self.rows:
            ends = np.flatnonzero(np.diff(np.r_[False, rows[:, -1], False].astype(np.int8)))
            longest.append(int(np.max(ends[1::2] - ends[::2], initial=0)))
        return tuple(longest)

    def measured(self, operation: Operation) -> float:
        """Share of the outputs that were measured, of those that predictions that count are compared with, in [0, 1].

        Args:
            operation: Without a move limit all outputs of the records count.
        """
        if operation.move_limit is None:
            return 1.0 - float(np.mean(np.concatenate([r.missing for r in self.records])))
        found = []
        for record, rows in zip(self.records, self.rows, strict=True):
            first = len(record) + 1 - sum(rows.shape)
            reached = np.zeros(len(record), dtype=bool)
            for k in range(rows.shape[1]):
                reached[first + k : first + k + len(rows)] |= rows[:, k]
            found.append(record.missing[reached])
        return 1.0 - float(np.mean(np.concatenate(found)))


def slow_premises(premises: Premises, limit: Array | None, window: int) -> Premises:
    """Premises of the records, with the move limit of predictions that count.

    Args:
        premises: Of the records.
        limit: Shape (nu,); None where all predictions count.
        window: Inputs before a prediction that have to have kept it.
    """
    return premises if limit is None else premises.also(move_limit=limit, move_window=window)


def slow_differences(limit: Array, starts: int, operation: Operation, counted: Counted) -> list[str]:
    """Texts of how predictions of records differ from those that a bound is promised for.

    Args:
        limit: Move limit of the calibration, shape (nu,).
        starts: Predictions in a row that its promise is for.
        operation: That of the records.
        counted: The records.
    """
    if operation.move_limit is None:
        return ["predictions after any move, calibrated on those after slow ones"]
    for given, own in np.broadcast(operation.move_limit, limit):
        if given > own:
            found, calibrated = told_apart(float(given), float(own))
            return [f"predictions after moves of up to {found}, calibrated up to {calibrated}"]
    most = max(counted.stretches)
    return [f"{most} predictions in a row count, calibrated on {starts}"] if most > starts else []


def refuse_other_window(premises: Premises | None, washout: int) -> None:
    """Raise SettingError where the window of slow inputs is not the washout, which is what a model remembers.

    Args:
        premises: Of a model error.
        washout: Its washout.
    """
    if premises is not None and premises.move_window not in (None, washout):
        raise SettingError(
            f"move_window must be the washout of the calibration, {washout}, got {premises.move_window}: what a model "
            "remembers; calibrate anew"
        )


def slow_words(premises: Premises | None) -> str:
    """Text of which predictions count, empty where all do.

    Args:
        premises: Of a model error.
    """
    if premises is None or premises.move_window is None or premises.move_limit is None:
        return ""
    limits = ", ".join(f"{x:.4g}" for x in premises.move_limit)
    return (
        f"; only predictions count before and during which inputs moved by at most {limits} per sample, back to "
        f"{premises.move_window} samples before their start: this is a promise for trajectories with such predictions"
    )
