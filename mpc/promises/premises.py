"""Premises of a guarantee as data, stored with each part and compared wherever parts are combined.

A certified error holds for one model, one observer with its settings, actuators of one range, and input errors of a
declared size; a calibrated one for records of one kind; and all numbers are in the units of named channels. Each part
states what it depends on and leaves out what it does not (a terminal set does not depend on the observer that made the
jump it allows for). Two parts may be combined if everything that both state is equal. That is stricter than theory,
which lets a bound for wider actuators serve narrower ones: compute the bound again for those.

Premises that cannot be compared beforehand are checked at every step: `mpc.safety.premise_watch`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, count, positive, put, read_only, share, texts
from controlrnn.data import Signal, Trajectory
from controlrnn.data.trajectory import Timing
from controlrnn.errors import DataError, SettingError
from controlrnn.portable import told_apart
from controlrnn.records import Count, Digest, ListOf, Number, Numbers, Schema, Stored, TableOf, Text, digest
from controlrnn.systems import LureSystem
from controlrnn.typed import typed
from mpc.predictor import Predictor
from mpc.promises.promise import Loop

_PER_INPUT = ("input_lower", "input_upper", "input_error", "command_error", "move_limit")
_SHOWN = 4  # settings of up to so many numbers are written out, longer ones as a digest


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("move_limit",))
class Premises(Stored):
    """Premises that a part of a controller depends on; fields that are None or empty are not stated.

    Args:
        system: The model's digest.
        timing: Order of measurement and input within a sample.
        dt: Sample time [s].
        inputs: Names of the inputs.
        input_units: Their units.
        outputs: Names of the outputs.
        output_units: Their units.
        input_lower: Lower ends of the actuators' ranges, shape (nu,).
        input_upper: Upper ends, shape (nu,).
        move_limit: Largest change per sample that actuators are asked for, shape (nu,); infinite without a limit.
        move_window: Inputs in a row that have to have kept it before errors are as calibrated; None: they always are.
        input_error: Bound on |true - recorded input|, shape (nu,).
        command_error: Bound on |recorded - commanded input|, shape (nu,).
        observer: Kind and settings of the observer, as texts by name.
        horizon: Number N of prediction steps.
        length: Samples of the shortest calibration record.
        missing: Share of missing readings in calibration.
        loop: Whether the records are from open or closed loop.
        region: Digest of the calibrated operating region.

    Raises:
        SettingError: A number is out of its range.
        ShapeError: An array has not one entry per input.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "premises", 2,  # 1: without move_window
        arrays={
            "input_lower": Numbers("nu", optional=True), "input_upper": Numbers("nu", optional=True),
            "move_limit": Numbers("nu", above=0.0, infinite=True, optional=True),
            "input_error": Numbers("nu", least=0.0, optional=True),
            "command_error": Numbers("nu", least=0.0, optional=True),
        },
        meta={
            "system": Digest(), "timing": Text(choices=Timing), "dt": Number(above=0.0),
            "inputs": ListOf(Text(), "I"), "input_units": ListOf(Text(), "I"),
            "outputs": ListOf(Text(), "O"), "output_units": ListOf(Text(), "O"),
            "observer": TableOf(Text()), "horizon": Count(none=True), "length": Count(1, none=True),
            "missing": Number(least=0.0, below=1.0, none=True), "loop": Text(choices=Loop, none=True),
            "region": Digest(empty=True), "move_window": Count(none=True),
        },
        zero=("I", "O"),
    )  # fmt: skip

    system: str
    dt: float
    timing: Timing = Timing.MEASURED_FIRST
    inputs: tuple[str, ...] = ()
    input_units: tuple[str, ...] = ()
    outputs: tuple[str, ...] = ()
    output_units: tuple[str, ...] = ()
    input_lower: Array | None = None
    input_upper: Array | None = None
    move_limit: Array | None = None
    input_error: Array | None = None
    command_error: Array | None = None
    observer: dict[str, str] = field(default_factory=dict)
    horizon: int | None = None
    length: int | None = None
    missing: float | None = None
    loop: Loop | None = None
    region: str = ""
    move_window: int | None = None

    def __post_init__(self) -> None:
        put(self, timing=Timing(self.timing), observer=texts("observer", self.observer), dt=positive("dt", self.dt))
        for name in ("inputs", "input_units", "outputs", "output_units"):
            put(self, **{name: tuple(getattr(self, name))})
        for names, units in (("inputs", "input_units"), ("outputs", "output_units")):
            if len(getattr(self, names)) != len(getattr(self, units)):
                raise SettingError(f"{units} must have one unit per channel of {names}, got {getattr(self, units)}")
        nu: int | str = len(self.inputs) or "nu"
        for name in _PER_INPUT:
            given = getattr(self, name)
            if given is not None:
                put(self, **{name: read_only(as_array(name, given, (nu,), finite=name != "move_limit"))})
        if self.loop is not None:
            put(self, loop=Loop(self.loop))
        if self.horizon is not None:
            count("horizon", self.horizon, least=0)
        if self.length is not None:
            count("length", self.length)
        if self.move_window is not None:
            count("move_window", self.move_window, least=0)
            if self.move_limit is None:
                raise SettingError("move_window needs the move_limit that inputs have kept, got none")
        if self.missing is not None:
            share("missing", self.missing)

    def differences(self, other: Premises) -> tuple[str, ...]:
        """Differences between two sets of premises in words, over the fields that both state; this one's value first.

        Args:
            other: Premises of another part.
        """
        found: list[str] = []
        # A field that one of them does not state cannot differ.
        for one in fields(self):
            mine, theirs = getattr(self, one.name), getattr(other, one.name)
            if mine is None or theirs is None or _empty(mine) or _empty(theirs):
                continue
            found += _different(one.name, mine, theirs, self.inputs or other.inputs)
        return tuple(found)

    def refuse_other(self, what: str, other: Premises, whose: str) -> None:
        """Raise SettingError, naming the differences, unless these premises agree with those of another part.

        Args:
            what: Name of the part with these premises.
            other: Premises of the other part.
            whose: Name of the other part.
        """
        found = self.differences(other)
        if found:
            raise SettingError(
                f"{what} and {whose} rest on different premises: {'; '.join(found)} (first {what}, then {whose}): make "
                "them for one and the same"
            )

    def beside(self, other: Premises) -> Premises:
        """Copy that also states what only another part states, with which these premises agree.

        Args:
            other: Premises of the other part.
        """
        mine = {one.name: getattr(self, one.name) for one in fields(self)}
        return self.also(**{n: getattr(other, n) for n, value in mine.items() if value is None or _empty(value)})

    def also(self, **more: Any) -> Premises:
        """Copy with some fields replaced.

        Args:
            more: Fields and their values.
        """
        return replace(self, **more)


