"""First section: what matters for a decision, one line a stage, each from the numbers of its own section."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from controlrnn.report.blocks import Section, Table
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.parts import Parts
from controlrnn.report.sections.bounds import realised_errors
from controlrnn.report.sections.budget import WORDS, budgets
from controlrnn.report.sections.loops import kept_all
from controlrnn.report.sections.models import compared

Row = list[Any]


def summary_section(parts: Parts, proofs: dict[str, tuple[Mark, str]]) -> Section:
    """First section of the report, a line for each stage of the road.

    Args:
        parts: What the report is made of.
        proofs: Outcome of proving each certificate again.
    """
    rows = [*_data(parts), *_models(parts), *_proofs(proofs), *_budget(parts), *_bounds(parts), *_loops(parts)]
    rows += [["promise", parts.tightening.promise]] if parts.tightening is not None else []
    return Section("In short", [Table(["", "found"], rows)] if rows else [])


def _data(parts: Parts) -> Iterator[Row]:
    if parts.checked is not None:
        faults, warned = len(parts.checked.faults), len(parts.checked.warnings)
        mark = Mark.BAD if faults else Mark.WARNING if warned else Mark.GOOD
        yield ["data", Marked(f"{faults} faults, {warned} warnings", mark)]


def _models(parts: Parts) -> Iterator[Row]:
    models = compared(parts)
    if not models:
        return
    first, linear = models[0], [m for m in models if m.baseline]
    for i in range(len(first.rmse)):
        said, mark = f"{first.name}: error of the free run {first.rmse[i]:.4g} {parts.unit(i)}".rstrip(), Mark.GOOD
        if linear:
            best = min(linear, key=lambda m: m.rmse[i])
            said += f", {best.name} {best.rmse[i]:.4g}"
            mark = Mark.WARNING if not first.linear and first.rmse[i] > best.rmse[i] else Mark.GOOD
        yield [f"model of {parts.name(i)}", Marked(said, mark) if linear else said]


def _proofs(proofs: dict[str, tuple[Mark, str]]) -> Iterator[Row]:
    if proofs:
        good = sum(mark is Mark.GOOD for mark, _ in proofs.values())
        bad = any(mark is Mark.BAD for mark, _ in proofs.values())
        mark = Mark.BAD if bad else Mark.GOOD if good == len(proofs) else Mark.WARNING
        yield ["certificates", Marked(f"{good} of {len(proofs)} proven again for this report", mark)]


def _budget(parts: Parts) -> Iterator[Row]:
    for i, budget in enumerate(budgets(parts)):
        if budget.share is None or budget.largest is None:
            continue
        mark = Mark.BAD if budget.share >= 100 else Mark.WARNING if budget.share > 50 else Mark.GOOD
        said = f"{budget.share:.3g} % is taken by what predictions may be off, most by {WORDS[budget.largest][0]}"
        yield [f"range of {parts.name(i)}", Marked(said, mark)]


def _bounds(parts: Parts) -> Iterator[Row]:
    met = realised_errors(parts)
    if met is None or parts.tightening is None:
        return
    bound = np.asarray(parts.tightening.predictive)
    if met.shape != bound.shape or not (bound > 0).any() or not np.isfinite(met[bound > 0]).any():
        return
    use = float(np.nanmax(met[bound > 0] / bound[bound > 0]))
    said = f"the largest prediction error met is {100 * use:.3g} % of its bound"
    yield ["bounds", Marked(said, Mark.BAD if use > 1 else Mark.GOOD)]


def _loops(parts: Parts) -> Iterator[Row]:
    for name, loop in parts.loops.items():
        kept, n = kept_all(loop), len(getattr(loop, "results", (loop,)))
        said = f"{kept} of {n} runs within their limits"
        yield [f"loops, {name}", Marked(said, Mark.GOOD if kept == n else Mark.BAD)]
