"""How to train: every option of `identify`, checked in one place, and the ways in which training ends."""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum

import torch

from controlrnn.checks import count, positive
from controlrnn.errors import SettingError


class FitStatus(StrEnum):
    """How training ended. The best parameters are returned in every case."""

    FINISHED = "finished"
    """All steps were done."""
    STOPPED_EARLY = "stopped early"
    """The validation error had not improved for `Settings.patience` validations."""
    INTERRUPTED = "interrupted"
    """Ctrl-C; the checkpoint, if any, allows to go on."""
    DIVERGED = "diverged"
    """The loss became infinite or NaN again and again, also at lower and lower learning rates."""


class Schedule(StrEnum):
    """Course of the learning rate over the steps."""

    CONSTANT = "constant"
    COSINE = "cosine"

    def factor(self, step: int, steps: int) -> float:
        """What the learning rate is multiplied by at ``step``; the cosine falls from 1 to 0.01."""
        if self is Schedule.CONSTANT:
            return 1.0
        return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * step / steps))


class Start(StrEnum):
    """What parameters training starts from."""

    AUTO = "auto"
    """At the linear model if the model can start there and the data allow one, else as it is."""
    LINEAR = "linear"
    """At a subspace model of the training records."""
    AS_IS = "as_is"
    """At the parameters that the model was given."""


class InitialState(StrEnum):
    """From which state a window or record is simulated."""

    ZERO = "zero"
    """Zero; a washout forgets the difference."""
    ESTIMATED = "estimated"
    """Least squares over the first ``skip`` samples of each record; windows within a record start from the state that
    a free run of the whole record had there at the last validation. For plants slower than any affordable washout."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Options of `identify`.

    Args:
        steps: Optimiser steps (Adam).
        batch_size: Windows per step.
        window: Samples per window, washout included; None takes the shortest training record, at most 250 + washout.
        learning_rate: Of Adam, at the start.
        schedule: Course of the learning rate.
        clip: Largest 2-norm of the gradient; longer ones are scaled down.
        validate_every: Steps between validations (free simulation of whole validation records).
        patience: Validations without improvement after which training stops; None never stops early.
        skip: Samples at the start of each record that validation and scores leave out; None takes the loss's washout.
        initial_state: Where simulations start.
        start: Where the parameters start.
        precision: ``"float32"`` or ``"float64"``, of training only: validation and scores use the frozen system.
        seed: Seed of the windows drawn.

    Raises:
        SettingError: An option is out of range.
    """

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
    precision: str = "float32"
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "validate_every"):
            count(name, getattr(self, name))
        for name, least in (("window", 2), ("patience", 1), ("skip", 0)):
            if getattr(self, name) is not None:
                count(name, getattr(self, name), least=least)
        positive("learning_rate", self.learning_rate)
        positive("clip", self.clip)
        count("seed", self.seed, least=0)
        for name, kind in (("schedule", Schedule), ("initial_state", InitialState), ("start", Start)):
            try:
                object.__setattr__(self, name, kind(getattr(self, name)))
            except ValueError as error:
                names = ", ".join(repr(str(k)) for k in kind)
                raise SettingError(f"{name} must be one of {names}, got {getattr(self, name)!r}") from error
        if self.precision not in ("float32", "float64"):
            raise SettingError(f"precision must be 'float32' or 'float64', got {self.precision!r}")

    @property
    def dtype(self) -> torch.dtype:
        """Precision of training."""
        return torch.float64 if self.precision == "float64" else torch.float32
