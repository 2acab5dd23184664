"""Archives of arrays: uncompressed ``.npz`` files that take no more memory to read than the file has bytes.

Entries are stored, not compressed; they follow each other without gap or overlap from the first byte to the directory,
under different names; each is one ``.npy`` of version 1.0 whose shape accounts for every byte of it, with numbers of a
fixed size (no objects, no texts, no structures). `numpy.load` reads such files as well.

(ZIP: PKWARE APPNOTE 6.3.9, sections 4.3.6, 4.3.7; overlapping entries: Fifield, "A better zip bomb", WOOT 2019. NPY:
numpy.lib.format.)
"""

from __future__ import annotations

import io
import math
import re
import struct
import zipfile
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import FileFormatError

TYPES = ("|b1", "|i1", "<i2", "<i4", "<i8", "|u1", "<u2", "<u4", "<u8", "<f4", "<f8")
_EMPTY = 2**16  # longest axis of an array without entries: nothing in the file accounts for it
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = re.compile(
    rb"\{'descr': '([<|][biuf][1248])', 'fortran_order': False, "
    rb"'shape': \(((?:[0-9]{1,18}, ?)*(?:[0-9]{1,18})?)\), \} *\n"
)
_LOCAL = struct.Struct("<4s5H3L2H")
_SUFFIX = ".npy"
_LAST_NAME = 200  # bytes


def write_archive(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """Bytes of the archive of ``arrays``; the same arrays give the same bytes.

    Raises:
        FileFormatError: An array is of a type that is not stored.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, value in arrays.items():
            array = np.asarray(value, order="C")  # a number stays 0-dimensional
            array = array.astype(array.dtype.newbyteorder("<"), copy=False)
            if array.dtype.str not in TYPES:
                raise FileFormatError(f"array {name!r} must be of a type in {', '.join(TYPES)}, got {array.dtype}")
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(name + _SUFFIX), content.getbuffer())
    return buffer.getvalue()


def read_archive(raw: bytes) -> dict[str, NDArray[Any]]:
    """Read the arrays of an archive, by name, each as a copy of its own.

    Args:
        raw: The file's bytes.

    Raises:
        FileFormatError: The bytes are not such an archive; the message says what differs.
    """
    arrays: dict[str, NDArray[Any]] = {}
    for name, content in _entries(raw):
        if name in arrays:
            raise FileFormatError(f"two entries are called {name!r}")
        arrays[name] = _array(name, content)
    return arrays


def _entries(raw: bytes) -> list[tuple[str, memoryview]]:
    """Names and contents of the entries, after checking that they account for every byte."""
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            infos, directory, comment = archive.infolist(), archive.start_dir, archive.comment
    except (zipfile.BadZipFile, RuntimeError, OSError, EOFError, ValueError, LookupError, struct.error) as error:
        # RuntimeError: flipped bits read as features of ZIP that Python does not know.
        raise FileFormatError(f"not a ZIP archive ({error})") from error
    if comment or raw[-22:-18] != b"PK\x05\x06":  # the end record has 22 bytes when nothing follows it
        raise FileFormatError("something follows the archive's directory")
    found, at, view = [], 0, memoryview(raw)
    for info in sorted(infos, key=lambda one: one.header_offset):
        start = _start(raw, info, at)
        at = start + info.file_size
        if at > directory:
            raise FileFormatError(f"entry {info.filename!r} reaches into the directory")
        content = view[start:at]
        if zlib.crc32(content) != info.CRC:
            raise FileFormatError(f"entry {info.filename!r} does not match its checksum")
        if not info.filename.endswith(_SUFFIX) or len(info.filename) > _LAST_NAME:
            raise FileFormatError(f"entry {info.filename[:_LAST_NAME]!r} is no array")
        found.append((info.filename.removesuffix(_SUFFIX), content))
    if at != directory:
        raise FileFormatError("something stands between the entries and the directory")
    return found


def _start(raw: bytes, info: zipfile.ZipInfo, expected: int) -> int:
    """Offset of an entry's content, after checking that its header stands at ``expected`` and fits the directory."""
    plain = info.compress_type == zipfile.ZIP_STORED and info.file_size == info.compress_size
    if not plain or info.flag_bits & ~0x800:  # 0x800: the name is UTF-8
        raise FileFormatError(f"entry {info.filename!r} is compressed or encrypted: records are stored as they are")
    if info.header_offset != expected or expected + _LOCAL.size > len(raw):
        raise FileFormatError(f"entry {info.filename!r} overlaps another one, or leaves a gap")
    magic, _, flags, method, _, _, crc, size, full, name, extra = _LOCAL.unpack_from(raw, expected)
    start: int = expected + _LOCAL.size + name + extra
    own = raw[expected + _LOCAL.size : expected + _LOCAL.size + name]
    sizes = {size, full} <= {info.file_size, 0xFFFFFFFF}  # all ones: the sizes are in the ZIP64 field
    same = (magic, flags, method, crc) == (b"PK\x03\x04", info.flag_bits, info.compress_type, info.CRC)
    if not same or not sizes or own.decode("utf-8", "replace") != info.orig_filename or extra > 20:
        raise FileFormatError(f"entry {info.filename!r} is called or described otherwise in the directory")
    return start


def _array(name: str, content: memoryview) -> NDArray[Any]:
    """Decode one ``.npy`` entry."""
    length = int.from_bytes(content[8:10], "little")
    header = bytes(content[10 : 10 + length])
    match = _HEADER.fullmatch(header)
    if content[:8] != _MAGIC or match is None or match[1].decode() not in TYPES:
        raise FileFormatError(f"array {name!r} is of an unknown format or type, got the header {header[:80]!r}")
    kind, shape = np.dtype(match[1].decode()), tuple(int(n) for n in match[2].replace(b" ", b"").split(b",") if n)
    size, stored = math.prod(shape), len(content) - 10 - length
    if len(shape) > 8 or size * kind.itemsize != stored or (not size and max(shape) > _EMPTY):
        raise FileFormatError(f"array {name!r} of shape {shape} and type {kind} cannot have {stored} bytes")
    if kind == np.bool_ and np.frombuffer(content, np.uint8, size, 10 + length).max(initial=0) > 1:
        raise FileFormatError(f"array {name!r} has truth values other than 0 and 1")
    return np.frombuffer(content, kind, size, 10 + length).reshape(shape).copy()
