"""Short texts of results: what ``print(result)`` shows fits on a screen, whatever the result holds.

Values and short arrays are shown as they are, so that settings and losses print what they are made of; of long arrays
only shape and range.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

LINES = 20  # of a text at most
_WIDTH = 120
_FEW = 8  # entries of an array or a sequence that are shown one by one


def brief(result: Any) -> str:
    """Text of a dataclass in at most `LINES` lines: one line where it is short, else one for each field."""
    name = type(result).__qualname__
    parts = [(f.name, shortly(getattr(result, f.name, None))) for f in dataclasses.fields(result) if f.repr]
    line = f"{name}({', '.join(f'{n}={text}' for n, text in parts)})"
    if len(line) <= _WIDTH:
        return line
    room = LINES - 2  # for fields
    shown = parts if len(parts) <= room else parts[: room - 1]
    lines = [f"  {n}={_cut(text, _WIDTH - len(n) - 4)}," for n, text in shown]
    if len(shown) < len(parts):
        lines.append(
            f"  ... and {len(parts) - len(shown)} more: {_cut(', '.join(n for n, _ in parts[len(shown) :]), 90)}"
        )
    return "\n".join([f"{name}(", *lines, ")"])


def shortly(value: Any) -> str:
    """Text of one value in one line."""
    if isinstance(value, np.ndarray):
        return _array(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        text = repr(value)
        return text if "\n" not in text and len(text) <= _WIDTH else f"{type(value).__qualname__}(...)"
    if isinstance(value, Mapping):
        if len(value) > _FEW:
            return f"{len(value)} entries, {', '.join(map(str, list(value)[:3]))}, ..."
        return "{" + ", ".join(f"{k!r}: {shortly(v)}" for k, v in value.items()) + "}"
    if isinstance(value, tuple | list):
        if len(value) > _FEW:
            return f"{len(value)} of {type(value[0]).__qualname__}"
        inner = ", ".join(shortly(v) for v in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if getattr(value, "shape", ()) and not isinstance(value, np.generic):  # tensors and symbols
        return f"{type(value).__qualname__} of shape {tuple(value.shape)}"
    text = repr(value)
    return text if "\n" not in text else f"{text.partition(chr(10))[0].rstrip('(')}(...)"


def _array(value: np.ndarray[Any, Any]) -> str:
    """Text of an array: its entries where they are few, else its shape and range."""
    if value.size <= _FEW:
        return " ".join(np.array_repr(value).split())
    what = f"array of shape {value.shape}"
    if value.dtype.kind not in "fiu":
        return what
    finite = value[np.isfinite(value)]
    if not finite.size:
        return f"{what}, nothing finite"
    rest = "" if finite.size == value.size else f", {value.size - finite.size} not finite"
    return f"{what}, {finite.min():.4g} to {finite.max():.4g}{rest}"


def _cut(text: str, width: int) -> str:
    """First ``width`` letters of a text, with dots where it is longer."""
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."
