"""First road file of a set of measurements: channels, sample time and settings as `check_data` finds them."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from controlrnn.checks import Array, positive
from controlrnn.data import Advice, DataReport, Reading, Signal, Timing, Trajectory, check_data, read_records
from controlrnn.data.reading.assembling import read_table
from controlrnn.errors import DataError, SettingError
from controlrnn.road.data.guessing import Columns, guess_columns
from controlrnn.road.data.splitting import dealt_counts
from controlrnn.road.file.reading import parse_reading
from controlrnn.road.file.schema import (
    Control,
    Data,
    Identify,
    Input,
    ObserverOptions,
    Output,
    Promise,
    RoadFile,
    Simulate,
    Split,
)
from controlrnn.road.file.writing import commented
from controlrnn.typed import typed

_LEAST_TRAIN = 0.4  # share of the samples that training keeps at least
_ERROR = 0.005  # of an actuator's range, where nobody has said how exact it is
_HORIZON = 40  # steps of a plan that a first controller gets at most
_TEST, _CALIBRATION = 0.15, 0.35  # shares where there are samples enough
_STARTS = 20  # predictions in a calibration record, at least


@dataclass(frozen=True)
class Draft:
    """A first road file.

    Args:
        file: Its content.
        text: The same as commented TOML.
        report: What the data show.
        guessed: Whether the names of the columns decided what they are.
    """

    file: RoadFile
    text: str
    report: DataReport
    guessed: bool


@typed()
def draft_road(
    files: Sequence[str | os.PathLike[str]],
    *,
    base: str | os.PathLike[str] = ".",
    inputs: Sequence[str] = (),
    outputs: Sequence[str] = (),
    time: str | None = None,
    dt: float | None = None,
    timing: str = "measured_first",
    budget: float = 180.0,
    reading: str = "",
) -> Draft:
    """Look at measurements and write the road file that suits them.

    Args:
        files: Files of measurements.
        base: Folder of the road file; paths in it are relative to that.
        inputs: Columns of the inputs; by their names when left out.
        outputs: Likewise of the outputs.
        time: Column of time stamps.
        dt: Sample time [s], where there are no stamps.
        timing: What comes first in a sample, see `controlrnn.data.Timing`.
        budget: Seconds for the search of a model [s].
        reading: Options of reading as lines of TOML, as in the section ``[data.reading]`` of a road file.

    Returns:
        The draft. Limits of outputs are those that the data reach, and say so: the plant's own belong in their place.

    Raises:
        DataError: A file is not what it has to be, columns cannot be told apart, or the data hold too little.
        SettingError: An argument is out of range.
    """
    if not files:
        raise SettingError("init needs at least one file of measurements, got none")
    budget = positive("budget", budget)
    asked = parse_reading(reading)
    options = Reading(**asked.model_dump())
    table = read_table(files[0], options)
    columns = guess_columns(table, inputs, outputs, time, timeless=dt is not None)
    records: list[Trajectory] = []
    for path in files:
        records += read_records(
            path,
            inputs=columns.inputs,
            outputs=columns.outputs,
            time=columns.time,
            dt=dt,
            timing=Timing(timing),
            reading=options,
        )
    report = check_data(records)
    if report.advice is None:
        raise DataError("no road leads on from these data:\n" + "\n".join(str(f) for f in report.faults))
    paths = [_relative(Path(path), Path(base)) for path in files]
    data = Data(files=list(paths), time=columns.time, dt=dt, timing=timing, reading=asked)  # type: ignore[arg-type]
    file = _file(data, records, report.advice, budget)
    return Draft(file, commented(file, _notes(file, report, columns), _head(report)), report, columns.guessed)


def _file(data: Data, records: Sequence[Trajectory], advice: Advice, budget: float) -> RoadFile:
    """Content of the road file."""
    horizon = min(advice.horizon, _HORIZON)
    washout = max(2, advice.gap)
    split, coverage = _split(records, washout + horizon + max(_STARTS, horizon // 2))
    u, y = (np.concatenate([getattr(r, n) for r in records]) for n in "uy")
    return RoadFile(
        data=data,
        inputs=[_input(s, column) for s, column in zip(records[0].inputs, u.T, strict=True)],
        outputs=[_output(s, column) for s, column in zip(records[0].outputs, y.T, strict=True)],
        split=split,
        identify=Identify(budget=budget),
        observer=ObserverOptions(),
        promise=Promise(coverage=coverage, washout=washout),
        control=Control(horizon=horizon, control_horizon=max(1, min(horizon, math.ceil(horizon / 3)))),
        simulate=Simulate(hold=max(30, horizon)),
    )


def _input(signal: Signal, values: Array) -> Input:
    """Input with the range that it moved in: outside of it nothing was learnt."""
    low, high = _rounded(float(values.min()), float(values.max()))
    return Input(
        name=signal.name,
        unit=signal.unit,
        lower=low,
        upper=high,
        error=_short(_ERROR * (high - low)),
        move_weight=_short(0.1 / (high - low) ** 2),
    )


def _output(signal: Signal, values: Array) -> Output:
    """Output with the range that it was measured in."""
    low, high = _rounded(float(np.nanmin(values)), float(np.nanmax(values)))
    middle = _short(0.5 * (low + high))
    return Output(
        name=signal.name,
        unit=signal.unit,
        lower=low,
        upper=high,
        weight=_short(1.0 / (high - low) ** 2),
        reference=[middle, high, middle, low],
    )


def _split(records: Sequence[Trajectory], piece: int) -> tuple[Split, float]:
    """Split with as many calibration pieces as the data allow, and the probability that so many can promise."""
    many = len(records)
    if many >= 8 and min(map(len, records)) >= piece:
        shares = {"train": 0.45, "validation": 0.1, "test": 0.1, "calibration": 0.35}
        split = Split(by="record", **shares)  # type: ignore[arg-type]
        return split, _coverage(dealt_counts(many, split)[3])
    return _cut(many, min(map(len, records)), piece)


def _cut(many: int, shortest: int, piece: int) -> tuple[Split, float]:
    """Split of each of ``many`` records in time, with calibration pieces of at least ``piece`` samples."""
    wanted = math.ceil(9 / many)  # pieces of each, of which nine together can promise 0.9
    roomy = int(_CALIBRATION * shortest) // piece
    if roomy >= wanted and _TEST * shortest >= piece:
        pieces = wanted  # more would be shorter, and promise less of long operation
        split = Split(train=round(1 - _TEST - _CALIBRATION, 4), test=_TEST, calibration=_CALIBRATION, pieces=pieces)
        return split, _coverage(pieces * many)
    room = int((1 - _LEAST_TRAIN) * shortest) // piece
    if room < 1:
        raise DataError(
            f"the shortest of {many} records has {shortest} samples, and one piece for the promise needs {piece}: "
            "record for longer, or sample more slowly"
        )
    test = room > 2  # else all of them are needed for the promise
    pieces = room - test
    of_test, calibration = (_up(n * piece / shortest) for n in (int(test), pieces))
    split = Split(train=round(1 - of_test - calibration, 4), test=of_test, calibration=calibration, pieces=pieces)
    return split, _coverage(pieces * many)


def _up(share: float) -> float:
    """Share rounded up to three digits, so that a piece that has to fit does."""
    return math.ceil(1000 * share) / 1000


def _coverage(n: int) -> float:
    """Probability that n records can promise, at most 0.9."""
    return min(0.9, math.floor(100 * n / (n + 1)) / 100)


def _rounded(low: float, high: float) -> tuple[float, float]:
    """Range in round numbers inside of the given one."""
    if not high > low:
        return low - 0.5, low + 0.5
    digits = 2 - math.floor(math.log10(high - low))
    scale = 10.0**digits
    return float(f"{math.ceil(low * scale) / scale:.12g}"), float(f"{math.floor(high * scale) / scale:.12g}")


def _short(value: float) -> float:
    return float(f"{value:.3g}")


def _relative(path: Path, base: Path) -> str:
    """Path from the folder of the road file, with forward slashes."""
    try:
        return Path(os.path.relpath(path, base)).as_posix()
    except ValueError:  # another drive of Windows
        return path.absolute().as_posix()


def _notes(file: RoadFile, report: DataReport, columns: Columns) -> dict[str, str]:
    """What is said of single fields in place of their meaning."""
    said = {"data.time": "column of time stamps"}
    for i in file.inputs:
        said |= {
            f"{i.name}.name": "an input by its name: check that it is one" if columns.guessed else "an input",
            f"{i.name}.lower": "range in the data: outside of it nothing was learnt",
            f"{i.name}.upper": "likewise; not beyond what the actuator can do",
            f"{i.name}.error": "GUESS, 0.5 % of the range: by how much can the true value differ from this one?",
        }
    for o in file.outputs:
        said |= {
            f"{o.name}.name": "an output by its name: check that it is one" if columns.guessed else "an output",
            f"{o.name}.lower": "smallest value in the data: PUT THE PLANT'S LIMIT HERE",
            f"{o.name}.upper": "largest value in the data: PUT THE PLANT'S LIMIT HERE",
        }
    if report.advice is not None:
        memory = f"{report.advice.gap} samples ({report.advice.gap * report.dt:g} s)"
        said["promise.washout"] = f"the plant remembers {memory}; samples that are not scored keep pieces apart"
        n = file.split.pieces * len(report.samples) if file.split.by == "time" else 0
        if n:
            said["promise.coverage"] = f"{n} pieces can promise no more than {n}/{n + 1}"
    return said


def _head(report: DataReport) -> str:
    """Comment at the top: what this is, and what the data show."""
    return (
        "The road from measurements to a controller that keeps its limits. Next: controlrnn run\n"
        "Every field says what it means; lines that begin with # show fields that are left out.\n\n"
        "What the data show:\n  " + "\n  ".join(str(report).splitlines())
    )
