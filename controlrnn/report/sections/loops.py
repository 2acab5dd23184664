"""Section on closed loops: numbers of each controller, and its outputs and inputs with their limits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from controlrnn.report.blocks import Block, Section, Table
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.charts import Band, Chart, Line, Panel, Style
from controlrnn.report.parts import Parts
from controlrnn.report.sections.bounds import bounded, runs_of

_OUTPUTS, _INPUTS = 6, 4


def loops_section(parts: Parts) -> Section | None:
    """The section; None without closed loops.

    Args:
        parts: What the report is made of.
    """
    if not parts.loops:
        return None
    blocks: list[Block] = [_table(parts)]
    for name, loop in parts.loops.items():
        blocks += list(_charts(name, runs_of(loop)))
    return Section("Closed loops", blocks)


def kept_all(loop: Any) -> int:
    """Number of runs of a loop in which all outputs stayed within their limits.

    Args:
        loop: One of `Parts.loops`.
    """
    return sum(run.violations == 0 for run in runs_of(loop))


def _table(parts: Parts) -> Table:
    columns: dict[str, list[Any]] = {name: _numbers(loop) for name, loop in parts.loops.items()}
    rows = [
        "runs",
        "control steps",
        "runs within their limits",
        "probability of that, 95 % interval",
        "largest violation",
        "mean cost (tracking and moves)",
        "solves that failed",
        "steps with a fallback",
        "readings not used",
        "steps outside of what was known",
        "steps certified [%]",
        "largest prediction error over its bound",
        "time per step, median [s]",
        "time per step, largest [s]",
        "steps longer than a sample",
    ]
    return Table(
        ["", *columns],
        [[row, *(numbers[k] for numbers in columns.values())] for k, row in enumerate(rows)],
        "Violations are those of true outputs, in the unit of the output that is furthest out.",
    )


def _numbers(loop: Any) -> list[Any]:
    runs = runs_of(loop)
    kept, n = kept_all(loop), len(runs)
    mark = Mark.GOOD if kept == n else Mark.BAD
    interval = None
    if n > 1:
        found = loop.coverage_met()
        interval = f"{found.lower:.3g} to {found.upper:.3g}"
    uses = [np.asarray(r.error_use) for r in runs if bounded(r)]
    use = max((float(np.nanmax(u)) for u in uses if np.isfinite(u).any()), default=None)
    times = np.concatenate([np.asarray(r.solve_time) for r in runs])
    return [
        n,
        sum(r.steps for r in runs),
        Marked(f"{kept} of {n}", mark),
        interval,
        max(float(r.max_violation) for r in runs),
        float(np.mean([r.cost for r in runs])),
        sum(r.failed_solves for r in runs),
        sum(sum(r.fallback_counts.values()) for r in runs),
        sum(sum(r.rejected.values()) for r in runs),
        sum(r.steps_outside for r in runs),
        100 * float(np.mean(np.concatenate([np.asarray(r.certified) for r in runs]))),
        Marked(f"{use:.4g}", Mark.WARNING) if use is not None and use > 1 else use,
        float(np.median(times)),
        float(times.max()),
        sum(r.deadline_misses() for r in runs),
    ]


def _charts(name: str, runs: tuple[Any, ...]) -> Iterator[Chart]:
    worst = max(runs, key=lambda r: (r.max_violation, -_nearest(r)))
    ny, nu = worst.y.shape[1], worst.u.shape[1]
    time = np.arange(worst.steps + 1) * worst.dt
    panels = []
    for i in range(min(ny, _OUTPUTS)):
        bands = []
        if len(runs) > 1 and len({r.y.shape for r in runs}) == 1:
            all_runs = np.stack([r.y[:, i] for r in runs])
            bands.append(Band(time, all_runs.min(axis=0), all_runs.max(axis=0), f"all {len(runs)} runs", 0))
        lines = [Line(time, worst.reference[:, i], "set point", "grey", Style.STEP)]
        for limit, sign in ((worst.lower[i], 1.0), (worst.upper[i], -1.0)):
            if np.isfinite(limit):
                ends, room = np.array([time[0], time[-1]]), float(worst.bounds[-1, i])
                lines.append(Line(ends, np.full(2, limit), "limit", "limit"))
                if room > 0:
                    lines.append(
                        Line(ends, np.full(2, limit + sign * room), "tightened, last step", "limit", Style.DASHED)
                    )
        lines.append(Line(time, worst.y[:, i], "output", 0))
        low, high = _ends(worst, i, bands)
        panels.append(Panel(worst.names[i], lines, bands, low=low, high=high))
    for j in range(min(nu, _INPUTS)):
        panels.append(Panel(worst.names[ny + j], [Line(time[:-1], worst.u[:, j], "input", 1, Style.STEP)]))
    which = "The run" if len(runs) == 1 else f"The run of {len(runs)} that came nearest to a limit, or furthest beyond"
    out = f"{worst.violations} of {worst.steps + 1} samples outside of the limits"
    yield Chart(f"Closed loop, {name}", panels, "time [s]", f"{which}: {out}.", height=110)


def _nearest(run: Any) -> float:
    """Distance of the outputs from their limits, in shares of their range."""
    span = np.where(np.isfinite(run.upper - run.lower), run.upper - run.lower, 1.0)
    return float(np.min(np.minimum(run.upper - run.y, run.y - run.lower) / span))


def _ends(run: Any, i: int, bands: list[Band]) -> tuple[float, float]:
    """Ends of an output's axis: what was reached, and the limits that are near."""
    low, high = float(np.min(run.y[:, i])), float(np.max(run.y[:, i]))
    for band in bands:
        low, high = min(low, float(np.min(band.low))), max(high, float(np.max(band.high)))
    low, high = min(low, float(np.min(run.reference[:, i]))), max(high, float(np.max(run.reference[:, i])))
    reach = max(high - low, 1e-9 * max(abs(low), abs(high)), 1e-300)
    for limit in (run.lower[i], run.upper[i]):
        if np.isfinite(limit) and low - reach <= limit <= high + reach:
            low, high = min(low, limit), max(high, limit)
    room = 0.06 * max(high - low, reach)
    return low - room, high + room
