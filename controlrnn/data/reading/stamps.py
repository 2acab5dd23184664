"""Time stamps: numbers, dates with and without zones, times of day; all to seconds from the first."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data.reading.numbers import as_numbers
from controlrnn.data.reading.options import SECONDS, Reading
from controlrnn.data.reading.table import Column, Table
from controlrnn.data.reading.text import unit_of_time
from controlrnn.errors import DataError, SettingError

_log = logging.getLogger(__name__)

# Formats that are read one way all over the world; a date with slashes is not among them.
_FORMATS = ("%d.%m.%Y %H:%M:%S.%f", "%d.%m.%Y %H:%M:%S", "%d.%m.%Y %H:%M", "%Y/%m/%d %H:%M:%S.%f", "%Y/%m/%d %H:%M:%S",
            "%Y/%m/%d %H:%M", "%H:%M:%S.%f", "%H:%M:%S", "%d-%b-%Y %H:%M:%S.%f", "%d-%b-%Y %H:%M:%S")  # fmt: skip
_SLASHES = re.compile(r"\d{1,2}/\d{1,2}/\d{2,4}\b.*")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_US = timedelta(microseconds=1)


def seconds(table: Table, column: Column, options: Reading) -> tuple[Array, float]:
    """Stamps in seconds from the first one, shape (N,), and the smallest difference that they can hold.

    Raises:
        DataError: A stamp is missing or is none, or its unit, its zone or the order of day and month is not clear.
        SettingError: An option is no zone or no format.
    """
    values, where = column.values, f"time {column.header.strip()!r} of {table.source}"
    if values.dtype.kind in "mM":
        if np.isnat(values).any():
            raise DataError(f"{where} is missing in {table.at(np.isnat(values))}: leave these rows out")
        if values.dtype.kind == "M" and options.zone and not column.utc:
            placed = _placed(values.astype("M8[us]").tolist(), options.zone, where)
            return _since(_ticks(placed), 1e-6)
        unit = "M8[ns]" if values.dtype.kind == "M" else "m8[ns]"
        return _since(values.astype(unit).view(np.int64), 1e-9)
    if values.dtype.kind in "biufc" or _are_numbers(values, table.decimal):
        return _numeric(table, column, options, where)
    found = [_moment(table, i, v, where) for i, v in enumerate(values)]
    moments = [v for v in found if isinstance(v, datetime)]
    if len(moments) < len(found):
        parse = _parser(table, where, [str(v) for v in found], options.date_format)
        moments = [parse(i, str(v)) for i, v in enumerate(found)]
    aware = {v.tzinfo is not None for v in moments}
    if len(aware) > 1:
        raise DataError(f"{where} has some stamps with a time zone and some without: write them alike")
    if not aware.pop():
        moments = _placed(moments, options.zone, where)
    return _since(_ticks(moments), 1e-6)


def _ticks(moments: list[datetime]) -> NDArray[np.int64]:
    """Microseconds of dates with a zone since 1970."""
    return np.array([(v - _EPOCH) // _US for v in moments], dtype=np.int64)


def _since(ticks: NDArray[np.int64], tick: float) -> tuple[Array, float]:
    """Seconds from the first of whole ticks, without the loss of digits that their sum would have in float64."""
    return (ticks - ticks[0]).astype(np.float64) * tick, tick


def _are_numbers(values: NDArray[Any], decimal: str) -> bool:
    """Whether the first stamps of texts or objects are numbers."""
    for value in values[:5]:
        try:
            float(value.replace(",", ".") if isinstance(value, str) and decimal == "," else value)
        except (TypeError, ValueError):
            return False
    return True


def _numeric(table: Table, column: Column, options: Reading, where: str) -> tuple[Array, float]:
    """Numeric stamps in seconds, by the unit of the options, of the header, or seconds."""
    t = as_numbers(table, column, ())
    if np.isnan(t).any():
        raise DataError(f"{where} is missing in {table.at(np.isnan(t))}: leave these rows out")
    unit = column.split()[1]
    factor = SECONDS[options.time_unit] if options.time_unit else unit_of_time(unit) if unit else None
    if factor is None:
        if unit and unit_of_time(unit) is None:
            raise DataError(f"{where} is in {unit!r}, which is no unit of time: say time_unit='s' or what it is")
        # Since 1970 in seconds is about 1.7e9; what is a thousand times more is not in seconds.
        if np.abs(t).max() > 1e11:
            raise DataError(
                f"{where} has numbers up to {np.abs(t).max():.3g}, too large for seconds: if they count from 1970, say "
                "time_unit='ms', 'us' or 'ns'"
            )
        factor = 1.0
    # Digits after the point, where they are texts; else those of float64 at this size.
    resolution = 4.0 * float(np.spacing(np.abs(t).max()))
    if column.values.dtype.kind == "O":
        digits = max(_digits(str(v), table.decimal) for v in column.values[:1000])
        resolution = max(resolution, 0.5 * 10.0**-digits)
    return (t - t[0]) * factor, resolution * factor


def _digits(text: str, decimal: str) -> int:
    """Digits after the decimal mark."""
    mantissa, _, exponent = text.strip().lower().partition("e")
    return max(0, len(mantissa.partition(decimal)[2]) - (int(exponent) if exponent.lstrip("+-").isdigit() else 0))


def _moment(table: Table, i: int, value: Any, where: str) -> datetime | str:
    """One stamp as a date or as its text."""
    if isinstance(value, datetime) and str(value) != "NaT":
        return value
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day)
    if not isinstance(value, str) or not value.strip():
        raise DataError(f"{where} is missing or no text in {table.at([i])}, got {str(value)[:40]!r}: leave the row out")
    return value.strip()


def _parser(table: Table, where: str, stamps: list[str], wanted: str | None) -> Callable[[int, str], datetime]:
    """Function from the number of a stamp and its text to its date."""
    if wanted is None and _SLASHES.match(stamps[0]):
        raise DataError(
            f"{where} holds {stamps[0]!r}: is the day or the month first? Say date_format='%d/%m/%Y %H:%M:%S' or "
            "'%m/%d/%Y %H:%M:%S'"
        )

    def iso(text: str) -> datetime:
        return datetime.fromisoformat(text)

    def formatted(form: str) -> Callable[[str], datetime]:
        return lambda text: datetime.strptime(text.replace(",", "."), form)

    for form in [wanted] if wanted else ["", *_FORMATS]:
        read = formatted(form) if form else iso
        try:
            read(stamps[0])
        except ValueError:
            continue
        # A stamp on the full second may be written without a fraction.
        others = [read] + [formatted(f) for f in _variants(form)] if form else [read]
        return lambda i, text: _read(table, where, i, text, others)
    hint = "it does not fit date_format" if wanted else "say date_format=, as of datetime.strptime"
    raise DataError(f"{where} holds {stamps[0][:40]!r}, no number and no date that is known: {hint}")


def _variants(form: str) -> list[str]:
    """The format with and without a fraction of a second."""
    return [form.replace(".%f", ""), form if "%f" in form else form.replace("%S", "%S.%f")]


def _read(table: Table, where: str, i: int, text: str, forms: list[Callable[[str], datetime]]) -> datetime:
    """One date, in the form of the first one."""
    for read in forms:
        try:
            return read(text)
        except ValueError:
            continue
    raise DataError(
        f"{where} holds {text[:40]!r} in {table.at([i])}, written otherwise than the first one: mend that row"
    )


def _placed(moments: list[datetime], zone: str | None, where: str) -> list[datetime]:
    """Dates without a zone as dates of the given zone; of a clock that is never changed where none is given."""
    if zone is None:
        return [v.replace(tzinfo=UTC) for v in moments]
    try:
        place = ZoneInfo(zone)
    except (ValueError, OSError, KeyError) as error:  # KeyError: no such zone
        raise SettingError(f"zone must be a time zone such as 'Europe/Berlin', got {zone!r}: {error}") from error
    placed: list[datetime] = []
    for v in moments:
        found = v.replace(tzinfo=place).astimezone(UTC)
        if placed and found < placed[-1]:  # in the hour that comes twice: the second one
            found = v.replace(tzinfo=place, fold=1).astimezone(UTC)
        back = found.astimezone(place).replace(tzinfo=None)
        if back != v:
            raise DataError(f"{where} holds {v}, an hour that is left out in {zone}: it is of another zone, or in UTC")
        placed.append(found)
    return placed
