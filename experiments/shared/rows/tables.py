"""Rows as JSON values and as Markdown tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format one Markdown table for each kind of row; rows with the same columns belong together."""
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    return "\n\n".join(table(kind) for kind in kinds.values())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as an aligned Markdown table.

    Columns in order of first appearance; long and nested values are left out, names of cases are not.
    """
    columns = list(dict.fromkeys(k for row in rows for k, v in row.items() if k == "case" or _is_short(v)))
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def plain(value: Any) -> Any:
    """Convert ``value`` to what JSON can hold: numpy to numbers and lists, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return str(value)
    return value


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 4 and all(isinstance(v, int | float) for v in value)
    return not isinstance(value, dict) and not (isinstance(value, str) and len(value) > 40)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(_cell(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
