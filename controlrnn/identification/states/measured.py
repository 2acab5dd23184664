"""Measured states of records, for plants whose whole state is measured."""

from __future__ import annotations

from collections.abc import Sequence

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import DataError


def measured_states(records: Sequence[Trajectory], nx: int) -> list[Array]:
    """Measured states (T, nx) of each record: its states ``x`` where it has them, else its outputs.

    Args:
        records: Records, physical units.
        nx: Number of states of the model.

    Raises:
        DataError: A record measures another number of states, or a reading is missing.
    """
    found = []
    for i, record in enumerate(records):
        states, kind = (record.y, "outputs and no x") if record.x is None else (record.x, "states x")
        if states.shape[1] != nx:
            raise DataError(
                f"initial_state='measured' needs all nx = {nx} states of the model in every record, got "
                f"{states.shape[1]} {kind} in record {i} ({record.name!r}): build the model with as many states as are "
                "measured, give Trajectory(x=...), or take initial_state='estimated'"
            )
        if record.x is None and not record.is_complete:
            raise DataError(
                f"initial_state='measured' needs complete readings, but record {i} ({record.name!r}) misses "
                f"{int(record.missing.sum())}: cut it there, or take initial_state='estimated'"
            )
        found.append(states)
    return found
