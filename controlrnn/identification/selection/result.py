"""Result of `identify_best`: all models side by side with their baselines, the choice, and the reason for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.certification import ContractionCertificate
from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import SettingError
from controlrnn.identification.scores.free_run import free_run, initial_states
from controlrnn.identification.scores.metrics import Scores
from controlrnn.identification.selection.meter import Clock, Work
from controlrnn.identification.selection.trials import Trial
from controlrnn.records import Count, Flag, ListOf, Number, Part, Schema, Stored, Text
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LONG = Text(10**5)


@dataclass(frozen=True, eq=False)
@typed(infinite=("error",))
class Entry(Stored):
    """One model of the result.

    Args:
        name: ``"arx"``, ``"subspace"``, ``"linear"`` (refined), ``"free"`` or ``"contracting"``.
        what: Its family and size in words.
        system: The model, in physical units.
        error: Root mean square free-run error over left-out blocks, in units of the outputs' standard deviation.
        contraction: Certificate of contraction; None where none was made.
        train: Scores on all estimation records; the initial state is estimated from the samples that do not count.
        test: Scores on the test records; None where there are none.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "search-entry", 1, meta={"name": Text(), "what": _LONG, "error": Number(least=0.0)},
        parts={
            "system": Part(LureSystem, own=True), "contraction": Part(ContractionCertificate, none=True, own=True),
            "train": Part(Scores, own=True), "test": Part(Scores, none=True, own=True),
        },
    )  # fmt: skip

    name: str
    what: str
    system: LureSystem
    error: float
    contraction: ContractionCertificate | None
    train: Scores
    test: Scores | None


