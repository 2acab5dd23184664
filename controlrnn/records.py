"""Files that survive: written atomically, read without pickle, refused when altered.

A record is one ``.npz`` archive: float/int arrays plus a JSON header stored as bytes. The header names the *kind* of
record, its format *version* and a SHA-256 over everything else, so that a damaged or edited file is noticed on load.
A checksum is no proof of origin: certificates are verified against the system's weights, not against their file.
"""

from __future__ import annotations

import hashlib
import io
import json
import numbers
import os
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import DataError, FileFormatError

_HEADER = "header.json"


def write_atomic(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write ``content`` to ``path`` so that a crash leaves either the old file or the new one, never a part."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.", suffix=".part")
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)  # gone already where the file is complete
    return target


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write ``value`` as indented JSON, atomically. NaN is refused: it is not JSON."""
    return write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def digest(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes and values of ``arrays`` and over ``meta``: equal values give equal digests.

    Memory layout, byte order and precision do not count, nor which zero (0, -0) or which NaN it is; in ``meta``, 1 and
    1.0 and numpy's numbers are one number.

    Raises:
        DataError: An array holds neither numbers nor truth values nor text.
    """
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = canonical(name, arrays[name])
        sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        sha.update(array.tobytes())
    sha.update(json.dumps(_canonical_json(meta), sort_keys=True).encode())
    return sha.hexdigest()


def canonical(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """``array`` as digests see it: C order, little endian, 64 bits, one zero, one NaN.

    Args:
        name: For the message.
        array: Numbers, truth values or text.

    Raises:
        DataError: It holds something else.
    """
    array = np.asarray(array)
    stored = {"b": "|b1", "i": "<i8", "u": "<u8", "f": "<f8", "U": f"<U{array.dtype.itemsize // 4}"}
    if array.dtype.kind not in stored or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise DataError(f"{name} must hold float64, integers, truth values or text, got {array.dtype}: convert it")
    fixed = np.array(array, dtype=stored[array.dtype.kind], order="C")
    if array.dtype.kind == "f":
        fixed[fixed == 0] = 0.0
        fixed[np.isnan(fixed)] = np.nan
    return fixed


def _canonical_json(value: Any) -> Any:
    """``value`` with plain containers and one representation for every number."""
    if isinstance(value, Mapping):
        return {key: _canonical_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical_json(inner) for inner in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return value


def save_record(
    path: str | os.PathLike[str], kind: str, version: int, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]
) -> Path:
    """Write a record; see the module docstring for the format.

    Args:
        path: Target file; parent folders are made.
        kind: What the record is, e.g. ``"lure-system"``.
        version: Version of this kind's format.
        arrays: Numeric arrays by name.
        meta: JSON values by name.
    """
    header = {"kind": kind, "version": version, "meta": dict(meta), "sha256": digest(arrays, meta)}
    buffer = io.BytesIO()
    stored = {name: np.asarray(array, order="C") for name, array in arrays.items()}  # a number stays 0-dimensional
    stored[_HEADER] = np.frombuffer(json.dumps(header, sort_keys=True).encode(), dtype=np.uint8)
    np.savez(buffer, **stored)  # type: ignore[arg-type]  # the stub takes the names for its own options
    return write_atomic(path, buffer.getvalue())


def load_record(
    path: str | os.PathLike[str], kind: str, version: int
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a record written by `save_record`.

    Returns:
        The arrays and the meta data.

    Raises:
        FileNotFoundError: There is no such file.
        FileFormatError: Not a record, another kind, a version this release cannot read, or altered content.
    """
    found_kind, arrays, meta = peek_record(path, version)
    if found_kind != kind:
        raise FileFormatError(f"{path} must hold a {kind!r}, got a {found_kind!r}: pass the file of the right kind")
    return arrays, meta


def peek_record(path: str | os.PathLike[str], version: int) -> tuple[str, dict[str, NDArray[Any]], dict[str, Any]]:
    """Read a record of any kind; returns (kind, arrays, meta). Raises like `load_record`."""
    try:
        # Through memory: numpy leaves the file open when the archive is damaged.
        with np.load(io.BytesIO(Path(path).read_bytes()), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(bytes(arrays.pop(_HEADER)).decode())
        found, meta, sha = header["kind"], header["meta"], header["sha256"]
        found_version = int(header["version"])
    except FileNotFoundError:
        raise
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, MemoryError, EOFError, zipfile.BadZipFile) as error:
        # RuntimeError: a flipped bit in the archive's headers reads as encryption or a foreign compression.
        raise FileFormatError(
            f"{path} is not a controlrnn record ({error}): it may be damaged; save it again"
        ) from error
    if found_version > version:
        raise FileFormatError(
            f"{path} has format version {found_version}, got a reader for <= {version}: update controlrnn"
        )
    try:
        unchanged = digest(arrays, meta) == sha
    except DataError as error:
        raise FileFormatError(f"{path} holds what no record holds: {error}") from error
    if not unchanged:
        raise FileFormatError(
            f"{path}: content does not match its SHA-256, so it was damaged or altered; save it again"
        )
    return found, arrays, meta
