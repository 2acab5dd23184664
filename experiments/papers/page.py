"""One page of all studies: their claims, what was learnt, and the figures, in a file that needs no other."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlrnn.errors import FileFormatError
from controlrnn.report import Listing, Mark, Marked, Page, Picture, Section, Table, Words
from controlrnn.report import write_page as write
from controlrnn.report.blocks import Block
from experiments.papers.claims import Decision
from experiments.shared.study import Row

COLUMNS = ("paper", "claim", "published", "ours", "decided", "remark")
_REASONS = 6  # why claims are open, the most frequent ones
_MARKS = {Decision.YES: Mark.GOOD, Decision.NO: Mark.BAD}
_HOW = (
    "Ours: median and range over networks or seeds. A claim is decided where the 95 % interval of the mean difference "
    "lies on one side of zero, beyond what our own search may err; a claim about every case by all cases."
)


def write_page(path: Path, folders: Mapping[str, Path]) -> Path:
    """Write the page of finished studies.

    Args:
        path: The file to write.
        folders: Folder of each study's results, by its name.

    Raises:
        FileFormatError: A folder has no results of a study with claims.
    """
    found = {name: _results(folder) for name, folder in folders.items()}
    decided = Counter(claim["decided"] for results in found.values() for claim in results["claims"])
    count = ", ".join(f"{decided[kind]} {kind}" for kind in Decision)
    sections = [Section(name, _blocks(results, folders[name])) for name, results in found.items()]
    return write(Page("Claims of the papers", sections, f"{decided.total()} claims: {count}. {_HOW}"), path)


def _blocks(results: Mapping[str, Any], folder: Path) -> list[Block]:
    """One study: its claims, what was learnt, its figures."""
    claims: list[Row] = results["claims"]
    rows = [[_cell(claim, column) for column in COLUMNS] for claim in claims]
    figures = [Picture(figure.read_bytes(), figure.stem) for figure in sorted(folder.glob("*.png"))]
    kind = "quick" if results["quick"] else "full"
    return [Words(f"{kind}, {results['seconds']:.0f} s"), Table(COLUMNS, rows), *_learnt(claims), *figures]


def _cell(claim: Row, column: str) -> str | Marked:
    text = str(claim[column])
    return Marked(text, _MARKS.get(claim[column], Mark.WARNING)) if column == "decided" else text


def _learnt(claims: Sequence[Row]) -> list[Block]:
    """What holds and what does not, with our values, and why the rest is open."""
    blocks: list[Block] = []
    for kind, title in ((Decision.YES, "What holds"), (Decision.NO, "What does not hold")):
        known = {claim["claim"]: claim["ours"] for claim in claims if claim["decided"] == kind}
        if known:
            blocks += [Words(title, strong=True), Listing(known)]
    reasons = Counter(
        claim["remark"] or "the spread is too wide" for claim in claims if claim["decided"] == Decision.NOT_DECIDED
    )
    if reasons:
        often = {reason: "1 claim" if n == 1 else f"{n} claims" for reason, n in reasons.most_common(_REASONS)}
        blocks += [Words(f"What is open: {reasons.total()} claims", strong=True), Listing(often)]
    return blocks


def _results(folder: Path) -> dict[str, Any]:
    """Results of a study with claims."""
    try:
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
        if all(set(COLUMNS) <= set(claim) for claim in results["claims"]):
            return results
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{folder} must hold the results of a study with claims: run it again") from error
    raise FileFormatError(f"the claims of {folder} must have the columns {', '.join(COLUMNS)}: run the study again")
