"""Reading of road files; an error names line and field, says what was got and expected, and what to do."""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from controlrnn.errors import MissingDataError, SettingError
from controlrnn.records.writing import is_file, storage
from controlrnn.road.file.lines import key_lines, line_of
from controlrnn.road.file.schema import ReadingOptions, RoadFile
from controlrnn.typed import typed

_KINDS = {
    "float_type": "a number", "int_type": "a whole number", "int_from_float": "a whole number", "bool_type": "true or "
    "false", "string_type": 'a text in "quotes"', "list_type": "a list in [brackets]", "model_type": "a table",
    "model_attributes_type": "a table", "dict_type": "a table", "finite_number": "a finite number",
}  # fmt: skip
_ADVICE = {
    "float_type": "write it without quotes", "int_type": "write it without quotes and decimal point",
    "string_type": "put it into quotes", "list_type": "put it into brackets",
    "bool_type": "write it without quotes, in small letters", "model_type": "see `controlrnn init`",
}  # fmt: skip


@typed()
def read_road(path: str | os.PathLike[str]) -> RoadFile:
    """Read and check a road file.

    Args:
        path: The file, e.g. ``"road.toml"``.

    Raises:
        MissingDataError: There is none.
        SettingError: It is not TOML, or a field is not what it has to be; all faults are named, each with its line.
        StorageError: It cannot be read.
    """
    path = Path(path)
    if not is_file(path):
        raise MissingDataError(f"there is no file {path}: `controlrnn init DATA` writes one")
    with storage("read", path):
        raw = path.read_bytes()
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        raise SettingError(f"{path} must be UTF-8, got byte {error.start} that is not: save it as UTF-8") from error
    return parse_road(text, path.name)


def parse_road(text: str, name: str = "road.toml") -> RoadFile:
    """Check the text of a road file; arguments and errors as `read_road`.

    Args:
        text: The text.
        name: Name of the file, for messages.
    """
    text = text.replace("\r\n", "\n")
    values = _loaded(text, name)
    try:
        return RoadFile.model_validate(values)
    except ValidationError as error:
        lines = key_lines(text)
        said = [_sentence(one, lines, name) for one in error.errors(include_url=False)]
        raise SettingError("\n".join(dict.fromkeys(said))) from None


def parse_reading(text: str) -> ReadingOptions:
    """Check lines of TOML with options of reading; errors as `read_road`.

    Args:
        text: The text, e.g. ``"missing = [-9999.0]"``.
    """
    name = "options of reading"
    values = _loaded(text, name)
    try:
        return ReadingOptions.model_validate(values)
    except ValidationError as error:
        lines = {("data", "reading", *path): line for path, line in key_lines(text).items()}
        faults: list[Any] = [f | {"loc": ("data", "reading", *f["loc"])} for f in error.errors(include_url=False)]
        raise SettingError("\n".join(_sentence(one, lines, name) for one in faults)) from None


def _loaded(text: str, name: str) -> dict[str, Any]:
    """Values of a TOML text."""
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingError(f"{name} is not valid TOML: {error}; texts stand in quotes, tables in [brackets]") from error


def _sentence(fault: Any, lines: dict[tuple[str | int, ...], int], name: str) -> str:
    """One fault in words."""
    path = tuple(p for p in fault["loc"] if p not in ("str", "File"))  # the members of a union are no fields
    line = line_of(lines, path)
    where = f"{name}, line {line}" if line else name
    kind, given = fault["type"], fault["input"]
    if kind == "missing":
        about = _described(path)
        return f"{where}: {dotted(path[:-1]) or 'the file'} lacks {path[-1]!r} ({about}): add it"
    if kind == "extra_forbidden":
        known = _known(path[:-1])
        close = difflib.get_close_matches(str(path[-1]), known, n=1)
        hint = f"do you mean {close[0]!r}?" if close else f"it may hold {', '.join(known)}"
        return f"{where}: {dotted(path[:-1]) or 'the file'} has no field {path[-1]!r}: {hint}"
    if kind == "value_error":
        return f"{where}, {dotted(path) or 'the file'}: {fault['ctx']['error']}"
    return f"{where}, {dotted(path)}: expected {_expected(fault, path)}, got {_short(given)}{_do(kind, path)}"


def _expected(fault: Any, path: Sequence[str | int]) -> str:
    """What a value should have been."""
    kind, ctx = fault["type"], fault.get("ctx", {})
    if kind in _KINDS:
        return _KINDS[kind]
    if kind == "literal_error":
        return f"one of {ctx['expected']}"
    for word, sign in (
        ("greater_than_equal", ">="),
        ("greater_than", ">"),
        ("less_than_equal", "<="),
        ("less_than", "<"),
    ):
        if kind == word:
            return f"a number {sign} {next(iter(ctx.values())):g}"
    if kind == "too_short":
        return f"at least {ctx['min_length']} entry"
    if kind == "string_too_short":
        return "a text that is not empty"
    if kind == "string_pattern_mismatch" and path[-1] == "plant":
        return '"model" or "module:object"'
    return str(fault["msg"])


def _do(kind: str, path: Sequence[str | int]) -> str:
    if kind in _ADVICE:
        return f": {_ADVICE[kind]}"
    about = _described(path)
    return f" ({about})" if about else ""


def dotted(path: Sequence[str | int]) -> str:
    """Path as it is written: ``inputs[0].upper``."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else (f".{part}" if text else part)
    return text


def _model(path: Sequence[str | int]) -> type[BaseModel] | None:
    """Section that a path names."""
    model: type[BaseModel] = RoadFile
    for part in path:
        if isinstance(part, int):
            continue
        field = model.model_fields.get(part)
        found = None if field is None else section_of(field.annotation)
        if found is None:
            return None
        model = found
    return model


def section_of(annotation: Any) -> type[BaseModel] | None:
    """Section among the types of an annotation; None where there is none."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    found = (section_of(inner) for inner in getattr(annotation, "__args__", ()))
    return next((f for f in found if f is not None), None)


def _known(path: Sequence[str | int]) -> list[str]:
    model = _model(path)
    return [] if model is None else list(model.model_fields)


def _described(path: Sequence[str | int]) -> str:
    names = [p for p in path if isinstance(p, str)]
    model = _model(path[: path.index(names[-1])]) if names else None
    field = None if model is None else model.model_fields.get(names[-1])
    return "" if field is None or field.description is None else field.description.rstrip(".")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
