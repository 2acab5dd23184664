"""Road files as commented TOML: every field with what it means; fields that are left out stand there as comments."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel

from controlrnn.road.file.reading import section_of
from controlrnn.road.file.schema import RoadFile

_WIDTH = 44  # of a field before its comment
# What a field that is left out would look like.
_EXAMPLES = {
    "separator": '";"', "decimal": '","', "encoding": '"cp1252"', "date_format": '"%d.%m.%Y %H:%M:%S"',
    "time_unit": '"ms"', "zone": '"Europe/Berlin"', "missing": "[-9999.0]", "time": '"time"', "dt": "1.0",
    "lower": "0.0", "upper": "1.0", "move_limit": "0.1", "confidence": "0.9", "noise": "[0.1]", "steps": "500",
}  # fmt: skip


def commented(file: RoadFile, notes: Mapping[str, str] | None = None, head: str = "") -> str:
    """Text of a road file with a comment on each field.

    Args:
        file: The file's content.
        notes: What is to be said of a field instead of its meaning, by ``"section.field"`` or ``"channel.field"``.
        head: Comment at the top.
    """
    notes = notes or {}
    lines = [f"# {line}".rstrip() for line in head.splitlines()] + [""] if head else []
    lines += [_field("seed", file.seed, RoadFile, notes, "")]
    for name, field in RoadFile.model_fields.items():
        value = getattr(file, name)
        if isinstance(value, list):
            lines += ["", f"# {field.description}"]
            for one in value:  # channels
                lines += [f"[[{name}]]", *_fields(one, notes, str(one.name)), ""]
            lines.pop()
        elif isinstance(value, BaseModel):
            lines += ["", f"# {field.description}", f"[{name}]", *_fields(value, notes, name)]
    return "\n".join(lines) + "\n"


def _fields(section: BaseModel, notes: Mapping[str, str], where: str) -> list[str]:
    """Lines of a section; those of a section within it, which come last, as a table of their own."""
    lines, inner = [], []
    for name, field in type(section).model_fields.items():
        value = getattr(section, name)
        if section_of(field.annotation) is not None and isinstance(value, BaseModel):
            inner += ["", f"# {field.description}", f"[{where}.{name}]", *_fields(value, notes, f"{where}.{name}")]
        else:
            lines.append(_field(name, value, type(section), notes, where))
    return lines + inner


def _field(name: str, value: Any, section: type[BaseModel], notes: Mapping[str, str], where: str) -> str:
    """One line: ``name = value  # meaning``."""
    field = section.model_fields[name]
    text = f"{name} = {toml(value)}" if value is not None else f"# {name} = {_EXAMPLES.get(name, '...')}"
    meaning = notes.get(f"{where}.{name}") or field.description
    return f"{text:<{_WIDTH}}  # {meaning}" if meaning else text


def toml(value: Any) -> str:
    """Value as TOML.

    Args:
        value: Truth value, number, text, list, or section, which becomes an inline table.
    """
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, BaseModel):
        inside = ((n, getattr(value, n)) for n in type(value).model_fields)
        return "{ " + ", ".join(f"{n} = {toml(v)}" for n, v in inside if v is not None) + " }"
    return "[" + ", ".join(toml(v) for v in value) + "]"
