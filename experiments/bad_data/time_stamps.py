"""Time stamps: units, dates, zones, jitter, gaps, order, sample times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from controlrnn.data import Dataset, Doubled, Reading, Trajectory, read_records
from controlrnn.identification import identify_subspace
from experiments.bad_data.case import DT, TIME, Case, N, refused, right, signals, warned
from experiments.bad_data.text_files import U, Y, read, rows, text, whole

RNG = np.random.default_rng(1)
HEAD = ("time", "pump", "level")


def at(stamps: Any, head: tuple[str, ...] = HEAD, **options: Any) -> Any:
    """Case of a file with these stamps."""
    return read(text(head, rows(list(stamps))), **options)


def dates(start: datetime, form: str = "", zone: str | None = None) -> list[str]:
    """Stamps from a start on, of a clock of a zone."""
    moments = [start + timedelta(seconds=float(t)) for t in TIME]
    if zone:
        moments = [m.astimezone(ZoneInfo(zone)).replace(tzinfo=None) for m in moments]
    return [m.strftime(form) if form else m.isoformat() for m in moments]


def some(index: Any, **options: Any) -> Any:
    """Case of a file that holds only these rows, in this order."""
    body = rows()
    return read(text(HEAD, [body[i] for i in index]), **options)


def doubled(value: float) -> Any:
    """Cells of which one row comes twice, the second time with another output."""
    body = rows()
    return [*body[:50], [body[49][0], body[49][1], f"{value:.6f}"], *body[50:]]


def fast(folder: Path) -> Any:
    """A slow signal and one of 4.6 Hz, from 10 Hz to 1 Hz: without a filter the fast one would look slow."""
    t = DT * np.arange(2000)
    y = np.sin(0.2 * t) + np.sin(2 * np.pi * 4.6 * t)
    path = folder / "fast.csv"
    lines = [f"{a:.1f},{int(a) % 7},{b:.6f}" for a, b in zip(t, y, strict=True)]
    path.write_text("time,u,y\n" + "\n".join(lines) + "\n")
    (record,) = read_records(path, inputs=["u"], outputs=["y"], time="time", dt=1.0, reading=Reading(resample=True))
    return record, np.sin(0.2 * t[::10])


def filtered(result: Any) -> bool:
    """Whether the slow signal is left, and nothing of the fast one."""
    record, slow = result
    start = int(np.argmin([np.abs(record.y[:50, 0] - slow[k : k + 50]).max() for k in range(20)]))
    error = record.y[:, 0] - slow[start : start + len(record)]
    held = np.array_equal(record.u[:5, 0], [(start + k) % 7 for k in range(5)])
    return bool(np.abs(error).max() < 0.02 and held and record.dt == 1.0)


def of_several_files(spread: float) -> Any:
    """Records whose sample times come from stamps, and a linear model of them."""

    def run(_: Path) -> Any:
        u, y = signals()
        t = TIME + 1000 * DT
        dts = [float(t[i + 1] - t[i]) * (1 + spread * i) for i in (0, 3, 7, 100)]
        records = [Trajectory(np.roll(u, i)[:, None], y[:, None] + 0.01 * i, dt) for i, dt in enumerate(dts)]
        data = Dataset((records[0],), (records[1],), (records[2],), (records[3],))
        return data, identify_subspace(data.all, 1, horizon=5)

    return run


AUTUMN = datetime(2024, 10, 27, 0, 59, 50, tzinfo=UTC)
BERLIN = Reading(zone="Europe/Berlin")
MILLIS = tuple(f"{1.7e12 + 1000 * t:.0f}" for t in TIME)
JITTER = TIME + RNG.uniform(-0.012, 0.012, N)

CASES: list[Case] = [
    right("stamps with rounding (0.1 s as 0.09999999999990905)", at([repr(float(t)) for t in 1000 + TIME]), whole),
    right("milliseconds, said in the header", at(MILLIS, ("time [ms]", "pump", "level")), whole),
    refused("milliseconds since 1970, not said", at(MILLIS), "time_unit='ms'"),
    refused("a unit that is none of time", at(TIME, ("time [ticks]", "pump", "level")), "'ticks'", "time_unit="),
    right(
        "dates with a time zone",
        at([f"{d[:-6] if '+' in d else d}+02:00" for d in dates(datetime(2024, 7, 1, 12))]),
        whole,
    ),
    right(
        "dates with points (31.12.2024)",
        at([d.removesuffix(".000000") for d in dates(datetime(2024, 12, 31, 23, 59, 50), "%d.%m.%Y %H:%M:%S.%f")]),
        whole,
    ),
    refused(
        "dates with slashes (03/04/2024)", at(dates(datetime(2024, 4, 3), "%d/%m/%Y %H:%M:%S.%f")), "day or the month"
    ),
    right(
        "dates with slashes and their format",
        at(dates(datetime(2024, 4, 3), "%d/%m/%Y %H:%M:%S.%f"), reading=Reading(date_format="%d/%m/%Y %H:%M:%S.%f")),
        whole,
    ),
    refused(
        "some dates with zone, some without",
        at([d + ("Z" if i > 9 else "") for i, d in enumerate(dates(datetime(2024, 4, 3)))]),
        "some without",
    ),
    refused("clocks put back in autumn", at(dates(AUTUMN, zone="Europe/Berlin")), "were clocks put back", "zone="),
    right("clocks put back, and the zone is known", at(dates(AUTUMN, zone="Europe/Berlin"), reading=BERLIN), whole),
    refused(
        "an hour that does not exist in that zone", at(dates(datetime(2024, 3, 31, 2)), reading=BERLIN), "left out in"
    ),
    refused(
        "times of day that pass midnight",
        at([(datetime(2024, 1, 1, 23, 59, 50) + timedelta(seconds=float(t))).strftime("%H:%M:%S.%f") for t in TIME]),
        "midnight",
    ),
    refused("words for stamps", at([f"sample {i}" for i in range(N)]), "date_format="),
    refused("a missing stamp", at([*TIME[:7], "", *TIME[8:]]), "missing in line 9"),
    warned("jitter of 12 %", at([f"{t:.6f}" for t in JITTER]), whole, "jitter"),
    refused(
        "jitter of half a sample", at([f"{t:.6f}" for t in TIME + RNG.uniform(-0.049, 0.049, N)]), "no one sample time"
    ),
    warned(
        "a gap of 3 samples, inputs held over it",
        some(np.r_[:50, 53:N], reading=Reading(longest_hold=5)),
        lambda r: len(r) == 1 and len(r[0]) == N and r[0].missing[50:53].all() and r[0].missing.sum() == 3,
        "1 gaps",
    ),
    warned(
        "a gap of 3 samples: the record is cut",
        some(np.r_[:50, 53:N]),
        lambda r: [len(x) for x in r] == [50, N - 53] and r[0].part_of == r[1].part_of != "",
        "2 pieces",
    ),
    warned(
        "a long silence of the output",
        read(text(body=rows(y=np.where(np.abs(TIME - 10) < 2.05, np.nan, Y)))),
        lambda r: [len(x) for x in r] == [80, 79],
        "2 pieces",
    ),
    refused(
        "a long silence in what shall be one record",
        lambda _: Trajectory.from_frame(
            _frame(np.where(np.abs(TIME - 10) < 2.05, np.nan, Y)), inputs=["u"], outputs=["y"], time="t"
        ),
        "falls into 2 records",
    ),
    refused("doubled stamps, rows alike", some(np.r_[:50, 49:N]), "line 52", "written twice"),
    refused("doubled stamps, rows that differ", read(text(body=doubled(7.0))), "line 52", "differ"),
    warned(
        "doubled stamps, the first counts",
        read(text(body=doubled(7.0)), reading=Reading(doubled=Doubled.FIRST)),
        whole,
        "doubled stamps, the first",
    ),
    refused("stamps that run backwards", some([*range(50), 52, 51, 50, *range(53, N)]), "backwards", "line 53"),
    warned(
        "stamps that run backwards, sorted",
        some([*range(50), 52, 51, 50, *range(53, N)], reading=Reading(sort=True)),
        whole,
        "put into the order",
    ),
    refused("the newest row first", some(range(N)[::-1]), "newest comes first"),
    refused("a clock that was reset", at([*TIME[:100], *TIME[:100]]), "backwards", "reset"),
    refused("a stamp wrong by years", at([*TIME[:-1], "4e9"]), "samples"),
    refused("a clock of seconds for samples of 0.1 s", at([f"{t:.0f}" for t in np.floor(TIME)]), "clock is too coarse"),
    refused("another sample time than was declared", read(text(HEAD), dt=0.2), "every 0.1 s", "resample=True"),
    refused(
        "a sample time shorter than that of the stamps",
        read(text(HEAD), dt=0.01, reading=Reading(resample=True)),
        "made up",
    ),
    warned("resampling: slower, with a fast disturbance", fast, filtered, "left out"),
    right(
        "sample times from stamps, equal but for rounding", of_several_files(0.0), lambda r: abs(r[1].dt - DT) < 1e-12
    ),
    refused("sample times that differ by 0.01 %", of_several_files(1e-4), "dt = "),
]


def _frame(y: np.ndarray) -> Any:
    import pandas as pd

    return pd.DataFrame({"t": TIME, "u": U, "y": y})
