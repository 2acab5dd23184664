"""Calls of `controlrnn.report`."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from controlrnn import report
from experiments.bench_calls.hostile.call import Call, call
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.parts import fields_of

# The smallest picture there is: one transparent point.
_PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6364f8cf500f00038601805a34"
    "7d6b0000000049454e44ae426082"
)


def report_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of pages, charts and reports."""
    at, x = "controlrnn.report", np.arange(4.0)
    line, band, span = report.Line(x, x**2, "square", 1), report.Band(x, -x, x, "band"), report.Span(0.5, 1.5, "span")
    panel = report.Panel("y [m]", (line,), (band,), (span,), low=-4.0, high=10.0)
    chart = report.Chart("chart", (panel,), "x [s]", "caption")
    table = report.Table(("name", "value"), (("a", 1.5), ("b", report.Marked("2", report.Mark.GOOD))), "caption")
    blocks = (
        report.Words("words"), report.Code("code"), report.Listing({"what": "said"}), table,
        report.Picture(_PNG, "picture"), chart,
    )  # fmt: skip
    section = report.Section("section", blocks)
    anything = ("x", "y", "low", "high", "rows")  # a cell that is not finite is written so
    for thing in (line, band, span, panel, chart, *blocks, blocks[3].rows[1][1], section):
        kind = type(thing)
        yield call(f"{at}.{kind.__name__}", kind, **fields_of(thing), _infinite=anything)
    page = report.Page("page", (section,), "about")
    yield call(f"{at}.Page", report.Page, **fields_of(page), _infinite=anything)
    yield call(f"{at}.Table.of", report.Table.of, rows=({"a": 1.0}, {"b": "c"}), caption="caption")
    yield call(f"{at}.write_page", report.write_page, 0.1, page=page, path=str(kit.folder / "page.html"))
    parts = report.Parts(
        title="report", inputs=kit.predictor.inputs, outputs=kit.predictor.outputs, data=kit.dataset, fit=kit.fit,
        certificates={"contraction": kit.contraction}, model_error=kit.model_error, observer=kit.observer,
        tightening=kit.tightening, loops={"loop": kit.loop},
    )  # fmt: skip
    yield call(f"{at}.Parts", lambda **given: report.Parts(**given).title, 0.3, **fields_of(parts))
    yield call(f"{at}.report_page", lambda parts: len(report.report_page(parts).sections), 0.05, parts=parts)
    yield call(f"{at}.write_report", report.write_report, 0.05, parts=parts, path=str(kit.folder / "report.html"))
