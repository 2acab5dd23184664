"""Charts draw what they are given, at the right places."""

import re
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.errors import SettingError, ShapeError
from controlrnn.report import Band, Chart, Line, Panel, Span, Style
from controlrnn.report.charts import thinned
from controlrnn.report.drawing import legend, svg
from controlrnn.report.scales import Scale, horizontal, vertical

FINITE = st.floats(-1e9, 1e9, allow_nan=False)


def drawn(chart):
    return ElementTree.fromstring(svg(chart))


def points(element):
    """Numbers of a path, shape (n, 2)."""
    return np.array(re.findall(r"(-?[\d.]+) (-?[\d.]+)", element.get("d")), dtype=float)


def values(chart, panel=0, path=0):
    """What a reader sees: the values of a line, from its places and the ends of the axes that the page states."""
    root = drawn(chart)
    plot = root.findall(".//svg")[panel]
    (x0, x1), (y0, y1) = (map(float, one.split()) for one in (root.get("data-x"), plot.get("data-y")))
    places = points(plot.findall("path")[path])
    return x0 + places[:, 0] / 1000 * (x1 - x0), y0 + (1 - places[:, 1] / 1000) * (y1 - y0)


@settings(max_examples=50)
@given(st.lists(st.tuples(FINITE, FINITE), min_size=2, max_size=40, unique_by=lambda p: round(p[0], 3)))
def test_lines_are_where_their_values_are(pairs):
    x, y = np.array(sorted(pairs)).T
    seen_x, seen_y = values(Chart("c", [Panel("p", [Line(x, y)])]))
    np.testing.assert_allclose(seen_x, x, atol=2e-5 * np.ptp(x))
    np.testing.assert_allclose(seen_y, y, atol=2e-5 * max(np.ptp(y), 0.2 * np.abs(y).max(), 1.0))


def test_steps_hold_and_gaps_are_left_open():
    held = Chart("c", [Panel("p", [Line([0, 1, 2], [5, 7, 6], style=Style.STEP)])])
    x, y = values(held)
    np.testing.assert_allclose(x, [0, 1, 1, 2, 2], atol=1e-4)
    np.testing.assert_allclose(y, [5, 5, 7, 7, 6], atol=1e-4)
    gap = drawn(Chart("c", [Panel("p", [Line([0, 1, 2, 3, 4], [1, 2, np.nan, 3, np.nan])])]))
    assert gap.find(".//path").get("d").count("M") == 2
    dots = drawn(Chart("c", [Panel("p", [Line([0, 1, 2], [1, np.nan, 3], style=Style.DOTS)])]))
    assert dots.find(".//path").get("d").count("M") == 2


def test_logarithmic_panels_show_powers_of_ten_and_leave_out_what_is_not_positive():
    x, y = np.arange(4.0), np.array([1e-3, 0.0, 10.0, 1e3])
    chart = Chart("c", [Panel("p", [Line(x, y)], logarithmic=True)])
    np.testing.assert_allclose(values(chart)[1], [-3, 1, 3], atol=1e-3)
    texts = [t.text for t in drawn(chart).findall(".//g[@class='up']/text")]
    assert {"0.001", "1000"} <= set(texts)


def test_bands_and_spans_are_areas():
    band = Band([0.0, 1.0], [1.0, 2.0], [3.0, 5.0], "b", 2)
    chart = Chart("c", [Panel("p", bands=[band], spans=[Span(0.25, 0.5, "s")], low=0.0, high=10.0)])
    plot = drawn(chart).find(".//svg")
    np.testing.assert_allclose(points(plot.find("path")), [[0, 900], [1000, 800], [1000, 500], [0, 700]], atol=0.01)
    rect = plot.find("rect")
    assert (float(rect.get("x")), float(rect.get("width"))) == (250, 250)
    assert legend(chart) == [("b", "k2 band"), ("s", "span")]


def test_panels_share_the_horizontal_axis():
    chart = Chart("c", [Panel("p", [Line([0, 1], [0, 1])]), Panel("q", [Line([5, 9], [0, 1])])])
    assert (horizontal(chart.panels).low, horizontal(chart.panels).high) == (0, 9)
    np.testing.assert_allclose(values(chart, panel=1)[0], [5, 9], atol=1e-3)


@settings(max_examples=200)
@given(FINITE, st.floats(1e-6, 1e9))
def test_ticks_say_where_they_are(low, span):
    scale = Scale(low, low + span)
    ticks = scale.ticks()
    resolved = 1e-9 * abs(low) < span
    assert len(ticks) <= 13
    for place, text in ticks if resolved else ():
        assert -1e-6 <= place <= 1 + 1e-6
        assert low + place * span == pytest.approx(float(text), abs=0.02 * span)
    texts = [text for _, text in ticks]
    assert not resolved or len(set(texts)) == len(texts)


def test_a_constant_and_nothing_at_all_have_axes():
    for y in ([3.0, 3.0], [0.0, 0.0], [np.nan, np.nan], [-1e300, -1e300]):
        panel = Panel("p", [Line([0.0, 1.0], y)])
        assert vertical(panel).low < vertical(panel).high
        assert svg(Chart("c", [panel]))
    assert svg(Chart("c", [Panel("p")]))


def test_long_lines_keep_their_extremes():
    rng = np.random.default_rng(0)
    x, y = np.arange(100_000.0), rng.normal(size=100_000)
    y[41_234], y[77], y[500:40_000:7] = 50.0, -60.0, np.nan
    few_x, few_y = thinned(x, y)
    assert len(few_x) <= 1600
    assert (few_x[0], few_x[-1]) == (0, 99_999)
    assert np.nanmax(few_y) == 50
    assert np.nanmin(few_y) == -60
    assert few_x[np.nanargmax(few_y)] == 41_234
    assert (np.diff(few_x) >= 0).all()
    for stretch in np.array_split(np.arange(100_000), 400):  # what a screen shows of each column
        inside = (few_x >= stretch[0]) & (few_x <= stretch[-1])
        assert np.nanmax(few_y[inside]) == np.nanmax(y[stretch])
        assert np.nanmin(few_y[inside]) == np.nanmin(y[stretch])


def test_wrong_charts_are_refused():
    with pytest.raises(ShapeError, match="one length"):
        Line([0, 1], [0, 1, 2])
    with pytest.raises(ShapeError, match="one length"):
        Band([0, 1], [[0, 1]], [1, 2])
    with pytest.raises(SettingError, match="colour"):
        Line([0], [1], colour="red; } body { display: none")
    with pytest.raises(SettingError, match="at least one Panel"):
        Chart("c", [])
    with pytest.raises(SettingError, match="style"):
        Line([0], [1], style="wavy")
