"""Progress of a training run, and callbacks that are told about it; the library itself never prints."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any, Protocol

from controlrnn.identification.training.settings import FitStatus
from controlrnn.typed import typed


@dataclass(frozen=True)
@typed(infinite=("loss", "validation", "best", "learning_rate"))
class Progress:
    """State of a training run after a step.

    Args:
        step: Steps done.
        steps: Steps planned.
        loss: Training loss of the last step.
        validation: Last validation error: root mean square free-run error in units of the training outputs' standard
            deviation.
        best: Lowest validation error so far.
        learning_rate: Learning rate of the last step.
    """

    step: int
    steps: int
    loss: float
    validation: float
    best: float
    learning_rate: float


class Callback(Protocol):
    """Listener to a training run; raising KeyboardInterrupt in it ends training as Ctrl-C does."""

    def on_step(self, progress: Progress) -> None:
        """Called after every optimiser step."""

    def on_end(self, status: FitStatus) -> None:
        """Called once, when training is over."""


class TqdmProgress:
    """Callback that shows a progress bar with the best validation error so far; needs tqdm.

    Args:
        label: Text in front of the bar.
        leave: Whether the finished bar stays on the screen.

    Raises:
        ModuleNotFoundError: tqdm is missing: install ``controlrnn[progress]``.
    """

    @typed()
    def __init__(self, label: str = "", *, leave: bool = False) -> None:
        if importlib.util.find_spec("tqdm") is None:
            raise ModuleNotFoundError(
                "a progress bar needs tqdm, which is not installed: pip install 'controlrnn[progress]'", name="tqdm"
            )
        self._label = label
        self._leave = leave
        self._bar: Any = None

    def on_step(self, progress: Progress) -> None:
        """Advance the bar."""
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(total=progress.steps, desc=self._label, leave=self._leave, mininterval=0.5)
        self._bar.update(progress.step - self._bar.n)
        self._bar.set_postfix_str(f"validation NRMSE {progress.best:.4f}", refresh=False)

    def on_end(self, status: FitStatus) -> None:
        """Close the bar."""
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._bar.postfix}, {status}")
            self._bar.close()
            self._bar = None
