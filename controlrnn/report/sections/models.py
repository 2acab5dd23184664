"""Sections on the models: side by side with their baselines on the same records, and tests of their residuals."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import ControlRnnError
from controlrnn.report.blocks import Block, Section, Table, Words
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.charts import Band, Chart, Line, Panel, Span, Style
from controlrnn.report.parts import Parts
from controlrnn.systems import GatedSystem, LureSystem

_TRIALS, _OUTPUTS, _LAGS, _PAIRS = 10, 6, 25, 6


@dataclass(frozen=True, eq=False)
class Compared:
    """One model with its errors on the records that decide.

    Args:
        name: What it is called.
        what: Family and size in words.
        system: The model.
        error: Error over left-out blocks, where a search has one.
        rmse: Root mean square free-run error of each output, in its unit.
        fit: Fit of each output in per cent.
        rate: Proven contraction rate, where there is a proof.
        baseline: Whether it is there to be compared with.
    """

    name: str
    what: str
    system: LureSystem | GatedSystem
    error: float | None
    rmse: Array
    fit: Array
    rate: float | None
    baseline: bool

    @property
    def linear(self) -> bool:
        """Whether it is a linear model."""
        return isinstance(self.system, LureSystem) and self.system.nv == 0

    @property
    def neurons(self) -> int:
        """Number of neurons, or of gated units."""
        return self.system.units if isinstance(self.system, GatedSystem) else self.system.nv


def compared(parts: Parts) -> list[Compared]:
    """All models of the parts, the chosen one first.

    Args:
        parts: What the report is made of.
    """
    fit: Any = parts.fit
    found = []
    if hasattr(fit, "entries"):
        for entry in sorted(fit.entries, key=lambda e: (e.name != fit.chosen, e.error)):
            scores = entry.test or entry.train
            rate = None if entry.contraction is None else float(entry.contraction.rate)
            baseline = entry.name in ("arx", "subspace", "linear") and entry.name != fit.chosen
            found.append(
                Compared(
                    entry.name, entry.what, entry.system, entry.error, scores.rmse, scores.fit_percent, rate, baseline
                )
            )
    elif fit is not None:
        scores = _own_scores(parts)
        if scores is not None:
            name = type(getattr(fit, "model", None) or fit).__name__
            found.append(
                Compared(name, _size(fit.system), fit.system, None, scores.rmse, scores.fit_percent, None, False)
            )
    for name, system in parts.baselines.items():
        scores = _scores(parts, system)
        if scores is not None:
            found.append(Compared(name, _size(system), system, None, scores.rmse, scores.fit_percent, None, True))
    return found


def judged_on(parts: Parts) -> tuple[Trajectory, ...]:
    """The records that models are compared on: test records, or those of validation where there are none.

    Args:
        parts: What the report is made of.
    """
    if parts.data is None:
        return ()
    return parts.data.test or parts.data.validation or parts.data.train


def models_section(parts: Parts) -> Section | None:
    """The section on models; None without a model.

    Args:
        parts: What the report is made of.
    """
    if parts.fit is None:
        return None
    fit: Any = parts.fit
    blocks: list[Block] = []
    models = compared(parts)
    if models:
        blocks.append(_table(parts, models))
        if all(m.baseline for m in models[1:]) and len(models) == 1:
            blocks.append(Words("No linear baseline is beside it, so that nothing shows whether the network pays."))
    if reason := getattr(fit, "reason", ""):
        blocks.append(Words(f"Reason for the choice: {reason}"))
    if notes := getattr(fit, "notes", ()):
        blocks.append(Words(f"Decided before: {'; '.join(notes)}."))
    blocks += list(_physics(fit))
    records = judged_on(parts)
    if records and models:
        blocks.append(_runs(parts, models, records[0]))
    if getattr(fit, "trials", ()):
        blocks.append(_trials(fit))
    if isinstance(getattr(fit, "history", None), Mapping) and len(fit.history["step"]) > 1:
        blocks.append(_history(fit))
    return Section("Models side by side", blocks) if blocks else None


def residual_section(parts: Parts) -> Section | None:
    """The section on tests of residuals; None where there is neither a test nor what it could be made from.

    Args:
        parts: What the report is made of.
    """
    test: Any = parts.residuals
    if test is None:
        test = _residuals(parts)
    if test is None:
        return None
    expected = 1.0 - test.confidence
    rows = []
    for i, own in enumerate(np.asarray(test.auto_outside)):
        for j, share in enumerate(np.asarray(test.cross_outside)[i]):
            name = parts.inputs[j].name if j < len(parts.inputs) else f"u{j + 1}"
            verdict = _verdict(float(share), expected, test.lags + 1)
            rows.append([parts.name(i), name, 100 * float(share), verdict, 100 * float(own)])
    return Section(
        "Residual tests",
        [
            Words(
                "What is left of the measurements after the free run. Where it depends on past inputs, the model "
                "misses dynamics. That it depends on its own past is no fault: an observer can predict better than "
                f"a free run. {100 * expected:.3g} % outside the band is what chance alone would give."
            ),
            Table(
                ["output", "input", "lags outside, past inputs [%]", "verdict", "lags outside, own past [%]"],
                rows,
                f"{test.lags} lags, bands of {100 * test.confidence:.4g} % for each lag on its own.",
            ),
            _correlations(parts, test),
        ],
    )


def _verdict(share: float, expected: float, lags: int) -> Marked:
    """What a share of lags outside says: a quarter is far beyond what chance gives, one lag in many is not."""
    if share * lags <= max(1.0, 3 * expected * lags):
        return Marked("as chance gives", Mark.GOOD)
    if share < 0.25:
        return Marked("more than chance gives", Mark.WARNING)
    return Marked("far more than chance gives", Mark.WARNING)


def _residuals(parts: Parts) -> Any:
    """Residual test of the chosen model on the records that decide; None where they do not allow one."""
    records = judged_on(parts)
    if parts.fit is None or not records:
        return None
    from controlrnn.identification import check_residuals

    skip = int(getattr(parts.fit, "skip", 0))
    lags = min(_LAGS, min(len(r) - skip for r in records) // 4)
    try:
        runs = [run(parts, parts.fit.system, r) for r in records]
        return check_residuals(records, runs, lags=lags, skip=skip) if lags > 2 else None
    except ControlRnnError:  # constant inputs, runs that diverge: the other sections say so
        return None


def run(parts: Parts, system: LureSystem | GatedSystem, record: Trajectory) -> Array:
    """Free run of a record, from the initial state that fits its first samples, shape (T, ny).

    Args:
        parts: What the report is made of.
        system: The model.
        record: The record.
    """
    from controlrnn.identification import free_run, initial_states

    skip = _skip(parts, record)
    return np.asarray(free_run(system, [record], initial_states(system, [record], skip))[0][0])


def _skip(parts: Parts, record: Trajectory) -> int:
    """Samples that do not count: those of the fit, else a tenth of the record."""
    return min(int(getattr(parts.fit, "skip", len(record) // 10)), len(record) // 2)


def _own_scores(parts: Parts) -> Any:
    """Scores of a single fit: its own ones, where it has some."""
    own = getattr(parts.fit, "scores", {})
    if parts.data is not None and parts.baselines:  # all on the same records, in the same way
        return _scores(parts, parts.fit.system)  # type: ignore[union-attr]
    for name in ("test", "validation", "train"):
        if name in own:
            return own[name]
    return _scores(parts, parts.fit.system)  # type: ignore[union-attr]


def _scores(parts: Parts, system: LureSystem | GatedSystem) -> Any:
    from controlrnn.identification import Scores

    records = judged_on(parts)
    if not records:
        return None
    skip = min(_skip(parts, r) for r in records)
    return Scores.of([r.y for r in records], [run(parts, system, r) for r in records], skip=skip)


def _size(system: LureSystem | GatedSystem) -> str:
    if isinstance(system, GatedSystem):
        return f"{system.cell.upper()}, {system.nx} states, {system.units} units"
    return f"{system.nx} states, {system.nv} neurons" if system.nv else f"linear, {system.nx} states"


def _table(parts: Parts, models: list[Compared]) -> Table:
    ny = len(models[0].rmse)
    tested = parts.data is None or bool(parts.data.test)
    best = np.min([m.rmse for m in models if m.baseline], axis=0) if any(m.baseline for m in models) else None
    columns = ["model", "what", "states", "neurons", "error, left-out blocks"]
    columns += [f"RMSE {parts.label(i)}" for i in range(ny)] + [f"fit {parts.name(i)} [%]" for i in range(ny)]
    rows = []
    for k, m in enumerate(models):
        cells: list[Any] = [f"{m.name} (chosen)" if k == 0 else m.name, m.what, m.system.nx, m.neurons, m.error]
        for i in range(ny):
            worse = not m.linear and best is not None and m.rmse[i] > best[i]
            cells.append(Marked(f"{m.rmse[i]:.4g}, worse than linear", Mark.WARNING) if worse else float(m.rmse[i]))
        rows.append([*cells, *(float(v) for v in m.fit), m.rate])
    which = "test records, which no model has seen" if tested else "records that models were made with: no test records"
    return Table(
        [*columns, "proven contraction rate"],
        rows,
        f"Free runs over the {which}; the initial state is estimated from samples that do not count.",
    )


def _physics(fit: Any) -> Iterator[Block]:
    if isinstance(getattr(fit, "values", None), Mapping) and hasattr(fit, "deviations"):
        yield Table(
            ["parameter", "value", "standard deviation"],
            [[name, value, fit.deviations[name]] for name, value in fit.values.items()],
            f"Physical parameters; neurons make {100 * float(np.max(fit.residual_share)):.3g} % of the variance of the "
            "states' changes.",
        )


def _runs(parts: Parts, models: list[Compared], record: Trajectory) -> Chart:
    skip, panels = _skip(parts, record), []
    span = [Span(0.0, skip * record.dt, "not scored")] if skip else []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # runs may diverge
        runs = [run(parts, m.system, record) for m in models]
    for i in range(min(record.ny, _OUTPUTS)):
        measured = record.y[:, i]
        low, high = float(np.nanmin(measured)), float(np.nanmax(measured))
        room = 0.15 * (high - low) or 1.0
        lines = [Line(record.time, measured, "measured", "ink")]
        errors = []
        for k in reversed(range(len(models))):
            style = Style.LINE if k == 0 else Style.THIN
            lines.append(Line(record.time, runs[k][:, i], models[k].name, k, style))
            errors.append(Line(record.time, measured - runs[k][:, i], models[k].name, k, style))
        usual = np.abs(np.concatenate([e.y[skip:] for e in errors]))
        usual = usual[np.isfinite(usual)]
        end = min(1.2 * float(np.quantile(usual, 0.995)), high - low + room) if len(usual) else room
        panels.append(Panel(parts.label(i), lines, spans=span, low=low - room, high=high + room))
        panels.append(Panel(f"error [{parts.unit(i) or '-'}]", errors, spans=span, low=-(end or 1.0), high=end or 1.0))
    return Chart(
        "Free runs of all models",
        panels,
        "time [s]",
        "Measured outputs and free runs: models get the inputs, never an output. Below each: what they are off by.",
    )


def _trials(fit: Any) -> Table:
    best = sorted(fit.trials, key=lambda t: t.error)[:_TRIALS]
    return Table(
        ["candidate", "error, left-out blocks"],
        [[t.candidate.label, float(t.error)] for t in best],
        f"The best of {len(fit.trials)} candidates that were compared, errors in standard deviations of the outputs; "
        f"{fit.seconds:.4g} s of {fit.budget:g} s were used.",
    )


def _history(fit: Any) -> Chart:
    step = np.asarray(fit.history["step"], dtype=np.float64)
    line = Line(step, np.asarray(fit.history["validation"]), "validation", 0)
    return Chart(
        "Training",
        [Panel("validation error [std]", [line], logarithmic=True)],
        "step",
        f"How training went: {fit.status} after {int(step[-1])} steps and {fit.seconds:.4g} s.",
    )


def _correlations(parts: Parts, test: Any) -> Chart:
    cross, band = np.asarray(test.cross), np.asarray(test.cross_band)
    lags = np.arange(-test.lags, test.lags + 1, dtype=np.float64)
    panels = []
    pairs = [(i, j) for i in range(cross.shape[1]) for j in range(cross.shape[2])]
    for i, j in pairs[:_PAIRS]:
        name = parts.inputs[j].name if j < len(parts.inputs) else f"u{j + 1}"
        panels.append(
            Panel(
                f"{parts.name(i)}, {name}",
                [Line(lags, cross[:, i, j], "correlation", 0, Style.DOTS)],
                [Band(lags, -band[:, i, j], band[:, i, j], "band of chance")],
            )
        )
    more = "" if len(pairs) <= _PAIRS else f" The first {_PAIRS} of {len(pairs)} pairs."
    return Chart(
        "Correlation of residuals with inputs",
        panels,
        "lag [samples]",
        f"Lags from 0 on: past inputs. Lags below 0: later inputs, which only feedback can make depend on it.{more}",
        height=80,
    )
