"""Drawing of charts as SVG, which stands in a page without any other file.

Every panel is an ``<svg class="plot">`` of its own, 1000 units high and wide, stretched over its place: zooming only
changes its ``viewBox``, and lines keep their width. Elements are made by ElementTree, which escapes all text.
"""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree as Tree

import numpy as np

from controlrnn.report.charts import Band, Chart, Line, Span, Style, thinned
from controlrnn.report.scales import Scale, horizontal, vertical
from controlrnn.report.texts import readable

WIDTH, LEFT, RIGHT, GAP, BELOW, INSIDE = 820.0, 76.0, 22.0, 16.0, 34.0, 1000.0


def svg(chart: Chart) -> str:
    """The SVG element of a chart.

    Args:
        chart: What to draw.
    """
    panels, across = tuple(chart.panels), horizontal(tuple(chart.panels))
    height = len(panels) * (chart.height + GAP) + BELOW
    root = Tree.Element(
        "svg",
        {
            "class": "chart",
            "viewBox": f"0 0 {WIDTH:g} {height:g}",
            "role": "img",
            "data-x": f"{across.low!r} {across.high!r}",
        },
    )
    Tree.SubElement(root, "title").text = readable(chart.title)
    wide = WIDTH - LEFT - RIGHT
    for i, panel in enumerate(panels):
        top, up = GAP / 2 + i * (chart.height + GAP), vertical(panel)
        group = Tree.SubElement(root, "g", {"class": "panel", "transform": f"translate({LEFT:g} {top:g})"})
        Tree.SubElement(group, "rect", {"class": "frame", "width": f"{wide:g}", "height": f"{chart.height}"})
        _ticks(group, up, wide, chart.height, upright=True)
        _ticks(group, across, wide, chart.height, upright=False, texts=i == len(panels) - 1)
        plot = Tree.SubElement(
            group,
            "svg",
            {
                "class": "plot",
                "width": f"{wide:g}",
                "height": f"{chart.height}",
                "preserveAspectRatio": "none",
                "viewBox": f"0 0 {INSIDE:g} {INSIDE:g}",
                "data-y": f"{up.low!r} {up.high!r}",
                "data-log": str(int(up.logarithmic)),
            },
        )
        for span in panel.spans:
            _span(plot, span, across)
        for band in panel.bands:
            _band(plot, band, across, up)
        for line in panel.lines:
            _line(plot, line, across, up)
        name = Tree.SubElement(
            group,
            "text",
            {
                "class": "name",
                "transform": f"translate({18 - LEFT:g} {chart.height / 2:g}) rotate(-90)",
            },
        )
        name.text = readable(panel.label)
    foot = Tree.SubElement(root, "text", {"class": "name", "x": f"{LEFT + wide / 2:g}", "y": f"{height - 2:g}"})
    foot.text = readable(chart.label)
    return Tree.tostring(root, encoding="unicode")


def legend(chart: Chart) -> list[tuple[str, str]]:
    """Entries of the legend: text and the classes that its sample is drawn with, each once.

    Args:
        chart: The chart.
    """
    found: dict[tuple[str, str], None] = {}
    for panel in chart.panels:
        for line in panel.lines:
            found[line.label, f"{_tint(line.colour)} {line.style}"] = None
        for band in panel.bands:
            found[band.label, f"{_tint(band.colour)} band"] = None
        for span in panel.spans:
            found[span.label, "span"] = None
    return [(readable(text), kind) for text, kind in found if text]


def _tint(colour: int | str) -> str:
    return f"k{colour}" if isinstance(colour, int) else colour


def _ticks(group: Tree.Element, scale: Scale, wide: float, high: float, *, upright: bool, texts: bool = True) -> None:
    box = Tree.SubElement(group, "g", {"class": "up" if upright else "across"})
    for place, text in scale.ticks():
        if not -1e-9 <= place <= 1 + 1e-9:
            continue
        if upright:
            y = (1 - place) * high
            ends = {"x1": "0", "x2": f"{wide:g}", "y1": f"{y:.2f}", "y2": f"{y:.2f}"}
            where = {"x": "-6", "y": f"{y + 4:.2f}"}
        else:
            x = place * wide
            ends = {"x1": f"{x:.2f}", "x2": f"{x:.2f}", "y1": "0", "y2": f"{high:g}"}
            where = {"x": f"{x:.2f}", "y": f"{high + 14:g}"}
        Tree.SubElement(box, "line", {"class": "grid", **ends})
        if texts:
            Tree.SubElement(box, "text", where).text = text


def _span(plot: Tree.Element, span: Span, across: Scale) -> None:
    start, end = INSIDE * across.of(np.array([span.start, span.end]))
    shape = {"class": "span", "x": f"{start:.2f}", "y": "0", "width": f"{max(end - start, 0):.2f}"}
    Tree.SubElement(plot, "rect", shape | {"height": f"{INSIDE:g}"})


def _line(plot: Tree.Element, line: Line, across: Scale, up: Scale) -> None:
    x, y = thinned(np.asarray(line.x), np.asarray(line.y))
    if line.style in (Style.STEP, Style.STEP_DASHED):
        x, y = _held(x, y)
    points = _points(x, y, across, up)
    if line.style in (Style.DOTS, Style.SQUARES):
        path = "".join(f"M{a:.2f} {b:.2f}h.01" for a, b in points if not np.isnan(b))
    else:
        path = "".join(_stretches(points))
    Tree.SubElement(plot, "path", {"class": f"stroke {_tint(line.colour)} {line.style}", "d": path})


def _band(plot: Tree.Element, band: Band, across: Scale, up: Scale) -> None:
    x = np.asarray(band.x)
    ends = []
    for values in (np.asarray(band.low), np.asarray(band.high)):
        at, kept = thinned(x, values)
        if band.held:
            at, kept = _held(at, kept)
        if up.logarithmic:  # an area down to zero has no lower end on such an axis
            kept = np.maximum(kept, 10.0**up.low)
        points = _points(at, kept, across, up)
        ends.append(points[~np.isnan(points).any(axis=1)])
    around = np.concatenate([ends[0], ends[1][::-1]])
    if len(around):
        path = "M" + "L".join(f"{a:.2f} {b:.2f}" for a, b in around) + "Z"
        Tree.SubElement(plot, "path", {"class": f"area {_tint(band.colour)}", "d": path})


def _points(x: np.ndarray, y: np.ndarray, across: Scale, up: Scale) -> np.ndarray:
    """Places in a plot, shape (n, 2); far beyond its ends they are cut, which browsers draw wrongly."""
    places = np.stack([INSIDE * across.of(x), INSIDE * (1 - up.of(y))], axis=1)
    return np.clip(places, -20 * INSIDE, 20 * INSIDE)


def _held(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A line that holds each value until the next point."""
    return np.repeat(x, 2)[1:], np.repeat(y, 2)[:-1]


def _stretches(points: np.ndarray) -> Iterator[str]:
    """Paths of the stretches without a gap; one point alone becomes a dot."""
    known = ~np.isnan(points).any(axis=1)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], known, [False]]).astype(np.int8)))
    for start, end in zip(edges[::2], edges[1::2], strict=True):
        inside = [f"{a:.2f} {b:.2f}" for a, b in points[start:end]]
        yield f"M{inside[0]}" + ("h.01" if len(inside) == 1 else "".join(f"L{p}" for p in inside[1:]))
