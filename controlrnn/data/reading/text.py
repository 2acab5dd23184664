"""Text files of columns: encoding, separator, decimal mark, header, row of units."""

from __future__ import annotations

import csv
import gzip
import io
import logging
import re
import zlib
from collections import Counter
from pathlib import Path

import numpy as np

from controlrnn.data.reading.numbers import MISSING, text_column
from controlrnn.data.reading.options import SECONDS, Reading
from controlrnn.data.reading.table import Column, Table
from controlrnn.errors import FileFormatError

_log = logging.getLogger(__name__)

_SEPARATORS = (";", "\t", "|", ",", " ")  # a comma may be a decimal mark, so that others are tried first
_NUMBER = re.compile(r"[+-]?(\d+[.,]?\d*|[.,]\d+)([eE][+-]?\d+)?")
_UNIT = re.compile(r"[\[(].{0,16}[\])]|[^\d\s,;][^,;]{0,11}|-|1|")
_SEEN = 200  # lines that the layout is found from
_MARKS = ("#", "%")


def read_text(path: Path, options: Reading) -> Table:
    """Read a text file of columns, also one packed as ``.gz``.

    Raises:
        FileFormatError: It is no text, has no columns, or rows of several lengths.
    """
    lines = [(i + 1, line) for i, line in enumerate(_decoded(path, options.encoding).splitlines()) if line.strip()]
    lines = [(i, line) for i, line in lines if not line.lstrip().startswith(_MARKS)]
    if len(lines) < 2:
        raise FileFormatError(
            f"{path} has {len(lines)} lines of data: is it the right file, and was it written to its end?"
        )
    separator = options.separator or _separator(path, [line for _, line in lines])
    cells = _split([line for _, line in lines], separator)
    width = Counter(len(c) for c in cells[-_SEEN:]).most_common(1)[0][0]
    start = next(i for i, c in enumerate(cells) if len(c) == width)
    if start > 0 and any(_numeric(c) for row in cells[: start + 1] for c in row):  # the header is of another width
        _refuse_width(path, lines, cells, width, separator)
    if start:
        _log.info("%s: %d lines before the header are left out", path, start)
    numbers, rows = [i for i, _ in lines[start:]], cells[start:]
    if any(len(row) != width for row in rows):
        _refuse_width(path, lines[start:], rows, width, separator)
    header, units, first = _head(rows)
    body = rows[first:]
    if not body:
        raise FileFormatError(f"{path} has a header and no row of data: was the logger stopped at once?")
    decimal = options.decimal or _decimal(body, separator)
    keep = [j for j in range(width) if header[j].strip() or any(row[j].strip() for row in body)]
    columns = tuple(Column(header[j], text_column([row[j].strip() for row in body]), units[j]) for j in keep)
    return Table(str(path), columns, np.array(numbers[first:], dtype=np.int64), decimal, "line")


def _decoded(path: Path, encoding: str | None) -> str:
    """Text of the file."""
    raw = path.read_bytes()
    if raw[:2] == b"\x1f\x8b":
        try:
            raw = gzip.decompress(raw)
        except (OSError, EOFError, zlib.error) as error:
            raise FileFormatError(f"{path} is no whole gzip file ({error}): fetch it again") from error
    if encoding is None:
        encoding = "utf-16" if raw[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
        try:
            text = raw.decode(encoding)
        except UnicodeDecodeError:
            _log.warning("%s is not UTF-8 and is read as Windows-1252: say encoding= if names look wrong", path)
            text = raw.decode("cp1252", errors="replace")
    else:
        try:
            text = raw.decode(encoding)
        except (UnicodeDecodeError, LookupError) as error:
            raise FileFormatError(f"{path} cannot be read with encoding {encoding!r}: {error}") from error
    if "\x00" in text:
        raise FileFormatError(f"{path} is no text file: say what wrote it, and export it as CSV")
    return text


def _split(lines: list[str], separator: str) -> list[list[str]]:
    """Cells of every line."""
    if separator == " ":
        return [line.split() for line in lines]
    return list(csv.reader(io.StringIO("\n".join(lines)), delimiter=separator, skipinitialspace=True))


def _separator(path: Path, lines: list[str]) -> str:
    """The separator that cuts the last lines into more than one column, all of the same number."""
    for separator in _SEPARATORS:
        widths = Counter(len(c) for c in _split(lines[-_SEEN:], separator))
        width, often = widths.most_common(1)[0]
        if width > 1 and often >= 0.9 * widths.total():
            return separator
    if all(_numeric(line.strip()) for line in lines[1:]):  # one column
        return ";"
    raise FileFormatError(
        f"{path}: no separator of ';', tab, '|', ',' and blank cuts its lines into columns; say separator=, or "
        "export it as CSV"
    )


def _numeric(cell: str) -> bool:
    """Whether a cell is a number, with either decimal mark."""
    return _NUMBER.fullmatch(cell.strip()) is not None


def _head(rows: list[list[str]]) -> tuple[list[str], list[str], int]:
    """Header, units, and the number of rows that they take."""
    width = len(rows[0])
    if any(_numeric(c) for c in rows[0]):
        return [f"column {j + 1}" for j in range(width)], [""] * width, 0
    header = [c.strip() for c in rows[0]]
    if len(rows) > 2 and _are_units(rows[1], rows[2]):
        return header, rows[1], 2
    return header, [""] * width, 1


def _are_units(row: list[str], below: list[str]) -> bool:
    """Whether a row below the header holds units: short words where the row below it holds something else."""
    words = [c.strip() for c in row]
    if not any(words) or any(_numeric(c) and c != "1" for c in words):
        return False
    if not all(_UNIT.fullmatch(c) for c in words):
        return False
    # A row of missing samples looks alike, and so does a row of dates.
    known = [c for c in words if c and c.lower() not in MISSING]
    return bool(known) and any(_numeric(c) for c in below) and not any(re.search(r"\d[-:./]\d", c) for c in words)


def _decimal(body: list[list[str]], separator: str) -> str:
    """The decimal mark of the numbers; a comma only where it does not separate columns."""
    if separator == ",":
        quoted = any(re.fullmatch(r"[+-]?\d+,\d+", c.strip()) for row in body[:_SEEN] for c in row)
        return "," if quoted else "."
    seen = [c.strip() for row in body for c in row if _numeric(c)]
    return "," if any("," in c for c in seen) and not any("." in c for c in seen) else "."


def _refuse_width(path: Path, lines: list[tuple[int, str]], cells: list[list[str]], width: int, separator: str) -> None:
    """Raise the error of rows with another number of cells than most."""
    odd = [i for i, c in enumerate(cells) if len(c) != width]
    named = "tab" if separator == "\t" else repr(separator)
    if odd == [len(cells) - 1]:
        advice = "it is the last one: the file ends in the middle of a line; delete that line"
    elif separator == "," and odd[0] == 0:
        advice = "are there decimal commas? Then write the file with ';' between the columns"
    else:
        advice = "a cell that holds the separator needs quotation marks; a file of several tables has to be cut"
    raise FileFormatError(
        f"{path}: line {lines[odd[0]][0]} has {len(cells[odd[0]])} cells between {named}, most lines have {width} "
        f"({len(odd)} lines differ): {advice}"
    )


def unit_of_time(unit: str) -> float | None:
    """Seconds of a unit of time; None where it is none."""
    return SECONDS.get(unit.strip().lower().rstrip("."))
