"""Schema of a road file, ``road.toml``: what each field means, which values it may have, and how fields agree.

The descriptions are the comments of a file that `controlrnn init` writes.
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Share = Annotated[float, Field(ge=0, le=1)]
Positive = Annotated[float, Field(gt=0)]
NotNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Part = Literal["train", "validation", "test", "calibration"]


class Section(BaseModel):
    """Table of the file: unknown fields are refused, and nothing is converted silently."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class ReadingOptions(Section):
    """Options of reading, as of `controlrnn.data.Reading`; what is left out is found, or asked for."""

    separator: str | None = Field(default=None, description="character between the columns")
    decimal: Literal[".", ","] | None = Field(default=None, description="decimal mark")
    encoding: str | None = Field(default=None, description="encoding of a text file")
    date_format: str | None = Field(default=None, description='format of dates, "%d.%m.%Y %H:%M:%S"')
    time_unit: Literal["ns", "us", "ms", "s", "min", "h", "d"] | None = Field(
        default=None, description="unit of numeric stamps"
    )
    zone: str | None = Field(default=None, description='time zone of dates without one, "Europe/Berlin"')
    missing: list[float] | None = Field(default=None, description="numbers that stand for a missing sample, [-9999.0]")
    sort: bool = Field(default=False, description="put rows into the order of their stamps")
    doubled: Literal["refuse", "first", "last", "mean"] = Field(
        default="refuse", description="rows with the same stamp"
    )
    resample: bool = Field(default=False, description="resample to dt")
    jitter: float = Field(default=0.2, ge=0, lt=0.5, description="largest jitter, as a share of the sample time")
    longest_hold: int = Field(default=0, ge=0, description="samples that an input which was not logged is held for")
    longest_gap: int = Field(
        default=20, ge=0, description="samples without any output after which a record is cut in two"
    )


class File(Section):
    """File with its purpose."""

    path: str = Field(description="path, relative to this file")
    part: Part | None = Field(default=None, description="what all its records are for; [split] decides when left out")


class Data(Section):
    """Measurements."""

    files: list[str | File] = Field(
        min_length=1, description='files; { path = "b.csv", part = "test" } keeps one for the test scores'
    )
    time: str | None = Field(default=None, description="column of time stamps; without it dt is the time between rows")
    dt: Positive | None = Field(
        default=None, description="sample time [s]; checked against the stamps where both are given"
    )
    timing: Literal["measured_first", "input_first"] = Field(
        default="measured_first", description="what comes first in a sample, the reading or the input: docs/timing.md"
    )
    faults: Literal["stop", "accept"] = Field(
        default="stop", description="what a fault that `controlrnn check` finds does; accept only what you understand"
    )
    reading: ReadingOptions = Field(default_factory=lambda: ReadingOptions(), description="options of reading")

    @model_validator(mode="after")
    def _timed(self) -> Data:
        if self.time is None and self.dt is None:
            raise ValueError("expected time = (a column of stamps) or dt = (seconds between rows), got neither")
        return self

    @property
    def sources(self) -> list[File]:
        """Files, each with its part."""
        return [File(path=f) if isinstance(f, str) else f for f in self.files]


class Input(Section):
    """Input: an actuator, or a disturbance that is measured."""

    name: str = Field(min_length=1, description="column of the files")
    unit: str = Field(default="", description="unit, that of the column's header")
    lower: float = Field(description="smallest value of the actuator")
    upper: float = Field(description="largest value")
    role: Literal["manipulated", "measured"] = Field(
        default="manipulated", description='"manipulated" by the controller, or "measured": a disturbance with a sensor'
    )
    error: NotNegative = Field(
        default=0.0, description="largest difference of true and recorded value; certificates cover it"
    )
    command_error: NotNegative = Field(
        default=0.0, description="the same between recorded and commanded value (measured inputs: of their forecast)"
    )
    move_weight: NotNegative = Field(default=1.0, description="cost of a move per unit^2")
    move_limit: Positive | None = Field(default=None, description="largest move per sample")

    @model_validator(mode="after")
    def _in_order(self) -> Input:
        _ordered(self.lower, self.upper)
        return self


class Output(Section):
    """Output: a measurement with the limits that the plant has to keep."""

    name: str = Field(min_length=1, description="column of the files")
    unit: str = Field(default="", description="unit, that of the column's header")
    lower: float | None = Field(default=None, description="smallest allowed value; none when left out")
    upper: float | None = Field(default=None, description="largest allowed value; none when left out")
    weight: NotNegative = Field(
        default=1.0, description="cost of a distance from the set point per unit^2; 0: limits only"
    )
    reference: list[float] = Field(min_length=1, description="set points of the simulated loops, one after the other")

    @model_validator(mode="after")
    def _in_order(self) -> Output:
        if self.lower is not None and self.upper is not None:
            _ordered(self.lower, self.upper)
        return self


def _ordered(lower: float, upper: float) -> None:
    if not lower < upper:
        raise ValueError(f"expected lower < upper, got {lower:g} and {upper:g}: swap them?")


