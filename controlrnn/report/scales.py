"""Axes of charts: ends, ticks and their texts."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from controlrnn.report.charts import Panel

_TICKS = 6
_MOST = 1e300  # differences of larger numbers overflow


@dataclass(frozen=True)
class Scale:
    """An axis: numbers between ``low`` and ``high``, which are logarithms where the axis is logarithmic."""

    low: float
    high: float
    logarithmic: bool = False

    def of(self, values: np.ndarray) -> np.ndarray:
        """Places of values along the axis, 0 at its low and 1 at its high end; NaN where there is none."""
        values = np.asarray(values, dtype=np.float64)
        if self.logarithmic:
            values = np.log10(np.where(values > 0, values, np.nan))
        return (np.where(np.isfinite(values), values, np.nan) - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Places of ticks, from 0 to 1, with their texts."""
        if self.logarithmic:
            first, last = math.ceil(self.low - 1e-9), math.floor(self.high + 1e-9)
            every = max(1, math.ceil((last - first + 1) / _TICKS))
            decades = [float(n) for n in range(first, last + 1, every)]
            if len(decades) > 1:
                return [((n - self.low) / (self.high - self.low), f"{10.0**n:.4g}") for n in decades]
            ends = [self.low, self.high]
            return [((n - self.low) / (self.high - self.low), f"{10.0**n:.3g}") for n in ends]
        step = round_step((self.high - self.low) / _TICKS)
        first = math.ceil(self.low / step - 1e-9)
        last = math.floor(self.high / step + 1e-9)
        values = [n * step for n in range(first, last + 1)]
        return [((v - self.low) / (self.high - self.low), tick_text(v, step)) for v in values]


def tick_text(value: float, step: float) -> str:
    """Text of a tick with as many digits as tell it from its neighbours, a step away."""
    if max(abs(value), step) < 1e7 and step > 1e-6:
        return f"{value + 0.0:.{max(0, -math.floor(math.log10(step) + 1e-9))}f}"
    digits = max(1, math.ceil(math.log10(max(abs(value), step) / step)) + 1)
    return f"{value:.{digits}g}"


def round_step(rough: float) -> float:
    """The step 1, 2 or 5 times a power of ten next above a positive number."""
    power = 10.0 ** math.floor(math.log10(rough))
    return next(power * n for n in (1.0, 2.0, 5.0, 10.0) if power * n >= rough * (1 - 1e-12))


def horizontal(panels: tuple[Panel, ...]) -> Scale:
    """Axis that holds all that the panels draw."""
    return _around([x for panel in panels for x in _across(panel)], room=0.0)


def vertical(panel: Panel) -> Scale:
    """Axis of one panel, with some room above and below what is drawn unless its ends are given."""
    drawn = [one.y for one in panel.lines]
    drawn += [end for one in panel.bands for end in (one.low, one.high)]
    if panel.logarithmic:
        drawn = [np.log10(np.where(v > 0, v, np.nan)) for v in drawn]
    found = _around(drawn, room=0.05)
    low, high = (found.low if panel.low is None else panel.low), (found.high if panel.high is None else panel.high)
    if not low < high:
        low, high = _apart(low, low)
    return Scale(low, high, panel.logarithmic)


def _across(panel: Panel) -> Iterator[np.ndarray]:
    yield from (line.x for line in panel.lines)
    yield from (band.x for band in panel.bands)
    for span in panel.spans:
        yield np.array([span.start, span.end])


def _around(drawn: list[np.ndarray], *, room: float) -> Scale:
    finite = [v[np.isfinite(v)] for v in drawn]
    known = np.concatenate([np.zeros(0), *finite])
    if not len(known):
        return Scale(0.0, 1.0)
    low, high = float(max(known.min(), -_MOST)), float(min(known.max(), _MOST))
    if high - low <= 1e-12 * max(abs(low), abs(high)):
        low, high = _apart(low, high)
    return Scale(low - room * (high - low), high + room * (high - low))


def _apart(low: float, high: float) -> tuple[float, float]:
    """Ends around a single number."""
    away = 0.05 * max(abs(low), abs(high)) or 0.5
    return low - away, high + away
