"""Columns to numbers: texts, missing samples, and values that stand for missing ones without saying so."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data.reading.table import Column, Table
from controlrnn.errors import DataError

MISSING = frozenset(("", "nan", "na", "n/a", "#n/a", "null", "none", "-", "--", "?", "missing", "bad"))
"""Texts, in lower case, that stand for a missing sample."""
_SENTINELS = frozenset(
    (-9999.0, -999.0, -99999.0, -999999.0, -9999.99, -999.25, -999.99, -32768.0, -99.99, 9999.0, 99999.0, 999999.0,
     -2147483648.0, 1e20, 1e30, 1e36, -1e30, -1e36, 9.96921e36, 1.7976931348623157e308, -1.7976931348623157e308,
     float(np.float32(9.96921e36)), float(np.float32(1e20)), float(np.float32(1e30)))
)  # fmt: skip
_FAR = 10.0  # times the range of the other values
_THOUSANDS = re.compile(r"[+-]?\d{1,3}([.,' ]\d{3})+[.,]\d+")


def as_numbers(table: Table, column: Column, missing: Sequence[float] | None) -> Array:
    """Values of a column as float64, NaN where a sample is missing.

    Args:
        table: The table, for messages.
        column: The column.
        missing: Numbers that stand for missing samples; None refuses values that look so.

    Raises:
        DataError: A value is no real number, or infinite, or looks like a placeholder.
    """
    values, where = column.values, f"column {column.header.strip()!r} of {table.source}"
    if values.dtype.kind in "biuf":
        found = np.array(values, dtype=np.float64)
    elif values.dtype.kind in "mM":
        raise DataError(f"{where} holds dates or durations, not numbers: name it as time=, or leave it out")
    elif values.dtype.kind == "c":
        raise DataError(f"{where} is complex: take real and imaginary part, or the modulus, as columns of their own")
    else:
        found = _parsed(table, column, where)
    if np.isinf(found).any():
        raise DataError(
            f"{where} is infinite in {table.at(np.isinf(found))}: a division by zero or an overflow; leave it empty"
        )
    for number in missing or ():
        found = np.where(found == number, np.nan, found)
    if missing is None and (marks := suspects(found)):
        mark = marks[0]
        raise DataError(
            f"{where} holds {mark:g} in {table.at(found == mark)}, far from all other values: if it stands for a "
            "missing "
            f"sample, say missing=({mark:g},); if it is a reading, say missing=()"
        )
    if np.isnan(found).all():
        raise DataError(f"{where} has no number in any of {len(found)} rows: leave it out")
    return found


def suspects(values: Array) -> tuple[float, ...]:
    """Values that look like placeholders of missing samples: well known ones, far from the range of all others."""
    known = values[np.isfinite(values)]
    found = [s for s in np.unique(known) if float(s) in _SENTINELS]
    rest = known[~np.isin(known, found)]
    if not found or not len(rest):
        return ()
    low, high = float(rest.min()), float(rest.max())
    # The range of the others, and their size: a level near 9990 makes 9999 no placeholder.
    room = _FAR * max(high - low, 0.1 * max(abs(low), abs(high)), 1e-300)
    return tuple(float(s) for s in found if not low - room <= s <= high + room)


def _parsed(table: Table, column: Column, where: str) -> Array:
    """Numbers of a column of texts or objects."""
    found = np.empty(len(column.values))
    for i, value in enumerate(column.values):
        try:
            found[i] = _number(value, table.decimal)
        except (TypeError, ValueError, OverflowError):
            raise DataError(
                f"{where} must hold numbers, got {str(value)[:40]!r} in {table.at([i])}: {_advice(value, table)}"
            ) from None
    return found


def _number(value: Any, decimal: str) -> float:
    """Number of one value; NaN where it is missing.

    Raises:
        TypeError, ValueError: It is none.
    """
    if isinstance(value, str):
        said = value.strip()
        if said.lower() in MISSING:
            return np.nan
        if decimal == "," and "." in said:
            raise ValueError(said)
        if "_" in said:  # Python would read 1_000
            raise ValueError(said)
        return float(said.replace(",", ".") if decimal == "," else said)
    if value is None or type(value).__name__ in ("NAType", "NaTType"):
        return np.nan
    if isinstance(value, bytes | complex | np.complexfloating) or not hasattr(type(value), "__float__"):
        raise TypeError(value)
    return float(value)


def _advice(value: Any, table: Table) -> str:
    """Advice for a value that is no number."""
    said = str(value).strip()
    if _THOUSANDS.fullmatch(said):
        return "take out the separators of thousands"
    if said in {c.header.strip() for c in table.columns}:
        return "the header stands in the file again: were files joined? read them one by one"
    if re.fullmatch(r"[+-]?\d+,\d+", said):
        return "say decimal=','"
    if re.fullmatch(r"[+-]?\d+\.\d+", said):
        return "the others have a decimal comma: say decimal='.' or write them alike"
    if said.lower() in ("true", "false", "on", "off", "yes", "no", "open", "closed"):
        return "replace the words by 0 and 1"
    if re.fullmatch(r"[+-]?[\d.,]+\s*[^\d\s.,].*", said):
        return "take the unit out of the cells; it belongs into the header, as in 'level [m]'"
    if isinstance(value, complex):
        return "take real and imaginary part as columns of their own"
    return "leave the cell empty where a sample is missing"


def text_column(values: Sequence[str]) -> NDArray[Any]:
    """Array of objects that holds texts as they are."""
    found = np.empty(len(values), dtype=object)
    found[:] = values
    return found
