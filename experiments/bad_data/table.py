"""The table of all cases, as the page shows it."""

from __future__ import annotations

import re
from pathlib import Path

from experiments.bad_data import arrays, binary_files, plants_seen, records, text_files, time_stamps
from experiments.bad_data.case import Case, Ending

PAGE = Path(__file__).parents[2] / "docs" / "your_data.md"
GROUPS = {
    "Text files": text_files.CASES,
    "Time stamps": time_stamps.CASES,
    "MATLAB, HDF5, Parquet": binary_files.CASES,
    "Arrays and data frames": arrays.CASES,
    "Records": records.CASES,
    "What a look at the data finds": plants_seen.CASES,
}
_MARKS = "<!-- the table of cases: python -m experiments.bad_data --page -->", "<!-- end of the table -->"
_WORDS = {Ending.REFUSED: "error", Ending.WARNED: "warning", Ending.RIGHT: "right"}


def cases() -> list[Case]:
    """All cases."""
    return [case for group in GROUPS.values() for case in group]


def table() -> str:
    """The table in Markdown, a part for each group."""
    parts = []
    for name, group in GROUPS.items():
        lines = [f"### {name}", "", "| what | ends in | what is said |", "|---|---|---|"]
        lines += [f"| {c.kind} | {_WORDS[c.ending]} | {_said(c)} |" for c in group]
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _said(case: Case) -> str:
    """Pieces of the message, as text that Markdown leaves alone."""
    return ", ".join("“" + re.sub(r"([|<>*_`])", r"\\\1", piece) + "”" for piece in case.says)


def with_table(page: str) -> str:
    """The page with the table between its marks."""
    before, _, rest = page.partition(_MARKS[0])
    after = rest.partition(_MARKS[1])[2]
    return f"{before}{_MARKS[0]}\n\n{table()}\n\n{_MARKS[1]}{after}"
