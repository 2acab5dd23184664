"""Trajectories: the inputs, outputs and sample time of one experiment."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, Choice, as_array, positive, read_only
from controlrnn.data.reading.assembling import pieces
from controlrnn.data.reading.numbers import suspects
from controlrnn.data.reading.options import Reading
from controlrnn.data.signal import Signal
from controlrnn.errors import DataError, ShapeError
from controlrnn.records import Number, Numbers, Part, Schema, Stored, Text, digest
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


_log = logging.getLogger(__name__)
_WIDE = 4  # channels for each sample from which on arrays must be the wrong way round


class Timing(Choice):
    """Order of measurement and input within a sample; see docs/timing.md.

    `MEASURED_FIRST` is the convention of everything that controls: y[t] is measured, then u[t] is chosen and acts.
    `INPUT_FIRST` is that of many simulators and benchmarks: u[t] acts, then y[t] is taken and may answer to it.
    `DELAYED` is that of a controller that computes for up to a sample time: y[t] is measured, u[t] is computed from it
    and begins to act at sample t + 1.
    """

    MEASURED_FIRST = "measured_first"
    INPUT_FIRST = "input_first"
    DELAYED = "delayed"


@dataclass(frozen=True, eq=False)
@typed(infinite=("y",))
class Trajectory(Stored):
    """Record of T samples of one experiment: inputs, outputs, and states where they are known.

    ``u[t]`` is held from sample t to t + 1; ``y[t]`` and ``x[t]`` are taken at sample t. Whether ``y[t]`` is taken just
    before or just after ``u[t]`` acts matters only where outputs depend on inputs at the same moment.

    Args:
        u: Inputs, shape (T, nu), physical units.
        y: Outputs, shape (T, ny), physical units; NaN where a sample is missing.
        dt: Sample time [s].
        x: True states where they are known (simulators), shape (T, nx); else None.
        inputs: One `Signal` per input; made up as ``u1, u2, ...`` when left out.
        outputs: One `Signal` per output; made up as ``y1, y2, ...`` when left out.
        name: Origin of the record, for legends and messages.
        timing: Whether a sample begins with its measurement or with its input.
        part_of: Digest of the longer record that this one is a piece of; "" for a whole one. Pieces of one record are
            not independent of each other, and `mpc.calibrate` says so.

    Raises:
        ShapeError: An array has the wrong shape, or the lengths differ.
        DataError: Fewer than 2 samples, inputs or states that are not finite, or an output without any number.
        SettingError: ``dt`` is not positive.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "trajectory", 4,  # 3: complete outputs, without part_of
        arrays={"u": Numbers("T", "nu"), "y": Numbers("T", "ny", nan=True), "x": Numbers("T", "nx", optional=True)},
        meta={"dt": Number(above=0.0), "name": Text(), "timing": Text(choices=Timing), "part_of": Text()},
        parts={"inputs": Part(Signal, many=True), "outputs": Part(Signal, many=True)}, zero=("nu", "ny", "nx"),
    )  # fmt: skip

    u: Array
    y: Array
    dt: float
    x: Array | None = None
    inputs: tuple[Signal, ...] = ()
    outputs: tuple[Signal, ...] = ()
    name: str = ""
    timing: Timing = Timing.MEASURED_FIRST
    part_of: str = ""

    def __post_init__(self) -> None:
        u, y = as_array("u", self.u, ("T", "nu")), as_array("y", self.y, ("T", "ny"), finite=False)
        _check_lengths(u, y)
        _check_outputs(y, self.name)
        put = object.__setattr__
        put(self, "u", read_only(u))
        put(self, "y", read_only(y))
        put(self, "dt", positive("dt", self.dt, what="a positive sample time in seconds"))
        put(self, "timing", Timing(self.timing))
        if self.x is not None:
            put(self, "x", read_only(as_array("x", self.x, (len(u), "nx"), hint="give one state per sample")))
        put(self, "inputs", _signals("inputs", "u", self.inputs, u.shape[1]))
        put(self, "outputs", _signals("outputs", "y", self.outputs, y.shape[1]))

    def __len__(self) -> int:
        return len(self.u)

    def __getitem__(self, window: slice) -> Trajectory:
        """Cut out the samples of ``window``, a slice of step 1, as a trajectory."""
        if not isinstance(window, slice) or window.step not in (None, 1):
            raise DataError(f"a trajectory is cut with a slice of step 1, got {window!r}: use trajectory[a:b]")
        cut = {"u": self.u[window], "y": self.y[window], "x": None if self.x is None else self.x[window]}
        whole = len(cut["u"]) == len(self)  # type: ignore[arg-type]
        return replace(self, **cut, part_of=self.part_of if whole else self.part_of or self._content())  # type: ignore[arg-type]

    @classmethod
    @typed(unchecked=("frame",))
    def from_frame(
        cls,
        frame: Any,
        *,
        inputs: Sequence[str | Signal],
        outputs: Sequence[str | Signal],
        time: str | None = None,
        dt: float | None = None,
        timing: Timing = Timing.MEASURED_FIRST,
        name: str = "",
        reading: Reading | None = None,
    ) -> Trajectory:
        """Make one record from a data frame; arguments as for `read_records`, which also returns several.

        Args:
            frame: Data frame of pandas or polars; its index is a column of its name, or ``"index"``.
            inputs: Columns of the inputs, as names or as signals of these names; may be empty.
            outputs: Columns of the outputs, likewise.
            time: Column of time stamps; without it rows are equidistant.
            dt: Sample time [s].
            timing: Whether a sample begins with its measurement or with its input.
            name: Origin of the record.
            reading: Options.

        Raises:
            DataError: Columns, stamps or values are not what they have to be, or gaps would cut the record.
            SettingError: An argument contradicts another one.
        """
        found = pieces(frame, inputs, outputs, time, dt, reading or Reading())
        if len(found.u) > 1:
            raise DataError(
                f"{found.source} falls into {len(found.u)} records, of {', '.join(str(len(u)) for u in found.u[:5])} "
                "samples: use read_records, or raise longest_hold and longest_gap"
            )
        return cls(
            found.u[0], found.y[0], found.dt, inputs=found.inputs, outputs=found.outputs, name=name, timing=timing
        )

    @property
    def missing(self) -> NDArray[np.bool_]:
        """Whether each output is missing at each sample, shape (T, ny)."""
        return np.isnan(self.y)

    @property
    def is_complete(self) -> bool:
        """Whether no sample of an output is missing."""
        return not self.missing.any()

    def measured_first(self) -> Trajectory:
        """Convert the record to the timing `Timing.MEASURED_FIRST`, that of a controller.

        A reading taken after ``u[t]`` acted is available when ``u[t + 1]`` is chosen: outputs are delayed by one
        sample, and the first input, which has no reading before it, is left out. The controller has to take its
        readings at the same moment of the sampling period. States stay at their samples. A record that has this timing
        already is returned as it is.
        """
        if self.timing is Timing.MEASURED_FIRST:
            return self
        x = None if self.x is None else self.x[1:]
        if self.timing is Timing.DELAYED:  # what was given at t - 1 began to act at t
            return replace(self, u=self.u[:-1], y=self.y[1:], x=x, timing=Timing.MEASURED_FIRST)
        return replace(self, u=self.u[1:], y=self.y[:-1], x=x, timing=Timing.MEASURED_FIRST)

    def delayed(self) -> Trajectory:
        """The record as a controller would have it whose inputs act one sample after they are computed.

        The input that began to act at t + 1 is the one that it would have given at t: inputs move back by one sample,
        and the last reading, after which none is given, is left out. A record that is so already is returned as it is.
        """
        if self.timing is Timing.DELAYED:
            return self
        if self.timing is Timing.INPUT_FIRST:
            return self.measured_first().delayed()
        x = None if self.x is None else self.x[:-1]
        return replace(self, u=self.u[1:], y=self.y[:-1], x=x, timing=Timing.DELAYED)

    def _content(self) -> str:
        """Digest of what was measured."""
        return digest({"u": self.u, "y": self.y}, {"dt": self.dt})

    @property
    def nu(self) -> int:
        """Number of inputs."""
        return int(self.u.shape[1])

    @property
    def ny(self) -> int:
        """Number of outputs."""
        return int(self.y.shape[1])

    @property
    def time(self) -> Array:
        """Sample times [s], shape (T,), starting at 0."""
        return np.arange(len(self), dtype=np.float64) * self.dt

    def plot(self) -> Figure:
        """Draw inputs and outputs over time, one panel a channel; returns the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 1.6 * (self.nu + self.ny)), layout="constrained")
        panels = figure.subplots(self.nu + self.ny, 1, sharex=True, squeeze=False)[:, 0]
        for panel, signal, values in zip(panels[: self.nu], self.inputs, self.u.T, strict=True):
            panel.step(self.time, values, where="post", color="0.3")
            panel.set_ylabel(signal.label)
        for panel, signal, values in zip(panels[self.nu :], self.outputs, self.y.T, strict=True):
            panel.plot(self.time, values)
            panel.set_ylabel(signal.label)
        panels[-1].set_xlabel("time [s]")
        return figure


def _check_lengths(u: Array, y: Array) -> None:
    """Raise ShapeError or DataError unless u (T, nu) and y (T, ny) can be one record, time first."""
    if len(u) != len(y):
        raise ShapeError(f"u and y must have the same length, got {len(u)} and {len(y)}: cut the longer one")
    if len(u) < 2:
        raise DataError(f"a trajectory needs at least 2 samples, got {len(u)}")
    if u.shape[1] + y.shape[1] > _WIDE * len(u):
        raise ShapeError(
            f"u and y must have time first, got {u.shape} and {y.shape}, {len(u)} samples of {u.shape[1] + y.shape[1]} "
            "channels: pass u.T and y.T"
        )


def _check_outputs(y: Array, name: str) -> None:
    """Raise DataError where outputs are infinite or wholly missing; log what looks like a placeholder."""
    if np.isinf(y).any():
        where = tuple(int(i) for i in np.argwhere(np.isinf(y))[0])
        raise DataError(f"y must be finite or NaN (missing), got an infinite value at {where}: clean the data")
    if (empty := np.isnan(y).all(axis=0)).any():
        raise DataError(
            f"y must hold a number in every channel, got none in channel {int(np.argmax(empty)) + 1} of record "
            f"{name!r}: "
            "leave that output out, or cut the record elsewhere"
        )
    for i, column in enumerate(y.T):
        if marks := suspects(column):
            _log.warning(
                "record %r: output %d holds %g, far from all other values; if it stands for a missing sample, put NaN",
                name,
                i + 1,
                marks[0],
            )


def _signals(name: str, letter: str, signals: tuple[Signal, ...], n: int) -> tuple[Signal, ...]:
    """Return ``signals`` after checking that there are ``n``; where none are given, make them up."""
    if not signals:
        return tuple(Signal(f"{letter}{i + 1}") for i in range(n))
    if len(signals) != n:
        raise ShapeError(f"{name} must name {n} channels, got {len(signals)}: give one Signal per column of {letter}")
    return tuple(signals)
