"""Pages as files: one self-contained HTML file, without network, readable on screens, in the dark and on paper.

The template escapes everything (jinja2's autoescaping), SVG is built by ElementTree, and a content security policy in
the page allows its own style and script by their digests and nothing else: what comes from data cannot run, even where
escaping should fail.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import os
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

from controlrnn.errors import SettingError
from controlrnn.records import write_atomic
from controlrnn.report.blocks import Code, Listing, Page, Picture, Table, Words
from controlrnn.report.cells import Marked, cell, is_number
from controlrnn.report.charts import Chart
from controlrnn.report.drawing import legend, svg
from controlrnn.report.texts import readable
from controlrnn.typed import typed

_KINDS = {Words: "words", Code: "code", Listing: "listing", Table: "table", Picture: "picture", Chart: "chart"}


@typed()
def write_page(page: Page, path: str | os.PathLike[str]) -> Path:
    """Write a page as one HTML file; returns its path.

    Args:
        page: What is in it.
        path: The file; parent folders are made.

    Raises:
        SettingError: jinja2 is not installed: ``pip install 'controlrnn[report]'``.
        StorageError: The file cannot be written.
    """
    return write_atomic(path, html_of(page).encode())


def html_of(page: Page) -> str:
    """The text of the HTML file of a page.

    Args:
        page: What is in it.

    Raises:
        SettingError: jinja2 is not installed.
    """
    style, script = _file("page.css"), _file("page.js")
    return str(
        _template().render(
            page=page,
            style=_trusted()(style),
            script=_trusted()(script),
            style_digest=_sha256(style),
            script_digest=_sha256(script),
        )
    )


@functools.cache
def _template() -> Any:
    """The compiled template."""
    try:
        import jinja2
    except ModuleNotFoundError as error:
        raise SettingError("reports need jinja2: pip install 'controlrnn[report]'") from error
    made = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: readable(value) if type(value) is str else value,
    )
    made.filters |= {
        "cell": lambda value: readable(cell(value)),
        "kind": lambda block: _KINDS[type(block)],
        "svg": lambda chart: _trusted()(svg(chart)),
        "legend": legend,
        "base64": lambda content: base64.b64encode(content).decode(),
        "sides": _sides,
        "side": lambda value: "number" if is_number(value) else "",
        "charts": lambda page: any(isinstance(block, Chart) for section in page.sections for block in section.blocks),
        "mark": lambda value: str(value.mark) if isinstance(value, Marked) else "",
        "anchor": lambda index: f"s{index}",
    }
    return made.from_string(_file("page.html"))


def _trusted() -> Callable[[str], str]:
    """What marks a text as HTML that is not to be escaped: our own files, and what ElementTree wrote."""
    from markupsafe import Markup

    return Markup


@functools.cache
def _file(name: str) -> str:
    return (resources.files("controlrnn.report") / "templates" / name).read_text(encoding="utf-8").strip()


def _sides(table: Table) -> list[bool]:
    """Whether the cells of each column are numbers, as far as there are any."""
    columns = [[row[k] for row in table.rows if row[k] is not None] for k in range(len(table.columns))]
    return [bool(column) and all(map(is_number, column)) for column in columns]


def _sha256(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
