"""Charts: panels above each other over one horizontal axis, as data; `controlrnn.report.drawing` draws them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array, Choice, count, read_only
from controlrnn.errors import SettingError, ShapeError
from controlrnn.typed import typed

MOST = 1600  # points of a line: more than a screen has columns
_FEW = 8  # kinds of colour


class Style(Choice):
    """How a line is drawn."""

    LINE = "line"
    """From point to point."""
    THIN = "thin"
    """Likewise, thin."""
    DASHED = "dashed"
    """Likewise, dashed."""
    STEP = "step"
    """Held from each point to the next."""
    STEP_DASHED = "step_dashed"
    """Likewise, dashed."""
    DOTS = "dots"
    """Points alone, round."""
    SQUARES = "squares"
    """Points alone, square."""


@dataclass(frozen=True)
@typed(infinite=("x", "y"))
class Line:
    """A line or points.

    Args:
        x: Shape (n,).
        y: Shape (n,); NaN where there is nothing to draw.
        label: For the legend; lines with the same label and colour are named once.
        colour: A number, one a colour; or ``"ink"``, ``"grey"``, ``"limit"``.
        style: How it is drawn.
    """

    x: Array
    y: Array
    label: str = ""
    colour: int | str = 0
    style: Style = Style.LINE

    def __post_init__(self) -> None:
        _same_length(self.x, self.y)
        object.__setattr__(self, "style", Style(self.style))
        object.__setattr__(self, "colour", _colour(self.colour))
        object.__setattr__(self, "x", read_only(self.x))
        object.__setattr__(self, "y", read_only(self.y))


@dataclass(frozen=True)
@typed(infinite=("x", "low", "high"))
class Band:
    """The area between two lines.

    Args:
        x: Shape (n,).
        low: Lower end, shape (n,).
        high: Upper end, shape (n,).
        label: For the legend.
        colour: As of a `Line`.
        held: Whether ends are held from each point to the next.
    """

    x: Array
    low: Array
    high: Array
    label: str = ""
    colour: int | str = "grey"
    held: bool = False

    def __post_init__(self) -> None:
        _same_length(self.x, self.low, self.high)
        object.__setattr__(self, "colour", _colour(self.colour))


@dataclass(frozen=True)
@typed()
class Span:
    """A shaded stretch of the horizontal axis.

    Args:
        start: Where it begins.
        end: Where it ends.
        label: For the legend.
    """

    start: float
    end: float
    label: str = ""


@dataclass(frozen=True)
@typed()
class Panel:
    """A panel: what is drawn over the horizontal axis of its chart.

    Args:
        label: Of the vertical axis, with its unit.
        lines: Lines and points, the last one on top.
        bands: Areas below the lines.
        spans: Shaded stretches.
        low: Lower end of the vertical axis; found from what is drawn when left out.
        high: Upper end, likewise.
        logarithmic: Whether the vertical axis is logarithmic; what is not positive is left out.
    """

    label: str
    lines: Sequence[Line] = ()
    bands: Sequence[Band] = ()
    spans: Sequence[Span] = ()
    low: float | None = None
    high: float | None = None
    logarithmic: bool = False


@dataclass(frozen=True)
@typed()
class Chart:
    """Panels above each other that share the horizontal axis, in which a reader can zoom.

    Args:
        title: What it is, for those who do not see it.
        panels: From top to bottom; at least one.
        label: Of the horizontal axis.
        caption: What it shows.
        height: Height of a panel, in points of a page 820 points wide.
    """

    title: str
    panels: Sequence[Panel]
    label: str = ""
    caption: str = ""
    height: int = 130

    def __post_init__(self) -> None:
        if not self.panels:
            raise SettingError("panels must hold at least one Panel, got none")


def thinned(x: Array, y: Array, most: int = MOST) -> tuple[Array, Array]:
    """Points of a line that look as all of them do: first, smallest, largest and last of every stretch.

    (Jugel et al., "M4: a visualization-oriented time series data aggregation", VLDB 2014: no pixel differs as long as
    there are as many stretches as columns.)

    Args:
        x: Shape (n,), increasing.
        y: Shape (n,).
        most: Points that are drawn without.
    """
    if len(x) <= most:
        return x, y
    kept: list[int] = []
    for stretch in np.array_split(np.arange(len(x)), most // 4):
        known = stretch[~np.isnan(y[stretch])]
        if len(known):
            inner = (int(known[y[known].argmin()]), int(known[y[known].argmax()]))
            kept += sorted({int(stretch[0]), *inner, int(stretch[-1])})
        else:
            kept.append(int(stretch[0]))
    return x[kept], y[kept]


def _same_length(*arrays: Array) -> None:
    shapes = [np.shape(a) for a in arrays]
    if len({*shapes}) != 1 or len(shapes[0]) != 1:
        raise ShapeError(f"what is drawn must be arrays (n,) of one length, got {', '.join(map(str, shapes))}")


def _colour(value: int | str) -> int | str:
    if isinstance(value, str):
        if value not in ("ink", "grey", "limit"):
            raise SettingError(f"colour must be a number, or 'ink', 'grey' or 'limit', got {value!r}")
        return value
    return count("colour", value, least=0) % _FEW
