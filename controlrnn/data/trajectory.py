"""Trajectories: the inputs, outputs and sample time of one experiment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, Choice, as_array, positive, read_only
from controlrnn.data.signal import Signal
from controlrnn.errors import DataError, ShapeError
from controlrnn.records import Number, Numbers, Part, Schema, Stored, Text
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


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
@typed()
class Trajectory(Stored):
    """Record of T samples of one experiment: inputs, outputs, and states where they are known.

    ``u[t]`` is held from sample t to t + 1; ``y[t]`` and ``x[t]`` are taken at sample t. Whether ``y[t]`` is taken just
    before or just after ``u[t]`` acts matters only where outputs depend on inputs at the same moment.

    Args:
        u: Inputs, shape (T, nu), physical units.
        y: Outputs, shape (T, ny), physical units.
        dt: Sample time [s].
        x: True states where they are known (simulators), shape (T, nx); else None.
        inputs: One `Signal` per input; made up as ``u1, u2, ...`` when left out.
        outputs: One `Signal` per output; made up as ``y1, y2, ...`` when left out.
        name: Origin of the record, for legends and messages.
        timing: Whether a sample begins with its measurement or with its input.

    Raises:
        ShapeError: An array has the wrong shape, or the lengths differ.
        DataError: Fewer than 2 samples, or values that are not finite.
        SettingError: ``dt`` is not positive.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "trajectory", 3,
        arrays={"u": Numbers("T", "nu"), "y": Numbers("T", "ny"), "x": Numbers("T", "nx", optional=True)},
        meta={"dt": Number(above=0.0), "name": Text(), "timing": Text(choices=Timing)},
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

    def __post_init__(self) -> None:
        u, y = as_array("u", self.u, ("T", "nu")), as_array("y", self.y, ("T", "ny"))
        if len(u) != len(y):
            raise ShapeError(f"u and y must have the same length, got {len(u)} and {len(y)}: cut the longer one")
        if len(u) < 2:
            raise DataError(f"a trajectory needs at least 2 samples, got {len(u)}")
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
        return replace(self, u=self.u[window], y=self.y[window], x=None if self.x is None else self.x[window])

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


def _signals(name: str, letter: str, signals: tuple[Signal, ...], n: int) -> tuple[Signal, ...]:
    """Return ``signals`` after checking that there are ``n``; where none are given, make them up."""
    if not signals:
        return tuple(Signal(f"{letter}{i + 1}") for i in range(n))
    if len(signals) != n:
        raise ShapeError(f"{name} must name {n} channels, got {len(signals)}: give one Signal per column of {letter}")
    return tuple(signals)
