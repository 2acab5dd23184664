"""Records from files and data frames of measurements."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from controlrnn.data.reading.assembling import pieces
from controlrnn.data.reading.options import Reading
from controlrnn.data.signal import Signal
from controlrnn.data.trajectory import Timing, Trajectory
from controlrnn.records import digest
from controlrnn.typed import typed


@typed(unchecked=("path",))
def read_records(
    path: str | os.PathLike[str] | Any,
    *,
    inputs: Sequence[str | Signal],
    outputs: Sequence[str | Signal],
    time: str | None = None,
    dt: float | None = None,
    timing: Timing = Timing.MEASURED_FIRST,
    name: str = "",
    reading: Reading | None = None,
) -> tuple[Trajectory, ...]:
    """Read the records of a file of measurements: one, or more where too much is missing in between.

    The format is told by the content: text with columns (CSV), Parquet, MATLAB (v4 to v7.3), HDF5, or a data frame.
    Units stand in the header, ``level [m]``, or in the row below it. Doubled and reversed stamps, jitter, gaps and
    placeholders of missing samples are found and named; nothing is repaired that `Reading` does not say.

    Args:
        path: File, or data frame of pandas or polars.
        inputs: Columns of the inputs, as names or as signals of these names; may be empty.
        outputs: Columns of the outputs, likewise.
        time: Column of time stamps: seconds, another unit by the header or `Reading`, or dates. Without it rows are
            equidistant.
        dt: Sample time [s]: needed without ``time``; with it, the one that the stamps have to have, or that the record
            is resampled to.
        timing: Whether a sample begins with its measurement or with its input.
        name: Origin of the records; that of the file when left out.
        reading: Options.

    Returns:
        Records in the order of time. An output that is missing at a sample is NaN; inputs are complete.

    Raises:
        MissingDataError: There is no such file.
        FileFormatError: It is of no known format, or damaged.
        DataError: Columns, stamps or values are not what they have to be; the message names rows and remedy.
        SettingError: An argument contradicts another one, or a package is missing.
    """
    found = pieces(path, inputs, outputs, time, dt, reading or Reading())
    title = name or os.path.basename(found.source)
    many = len(found.u) > 1
    whole = digest({f"{i}.{n}": a for n, one in (("u", found.u), ("y", found.y)) for i, a in enumerate(one)}, {})
    return tuple(
        Trajectory(
            u,
            y,
            found.dt,
            inputs=found.inputs,
            outputs=found.outputs,
            timing=timing,
            name=f"{title}, part {i + 1}" if many else title,
            part_of=whole if many else "",
        )
        for i, (u, y) in enumerate(zip(found.u, found.y, strict=True))
    )
