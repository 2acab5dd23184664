"""Records: files of numeric arrays and a JSON header in one ``.npz`` archive, without pickle, with a checksum.

The header names the *kind* of record and its format *version* and holds JSON values (*meta*) and a SHA-256 over all of
this and the arrays. Reading goes from the outside in, and checks each layer before the next is built from it: the
archive (`controlrnn.records.archive`), the checksum, the kind's schema (`controlrnn.records.schema`), the object.

A checksum notices damage. It is no proof of origin: whoever can write the file can compute it anew. Certificates are
therefore verified against the system's weights, tightenings against their certificates, and where origin matters a
folder is signed (`controlrnn.records.signing`).
"""

from __future__ import annotations

import json
import math
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import ControlRnnError, DataError, FileFormatError
from controlrnn.records.archive import read_archive, write_archive
from controlrnn.records.digests import digest
from controlrnn.records.schema import Schema
from controlrnn.records.writing import storage, write_atomic
from controlrnn.typed import typed

FORMAT = 2  # version of the header's layout and of what the checksum covers
_HEADER = "header.json"
_FIELDS = {"format", "kind", "version", "meta", "sha256"}
_MOST_HEADER = 4 * 2**20  # bytes
_MOST_CONTAINERS = 50_000  # lists and objects: each takes thirty times the memory of its two brackets, and time to free
_MOST_VALUES = 400_000  # commas: each number takes a microsecond to check
_MOST_DIGITS = 20
_MOST_DEPTH = 20


class Record(NamedTuple):
    """Content of a record file that is undamaged but has not been checked against a schema.

    Args:
        kind: Kind of record.
        version: Version of this kind's format.
        arrays: Numeric arrays by name.
        meta: JSON values by name.
    """

    kind: str
    version: int
    arrays: dict[str, NDArray[Any]]
    meta: dict[str, Any]


def save_record(
    path: str | os.PathLike[str], schema: Schema, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
) -> Path:
    """Write a record after checking that it can be read again.

    Args:
        path: Target file; parent folders are made.
        schema: Declaration of the content.
        arrays: Numeric arrays by name.
        meta: JSON values by name.

    Raises:
        DataError: The content is not what the schema says, so that the file could not be read; nothing is written.
        StorageError: The file cannot be written.
    """
    header = _conforming(schema, arrays, meta, "; nothing was written")
    return write_record(path, schema.kind, schema.version, arrays, header)


def conform(schema: Schema, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
    """Check that a record of this content could be read again, without writing it.

    Raises:
        DataError: As `save_record`.
    """
    _conforming(schema, arrays, meta, "")


def _conforming(
    schema: Schema, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], consequence: str
) -> dict[str, Any]:
    """Return the JSON values as they would be read again, after checking them and the arrays."""
    try:
        # A round trip through JSON: tuples become lists and numpy's numbers plain ones, as a reader gets them.
        header: dict[str, Any] = json.loads(json.dumps(dict(meta), default=_plain))
        schema.check({name: _stored(array) for name, array in arrays.items()}, header)
    except (FileFormatError, TypeError, OverflowError) as error:  # TypeError: no JSON at all
        article = "an" if schema.kind[0] in "aeiou" else "a"
        raise DataError(f"{article} {schema.kind} like this could not be read again: {error}{consequence}") from error
    return header


def write_record(
    path: str | os.PathLike[str], kind: str, version: int, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
) -> Path:
    """Write a record of any content, with the right checksum; `save_record` is what to use.

    Args:
        path: Target file; parent folders are made.
        kind: What the record is of.
        version: Of the kind's schema.
        arrays: Numeric arrays by name.
        meta: JSON values by name; infinity and NaN are none, and are refused when the file is read.
    """
    stored = {name: _stored(array) for name, array in arrays.items()}
    header = {"format": FORMAT, "kind": kind, "version": version, "meta": dict(meta)}
    header["sha256"] = digest(stored, header)
    content = json.dumps(header, sort_keys=True, default=_plain).encode()
    if len(content) > _MOST_HEADER or _crowded(content):
        raise DataError(
            f"a {kind} must have a header of at most {_MOST_HEADER} bytes, {_MOST_CONTAINERS} lists and {_MOST_VALUES} "
            f"values, got one of {len(content)} bytes: save it in parts"
        )
    return write_atomic(path, write_archive(stored | {_HEADER: np.frombuffer(content, dtype=np.uint8)}))


def load_record(path: str | os.PathLike[str], schema: Schema) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a record written by `save_record`.

    Args:
        path: The file.
        schema: What it must hold.

    Returns:
        The arrays and the meta data, as the schema asks.

    Raises:
        FileNotFoundError: There is no such file.
        StorageError: It may not be read.
        FileFormatError: Not a record, another kind, a version that this release cannot read, altered content, or
            content that a record of this kind cannot have.
    """
    return load_one_of(path, {schema.kind: schema})[1:]


def load_one_of(
    path: str | os.PathLike[str], schemas: Mapping[str, Schema], what: str = ""
) -> tuple[str, dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a record of one of several kinds; returns (kind, arrays, meta). Raises like `load_record`.

    Args:
        path: The file.
        schemas: Schemas by kind.
        what: Common name of all kinds for the message, e.g. ``"a certificate"``.
    """
    record = read_record(path)
    if record.kind not in schemas:
        wanted = ", ".join(repr(kind) for kind in sorted(schemas))
        wanted = f"{what} ({wanted})" if what else f"a {wanted}"
        raise FileFormatError(f"{path} must hold {wanted}, got a {record.kind[:64]!r}: pass the file of the right kind")
    schema = schemas[record.kind]
    if record.version != schema.version:
        advice = "update controlrnn" if record.version > schema.version else "make it anew with this release"
        raise FileFormatError(f"{path} has format version {record.version}, got a reader of {schema.version}: {advice}")
    with restoring(path):
        schema.check(record.arrays, record.meta)
    return record.kind, record.arrays, record.meta


