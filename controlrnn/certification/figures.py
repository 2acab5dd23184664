"""Plotting helpers of certificates: panels, labels, bounds over the horizon, decay of differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.checks import Array

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FORGOTTEN, _LONGEST = 1e-3, 2000


def panels(count: int) -> tuple[Figure, list[Any]]:
    """Create a figure with ``count`` axes side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(1 + 4 * count, 3.5), layout="constrained")
    return figure, list(np.atleast_1d(figure.subplots(1, count)))


def label(labels: Sequence[str], index: int, kind: str) -> str:
    """Return the given label of a channel, or one made from its ``kind`` and number."""
    return labels[index] if labels else f"{kind}{index + 1}"


def over_horizon(bounds: Array, labels: Sequence[str], what: str) -> Figure:
    """Plot bounds (N + 1, ny) over the steps, one line an output."""
    figure, (axes,) = panels(1)
    for i, bound in enumerate(bounds.T):
        axes.plot(bound, marker=".", label=label(labels, i, "y"))
    axes.set(xlabel="step", ylabel=what, ylim=(0, None))
    axes.legend()
    return figure


def decay(rate: float, input_gain: Array, stretch: float, reach: float, norm: str, labels: Sequence[str]) -> Figure:
    """Plot how state differences decay, and what lasting input differences build up to.

    Args:
        rate: Per step, in (0, 1).
        input_gain: Per input, in the certificate's distance, shape (nu,).
        stretch: How much larger the ratio of two differences can be in the plain norm than in the certificate's.
        reach: Largest plain norm of a difference of distance one.
        norm: Name of the plain norm.
        labels: One for each input.
    """
    figure, (left, right) = panels(2)
    last = min(int(np.ceil(np.log(_FORGOTTEN / stretch) / np.log(rate))) + 1, _LONGEST)
    steps = np.arange(last + 1)
    left.semilogy(steps, rate**steps, label="in the certificate's distance")
    left.semilogy(steps, stretch * rate**steps, "--", label=f"at most, in the {norm}")
    left.axhline(1.0, color="0.7", lw=0.8)
    left.set(xlabel="step", ylabel="difference of states, 1 at the start")
    left.legend()
    # The geometric series (1 - rate^k) / (1 - rate).
    built = -np.expm1(steps * np.log(rate)) / (1 - rate)
    for c, gain in enumerate(input_gain):
        right.plot(steps, reach * gain * built, label=label(labels, c, "u"))
    right.set(xlabel="step", ylabel=f"{norm} of dx, inputs one apart", ylim=(0, None))
    if len(input_gain):
        right.legend()
    return figure
