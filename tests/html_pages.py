"""Reads HTML pages strictly: what does not nest is an error; tables, elements and texts are collected."""

from __future__ import annotations

from html.parser import HTMLParser

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Read(HTMLParser):
    """A page that was read: elements with their attributes, tables as lists of rows of texts, and all text."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.elements, self.tables, self.texts = [], [], []
        self._open, self._cell = [], None
        self.feed(text)
        self.close()
        assert not self._open, f"never closed: {self._open}"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self._cell = []

    def handle_startendtag(self, tag, attrs):
        assert "svg" in self._open, f"{tag} closes itself outside of SVG"
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open, f"{tag} is closed and was never opened"
        assert self._open[-1] == tag, f"{tag} is closed inside of {self._open[-1]}"
        self._open.pop()
        if tag in ("td", "th"):
            self.tables[-1][-1].append(" ".join("".join(self._cell).split()))
            self._cell = None

    def handle_data(self, data):
        if self._open and self._open[-1] not in ("script", "style"):
            self.texts.append(data)
        if self._cell is not None:
            self._cell.append(data)

    def all(self, tag):
        """Attributes of all elements of that kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def text(self):
        """All text that is shown."""
        return "".join(self.texts)

    def table(self, *columns):
        """The rows of the table that has these columns, as mappings."""
        for head, *rows in self.tables:
            if set(columns) <= set(head):
                return [dict(zip(head, row, strict=True)) for row in rows]
        raise AssertionError(f"no table has the columns {columns}: {[t[0] for t in self.tables]}")