@typed()
def premises_of(predictor: Predictor) -> Premises:
    """Premises of everything made with a predictor: model, sample time, channels and the actuators' range.

    Args:
        predictor: The predictor.
    """
    ends = [np.array([getattr(s, side) for s in predictor.inputs]) for side in ("lower", "upper")]
    known = bool(predictor.nu and np.isfinite(ends).all())
    return Premises(
        system=predictor.system.digest,
        dt=float(predictor.system.dt),
        timing=predictor.timing,
        **channels_of(predictor.inputs, "input"),
        **channels_of(predictor.outputs, "output"),
        input_lower=ends[0] if known else None,
        input_upper=ends[1] if known else None,
    )


def record_premises(system: LureSystem, records: Sequence[Trajectory]) -> Premises:
    """Premises from the channels and the sample time of records; default names (``u1``, no unit) are not stated.

    Args:
        system: The model that they are compared with.
        records: The records, of one plant.

    Raises:
        DataError: They name different channels, or have different timings.
    """
    said: dict[str, Any] = {}
    for kind, letter in (("input", "u"), ("output", "y")):
        found = {tuple((s.name, s.unit) for s in getattr(record, f"{kind}s")): record.name for record in records}
        # Default names say nothing about the plant: records with and without names may be mixed.
        found.pop(tuple((f"{letter}{i + 1}", "") for i in range(getattr(system, f"n{letter}"))), None)
        if len(found) > 1:
            one, other = list(found.items())[:2]
            raise DataError(
                f"records must be of one plant, got {kind}s {one[0]} in {one[1]!r} and {other[0]} in {other[1]!r}: "
                "check names and units"
            )
        for channels in found:
            said |= {f"{kind}s": tuple(n for n, _ in channels), f"{kind}_units": tuple(u for _, u in channels)}
    timings = {record.timing for record in records}
    if len(timings) > 1:
        raise DataError(f"records must have one timing, got {sorted(map(str, timings))}: see Trajectory.delayed")
    if timings:
        said["timing"] = timings.pop()
    return Premises(system=system.digest, dt=float(system.dt), **said)


def channels_of(signals: tuple[Signal, ...], kind: str) -> dict[str, Any]:
    """Names and units of channels as fields of `Premises`.

    Args:
        signals: The channels.
        kind: ``"input"`` or ``"output"``.
    """
    return {f"{kind}s": tuple(s.name for s in signals), f"{kind}_units": tuple(s.unit for s in signals)}


def setting_text(value: Any) -> str:
    """Text of a setting; long arrays are replaced by a digest.

    Args:
        value: The setting.
    """
    if isinstance(value, np.ndarray):
        return " ".join(f"{x:.17g}" for x in value.flat) if value.size <= _SHOWN else digest({"": value}, {})[:16]
    return str(value)


def _empty(value: Any) -> bool:
    return isinstance(value, tuple | str | Mapping) and not value


def _different(name: str, mine: Any, theirs: Any, inputs: tuple[str, ...]) -> list[str]:
    """Differences in one field, in words."""
    said = name.replace("_", " ")
    if isinstance(mine, Mapping):
        names = [n for n in {**mine, **theirs} if mine.get(n) != theirs.get(n)]
        return [f"{said}'s {n} {mine.get(n, 'none')} against {theirs.get(n, 'none')}" for n in names]
    if isinstance(mine, np.ndarray):
        if mine.shape != theirs.shape:
            return [f"{said} of {len(mine)} inputs against {len(theirs)}"]
        return [
            f"{said} of {inputs[i] if i < len(inputs) else f'input {i + 1}'} "
            f"{' against '.join(told_apart(float(mine[i]), float(theirs[i])))}"
            for i in np.flatnonzero(mine != theirs)
        ]
    if mine == theirs:
        return []
    if isinstance(mine, tuple):
        return [f"{said} {', '.join(map(repr, mine))} against {', '.join(map(repr, theirs))}"]
    if name in ("system", "region"):
        return [f"{said} {mine[:12]} against {theirs[:12]}"]
    return [f"{said} {mine} against {theirs}"]
