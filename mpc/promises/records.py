"""Checks and digests of the records that a bound is calibrated on."""

from __future__ import annotations

from collections.abc import Sequence

from controlrnn.data import Trajectory
from controlrnn.data.sampling import same_dt
from controlrnn.data.trajectory import Timing
from controlrnn.errors import DataError, ShapeError
from controlrnn.records import digest
from controlrnn.systems import LureSystem


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


def data_digest(records: Sequence[Trajectory]) -> str:
    """SHA-256 over inputs, outputs and sample times of the records."""
    arrays = {f"{i}.{name}": value for i, r in enumerate(records) for name, value in (("u", r.u), ("y", r.y))}
    return digest(arrays, {"dt": [r.dt for r in records]})
