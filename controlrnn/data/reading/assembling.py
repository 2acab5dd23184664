"""From a table to pieces of a record: columns, numbers, grid and cuts together."""

from __future__ import annotations

import logging
import os
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.checks import Array, positive
from controlrnn.data.reading.binary import read_hdf5, read_mat, read_parquet
from controlrnn.data.reading.frame import frame_table, is_frame
from controlrnn.data.reading.grid import Samples, cuts, on_grid
from controlrnn.data.reading.numbers import as_numbers
from controlrnn.data.reading.options import Reading
from controlrnn.data.reading.stamps import seconds
from controlrnn.data.reading.table import Table, chosen
from controlrnn.data.reading.text import read_text
from controlrnn.data.signal import Signal
from controlrnn.errors import DataError, FileFormatError, MissingDataError, SettingError
from controlrnn.records.writing import storage

_log = logging.getLogger(__name__)
_TEXT = (".csv", ".tsv", ".txt", ".dat", ".asc", ".gz", "")


@dataclass(frozen=True, eq=False)
class Pieces:
    """Pieces of one record: inputs and outputs of each, which have signals and sample time in common."""

    u: list[Array]
    y: list[Array]
    dt: float
    inputs: tuple[Signal, ...]
    outputs: tuple[Signal, ...]
    source: str


def pieces(
    source: Any,
    inputs: Sequence[str | Signal],
    outputs: Sequence[str | Signal],
    time: str | None,
    dt: float | None,
    options: Reading,
) -> Pieces:
    """Read a file or data frame and cut it where too much is missing.

    Args:
        source: Path or data frame.
        inputs: Columns or signals of the inputs.
        outputs: Likewise of the outputs.
        time: Column of the time stamps; None: rows are equidistant.
        dt: Sample time [s].
        options: Options of reading.
    """
    if dt is not None:
        dt = positive("dt", dt, what="a positive sample time in seconds")
    table = frame_table(source) if is_frame(source) else read_table(source, options)
    if time is None and dt is None:
        raise SettingError(
            f"{table.source}: say time= (a column of time stamps) or dt= (seconds between rows); it has {table.names()}"
        )
    if not outputs:
        raise SettingError(f"outputs must name at least one column of {table.source}, got none; it has {table.names()}")
    put, seen = chosen(table, inputs, "inputs"), chosen(table, outputs, "outputs")
    stamps = None if time is None else table.column(time)
    headers = [c.header for c in put[0] + seen[0]] + ([] if stamps is None else [stamps.header])
    if twice := sorted({h for h in headers if headers.count(h) > 1}):
        raise SettingError(f"a column may be input, output or time, got {', '.join(twice)} for two of them")
    rows = len(table.rows)
    u = np.stack([as_numbers(table, c, options.missing) for c in put[0]], axis=1) if put[0] else np.zeros((rows, 0))
    y = np.stack([as_numbers(table, c, options.missing) for c in seen[0]], axis=1)
    if stamps is None:
        assert dt is not None
        samples = Samples(u, y, dt)
    else:
        t, resolution = seconds(table, stamps, options)
        samples = on_grid(table, t, resolution, u, y, dt, options)
    held, stretches = cuts(samples, options)
    use = [s for s in stretches if s.stop - s.start >= 2]
    if not use:
        raise DataError(
            f"{table.source} has no two samples in a row with all inputs: {int(np.isnan(u).any(axis=1).sum())} of "
            f"{rows} "
            "rows miss one; raise longest_hold if inputs keep their value in between"
        )
    lost = len(samples.u) - sum(s.stop - s.start for s in use)
    if len(use) > 1 or lost:
        _log.warning("%s: %d pieces, %d of %d samples left out", table.source, len(use), lost, len(samples.u))
    return Pieces([held[s] for s in use], [samples.y[s] for s in use], samples.dt, put[1], seen[1], table.source)


def read_table(path: Any, options: Reading) -> Table:
    """Read a file of any known format, told by its content.

    Raises:
        MissingDataError: There is none.
        FileFormatError: It is of another format, or damaged.
    """
    if not isinstance(path, str | os.PathLike):
        raise SettingError(f"a path or a data frame is expected, got {type(path).__name__}")
    path = Path(path)
    with storage("read", path):
        if not path.is_file():
            raise MissingDataError(f"there is no file {path}" + (": it is a folder" if path.is_dir() else ""))
        with path.open("rb") as stream:
            start = stream.read(512)
    if not start:
        raise FileFormatError(f"{path} is empty: was it copied whole?")
    if start[:4] == b"PAR1":
        return read_parquet(path)
    if start[:8] == b"\x89HDF\r\n\x1a\n" or start[:19] == b"MATLAB 7.3 MAT-file":
        return read_hdf5(path)
    if start[:15] == b"MATLAB 5.0 MAT-" or path.suffix.lower() == ".mat":
        return read_mat(path)
    if start[:2] == b"PK" or start[:4] == b"\xd0\xcf\x11\xe0":
        raise FileFormatError(f"{path} is {_archive(path)}")
    if path.suffix.lower() in (".parquet", ".pq", ".h5", ".hdf5"):
        raise FileFormatError(
            f"{path} is not what its name says: damaged, or a pointer to a file that was not fetched?"
        )
    return read_text(path, options)


def _archive(path: Path) -> str:
    """Words for a file that is an archive or an old office document."""
    if path.suffix.lower() in (".npz", ".npy"):
        return (
            "an archive of numpy: load it, and pass its arrays to Trajectory; one that Trajectory.save wrote: "
            "Trajectory.load"
        )
    if path.suffix.lower() in (".xls", ".xlsx", ".xlsm", ".csv") or not zipfile.is_zipfile(path):
        return "a workbook of a spreadsheet program: save the sheet as CSV, or pass the frame of pandas.read_excel"
    return "an archive: unpack it first"
