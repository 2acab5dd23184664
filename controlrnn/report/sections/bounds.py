"""Section on bounds: certified and calibrated ones against attacks and against errors that were met."""

from __future__ import annotations

from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.report.blocks import Block, Section, Table, Words
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.charts import Chart, Line, Panel, Style
from controlrnn.report.parts import Parts

_MOST = 6


def realised_errors(parts: Parts) -> Array | None:
    """Largest prediction errors that were met, on records or in loops, shape (N + 1, ny); None where none were.

    Args:
        parts: What the report is made of.
    """
    found = [] if parts.realised is None else [np.asarray(parts.realised)]
    for loop in parts.loops.values():
        found += [np.asarray(one.realised) for one in runs_of(loop) if _rests_on(one, parts.tightening)]
    if not found or len({f.shape for f in found}) > 1:
        return found[0] if found else None
    return np.asarray(np.fmax.reduce(found))


def runs_of(loop: Any) -> tuple[Any, ...]:
    """The runs of one loop, or of several.

    Args:
        loop: One of `Parts.loops`.
    """
    return tuple(loop.results) if hasattr(loop, "results") else (loop,)


def bounded(run: Any) -> bool:
    """Whether a loop was run with bounds on its predictions.

    Args:
        run: One closed loop.
    """
    return bool(np.asarray(run.bounds).any())


def _rests_on(run: Any, tightening: Any) -> bool:
    """Whether a loop was run with that tightening."""
    if tightening is None:
        return False
    bounds, total = np.asarray(run.bounds), np.asarray(tightening.total)
    return bounds.shape == total.shape and bool(np.allclose(bounds, total, rtol=1e-9, atol=0.0))


def bounds_section(parts: Parts) -> Section | None:
    """The section; None where there is no bound, or nothing to hold against it.

    Args:
        parts: What the report is made of.
    """
    tightening = parts.tightening
    if tightening is None:
        return None
    bound = np.asarray(tightening.predictive)
    certified = np.asarray(tightening.reinitialisation) + np.asarray(tightening.input_error)
    met, reached = realised_errors(parts), None if parts.attack is None else np.asarray(parts.attack)
    if met is not None and met.shape != bound.shape:
        met = None
    if reached is not None:  # an attack over washout and prediction ends with the prediction
        reached = reached[-len(bound) :] if len(reached) >= len(bound) else None
    blocks: list[Block] = [Words(_words(reached is not None, met is not None))]
    blocks.append(_table(parts, bound, certified, reached, met))
    steps = np.arange(len(bound), dtype=np.float64)
    panels = []
    for i in range(min(bound.shape[1], _MOST)):
        lines = [Line(steps, bound[:, i], "bound on a prediction", "limit")]
        if certified[:, i].any():
            lines.append(Line(steps, certified[:, i], "its certified part", 1, Style.DASHED))
        if reached is not None:
            lines.append(Line(steps, reached[:, i], "reached by an attack on the certified part", 1, Style.SQUARES))
        if met is not None:
            lines.append(Line(steps, met[:, i], "largest error met", "ink", Style.DOTS))
        panels.append(Panel(parts.label(i), lines, low=0.0))
    blocks.append(Chart("Bounds against what was met", panels, "prediction step", "How much of each bound is used."))
    return Section("Bounds against attacks and errors met", blocks)


def _words(attacked: bool, met: bool) -> str:
    said = "A bound says what no prediction exceeds, as long as its premises hold; how tight it is shows here."
    if attacked:
        said += (
            " An attack is a search for the worst pair of trajectories: the true worst case lies between it and the "
            "certified part."
        )
    if met:
        said += " Errors that were met are examples: that they stay below a bound does not prove it."
    return said if attacked or met else said + " Neither an attack nor errors that were met are at hand."


def _table(parts: Parts, bound: Array, certified: Array, reached: Array | None, met: Array | None) -> Table:
    last, rows = len(bound) - 1, []
    for i in range(bound.shape[1]):
        for k in sorted({min(1, last), last // 2, last}):
            row: list[Any] = [parts.label(i), k, float(bound[k, i]), float(certified[k, i])]
            if reached is not None:
                over = float(certified[k, i] / reached[k, i]) if reached[k, i] > 0 else None
                broken = reached[k, i] > certified[k, i]
                row += [float(reached[k, i]), Marked("the bound is broken", Mark.BAD) if broken else over]
            if met is not None:
                use = 100 * float(met[k, i] / bound[k, i]) if bound[k, i] > 0 else None
                over_it = use is not None and use > 100
                row += [float(met[k, i]), Marked(f"{use:.4g}, exceeded", Mark.BAD) if over_it else use]
            rows.append(row)
    columns = ["output", "step", "bound", "certified part"]
    columns += ["reached by attack", "certified part over attack"] if reached is not None else []
    columns += ["largest error met", "of the bound [%]"] if met is not None else []
    return Table(columns, rows, "In the unit of the output.")
