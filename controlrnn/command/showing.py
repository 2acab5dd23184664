"""Output of the command: results on stdout, as text or JSON; log, stages and bars on stderr."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from controlrnn.identification import Callback, Progress
    from controlrnn.identification.training.settings import FitStatus
    from controlrnn.road import Entry, Stage

_OURS = ("controlrnn", "mpc", "plants")


@contextlib.contextmanager
def own_logging() -> Iterator[None]:
    """Context manager in which commands may set up our loggers; afterwards they are as they were."""
    before = [(logging.getLogger(name), logging.getLogger(name).level) for name in _OURS]
    handlers = [list(logger.handlers) for logger, _ in before]
    try:
        yield
    finally:
        for (logger, level), kept in zip(before, handlers, strict=True):
            logger.setLevel(level)
            logger.handlers = kept


class Show:
    """Output of one command.

    Args:
        as_json: Whether stdout gets one JSON value instead of text.
        verbose: Whether the log shows every step.
        quiet: Whether stderr gets errors only.
    """

    def __init__(self, *, as_json: bool = False, verbose: bool = False, quiet: bool = False) -> None:
        self.as_json = as_json
        self.quiet = quiet
        level = logging.ERROR if quiet else logging.INFO if verbose else logging.WARNING
        handler = logging.StreamHandler(sys.stderr)
        handler.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))
        handler.addFilter(_Once())
        for name in _OURS:
            logger = logging.getLogger(name)
            logger.addHandler(handler)
            logger.setLevel(level)

    def note(self, text: str) -> None:
        """Say something on stderr."""
        if not self.quiet:
            typer.echo(text, err=True)

    def result(self, text: str, value: Any) -> None:
        """Give the result on stdout.

        Args:
            text: As text.
            value: As JSON value.
        """
        typer.echo(json.dumps(value, indent=2, allow_nan=False) if self.as_json else text)


class _Once(logging.Filter):
    """Lets every text pass once: five loops need not say five times that they are long."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        new = text not in self._seen
        self._seen.add(text)
        return new


class Listener:
    """Listener to the stages of a road: a line for each, and a bar while it lasts.

    Args:
        show: Output.
    """

    def __init__(self, show: Show) -> None:
        self._show = show
        self._bar: Bar | None = None

    def begins(self, stage: Stage) -> None:
        """Say that a stage begins."""
        self._show.note(f"{stage} ...")

    def ends(self, stage: Stage, entry: Entry, kept: bool) -> None:
        """Say how it ended."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._show.note(f"{stage}: {'unchanged' if kept else f'done in {entry.seconds:.1f} s'}")

    def moves(self, done: int, total: int) -> None:
        """Move the bar of loops."""
        if self._bar is None:
            self._bar = Bar("closed loops", self._show)
        self._bar.move(done, total)

    def search(self) -> Sequence[Callback]:
        """Listeners to the search."""
        return [_Search(self._show)]


class Bar:
    """Bar on stderr; only where that is a terminal.

    Args:
        label: Text in front.
        show: Output.
    """

    def __init__(self, label: str, show: Show) -> None:
        self._shown = sys.stderr.isatty() and not show.quiet
        self._label = label
        self._drawn = 0.0

    def move(self, done: float, total: float, text: str = "") -> None:
        """Move to ``done`` of ``total``."""
        now = time.monotonic()
        if self._shown and (now - self._drawn > 0.2 or done >= total):
            self._drawn = now
            share = min(1.0, done / total) if total > 0 else 1.0
            typer.echo(
                f"\r  {self._label} [{'#' * round(30 * share):<30}] {100 * share:3.0f} % {text}\033[K",
                err=True,
                nl=False,
            )

    def close(self) -> None:
        """Remove it."""
        if self._shown and self._drawn:
            typer.echo("\r\033[K", err=True, nl=False)


class _Search:
    """Listener to a search; its steps are the seconds of the budget."""

    def __init__(self, show: Show) -> None:
        self._bar = Bar("search", show)

    def on_step(self, progress: Progress) -> None:
        self._bar.move(progress.step, progress.steps, f"lowest error {progress.best:.4g}")

    def on_end(self, status: FitStatus) -> None:  # noqa: ARG002
        self._bar.close()