@typed()
def read_record(path: str | os.PathLike[str]) -> Record:
    """Read a record of any kind, checked for damage but not for sense. Raises like `load_record`.

    Args:
        path: The file.
    """
    with storage("read", path):
        mode = os.stat(path).st_mode
        raw = Path(path).read_bytes() if stat.S_ISREG(mode) else b""  # a pipe or device might never end
    if not stat.S_ISREG(mode):
        raise FileFormatError(f"{path} is not a controlrnn record: it is a folder or a device; name a file")
    try:
        arrays = read_archive(raw)
        if _HEADER not in arrays:
            raise FileFormatError(f"no entry is called {_HEADER!r}")
        header = _header(arrays.pop(_HEADER))
    except FileFormatError as error:
        raise FileFormatError(
            f"{path} is not a controlrnn record: {error}; it may be damaged, or of an older release: save it again"
        ) from error
    sha = header.pop("sha256")
    if digest(arrays, header) != sha:
        raise FileFormatError(
            f"{path}: content does not match its SHA-256, so it was damaged or altered; save it again"
        )
    return Record(header["kind"], header["version"], arrays, header["meta"])


@contextmanager
def restoring(path: str | os.PathLike[str]) -> Iterator[None]:
    """Turn errors of ours inside of the block into a `FileFormatError` that names the file.

    Args:
        path: The file that the block restores something from.
    """
    try:
        yield
    except ControlRnnError as error:
        raise FileFormatError(f"{path} is not what it claims to be: {error}") from error


def _crowded(content: bytes) -> bool:
    """Whether a header has more lists, objects or values than are read within some tenths of a second."""
    return content.count(b"[") + content.count(b"{") > _MOST_CONTAINERS or content.count(b",") > _MOST_VALUES


def _header(array: NDArray[Any]) -> dict[str, Any]:
    """Decode the header, after checking that it is standard JSON and has all fields with the right types."""
    if array.dtype != np.uint8 or array.ndim != 1 or array.size > _MOST_HEADER:
        raise FileFormatError(f"the header must be a text of at most {_MOST_HEADER} bytes")
    content = array.tobytes()
    if _crowded(content):
        raise FileFormatError(f"the header must have at most {_MOST_CONTAINERS} lists and {_MOST_VALUES} values")
    try:
        header = json.loads(
            content.decode(),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_integer,
            parse_float=_finite,
        )
    except (ValueError, RecursionError) as error:
        raise FileFormatError(f"the header is no JSON ({type(error).__name__}: {str(error)[:100]})") from error
    if _depth(header) > _MOST_DEPTH:
        raise FileFormatError(f"the header must be nested at most {_MOST_DEPTH} deep")
    if not isinstance(header, dict) or header.keys() != _FIELDS:
        raise FileFormatError(f"the header must have the fields {', '.join(sorted(_FIELDS))}")
    types = {"format": int, "kind": str, "version": int, "meta": dict, "sha256": str}
    wrong = [name for name, kind in types.items() if type(header[name]) is not kind]
    if wrong or header["format"] != FORMAT or header["version"] < 1:
        raise FileFormatError(f"the header has an impossible {(wrong or ['format or version'])[0]}")
    return header


def _depth(value: Any) -> int:
    """Depth to which lists and objects are nested, counted no further than just beyond the limit."""
    depth, level = 0, [value]
    while level:  # level by level instead of recursion, which a deep header would exhaust
        containers = [one for one in level if isinstance(one, dict | list)]
        level = [inner for one in containers for inner in (one.values() if isinstance(one, dict) else one)]
        depth += 1
        if depth > _MOST_DEPTH:
            break
    return depth


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make a JSON object, refusing a name that occurs twice."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a name occurs twice")
    return found


def _no_constant(text: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads but JSON does not know."""
    raise ValueError(f"{text} is no JSON number")


def _integer(text: str) -> int:
    """Read a whole number, refusing one of too many digits."""
    if len(text) > _MOST_DIGITS:
        raise ValueError("a whole number is too long")
    return int(text)


def _finite(text: str) -> float:
    """Read a number, refusing one beyond the range of float64."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("a number is too large")
    return number


def _plain(value: Any) -> Any:
    """Convert numpy's numbers for JSON, which cannot encode them itself."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} is no JSON value")


def _stored(array: NDArray[Any]) -> NDArray[Any]:
    """Convert an array to C order and little endian; a number stays 0-dimensional."""
    value = np.asarray(array, order="C")
    return value.astype(value.dtype.newbyteorder("<"), copy=False)
