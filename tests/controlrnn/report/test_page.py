"""Pages parse, need nothing from outside, and show texts from anywhere as texts."""

import base64
import hashlib
import re
import sys

import numpy as np
import pytest

from controlrnn.errors import SettingError, StorageError
from controlrnn.report import (
    Chart,
    Code,
    Line,
    Listing,
    Mark,
    Marked,
    Page,
    Panel,
    Picture,
    Section,
    Span,
    Table,
    Words,
    write_page,
)
from controlrnn.report.cells import cell
from controlrnn.report.page import html_of
from controlrnn.report.texts import readable
from tests.html_pages import Read

PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)
HOSTILE = (
    "<script>document.title='owned'</script>", '"><img src=x onerror=alert(1)>', "' onmouseover='alert(1)",
    "{{ 7 * 7 }}", "{% for x in y %}", "</title></style></script><svg onload=alert(1)>", "]]><!-- ", "&lt;b&gt; &amp;",
    "javascript:alert(1)", "\u202egnp.exe", "a\x00b\x08", "\ud800",
)  # fmt: skip


def page_of(name):
    """A page with one name at every place that takes one."""
    line = Line([0.0, 1.0], [1.0, 2.0], name)
    blocks = [
        Words(name, strong=True), Code(name), Listing({name: name}),
        Table([name, "b"], [[name, Marked(name, Mark.BAD)], [{name: name}, [name, 1.5]]], name),
        Picture(PNG, name, name), Chart(name, [Panel(name, [line], spans=[Span(0.0, 0.5, name)])], name, name),
    ]  # fmt: skip
    return Page(name, [Section(name, blocks), Section("two", blocks), Section("three", [])], name)


@pytest.mark.parametrize("name", HOSTILE)
def test_names_are_shown_and_never_run(name):
    page = Read(html_of(page_of(name)))
    plain = Read(html_of(page_of("plain")))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert len(page.all("script")) == 1
    for tag, attributes in page.elements:
        assert not [a for a in attributes if a.startswith("on")], tag
        for a in ("src", "href", "action"):
            assert attributes.get(a, "#").startswith(("#", "data:image/png;base64,")), attributes
    assert page.text.count(readable(name)) == plain.text.count("plain")
    assert page.text.count("plain") == 0
    assert page.all("img")[0]["alt"] == readable(name)


def test_nothing_hides_or_turns_what_stands_beside_it():
    assert readable("a\u202eb\x00c\ud800d\ne ü λ") == "a�b�c�d\ne ü λ"


def test_a_page_needs_nothing_from_outside_and_allows_nothing_else(tmp_path):
    path = write_page(page_of("plain"), tmp_path / "deep" / "page.html")
    text = path.read_text(encoding="utf-8")
    assert "url(" not in text
    assert "@import" not in text
    assert re.findall(r"https?://[^\"' ]+", text) == ["http://www.w3.org/2000/svg"]  # a name in the script, no address
    page = Read(text)
    assert not {"link", "iframe", "object", "embed", "form", "base"} & {tag for tag, _ in page.elements}
    policy = next(a["content"] for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    for kind in ("style", "script"):
        (content,) = re.findall(rf"<{kind}>(.*?)</{kind}>", text, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy


def test_blocks_are_what_they_say():
    page = Read(html_of(page_of("plain")))
    assert page.tables[0] == [["plain", "b"], ["plain", "plain"], ["plain plain", "plain, 1.5"]]
    assert [a["class"] for a in page.all("td")[:2]] == ["", "bad"]
    image = page.all("img")[0]
    assert base64.b64decode(image["src"].partition(",")[2]) == PNG
    anchors = [a["href"] for a in page.all("a")]
    assert anchors == [f"#{a['id']}" for a in page.all("section")]
    assert page.all("html") == [{"lang": "en"}]


def test_cells_have_four_digits_and_say_what_is_not_there():
    wanted = {
        None: "–", True: "yes", False: "no", 3: "3", 0.123456: "0.1235", 12345.6: "12346", 1e9: "1e+09", 1e-7: "1e-07",
        "x": "x", float("nan"): "–", float("inf"): "inf",
    }  # fmt: skip
    assert {value: cell(value) for value in wanted} == wanted
    assert cell(np.float64(0.5)) == "0.5"
    assert cell(np.array([1.0, 2.5])) == "1, 2.5"
    assert cell({"a": 1.0, "b": None}) == "a 1, b –"


def test_numbers_stand_at_the_right():
    table = Table(["n", "t", "mixed"], [[1.0, "a", 1.0], [2, "b", "c"], [None, "c", None]])
    page = Read(html_of(Page("p", [Section("s", [table])])))
    assert [a.get("class") for a in page.all("th")] == ["number", None, None]


def test_wrong_content_is_refused():
    with pytest.raises(SettingError, match="2 cells"):
        Table(["a", "b"], [[1]])
    with pytest.raises(SettingError, match="PNG"):
        Picture(b"<svg/>", "t")
    with pytest.raises(SettingError, match="blocks"):
        Section("s", ["text"])
    with pytest.raises(SettingError, match="mark"):
        Marked("t", "splendid")
    assert Table.of([{"a": 1}, {"b": 2}]).rows == ((1, None), (None, 2))


def test_what_cannot_be_written_or_rendered_is_said(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_page(page_of("plain"), tmp_path / "file" / "page.html")
    from controlrnn.report import page

    monkeypatch.setitem(sys.modules, "jinja2", None)
    page.html_of.__globals__["_template"].cache_clear()
    with pytest.raises(SettingError, match=r"controlrnn\[report\]"):
        html_of(page_of("plain"))
