"""Section on the error budget: what eats each output's range, in its unit, and what would shrink it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.report.blocks import Block, Section, Table, Words
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.charts import Band, Chart, Line, Panel
from controlrnn.report.parts import Parts

# Part of a tightening: its name, and what makes it smaller.
WORDS = {
    "model_error": (
        "model error (calibrated)",
        "a better model; a disturbance estimate; more calibration records, where the bound is their largest error; "
        "limits that learn (mpc.make_error_memory)",
    ),
    "reinitialisation": (
        "error of the state estimate (certified)",
        "a longer washout, or a StateObserver; a model that forgets faster (smaller contraction rate); smaller input "
        "errors, where the washout is long enough",
    ),
    "input_error": (
        "input errors (certified)", "more accurate actuators, or a reading of what they did; a shorter horizon",
    ),
    "execution": ("rounding (proven)", "double precision, or states of similar size"),
    "growth": (
        "growth for recursive feasibility (certified)",
        "an observer that jumps less (a longer washout, RunningOn, StateObserver); a shorter horizon",
    ),
}  # fmt: skip
_MOST = 6


@dataclass(frozen=True, eq=False)
class Budget:
    """Parts of the tightening of one output on either side of its range, at the step where they are largest.

    Args:
        step: That step.
        parts: Width of each part, by its field of the tightening, in the output's unit.
        total: Their sum.
        half: Half of the output's range; None where it is not limited on both sides.
    """

    step: int
    parts: dict[str, float]
    total: float
    half: float | None

    @property
    def largest(self) -> str | None:
        """The largest part; None where nothing is taken."""
        name = max(self.parts, key=lambda n: self.parts[n])
        return name if self.parts[name] > 0 else None

    @property
    def share(self) -> float | None:
        """Share of the range that is taken, in per cent; None where it is not limited on both sides."""
        return None if self.half is None else 100.0 * self.total / self.half


def budgets(parts: Parts) -> list[Budget]:
    """Budget of every output; none without a tightening.

    Args:
        parts: What the report is made of.
    """
    tightening = parts.tightening
    if tightening is None:
        return []
    widths = stacked(tightening)
    total = np.asarray(tightening.total)
    found = []
    for i in range(total.shape[1]):
        k = 1 + int(total[1:, i].argmax()) if len(total) > 1 else 0
        span = parts.outputs[i].upper - parts.outputs[i].lower if i < len(parts.outputs) else np.inf
        found.append(
            Budget(
                step=k,
                parts={name: float(width[k, i]) for name, width in widths.items()},
                total=float(total[k, i]),
                half=float(span) / 2 if np.isfinite(span) else None,
            )
        )
    return found


def stacked(tightening: Any) -> dict[str, Array]:
    """Parts of a tightening by name, each (N + 1, ny).

    Args:
        tightening: The tightening.
    """
    found = {name: getattr(tightening, name, None) for name in WORDS}
    return {name: np.asarray(width) for name, width in found.items() if width is not None}


def budget_section(parts: Parts) -> Section | None:
    """The section; None without a tightening.

    Args:
        parts: What the report is made of.
    """
    found = budgets(parts)
    if not found or parts.tightening is None:
        return None
    rows: list[list[Any]] = []
    for i, budget in enumerate(found):
        first: list[Any] = [parts.label(i), budget.step]
        for name, width in budget.parts.items():
            if width > 0:
                best = name == budget.largest
                what = Marked(WORDS[name][0], Mark.WARNING) if best else WORDS[name][0]
                of_range = None if budget.half is None else 100 * width / budget.half
                rows.append([*first, what, width, 100 * width / budget.total, of_range, WORDS[name][1] if best else ""])
                first = ["", ""]
        left = None if budget.share is None else _left(budget)
        rows.append([*first, "sum", budget.total, 100.0 if budget.total > 0 else None, left, ""])
    blocks: list[Block] = [
        Words(
            "Limits are moved inwards by what predictions may be off. The parts add up, so that what is gained in one "
            "of them is given back to the range (the growth also falls with the others). Marked: the largest part, and "
            "what would shrink it."
        ),
        Table(
            [
                "output",
                "step",
                "part",
                "taken on each side",
                "of the sum [%]",
                "of half the range [%]",
                "what would shrink it",
            ],
            rows,
            "Widths in the unit of the output, at the step where most is taken.",
        ),
        _chart(parts),
    ]
    return Section("Error budget", blocks)


def _left(budget: Budget) -> Marked:
    share = budget.share or 0.0
    mark = Mark.BAD if share >= 100 else Mark.WARNING if share > 50 else Mark.GOOD
    said = "nothing is left" if share >= 100 else f"{100 - share:.3g} % is left"
    return Marked(f"{share:.4g}; {said}", mark)


def _chart(parts: Parts) -> Chart:
    widths = stacked(parts.tightening)
    steps = np.arange(len(next(iter(widths.values()))), dtype=np.float64)
    ny = next(iter(widths.values())).shape[1]
    panels = []
    for i in range(min(ny, _MOST)):
        below, bands = np.zeros(len(steps)), []
        for k, (name, width) in enumerate(widths.items()):
            if width.max() > 0:
                bands.append(Band(steps, below, below + width[:, i], WORDS[name][0], k))
                below = below + width[:, i]
        panels.append(Panel(parts.label(i), [Line(steps, below, "sum", "ink")], bands, low=0.0))
    more = "" if ny <= _MOST else f" The first {_MOST} of {ny} outputs."
    return Chart(
        "Parts of the tightening",
        panels,
        "prediction step",
        f"What is taken on each side of an output's range, part on part.{more}",
    )
