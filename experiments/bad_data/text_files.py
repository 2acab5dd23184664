"""Text files: encodings, separators, decimal marks, headers, cells."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.data import Reading, Signal, Trajectory, read_records
from experiments.bad_data.case import DT, TIME, Case, refused, right, signals, warned

U, Y = signals()
Rows = Sequence[Sequence[str]]


def rows(t: Sequence[Any] = tuple(TIME), u: Any = U, y: Any = Y, digits: int = 6) -> list[list[str]]:
    """Cells of all samples."""
    return [
        [a if isinstance(a, str) else f"{a:.3f}", f"{b:.{digits}f}", "" if np.isnan(c) else f"{c:.{digits}f}"]
        for a, b, c in zip(t, u, y, strict=True)
    ]


def text(head: Sequence[str] = ("time [s]", "pump [V]", "level [m]"), body: Rows | None = None, sep: str = ",") -> str:
    """A file of columns."""
    return "\n".join(sep.join(r) for r in [list(head), *(rows() if body is None else body)]) + "\n"


def read(content: str | bytes, name: str = "log.csv", **options: Any) -> Callable[[Path], tuple[Trajectory, ...]]:
    """Function that writes a file and reads it."""

    def run(folder: Path) -> tuple[Trajectory, ...]:
        path = folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        names: dict[str, Any] = {"inputs": ["pump"], "outputs": ["level"], "time": "time"}
        return read_records(path, **(names | options))

    return run


def whole(records: tuple[Trajectory, ...]) -> bool:
    """Whether the record is the one that was written, to the digits of the file."""
    (r,) = records
    return r.dt == DT and np.allclose(r.u[:, 0], U, atol=1e-6) and np.allclose(r.y[:, 0], Y, atol=1e-6)


def with_units(records: tuple[Trajectory, ...]) -> bool:
    """Whether also the units were understood."""
    return whole(records) and records[0].inputs[0].label == "pump [V]" and records[0].outputs[0].label == "level [m]"


def comma(body: Rows) -> list[list[str]]:
    """Cells with decimal commas."""
    return [[c.replace(".", ",") for c in r] for r in body]


def with_cell(i: int, cell: str, column: int = 2) -> list[list[str]]:
    """Cells of which one is another."""
    body = rows()
    body[i][column] = cell
    return body


ANSI = text(("time [s]", "pump [°C]", "level [m]")).encode("cp1252")
GERMAN = text(("Zeit", "Pumpe", "Füllstand"), comma(rows()), ";")
NAMES: dict[str, Any] = {"inputs": ["Pumpe"], "outputs": ["Füllstand"], "time": "Zeit"}

CASES: list[Case] = [
    right("decimal commas, semicolons (German CSV)", read(GERMAN, **NAMES), whole),
    refused("decimal commas and commas between columns", read(text(body=comma(rows()))), "decimal commas", "';'"),
    right("tabs", read(text(sep="\t"), "log.tsv"), with_units),
    right("blanks, a varying number of them", read(text(("time", "pump", "level"), sep="   "), "log.dat"), whole),
    right(
        "a row of units below the header", read(text(("time", "pump", "level"), [["s", "V", "m"], *rows()])), with_units
    ),
    right(
        "a preamble of the logger, and comments", read("# made by X\nDevice: 7\nDate: 2024\n\n" + text()), with_units
    ),
    right("UTF-8 with byte order mark", read(text().encode("utf-8-sig")), with_units),
    right("UTF-16", read(text().encode("utf-16")), with_units),
    right("packed by gzip", read(gzip.compress(text().encode()), "log.csv.gz"), with_units),
    warned(
        "not UTF-8 (°C of an old Windows program)",
        read(ANSI),
        lambda r: whole(r) and r[0].inputs[0].unit == "°C",
        "Windows-1252",
        "encoding=",
    ),
    refused("no header", read("\n".join(",".join(r) for r in rows())), "no column 'pump'", "column 1"),
    refused("a column that is not there", read(text(), inputs=["pumb"]), "do you mean 'pump'"),
    refused("two columns of one name", read(text(("time", "level", "level"), sep=","), inputs=[]), "2 columns called"),
    refused("an input that is also an output", read(text(), inputs=["level"]), "for two of them"),
    refused("another unit than was declared", read(text(), outputs=[Signal("level", "mm")]), "'m'", "'mm'"),
    refused(
        "a word in a cell", read(text(body=with_cell(5, "overflow"))), "'overflow' in line 7", "leave the cell empty"
    ),
    refused("on and off", read(text(body=with_cell(5, "ON", 1))), "'ON' in line 7", "0 and 1"),
    refused("a unit in a cell", read(text(body=with_cell(5, "0.35 m"))), "'0.35 m'", "into the header"),
    refused("separators of thousands", read(text(body=with_cell(5, '"1,234.5"'))), "thousands"),
    refused("both decimal marks in one file", read(text(body=with_cell(5, "0,35"), sep=";")), "decimal"),
    refused(
        "the header again in the middle (files joined)",
        read(text(body=[*rows()[:9], ["time [s]", "pump [V]", "level [m]"], *rows()[9:]])),
        "were files joined",
    ),
    refused("infinite values", read(text(body=with_cell(5, "inf"))), "infinite in line 7"),
    refused("a file that ends in the middle of a line", read(text()[:-12]), "ends in the middle"),
    refused(
        "rows of several widths", read(text(body=[*rows()[:9], ["1", "2", "3", "4"], *rows()[9:]])), "line 11 has 4"
    ),
    refused("a header alone", read(text(body=[])), "lines of data"),
    refused("an empty file", read(""), "is empty"),
    refused("no file", lambda folder: read_records(folder / "no.csv", inputs=["u"], outputs=["y"], dt=1.0), "no file"),
    refused("a folder", lambda folder: read_records(folder, inputs=["u"], outputs=["y"], dt=1.0), "it is a folder"),
    refused("a workbook called CSV", read(b"PK\x03\x04" + b"\x00" * 100), "save the sheet as CSV"),
    refused("a damaged gzip file", read(gzip.compress(text().encode())[:-20], "log.csv.gz"), "gzip"),
    refused("a program's own binary format", read(b"\x01\x02\x00\x00\xff\x00 12"), "no text file"),
    right(
        "missing samples, as empty cells and words",
        read(text(body=with_cell(5, "NaN")[:9] + with_cell(9, "")[9:])),
        lambda r: bool(r[0].missing.sum() == 2 and r[0].missing[[5, 9], 0].all() and len(r[0]) == len(Y)),
    ),
    refused(
        "a placeholder of missing samples (−9999)",
        read(text(body=with_cell(5, "-9999"))),
        "-9999 in line 7",
        "missing=",
    ),
    right(
        "a placeholder that was declared",
        read(text(body=with_cell(5, "-9999")), reading=Reading(missing=(-9999.0,))),
        lambda r: bool(r[0].missing.sum() == 1 and np.nanmin(r[0].y) > -2),
    ),
    refused("a column without any number", read(text(body=[[a, b, ""] for a, b, _ in rows()])), "no number in any"),
    refused("neither time stamps nor a sample time", read(text(), time=None), "time=", "dt="),
]
