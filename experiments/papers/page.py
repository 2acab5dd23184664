"""One page of all studies: the table of claims, what was learnt, and the figures, in a file that needs no other."""

from __future__ import annotations

import base64
import html
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from controlrnn.errors import FileFormatError
from controlrnn.records import write_atomic
from experiments.shared.study import Row

COLUMNS = ("paper", "claim", "published", "ours", "decided", "remark")
_REASONS = 6  # why claims are open, the most frequent ones
_STYLE = """
body { font: 15px/1.45 sans-serif; margin: 2em auto; max-width: 75em; padding: 0 1em; color: #222; }
table { border-collapse: collapse; } th, td { border: 1px solid #ccc; padding: .3em .6em; text-align: left;
vertical-align: top; } .yes { background: #dff2df; } .no { background: #f7dede; } img { max-width: 100%; }
"""


def write_page(path: Path, folders: Mapping[str, Path]) -> Path:
    """Write the page of finished studies.

    Args:
        path: The file to write.
        folders: Folder of each study's results, by its name.

    Raises:
        FileFormatError: A folder has no results of a study with claims.
    """
    found = {name: _results(folder) for name, folder in folders.items()}
    claims = [claim for results in found.values() for claim in results["claims"]]
    count = {kind: sum(claim["decided"] == kind for claim in claims) for kind in ("yes", "no", "not decided")}
    parts = [
        f"<h1>Claims of the papers</h1><p>{len(claims)} claims: "
        + ", ".join(f"{n} {kind}" for kind, n in count.items())
        + ". Ours: median and range over networks or seeds. A claim is decided where the 95 % interval of the mean"
        " difference lies on one side of zero, beyond what our own search may err; a claim about every case by all"
        " cases.</p>",
        _table(claims),
    ]
    for name, results in found.items():
        kind = "quick" if results["quick"] else "full"
        parts.append(f"<h2>{html.escape(name)}</h2><p>{kind}, {results['seconds']:.0f} s</p>")
        parts.append(_learnt(results["claims"]))
        for figure in sorted(folders[name].glob("*.png")):
            picture = base64.b64encode(figure.read_bytes()).decode()
            parts.append(f'<img alt="{html.escape(figure.stem)}" src="data:image/png;base64,{picture}">')
    text = (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Claims of the papers</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>"
    )
    return write_atomic(path, text.encode())


def _learnt(claims: Sequence[Row]) -> str:
    """What holds and what does not, with our values, and why the rest is open, as lists of HTML."""
    parts = []
    for kind, title in (("yes", "What holds"), ("no", "What does not hold")):
        lines = [f"{claim['claim']}: {claim['ours']}" for claim in claims if claim["decided"] == kind]
        if lines:
            items = "".join(f"<li>{html.escape(line)}</li>" for line in lines)
            parts.append(f"<h3>{title}</h3><ul>{items}</ul>")
    reasons = Counter(
        claim["remark"] or "the spread is too wide" for claim in claims if claim["decided"] == "not decided"
    )
    if reasons:
        items = "".join(f"<li>{html.escape(reason)} ({n})</li>" for reason, n in reasons.most_common(_REASONS))
        parts.append(f"<h3>What is open: {sum(reasons.values())} claims</h3><ul>{items}</ul>")
    return "".join(parts)


def _results(folder: Path) -> dict[str, Any]:
    """Results of a study with claims."""
    try:
        results: dict[str, Any] = json.loads((folder / "results.json").read_text())
        if all(set(COLUMNS) <= set(claim) for claim in results["claims"]):
            return results
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise FileFormatError(f"{folder} must hold the results of a study with claims: run it again") from error
    raise FileFormatError(f"the claims of {folder} must have the columns {', '.join(COLUMNS)}: run the study again")


def _table(claims: Sequence[Row]) -> str:
    """The claims as a table of HTML."""
    head = "".join(f"<th>{column}</th>" for column in COLUMNS)
    lines = []
    for claim in claims:
        cells = "".join(f"<td>{html.escape(str(claim[column]))}</td>" for column in COLUMNS)
        lines.append(f'<tr class="{html.escape(claim["decided"])}">{cells}</tr>')
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"
