"""One kind of bad data, how it has to end, and the judge of how it ended."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.errors import ControlRnnError

N = 200
DT = 0.1
TIME = DT * np.arange(N)


class Ending(StrEnum):
    """How a case may end."""

    REFUSED = "refused"
    """By an error of ours that says what, where and what to do."""
    WARNED = "warned"
    """With the right result and a warning, or a finding of the report, that says so."""
    RIGHT = "right"
    """With the right result, in silence."""


@dataclass(frozen=True)
class Case:
    """One kind of bad data.

    Args:
        kind: The kind in words.
        run: Function that meets it; files go into the folder that it gets.
        ending: How it has to end.
        says: Pieces of the error or of the warnings, each of which has to stand in them.
        check: Whether the result is the right one.
    """

    kind: str
    run: Callable[[Path], Any]
    ending: Ending
    says: tuple[str, ...] = ()
    check: Callable[[Any], bool] | None = None

    @property
    def group(self) -> str:
        """Module of the case's function."""
        return self.run.__module__.rpartition(".")[2]


@dataclass(frozen=True)
class Ended:
    """How a case ended: with which words, and whether as it has to."""

    ending: str
    words: str
    as_wanted: bool


class _Said(logging.Handler):
    """Warnings of the library."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the message."""
        self.said.append(record.getMessage())


def judge(case: Case, folder: Path) -> Ended:
    """Run a case and compare how it ends with how it has to; any error that is not ours passes through."""
    handler, logger = _Said(), logging.getLogger("controlrnn")
    logger.addHandler(handler)
    other = logging.getLogger("mpc")
    other.addHandler(handler)
    try:
        result = case.run(folder)
        words = " | ".join([*handler.said, *map(str, getattr(result, "findings", ()))])
        ending = Ending.WARNED if words else Ending.RIGHT
        right = case.check is not None and bool(case.check(result))
    except ControlRnnError as error:
        words, ending, right = str(error), Ending.REFUSED, True
    finally:
        logger.removeHandler(handler)
        other.removeHandler(handler)
    words = words.replace(str(folder) + "/", "")
    said = all(piece in words for piece in case.says)
    return Ended(ending, words, right and said and ending is case.ending)


def refused(kind: str, run: Callable[[Path], Any], *says: str) -> Case:
    """Case that has to end in an error with these words."""
    return Case(kind, run, Ending.REFUSED, says)


def warned(kind: str, run: Callable[[Path], Any], check: Callable[[Any], bool], *says: str) -> Case:
    """Case that has to end in the right result and a warning with these words."""
    return Case(kind, run, Ending.WARNED, says, check)


def right(kind: str, run: Callable[[Path], Any], check: Callable[[Any], bool]) -> Case:
    """Case that has to end in the right result."""
    return Case(kind, run, Ending.RIGHT, (), check)


def signals() -> tuple[np.ndarray, np.ndarray]:
    """An input and an output of a first-order plant, `N` samples each."""
    rng = np.random.default_rng(0)
    u = np.repeat(rng.uniform(-1, 1, N // 5), 5)
    y = np.zeros(N)
    for t in range(N - 1):
        y[t + 1] = 0.9 * y[t] + 0.1 * u[t]
    return u, y + 0.01 * rng.standard_normal(N)
