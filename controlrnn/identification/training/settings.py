"""Settings of training: all options of `identify`, checked in one place, and the ways in which training ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, TypedDict

import torch

from controlrnn.checks import Choice, checked_seed, count, positive
from controlrnn.errors import SettingError
from controlrnn.records import Count, Number, Schema, Stored, Text
from controlrnn.typed import typed


class FitStatus(Choice):
    """Way in which training ended; the best parameters are returned in every case."""

    FINISHED = "finished"
    """All steps were done."""
    STOPPED_EARLY = "stopped early"
    """The validation error had not improved for `Settings.patience` validations."""
    INTERRUPTED = "interrupted"
    """Ctrl-C was pressed; training can continue from the checkpoint, if any."""
    DIVERGED = "diverged"
    """The loss became infinite or NaN again and again, also at lower and lower learning rates."""


class Schedule(Choice):
    """Course of the learning rate over the steps."""

    CONSTANT = "constant"
    COSINE = "cosine"

    def factor(self, step: int, steps: int) -> float:
        """Factor of the learning rate at ``step``; the cosine falls from 1 to 0.01."""
        if self is Schedule.CONSTANT:
            return 1.0
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))


class Start(Choice):
    """Parameters that training starts from."""

    AUTO = "auto"
    """At the linear model if the model can start there and the data allow one, else as it is."""
    LINEAR = "linear"
    """At a subspace model of the training records."""
    AS_IS = "as_is"
    """At the parameters that the model was given."""
    CONTINUE = "continue"
    """At the parameters and with the units of a trained model, so that training continues with the same system."""


class InitialState(Choice):
    """Initial state from which a window or record is simulated."""

    ZERO = "zero"
    """Zero; a washout lets the error decay."""
    ESTIMATED = "estimated"
    """Least squares over the first ``skip`` samples of each record; windows within a record start from the state that
    a free run of the whole record had there at the last validation. For plants slower than any affordable washout."""
    MEASURED = "measured"
    """The measured state where the window or record begins: the record's ``x``, or its outputs where it has none. For
    plants whose whole state is measured: the states of the identified system are those, in physical units. A window of
    two samples teaches single steps, of nx + 1 or more also states that are no outputs."""


class Refine(Choice):
    """Second-order method that follows Adam, on the loss over whole records in float64."""

    NONE = "none"
    """Nothing."""
    LBFGS = "lbfgs"
    """L-BFGS, for models of any size and every loss."""
    LEVENBERG_MARQUARDT = "levenberg_marquardt"
    """Levenberg-Marquardt with exact sensitivities, for up to some hundred parameters and squared errors: the fastest
    way to an accurate minimum."""


class Keep(Choice):
    """Parameters that a fit returns."""

    BEST = "best"
    """Those with the lowest validation error."""
    LAST = "last"
    """Those of the last validation with a finite error: for a length of training that was fixed before, or for a
    regulariser that decides on the model instead of the validation error."""


class Options(TypedDict, total=False):
    """Options of `identify` as keywords, for editors and type checkers; see `Settings`."""

    steps: int
    batch_size: int
    window: int | None
    learning_rate: float
    schedule: Schedule | str
    clip: float
    validate_every: int
    patience: int | None
    skip: int | None
    initial_state: InitialState | str
    start: Start | str
    start_horizon: int | None
    precision: str
    refine: Refine | str
    refine_steps: int
    shooting: int | None
    stiffness: float
    keep: Keep | str
    seed: int


@dataclass(frozen=True, kw_only=True)
@typed()
class Settings(Stored):
    """Options of `identify`.

    Args:
        steps: Steps of Adam; 0 is allowed where a refinement follows.
        batch_size: Windows per step.
        window: Samples per window, washout included; None takes the shortest training record, at most 250 + washout.
        learning_rate: Learning rate of Adam at the start.
        schedule: Course of the learning rate.
        clip: Largest 2-norm of the gradient; longer ones are scaled down.
        validate_every: Steps between validations (free simulation of whole validation records).
        patience: Validations without improvement after which training stops; None never stops early.
        skip: Samples at the start of each record that validation and scores leave out; None takes the loss's washout.
        initial_state: Initial states of simulations.
        start: Parameters at the start.
        start_horizon: Samples of past and of future that the linear start is identified from (`identify_subspace`);
            longer for slow or lightly damped plants. None takes that function's choice.
        precision: ``"float32"`` or ``"float64"``, of training only: validation and scores use the frozen system.
        refine: Second-order method after Adam.
        refine_steps: Largest number of its iterations.
        shooting: Samples of the segments that a refinement cuts records into; None simulates whole records.
        stiffness: Weight of the squared jumps of the state between segments.
        keep: Parameters that are returned.
        seed: Seed of the windows drawn.

    Raises:
        SettingError: An option is out of range.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "settings", 1,
        meta={
            "steps": Count(), "batch_size": Count(1), "window": Count(2, none=True), "learning_rate": Number(above=0.0),
            "schedule": Text(choices=Schedule), "clip": Number(above=0.0), "validate_every": Count(1),
            "patience": Count(1, none=True), "skip": Count(none=True), "initial_state": Text(choices=InitialState),
            "start": Text(choices=Start), "start_horizon": Count(2, none=True),
            "precision": Text(choices=("float32", "float64")), "refine": Text(choices=Refine), "refine_steps": Count(1),
            "shooting": Count(2, none=True), "stiffness": Number(above=0.0), "keep": Text(choices=Keep),
            "seed": Count(most=2**64),
        },
    )  # fmt: skip

    steps: int = 2000
    batch_size: int = 16
    window: int | None = None
    learning_rate: float = 3e-3
    schedule: Schedule = Schedule.COSINE
    clip: float = 1.0
    validate_every: int = 50
    patience: int | None = None
    skip: int | None = None
    initial_state: InitialState = InitialState.ZERO
    start: Start = Start.AUTO
    start_horizon: int | None = None
    precision: str = "float32"
    refine: Refine = Refine.NONE
    refine_steps: int = 200
    shooting: int | None = None
    stiffness: float = 1.0
    keep: Keep = Keep.BEST
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("batch_size", "validate_every", "refine_steps"):
            count(name, getattr(self, name))
        for name, least in (("window", 2), ("patience", 1), ("skip", 0), ("shooting", 2), ("start_horizon", 2)):
            if getattr(self, name) is not None:
                count(name, getattr(self, name), least=least)
        positive("learning_rate", self.learning_rate)
        positive("clip", self.clip)
        checked_seed(self.seed)
        positive("stiffness", self.stiffness)
        kinds = {"schedule": Schedule, "initial_state": InitialState, "start": Start, "refine": Refine, "keep": Keep}
        for name, kind in kinds.items():
            object.__setattr__(self, name, kind(getattr(self, name)))
        count("steps", self.steps, least=1 if self.refine is Refine.NONE else 0)
        if self.precision not in ("float32", "float64"):
            raise SettingError(f"precision must be 'float32' or 'float64', got {self.precision!r}")

    @property
    def all_steps(self) -> int:
        """Steps of Adam and iterations of the refinement together."""
        return self.steps + (0 if self.refine is Refine.NONE else self.refine_steps)

    @property
    def dtype(self) -> torch.dtype:
        """Torch's type for the precision of training."""
        return torch.float64 if self.precision == "float64" else torch.float32
