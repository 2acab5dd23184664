"""Guesses at the columns of a file: which is time, which are inputs and outputs. A guess is said, or an error asks."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from controlrnn.data.reading.table import Table
from controlrnn.errors import DataError

_TIME = ("t", "time", "times", "timestamp", "stamp", "date", "datetime", "zeit", "clock", "seconds")
_INPUT = (
    "u", "in", "input", "inputs", "pump", "valve", "heater", "heating", "power", "command", "cmd", "actuator", "force",
    "torque", "voltage", "motor", "fan", "damper", "steam", "coolant", "feed", "opening", "duty", "pwm", "dose",
)  # fmt: skip
_OUTPUT = (
    "y", "out", "output", "outputs", "level", "temperature", "temp", "pressure", "speed", "velocity", "position",
    "angle", "concentration", "ph", "height", "displacement", "acceleration", "humidity", "quality", "measurement",
)  # fmt: skip
_WORDS = re.compile(r"[A-Za-z]+")


@dataclass(frozen=True)
class Columns:
    """Columns of a file by their purpose: time, inputs, outputs.

    Args:
        time: Column of time stamps; None where there is none.
        inputs: Columns of the inputs.
        outputs: Columns of the outputs.
        guessed: Whether names decided.
    """

    time: str | None
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    guessed: bool


def guess_columns(
    table: Table, inputs: Sequence[str], outputs: Sequence[str], time: str | None, *, timeless: bool
) -> Columns:
    """Columns as given, or by their names where nothing is given.

    Args:
        table: The file's content.
        inputs: Columns of inputs; guessed where there are none.
        outputs: Likewise of outputs.
        time: Column of time stamps; guessed when left out.
        timeless: Whether the sample time is given, so that no column of stamps is needed.

    Raises:
        DataError: A column is not there, or names say too little; the message says which options to give.
    """
    names = [c.split()[0] for c in table.columns]
    for one in (*inputs, *outputs, *([] if time is None else [time])):
        table.column(one)
    if time is None:
        time = next((n for n in names if kind_of(n) == "time"), None)
    if time is None and not timeless:
        raise DataError(
            f"{table.source} has no column that is called time, it has {table.names()}: say --time COLUMN, or --dt "
            "SECONDS where rows are equidistant"
        )
    if inputs and outputs:
        return Columns(time, tuple(inputs), tuple(outputs), guessed=False)
    # Data sets often number their channels: u1, u2, y1.
    left = [n for n in names if n not in (*inputs, *outputs, time)]
    found = {n: kind_of(n) for n in left}
    unknown = [n for n in left if found[n] not in ("input", "output")]
    ins = tuple(inputs) or tuple(n for n in left if found[n] == "input")
    outs = tuple(outputs) or tuple(n for n in left if found[n] == "output")
    if not ins or not outs or (unknown and not (inputs or outputs)):
        about = f"cannot tell what {', '.join(map(repr, unknown))} are" if unknown else "finds no inputs or no outputs"
        raise DataError(
            f"{table.source} has {table.names()}, and `init` {about}: say --inputs A,B --outputs C,D "
            "(and --time COLUMN)"
        )
    return Columns(time, ins, outs, guessed=True)


def kind_of(name: str) -> str:
    """``"time"``, ``"input"``, ``"output"``, or ``""`` where a name says nothing or two things.

    Args:
        name: Name of a column, without its unit.
    """
    words = [w.lower() for part in name.split("_") for w in _WORDS.findall(part)]
    # A name in one piece: uEst is u, yVal is y.
    words += [w.lower() for w in re.findall(r"^[uy](?=[A-Z0-9]|$)", name)]
    found = {kind for kind, known in (("input", _INPUT), ("output", _OUTPUT)) if set(words) & set(known)}
    if not found and set(words) & set(_TIME):
        return "time"
    return found.pop() if len(found) == 1 else ""