class Split(Section):
    """Purpose of each sample: no sample serves two."""

    by: Literal["time", "record"] = Field(
        default="time", description='"time" cuts every record into parts, "record" deals out whole records'
    )
    train: Share = Field(description="share that the parameters are fitted to")
    validation: Share = Field(default=0.0, description="share that joins the training data in the search; 0 is fine")
    test: Share = Field(
        default=0.0,
        description="share for the final scores, and for the errors of the simulated plant (else of calibration)",
    )
    calibration: Share = Field(description="share that bounds the model error; nothing else sees it")
    gap: int = Field(default=0, ge=0, description="samples left out between two parts of a record")
    pieces: Count = Field(default=1, description="calibration pieces of each record; a promise needs several")

    @model_validator(mode="after")
    def _whole(self) -> Split:
        total = sum(self.shares)
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise ValueError(f"expected shares that add up to 1, got {total:g}: change one of {self.shares}")
        if not self.train > 0:
            raise ValueError(f"expected a share above 0 for train, got {self.train:g}: nothing could be learnt")
        return self

    @property
    def shares(self) -> tuple[float, float, float, float]:
        """Shares of the parts, in the order of `controlrnn.data.Dataset`."""
        return self.train, self.validation, self.test, self.calibration


class Identify(Section):
    """Search for a model, by `controlrnn.identification.identify_best`."""

    budget: Positive = Field(default=180.0, description="seconds for the search [s], of the clock below")
    clock: Literal["wall", "processor"] = Field(
        default="processor",
        description='seconds that are computed, whatever else the machine does, or those on the "wall"',
    )
    families: list[Literal["linear", "free", "contracting"]] = Field(
        default=["free", "contracting"], description="networks to try; linear models always are"
    )
    model: Literal["auto", "arx", "subspace", "linear", "free", "contracting"] = Field(
        default="auto", description='model to control with; "auto": the best one that can be certified'
    )


class ObserverOptions(Section):
    """State estimate of the controller."""

    kind: Literal["running_on", "washout"] = Field(
        default="running_on",
        description='"running_on" simulates from sample to sample, "washout" anew over the last steps',
    )
    steps: Count | None = Field(
        default=None,
        description="samples in which the model forgets its start; found from its contraction when left out",
    )


class CertificateOptions(Section):
    """Search for certificates."""

    iterations: Count = Field(default=300, description="most iterations for each bound")
    slower: float = Field(
        default=0.1, gt=0, lt=1, description="share of 1 - rate given away for a better conditioned metric"
    )


class Promise(Section):
    """Promise of the calibrated model error, by `mpc.calibrate`."""

    coverage: float = Field(
        default=0.9, gt=0, lt=1, description="probability that a new record stays inside; n give n/(n+1)"
    )
    confidence: float | None = Field(
        default=None, gt=0, lt=1, description="confidence in it for this calibration set; needs independent records"
    )
    unit: Literal["record", "step"] = Field(
        default="record", description='what stays inside: a whole "record", or a "step"'
    )
    washout: Count = Field(description="samples of each calibration record until its start is forgotten")


class Control(Section):
    """Model predictive controller."""

    horizon: Count = Field(description="steps that are predicted")
    control_horizon: Count = Field(description="steps of them in which inputs move")
    soft: bool = Field(default=True, description="whether limits may be violated at a price where nothing else is left")

    @model_validator(mode="after")
    def _inside(self) -> Control:
        if self.control_horizon > self.horizon:
            raise ValueError(f"expected control_horizon <= horizon = {self.horizon}, got {self.control_horizon}")
        return self


class Simulate(Section):
    """Simulated closed loops."""

    plant: str = Field(
        default="model",
        description='"model": the model with the errors that the test records had; or a plant, "module:object"',
        pattern=r"^(model|[A-Za-z_][\w.]*:[A-Za-z_][\w.]*)$",
    )
    loops: Count = Field(default=5, description="number of loops, each with other errors")
    hold: Count = Field(default=50, description="samples for which a set point is held")
    noise: list[NotNegative] | None = Field(
        default=None,
        description="standard deviation of the noise of each output, of a plant; those of the data when left out",
    )
    nominal: bool = Field(default=True, description="whether the same loops run without tightening, for comparison")


class RoadFile(Section):
    """Whole road: from measurements to a controller.

    Args:
        seed: Seed of everything random.
        data: Measurements.
        inputs: Inputs.
        outputs: Outputs.
        split: Purpose of each sample.
        identify: Search for a model.
        observer: State estimate.
        certificate: Search for certificates.
        promise: Promise of the model error.
        control: Controller.
        simulate: Simulated loops.
    """

    seed: int = Field(default=0, ge=0, lt=2**31, description="seed of everything random")
    data: Data = Field(description="Measurements.")
    inputs: list[Input] = Field(min_length=1, description="Inputs of the plant.")
    outputs: list[Output] = Field(min_length=1, description="Outputs of the plant, with the limits to keep.")
    split: Split = Field(description="What each sample is for.")
    identify: Identify = Field(default_factory=lambda: Identify(), description="Search for a model.")
    observer: ObserverOptions = Field(description="State estimate.")
    certificate: CertificateOptions = Field(
        default_factory=lambda: CertificateOptions(), description="Search for certificates."
    )
    promise: Promise = Field(description="What is promised of the model error.")
    control: Control = Field(description="Controller.")
    simulate: Simulate = Field(default_factory=lambda: Simulate(), description="Simulated closed loops.")

    @model_validator(mode="after")
    def _channels(self) -> RoadFile:
        names = [i.name for i in self.inputs] + [o.name for o in self.outputs]
        if twice := sorted({n for n in names if names.count(n) > 1}):
            raise ValueError(f"expected each channel once, got {', '.join(map(repr, twice))} twice")
        if all(i.role == "measured" for i in self.inputs):
            raise ValueError('expected at least one input with role = "manipulated", got none: nothing to control with')
        noise = self.simulate.noise
        if noise is not None and len(noise) != len(self.outputs):
            raise ValueError(
                f"expected simulate.noise with one number per output, {len(self.outputs)}, got {len(noise)}"
            )
        return self
