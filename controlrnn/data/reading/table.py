"""Tables: named columns of a file or data frame, as they are found in it, and the choice of those that are wanted."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.data.signal import Signal
from controlrnn.errors import DataError, SettingError

_WITH_UNIT = re.compile(r"(?P<name>.*\S)\s*(\[(?P<square>[^\[\]]*)\]|\((?P<round>[^()]*)\))")


@dataclass(frozen=True, eq=False)
class Column:
    """Column of a table.

    Args:
        header: Its name as it stands in the file, e.g. ``"level [m]"``.
        values: Its values as they stand in the file: numbers, dates or texts, shape (N,).
        unit: Its unit where the file has one elsewhere than in the header.
        utc: Whether dates are known to be of universal time.
    """

    header: str
    values: NDArray[Any]
    unit: str = ""
    utc: bool = False

    def split(self) -> tuple[str, str]:
        """Name and unit: ``level [m]`` and ``level (m)`` are the level in m."""
        found = _WITH_UNIT.fullmatch(self.header.strip())
        if self.unit or not found:
            return self.header.strip(), self.unit.strip().strip("[]()").strip()
        return found["name"], (found["square"] if found["square"] is not None else found["round"]).strip()


@dataclass(frozen=True, eq=False)
class Table:
    """Columns of equal length, with where they come from.

    Args:
        source: Name of the file or frame, for messages.
        columns: The columns.
        rows: Number of each row as a reader of the file counts it, shape (N,).
        decimal: Decimal mark of texts.
        row: Word for a row in messages.
    """

    source: str
    columns: tuple[Column, ...]
    rows: NDArray[np.int64]
    decimal: str = "."
    row: str = "row"

    def column(self, wanted: str) -> Column:
        """Find a column by its header, or by its name without the unit.

        Raises:
            DataError: There is none, or more than one.
        """
        name = wanted.strip()
        found = [c for c in self.columns if c.header.strip() == name] or [
            c for c in self.columns if c.split()[0] == name
        ]
        if len(found) == 1:
            return found[0]
        if found:
            raise DataError(f"{self.source} has {len(found)} columns called {name!r}: give each its own name")
        names = [c.split()[0] for c in self.columns]
        close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        close = close or [n for n in names if n.lower() == name.lower()]
        hint = f"do you mean {close[0]!r}? " if close else ""
        raise DataError(f"{self.source} has no column {name!r}: {hint}it has {self.names()}")

    def names(self) -> str:
        """Headers of all columns, for messages."""
        shown = [repr(c.header.strip()) for c in self.columns[:20]]
        return (", ".join(shown) or "no columns") + (", ..." if len(self.columns) > 20 else "")

    def at(self, index: Any) -> str:
        """Text that names the rows of a mask or of indices: the first three of them, and how many there are."""
        where = np.flatnonzero(index) if np.asarray(index).dtype == bool else np.asarray(index)
        first = ", ".join(str(int(r)) for r in self.rows[where[:3]])
        return f"{self.row}{'s' if len(where) > 1 else ''} {first}" + (
            f" and {len(where) - 3} more" if len(where) > 3 else ""
        )


def chosen(table: Table, wanted: Sequence[str | Signal], what: str) -> tuple[tuple[Column, ...], tuple[Signal, ...]]:
    """Columns that are wanted, with a `Signal` for each: as given, else of the column's name and unit.

    Args:
        table: The table.
        wanted: Names of columns, or signals of these names.
        what: ``"inputs"`` or ``"outputs"``, for messages.

    Raises:
        SettingError: Something else is given, or a column twice.
        DataError: A column is not there, or has another unit.
    """
    columns, signals = [], []
    for one in wanted:
        name = one.name if isinstance(one, Signal) else one
        if not isinstance(name, str):
            raise SettingError(f"{what} must name columns by text or Signal, got {name!r}")
        column = table.column(name)
        label, unit = column.split()
        if isinstance(one, Signal) and one.unit and unit and one.unit != unit:
            raise DataError(
                f"{what}: {name!r} is in {unit!r} in {table.source}, got a signal in {one.unit!r}: use the file's "
                "unit, "
                "or convert the column first"
            )
        columns.append(column)
        signals.append(one if isinstance(one, Signal) and (one.unit or not unit) else _signal(one, label, unit))
    headers = [c.header for c in columns]
    if twice := sorted({h for h in headers if headers.count(h) > 1}):
        raise SettingError(f"{what} must name each column once, got {', '.join(twice)} more than once")
    return tuple(columns), tuple(signals)


def _signal(one: str | Signal, label: str, unit: str) -> Signal:
    """Signal of a column, with the limits of ``one`` where it is a signal without a unit."""
    return Signal(one.name, unit, one.lower, one.upper) if isinstance(one, Signal) else Signal(label, unit)
