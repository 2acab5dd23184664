"""Sample times: when two of them are equal, and which one a list of time stamps has.

Stamps carry rounding and jitter, so sample times that are computed from them differ in their last digits. `same_dt` is
the one rule by which the library compares them; `sample_time` finds the number that was meant.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from controlrnn.checks import Array

TOLERANCE = 1e-6
"""Relative difference up to which two sample times are one: a clock of a logger is not better than 1 ppm."""


def same_dt(a: float, b: float) -> bool:
    """Whether two sample times [s] are equal up to the rounding of stamps, `TOLERANCE`."""
    return math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=0.0)


def all_same_dt(values: Iterable[float]) -> bool:
    """Whether all sample times [s] are equal to the first one in the sense of `same_dt`."""
    found = list(values)
    return all(same_dt(found[0], v) for v in found)


def sample_time(t: Array, steps: Array, resolution: float) -> float:
    """Sample time [s] of stamps whose numbers on the grid are known: their least-squares slope, as the number meant.

    Args:
        t: Stamps [s], shape (N,), increasing.
        steps: Number of each stamp on the grid, shape (N,), increasing whole numbers.
        resolution: Smallest difference that the stamps can hold [s]: of their digits, or of float64.

    Returns:
        The number of fewest digits, of seconds or of samples a second, within what the stamps can tell; else the slope.
    """
    n = steps - steps.mean()
    slope = float(n @ (t - t.mean()) / (n @ n))
    error = t - t.mean() - slope * n
    # Three standard errors of the slope; and no stamp is better than its resolution.
    sure = 3.0 * math.sqrt(float(error @ error) / max(len(t) - 2, 1) / float(n @ n))
    sure = max(sure, resolution / float(steps[-1] - steps[0]), 4e-16 * slope)
    for digits in range(1, 7):
        if abs(float(f"{slope:.{digits - 1}e}") - slope) <= sure:
            return float(f"{slope:.{digits - 1}e}")
        rate = float(f"{1.0 / slope:.{digits - 1}e}")
        if abs(1.0 / rate - slope) <= sure:
            return 1.0 / rate
    return slope
