"""Line numbers of the keys of a TOML file, which `tomllib` does not keep, for messages about their values."""

from __future__ import annotations

import re

Path = tuple[str | int, ...]

_KEY = re.compile(r"""\s*((?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*'))*)\s*=""")
_PART = re.compile(r"""[A-Za-z0-9_-]+|"[^"]*"|'[^']*'""")
# Texts and comments, in which brackets do not count; texts of several lines first.
_TEXT = re.compile(
    r'"""(?:\\.|[^\\])*?"""|' + r"'''.*?'''|" + r'"(?:\\.|[^"\\\n])*"|' + r"'[^'\n]*'|#[^\n]*", re.DOTALL
)


def key_lines(text: str) -> dict[Path, int]:
    """Line, from 1, of each table and key of a valid TOML text, by its path: ``("inputs", 0, "upper")``.

    Keys inside of inline tables and items of arrays are not told apart from the key that holds them.

    Args:
        text: The text.
    """
    found: dict[Path, int] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    depth = 0
    bare = _TEXT.sub(_blank, text)
    for number, (line, plain) in enumerate(zip(text.split("\n"), bare.split("\n"), strict=True), start=1):
        if depth == 0:
            stripped = plain.strip()
            if stripped.startswith("["):
                table = _table(line.strip(), stripped.startswith("[["), counts)
                found.setdefault(table, number)
                continue
            if (key := _KEY.match(line)) and "=" in plain:
                found[table + _names(key[1])] = number
        depth += sum(plain.count(c) for c in "[{") - sum(plain.count(c) for c in "]}")
    return found


def line_of(lines: dict[Path, int], path: Path) -> int | None:
    """Line of a path, or of the nearest thing that holds it; None where nothing of it stands in the file."""
    for end in range(len(path), 0, -1):
        if path[:end] in lines:
            return lines[path[:end]]
    return None


def _blank(match: re.Match[str]) -> str:
    """Something of as many lines without brackets; quotes stay, so that a quoted key is still one."""
    return "\n".join("_" * len(part) for part in match[0].split("\n"))


def _names(dotted: str) -> Path:
    return tuple(part.strip("\"'") for part in _PART.findall(dotted))


def _table(header: str, many: bool, counts: dict[Path, int]) -> Path:
    """Path of a table's header, with the number of the table where it is one of an array."""
    names = _names(header.strip("[] \t").split("]")[0])
    path: Path = ()
    for i, name in enumerate(names):
        path = (*path, name)
        if many and i == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path
