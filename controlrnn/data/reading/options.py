"""Options of reading: what a file does not say by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from controlrnn.checks import Choice, count, number, put
from controlrnn.errors import SettingError
from controlrnn.typed import typed


class Doubled(Choice):
    """Treatment of rows that carry the same time stamp."""

    REFUSE = "refuse"
    """They are named in an error."""
    FIRST = "first"
    """The first one counts."""
    LAST = "last"
    """The last one counts."""
    MEAN = "mean"
    """Their mean counts, of outputs; inputs are those of the last one."""


@dataclass(frozen=True, kw_only=True)
@typed()
class Reading:
    """Options of `read_records` and `Trajectory.from_frame`; what is left out is found, or asked for by an error.

    Args:
        separator: Character between the columns of a text file.
        decimal: ``"."`` or ``","``.
        encoding: Encoding of a text file, e.g. ``"utf-8"``.
        date_format: Format of dates as of `datetime.datetime.strptime`, e.g. ``"%d.%m.%Y %H:%M:%S"``.
        time_unit: Unit of numeric time stamps: ``ns, us, ms, s, min, h`` or ``d``; that of the header when left out,
            else seconds.
        zone: Time zone of dates without one, e.g. ``"Europe/Berlin"``; when left out they are of one clock that is
            never put back or forward.
        missing: Numbers that stand for a missing sample, e.g. ``(-9999,)``; an empty tuple says that there are none.
        sort: Whether rows whose stamps run backwards are put into order.
        doubled: Treatment of rows with the same stamp.
        resample: Whether records are brought to ``dt`` where their stamps have another sample time or none.
        jitter: Largest distance of a stamp from the grid, as a share of the sample time, that is taken for jitter.
        longest_hold: Samples for which an input that was not logged is taken to be held at its last value. Where inputs
            are missing for longer, the record is cut.
        longest_gap: Samples without any output after which the record is cut in two. Shorter gaps, and outputs that are
            missing singly, stay in the record as NaN.

    Raises:
        SettingError: An option has no meaning.
    """

    separator: str | None = None
    decimal: str | None = None
    encoding: str | None = None
    date_format: str | None = None
    time_unit: str | None = None
    zone: str | None = None
    missing: Sequence[float] | None = None
    sort: bool = False
    doubled: Doubled = Doubled.REFUSE
    resample: bool = False
    jitter: float = 0.2
    longest_hold: int = 0
    longest_gap: int = 20

    def __post_init__(self) -> None:
        if self.separator is not None and len(self.separator) != 1:
            raise SettingError(f"separator must be one character, got {self.separator!r}")
        if self.decimal not in (None, ".", ","):
            raise SettingError(f"decimal must be '.' or ',', got {self.decimal!r}")
        if self.decimal is not None and self.decimal == self.separator:
            raise SettingError(f"decimal and separator must differ, got {self.decimal!r} for both")
        if self.time_unit is not None and self.time_unit not in SECONDS:
            raise SettingError(f"time_unit must be one of {', '.join(UNITS)}, got {self.time_unit!r}")
        put(
            self,
            doubled=Doubled(self.doubled),
            jitter=number("jitter", self.jitter, least=0, below=0.5, what="a share of the sample time in [0, 0.5)"),
            longest_hold=count("longest_hold", self.longest_hold, least=0),
            longest_gap=count("longest_gap", self.longest_gap, least=0),
        )


UNITS = ("ns", "us", "ms", "s", "min", "h", "d")
# Seconds of each name of a unit of time.
SECONDS = {
    "ns": 1e-9, "us": 1e-6, "µs": 1e-6, "μs": 1e-6, "ms": 1e-3, "msec": 1e-3, "s": 1.0, "sec": 1.0, "second": 1.0,
    "seconds": 1.0, "min": 60.0, "minute": 60.0, "minutes": 60.0, "h": 3600.0, "hr": 3600.0, "hour": 3600.0,
    "hours": 3600.0, "d": 86400.0, "day": 86400.0, "days": 86400.0,
}  # fmt: skip
