"""Checks and digests of the records that a bound is calibrated on."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.data.copies import shared_stretches
from controlrnn.data.sampling import same_dt
from controlrnn.data.trajectory import Timing
from controlrnn.errors import DataError, ShapeError
from controlrnn.records import digest
from controlrnn.systems import LureSystem

_log = logging.getLogger(__name__)


def fits_system(system: LureSystem, trajectory: Trajectory) -> None:
    """Raise ShapeError or DataError unless the record has the model's channels, sample time and timing convention."""
    if (trajectory.nu, trajectory.ny) != (system.nu, system.ny):
        raise ShapeError(
            f"record {trajectory.name!r} must have nu, ny = {system.nu}, {system.ny} as the model, "
            f"got {trajectory.nu}, {trajectory.ny}: is it the same plant?"
        )
    if not same_dt(trajectory.dt, system.dt):
        raise DataError(f"record {trajectory.name!r} must have the model's dt = {system.dt} s, got {trajectory.dt} s")
    if trajectory.timing is Timing.INPUT_FIRST:
        raise DataError(
            f"record {trajectory.name!r} must have timing 'measured_first' as a controller does, got "
            f"{str(trajectory.timing)!r}: convert it, see Trajectory.measured_first"
        )


def refuse_copies(records: Sequence[Trajectory], others: Sequence[Trajectory] = ()) -> None:
    """Raise DataError where two records share measurements: they would not be exchangeable with a new one.

    Args:
        records: Records that are counted.
        others: Records that serve another purpose; they may share measurements among themselves.
    """
    everything = (*records, *others)
    for shared in shared_stretches(everything):
        if shared.first < len(records):
            one, two = everything[shared.first], everything[shared.second]
            raise DataError(
                f"records {one.name!r} and {two.name!r} have {shared.samples} samples in common: a record may serve "
                "once; leave out copies, split the records anew, and cut one record into pieces that do not overlap"
            )


def sources_of(records: Sequence[Trajectory]) -> int:
    """Number of experiments that the records are from; pieces of one record count once, and are logged.

    Args:
        records: The records.
    """
    pieces = [r.part_of for r in records if r.part_of]
    sources = len(records) - len(pieces) + len(set(pieces))
    if sources < len(records):
        said = "%d records are pieces of %d: the probability holds for pieces like these, if they are exchangeable"
        _log.warning(said, len(records), sources)
    return sources


def data_digest(records: Sequence[Trajectory]) -> str:
    """SHA-256 over inputs, outputs and sample times of the records."""
    arrays = {f"{i}.{name}": value for i, r in enumerate(records) for name, value in (("u", r.u), ("y", r.y))}
    return digest(arrays, {"dt": [r.dt for r in records]})


def refuse_unmeasured(errors: Sequence[Array]) -> None:
    """Raise DataError where no record says anything of an output at some step: its bound would be zero, or a guess.

    Args:
        errors: Of each record, shape (starts, horizon + 1, ny), NaN where they are not known or do not count.
    """
    unknown = np.all([np.isnan(e).all(axis=0) for e in errors], axis=0)
    if unknown.any():
        k, i = (int(at) for at in np.argwhere(unknown)[0])
        raise DataError(
            f"output {i + 1} was never measured {k} steps after the start of a prediction that counts: take records "
            "that measure it there, or a model without it"
        )
