"""Result of a search: its trials, and those among them that no other beats."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any

from controlrnn.errors import SettingError
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

OBJECTIVES = {"cost": "cost", "conservatism": "conservatism [share of a range]", "solve_time": "solve time [ms]"}


@dataclass(frozen=True)
@typed()
class TradeOff:
    """Objectives of one setting: cost, conservatism and solve time; less is better in each.

    Args:
        cost: Of closed loops.
        conservatism: Largest share of an output's range that the tightening takes, at the end of the horizon.
        solve_time: Of a control step [s], as it was measured: on a busy machine processor time says more.
    """

    cost: float
    conservatism: float
    solve_time: float

    def __post_init__(self) -> None:
        if self.conservatism < 0 or self.solve_time < 0:
            raise SettingError(f"conservatism and solve_time must be >= 0, got {self.conservatism}, {self.solve_time}")

    def beats(self, other: TradeOff) -> bool:
        """Whether this is nowhere worse than ``other``, and somewhere better.

        Args:
            other: To compare with.
        """
        mine, theirs = astuple(self), astuple(other)
        return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


@dataclass(frozen=True)
@typed()
class Trial:
    """A setting that was tried.

    Args:
        number: Number of the trial.
        setting: Values by name.
        found: What it is worth; None where it was refused.
        refused: Why it was refused: nothing certified, no room within the limits; "" where it was not.
    """

    number: int
    setting: Mapping[str, Any]
    found: TradeOff | None
    refused: str = ""


@dataclass(frozen=True)
@typed()
class Tuning:
    """A search as it stands.

    Args:
        trials: Those that have ended, in the order of their numbers.
    """

    trials: tuple[Trial, ...]

    @property
    def front(self) -> tuple[Trial, ...]:
        """Trials that no other beats, by cost: the Pareto front."""
        worth = [(t, t.found) for t in self.trials if t.found is not None]
        best = [(t, found) for t, found in worth if not any(other.beats(found) for _, other in worth)]
        return tuple(t for t, _ in sorted(best, key=lambda pair: pair[1].cost))

    def summary(self) -> str:
        """The front as a table in text."""
        names = list(dict.fromkeys(n for t in self.front for n in t.setting))
        lines = [["trial", "cost", "conservatism", "solve time", *names]]
        for trial in self.front:
            found = trial.found
            assert found is not None
            shown = [trial.setting.get(n, "") for n in names]
            lines.append(
                [
                    str(trial.number),
                    f"{found.cost:.4g}",
                    f"{100 * found.conservatism:.3g} %",
                    f"{1e3 * found.solve_time:.3g} ms",
                    *(f"{v:.4g}" if isinstance(v, float) else str(v) for v in shown),
                ]
            )
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        table = ["  ".join(cell.rjust(w) for cell, w in zip(line, widths, strict=True)) for line in lines]
        refused = sum(t.found is None for t in self.trials)
        return "\n".join([*table, f"{len(self.front)} of {len(self.trials)} trials are not beaten; {refused} refused"])

    def plot(self) -> Figure:
        """Draw the trials in each pair of objectives, those that no other beats with their numbers."""
        from matplotlib.figure import Figure

        front = {t.number for t in self.front}
        points = {
            t.number: (t.found.cost, t.found.conservatism, 1e3 * t.found.solve_time) for t in self.trials if t.found
        }
        figure = Figure(figsize=(13, 4.2), layout="constrained")
        panels = figure.subplots(1, 3)
        labels = list(OBJECTIVES.values())
        for panel, (i, j) in zip(panels, ((0, 1), (0, 2), (1, 2)), strict=True):
            for number, point in points.items():
                if number not in front:
                    panel.plot(point[i], point[j], ".", color="0.7", zorder=1)
            for number in front:
                panel.plot(points[number][i], points[number][j], "o", color="C0", markersize=5, zorder=2)
                panel.annotate(
                    str(number),
                    (points[number][i], points[number][j]),
                    xytext=(3, 3),
                    textcoords="offset points",
                    fontsize="x-small",
                    zorder=3,
                )
            panel.set(xlabel=labels[i], ylabel=labels[j])
            panel.set(xscale=_scale([p[i] for p in points.values()]), yscale=_scale([p[j] for p in points.values()]))
            panel.grid(alpha=0.3)
        panels[0].plot([], [], "o", color="C0", markersize=5, label="not beaten")
        panels[0].plot([], [], ".", color="0.7", label="beaten")
        panels[0].legend(fontsize="small")
        refused = sum(t.found is None for t in self.trials)
        figure.suptitle(f"{len(self.trials)} trials, {len(front)} not beaten, {refused} refused", fontsize="medium")
        return figure


def _scale(values: list[float]) -> str:
    """Logarithmic where a few bad trials would press the good ones into a corner."""
    return "log" if values and min(values) > 0 and max(values) > 10 * min(values) else "linear"