@dataclass(frozen=True, eq=False)
@typed()
class BestFit(Stored):
    """Models of a search and the one that was chosen.

    Args:
        entries: Linear baselines, the refined linear model and networks, those with the lowest error first.
        chosen: Name of the entry that was chosen.
        reason: Why.
        notes: What was decided before, a sentence each.
        trials: All candidates that were compared, in order.
        work: Iterations done; `identify_best` with ``work`` set to it repeats this result.
        skip: Samples at the start of a record that scores leave out.
        feedthrough: Whether outputs may depend on inputs of the same sample.
        delays: Dead time of each input [samples]; they are part of the systems.
        budget: Seconds allowed [s].
        clock: What the seconds are.
        seconds: Seconds spent [s].
        seed: Seed of everything random.
        mark: Digest of the records and settings that this is the result of.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "best-fit", 1,
        meta={
            "chosen": Text(), "reason": _LONG, "notes": ListOf(_LONG), "skip": Count(), "feedthrough": Flag(),
            "delays": ListOf(Count()), "budget": Number(above=0.0), "clock": Text(choices=Clock),
            "seconds": Number(least=0.0), "seed": Count(most=2**64), "mark": Text(),
        },
        parts={
            "entries": Part(Entry, many=True, own=True), "trials": Part(Trial, many=True, own=True),
            "work": Part(Work, own=True),
        },
    )  # fmt: skip

    entries: tuple[Entry, ...]
    chosen: str
    reason: str
    notes: tuple[str, ...]
    trials: tuple[Trial, ...]
    work: Work
    skip: int
    feedthrough: bool
    delays: tuple[int, ...]
    budget: float
    clock: Clock
    seconds: float
    seed: int
    mark: str

    def __post_init__(self) -> None:
        object.__setattr__(self, "clock", Clock(self.clock))
        object.__setattr__(self, "notes", tuple(self.notes))
        self.entry(self.chosen)

    @property
    def system(self) -> LureSystem:
        """The chosen model, in physical units."""
        return self.entry(self.chosen).system

    @property
    def certified(self) -> Entry | None:
        """Best model with a certificate of contraction; None where none was made."""
        return next((e for e in self.entries if e.contraction is not None), None)

    @typed()
    def entry(self, name: str) -> Entry:
        """Entry of that name.

        Raises:
            SettingError: There is none.
        """
        found = next((e for e in self.entries if e.name == name), None)
        if found is None:
            raise SettingError(f"name must be one of {', '.join(e.name for e in self.entries)}, got {name!r}")
        return found

    def table(self) -> str:
        """Table of all entries: error over left-out blocks, RMSE per output, proven contraction rate."""
        lines = [f"{'model':<12} {'states':>6} {'neurons':>7} {'left-out':>9} {'test RMSE':>24} {'rate':>8}"]
        for e in self.entries:
            scores = (e.test or e.train).rmse
            rmse = " ".join(f"{v:.4g}" for v in scores[:3]) + (" ..." if len(scores) > 3 else "")
            rate = "-" if e.contraction is None else f"{e.contraction.rate:.5f}"
            mark = " <" if e.name == self.chosen else ""
            lines.append(f"{e.name:<12} {e.system.nx:>6} {e.system.nv:>7} {e.error:>9.4f} {rmse:>24} {rate:>8}{mark}")
        return "\n".join(lines)

    def __repr__(self) -> str:
        tested = "" if any(e.test for e in self.entries) else " (no test records: RMSE of the estimation records)"
        head = (
            f"BestFit: {self.chosen}, {len(self.trials)} candidates compared, {self.seconds:.1f} s of {self.budget:g} s"
        )
        decided = f"feedthrough {'yes' if self.feedthrough else 'no'}, delays {self.delays}, skip {self.skip}"
        return "\n".join([f"{head}{tested}", self.table(), decided, f"reason: {self.reason}"])

    @typed(results=False)
    def simulate(self, record: Trajectory, name: str | None = None) -> Array:
        """Simulate ``record`` freely by one entry, the chosen one when left out, shape (T, ny), physical units.

        Args:
            record: The record; the initial state is estimated from its first ``skip`` samples.
            name: Name of the entry.
        """
        system = self.entry(self.chosen if name is None else name).system
        return free_run(system, [record], initial_states(system, [record], self.skip))[0][0]

    def plot(self, record: Trajectory) -> Figure:
        """Draw measured outputs, the free runs of all entries and their errors; returns the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3.2 * record.ny), layout="constrained")
        panels = figure.subplots(2 * record.ny, 1, sharex=True, height_ratios=[2, 1] * record.ny, squeeze=False)[:, 0]
        runs = {e.name: self.simulate(record, e.name) for e in self.entries}
        for i, signal in enumerate(record.outputs):
            above, below = panels[2 * i], panels[2 * i + 1]
            above.plot(record.time, record.y[:, i], color="0.2", linewidth=1.4, label="measured")
            for k, (name, run) in enumerate(runs.items()):
                width = 1.4 if name == self.chosen else 0.7
                above.plot(record.time, run[:, i], color=f"C{k}", linewidth=width, label=name)
                below.plot(record.time, record.y[:, i] - run[:, i], color=f"C{k}", linewidth=width)
            # A run that diverges must not hide the others.
            low, high = float(record.y[:, i].min()), float(record.y[:, i].max())
            room = 0.2 * max(high - low, 1e-12)
            above.set_ylim(low - room, high + room)
            errors = [np.abs(record.y[:, i] - run[:, i])[self.skip :] for run in runs.values()]
            widest = 1.3 * max((float(np.quantile(e, 0.98)) for e in errors if len(e)), default=room)
            end = min(max(widest, 1e-12), high - low + room)
            below.set_ylim(-end, end)
            above.set_ylabel(signal.label)
            below.set_ylabel("residual")
            for panel in (above, below):
                panel.axvspan(0.0, self.skip * record.dt, color="0.93", zorder=0)
        panels[0].legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=5, frameon=False)
        panels[-1].set_xlabel("time [s] (shaded: not scored)")
        return figure

    def plot_search(self) -> Figure:
        """Draw the error of every candidate that was compared, with the baselines; returns the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(8, 1.2 + 0.28 * max(len(self.trials), 4)), layout="constrained")
        panel = figure.subplots()
        labels = [t.candidate.label for t in self.trials]
        errors = np.array([t.error for t in self.trials])
        shown = np.isfinite(errors)
        colours = {"free": "C0", "contracting": "C1", "linear": "C2"}
        for i in np.flatnonzero(shown):
            panel.plot(errors[i], i, "o", color=colours[str(self.trials[i].candidate.family)])
        for k, e in enumerate(
            e for e in self.entries if e.name in ("arx", "subspace", "linear") and np.isfinite(e.error)
        ):
            panel.axvline(e.error, color="0.4", linestyle=("-", "--", ":")[k % 3], label=e.name)
        panel.set_yticks(range(len(labels)), labels, fontsize="small")
        panel.invert_yaxis()
        panel.set_xlim(left=0.0)
        panel.set_xlabel("error over left-out blocks [standard deviations of the outputs]")
        if panel.get_legend_handles_labels()[0]:
            panel.legend(loc="lower left", bbox_to_anchor=(0.0, 1.0), ncols=2, frameon=False)
        return figure


def ordered(entries: Sequence[Entry]) -> tuple[Entry, ...]:
    """Entries by their errors, the lowest first."""
    return tuple(sorted(entries, key=lambda e: e.error))
