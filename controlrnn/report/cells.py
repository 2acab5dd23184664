"""Cells of tables: marked texts, and how values are written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlrnn.checks import Choice
from controlrnn.typed import typed


class Mark(Choice):
    """Judgement that a cell shows: good, doubtful or bad."""

    GOOD = "good"
    """As wanted."""
    WARNING = "warning"
    """To be looked at."""
    BAD = "bad"
    """Not as wanted."""


@dataclass(frozen=True)
@typed()
class Marked:
    """A text with a mark, as a cell of a table.

    Args:
        text: The text.
        mark: How it stands.
    """

    text: str
    mark: Mark

    def __post_init__(self) -> None:
        object.__setattr__(self, "mark", Mark(self.mark))


def cell(value: Any) -> str:
    """Text of a value as pages show it: four digits, a dash for what is not there.

    Args:
        value: A cell of a `Table`.
    """
    if value is None:
        return "–"
    if isinstance(value, Marked):
        return value.text
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {cell(one)}" for name, one in value.items())
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        return ", ".join(cell(one) for one in value)
    if isinstance(value, float | np.floating):
        return _digits(float(value))
    return str(value)


def _digits(value: float) -> str:
    """A number with four digits that count, and no exponent where it can be read without."""
    if np.isnan(value):
        return "–"
    return f"{value:.0f}" if 1e4 <= abs(value) < 1e7 else f"{value:.4g}"


def is_number(value: Any) -> bool:
    """Whether a cell is one number, which stands at the right of its column.

    Args:
        value: A cell of a `Table`.
    """
    return isinstance(value, int | float | np.integer | np.floating) and not isinstance(value, bool)
