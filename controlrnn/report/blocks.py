"""Content of a page, apart from how it looks: text, lists, tables, pictures, in sections."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from controlrnn.checks import items
from controlrnn.errors import SettingError
from controlrnn.report.charts import Chart
from controlrnn.typed import typed


@dataclass(frozen=True)
@typed()
class Words:
    """A paragraph.

    Args:
        text: The text.
        strong: Whether it is to be seen first.
    """

    text: str
    strong: bool = False


@dataclass(frozen=True)
@typed()
class Code:
    """Lines of code or commands.

    Args:
        text: The lines.
    """

    text: str


@dataclass(frozen=True)
@typed()
class Listing:
    """A list of statements, each with what it is about.

    Args:
        entries: Statements by what they are about.
    """

    entries: Mapping[str, str]


@dataclass(frozen=True)
@typed()
class Table:
    """A table.

    Args:
        columns: Headings.
        rows: Cells of each row: texts, `Marked` texts, numbers, flags, sequences of them, or None.
        caption: What it shows.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", tuple(items("rows", row, object) for row in self.rows))
        wrong = [len(row) for row in self.rows if len(row) != len(self.columns)]
        if wrong:
            raise SettingError(f"rows must have {len(self.columns)} cells, one a column, got {wrong[0]}")

    @classmethod
    def of(cls, rows: Sequence[Mapping[str, Any]], caption: str = "") -> Table:
        """Make a table of rows that are mappings; columns are all their keys, in the order in which they occur.

        Args:
            rows: The rows.
            caption: What it shows.
        """
        given = items("rows", rows, Mapping)
        columns = list(dict.fromkeys(str(name) for row in given for name in row))
        return cls(columns, [[row.get(name) for name in columns] for row in given], caption)


@dataclass(frozen=True)
@typed()
class Picture:
    """A picture in PNG format.

    Args:
        png: Content of the file.
        title: What it is, for those who do not see it.
        caption: What it shows.
    """

    png: bytes
    title: str
    caption: str = ""

    def __post_init__(self) -> None:
        if not isinstance(self.png, bytes) or not self.png.startswith(b"\x89PNG\r\n\x1a\n"):
            raise SettingError("png must be the content of a PNG file: figure.savefig(path), then path.read_bytes()")


Block = Words | Code | Listing | Table | Picture | Chart


@dataclass(frozen=True)
@typed()
class Section:
    """A section of a page.

    Args:
        title: Its heading.
        blocks: What is in it.
    """

    title: str
    blocks: Sequence[Block]

    def __post_init__(self) -> None:
        object.__setattr__(self, "blocks", items("blocks", self.blocks, typing.get_args(Block)))


@dataclass(frozen=True)
@typed()
class Page:
    """A page.

    Args:
        title: Its heading.
        sections: Its sections, in order.
        about: What it is about, in one or two sentences.
        language: Of its texts.
    """

    title: str
    sections: Sequence[Section]
    about: str = ""
    language: str = "en"
