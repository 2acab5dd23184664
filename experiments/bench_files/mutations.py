"""Mutations of a stored record: its bits, its archive, its header, and its content under a new checksum."""

from __future__ import annotations

import copy
import functools
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.records import digest, read_archive

Rng = np.random.Generator
_HEADER = "header.json"
_FLOATS = (np.nan, np.inf, -np.inf, 0.0, -0.0, -1.0, 1e308, -1e308, 5e-324, 1e-300, 1e17, 0.5, 2.0)
_VALUES: tuple[Any, ...] = (
    None, True, False, -7, 0, 1, 2**31, 2**63, 10**19, 1.0, -1.0, 0.5, 1e300, 5e-324, "", "1", "nan", "\ud800",
    "x" * 20000, "*\\\n/ injected", "../../etc/passwd", "0" * 64, [], {}, [[]], [1, 2], [None] * 50, {"a": 1}, {"": {}},
)  # fmt: skip
_SHAPES = (
    "(999999999999,)", "(4294967296, 4294967296)", "(0,)", "(999999999999, 0)", "()", "(1,)", "(-1,)", "(2**40,)",
    "(1, 1, 1, 1, 1, 1, 1, 1, 1, 1)", "(True,)", "(1.0,)", "(" + "1, " * 3000 + ")", "(" + "1" * 30000 + ",)",
)  # fmt: skip
_KINDS = (
    "<f8", ">f8", "|O", "<c16", "<U4", "|V8", "<M8[s]", "<f4", "|b1", "<f2", "<f16", "('<f8', (2,))", "x",
)  # fmt: skip
_BOMB = 2**31  # bytes that a small entry unpacks to


def bits(raw: bytes, rng: Rng) -> bytes:
    """Flip bits; overwrite, remove, double and exchange stretches of bytes."""
    content = bytearray(raw)
    a, b = sorted(int(i) for i in rng.integers(len(raw), size=2))
    match int(rng.integers(8)):
        case 0 | 1 | 2:
            for i in rng.integers(len(raw), size=int(rng.integers(1, 9))):
                content[i] ^= 1 << int(rng.integers(8))
        case 3:
            content[a : a + 8] = rng.bytes(8)
        case 4:
            del content[a:b]
        case 5:
            content[a:a] = content[a : min(b, a + 200)]
        case 6:
            content = content[:a]
        case _:
            content += rng.bytes(int(rng.integers(1, 40)))
    return bytes(content)


def archive(raw: bytes, rng: Rng) -> bytes:
    """Put the arrays into a malformed archive, or one whose parts contradict each other."""
    kinds = (_zip_again, _zip_again, _fields, _fields, _npy_header, _npy_header, _bomb, _around, _directory)
    return kinds[int(rng.integers(len(kinds)))](raw, rng)


def header(raw: bytes, rng: Rng) -> bytes:
    """Replace the header; half of the time its checksum is made anew."""
    arrays = read_archive(raw)
    fields = json.loads(arrays.pop(_HEADER).tobytes())
    text = None
    match int(rng.integers(7)):
        case 0 | 1 | 2:
            fields[_pick(rng, ("format", "kind", "version", "sha256"))] = copy.deepcopy(_pick(rng, _VALUES))
        case 3:
            del fields[_pick(rng, sorted(fields))]
        case 4:
            fields[_pick(rng, ("Kind", "versions", "note"))] = copy.deepcopy(_pick(rng, _VALUES))
        case 5:
            fields["version"] = int(rng.integers(-3, 9))
        case _:
            text = _broken_json(json.dumps(fields), rng)
    if text is None:
        text = json.dumps(_signed(arrays, fields) if rng.random() < 0.5 else fields)
    return _packed(arrays, text.encode("utf-8", "surrogatepass"))


def content(raw: bytes, rng: Rng) -> bytes:
    """Change arrays or values under a valid checksum."""
    arrays = read_archive(raw)
    fields = json.loads(arrays.pop(_HEADER).tobytes())
    for _ in range(int(rng.integers(1, 3))):
        if arrays and rng.random() < 0.6:
            _spoil_array(arrays, rng)
        else:
            _spoil_value(fields["meta"], rng)
    return _packed(arrays, json.dumps(_signed(arrays, fields)).encode())


MUTATIONS: dict[str, Callable[[bytes, Rng], bytes]] = {
    "bits": bits, "archive": archive, "header": header, "content": content
}  # fmt: skip
SIGNED = ("header", "content")  # whose checksum may be right


def _pick(rng: Rng, values: Any) -> Any:
    return values[int(rng.integers(len(values)))]


def _signed(arrays: dict[str, NDArray[Any]], fields: dict[str, Any]) -> dict[str, Any]:
    """Add the checksum that belongs to the arrays and the header, as far as there is one."""
    rest = {name: value for name, value in fields.items() if name != "sha256"}
    return rest | {"sha256": digest(arrays, rest)}


def _npy(array: NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, array, version=(1, 0))
    return buffer.getvalue()


def _packed(arrays: dict[str, NDArray[Any]], text: bytes) -> bytes:
    everything = arrays | {_HEADER: np.frombuffer(text, np.uint8)}
    return _zipped([(f"{name}.npy", _npy(array)) for name, array in everything.items()])


def _zipped(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as target:
        for name, body in entries:
            if name in target.NameToInfo:  # the library would warn
                target.NameToInfo.pop(name)
            target.writestr(zipfile.ZipInfo(name), body, method)
    return buffer.getvalue()


def _entries(raw: bytes) -> list[tuple[str, bytes]]:
    with zipfile.ZipFile(io.BytesIO(raw)) as source:
        return [(info.filename, source.read(info)) for info in source.infolist()]


def _zip_again(raw: bytes, rng: Rng) -> bytes:
    """Write the archive again: compressed, or with entries doubled, added, removed, renamed or exchanged."""
    entries, method = _entries(raw), zipfile.ZIP_STORED
    i, j = (int(k) for k in rng.integers(len(entries), size=2))
    own, body = entries[i]
    match int(rng.integers(6)):
        case 0:
            method = _pick(rng, (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
        case 1:
            entries.append((own, entries[j][1]))
        case 2:
            names = ("x.npy", "../x.npy", "/x.npy", "x", "", "a\\b.npy", "header.json")
            entries.append((_pick(rng, names), entries[j][1]))
        case 3:
            del entries[i]
        case 4:
            entries[i] = (_pick(rng, ("x.npy", entries[j][0], own.upper(), own + "\0")), body)
        case _:
            entries[i], entries[j] = (own, entries[j][1]), (entries[j][0], body)
    return _zipped(entries, method)


def _fields(raw: bytes, rng: Rng) -> bytes:
    """Set one field of a local header, of a directory entry or of the archive's end to a wrong number."""
    marks = {b"PK\x03\x04": 30, b"PK\x01\x02": 46, b"PK\x05\x06": 22}
    mark = _pick(rng, list(marks))
    places, at = [], raw.find(mark)
    while at >= 0:
        places.append(at)
        at = raw.find(mark, at + 1)
    at = _pick(rng, places) + int(rng.integers(4, marks[mark] - 2))
    width = _pick(rng, ("<H", "<I")) if at + 4 <= len(raw) else "<H"
    numbers = (0, 1, 8, 0x800, 0xFFFF, 0x7FFF) if width == "<H" else (0, 1, 2**31, 2**32 - 1, len(raw))
    spoilt: bytes = raw[:at] + struct.pack(width, _pick(rng, numbers)) + raw[at + struct.calcsize(width) :]
    return spoilt


def _npy_header(raw: bytes, rng: Rng) -> bytes:
    """Write an array whose header names another type or shape than its bytes have."""
    entries = _entries(raw)
    i = int(rng.integers(len(entries)))
    name, body = entries[i]
    length = int.from_bytes(body[8:10], "little")
    shape, kind = _pick(rng, _SHAPES), _pick(rng, _KINDS)
    order = _pick(rng, ("False", "True", "0", "None", "__import__('os')"))
    text = f"{{'descr': '{kind}', 'fortran_order': {order}, 'shape': {shape}, }}"
    version = _pick(rng, (b"\x01\x00", b"\x01\x00", b"\x02\x00", b"\x03\x00", b"\x09\x00"))
    head = b"\x93NUMPY" + version + struct.pack("<H", len(text) + 1) + text.encode() + b"\n"
    entries[i] = (name, head + body[10 + length :])
    return _zipped(entries)


@functools.cache
def _zeros(size: int) -> tuple[bytes, int]:
    """Compressed zeros and their checksum.

    Blocks that start afresh are all alike, so that only one is compressed.
    """
    packer, block, crc = zlib.compressobj(9, zlib.DEFLATED, -15), bytes(2**20), 0
    one = packer.compress(block) + packer.flush(zlib.Z_FULL_FLUSH)
    for _ in range(size // 2**20):
        crc = zlib.crc32(block, crc)
    return one * (size // 2**20) + packer.flush(), crc


def _bomb(raw: bytes, rng: Rng) -> bytes:
    """Write an entry of a few bytes that unpacks, or claims to unpack, to gigabytes."""
    packed, crc = _zeros(_BOMB)
    if rng.random() < 0.9:
        packed = packed[: int(rng.integers(1, 2000))]
    name = _pick(rng, [n for n, _ in _entries(raw)]).encode()
    method = int(_pick(rng, (8, 8, 0)))
    size = int(_pick(rng, (_BOMB, 2**32 - 1, 2**32 - 2)))
    common = struct.pack("<5H3L2H", 20, 0, method, 0, 0, crc, len(packed), size, len(name), 0)
    local = b"PK\x03\x04" + common + name + packed
    entry = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<3H2L", 0, 0, 0, 0, 0) + name
    whole: bytes = local + entry + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, 1, 1, len(entry), len(local), 0)
    return whole


def _around(raw: bytes, rng: Rng) -> bytes:
    """Insert bytes before, behind or within the archive."""
    junk = rng.bytes(int(rng.integers(1, 60)))
    at = raw.find(b"PK\x01\x02")
    comment = raw[:-2] + struct.pack("<H", len(junk)) + junk
    return bytes(_pick(rng, (junk + raw, raw + junk, raw + raw, raw[:at] + junk + raw[at:], comment)))


def _directory(raw: bytes, rng: Rng) -> bytes:
    """Write a directory that lists an entry twice, or fewer or more entries than there are."""
    at, end = raw.find(b"PK\x01\x02"), len(raw) - 22
    listed = raw[at:end]
    second = listed.find(b"PK\x01\x02", 4)
    one = listed if second < 0 else listed[:second]
    again = _pick(rng, (listed + one, one + listed, listed * 2, listed[len(one) :], one * 200))
    n = again.count(b"PK\x01\x02")
    n = _pick(rng, (n, n, n + 1, 0, 0xFFFF))
    whole: bytes = raw[:at] + again + b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, n, n, len(again), at, 0)
    return whole


def _broken_json(text: str, rng: Rng) -> str:
    deep = int(_pick(rng, (30, 500, 100_000)))
    nested = "[" * deep + "]" * deep
    texts = (
        text[: int(rng.integers(len(text)))], "", "null", "[]", "{}", "1", '"text"', text + text,
        text.replace(":", "", 1), nested, '{"a":' * deep + "1" + "}" * deep, "\ufeff" + text, "\0" + text,
        '{"meta":' + "[[]," * 50_000 + "[]" + "]" * 50_000 + "}", "[" + "[]," * 300_000 + "[]]",
        text[:-1] + ', "kind": "lure-system"}', text[:-1] + ', "x": NaN}', text[:-1] + ', "x": 1e999}',
        text.replace('"version"', f'"version": {"9" * 5000}, "x"'),
        text.replace('"meta": {', '"meta": {"x": -Infinity, '), text.replace('"meta": {', f'"meta": {{"x": {nested}, '),
        "[" + "1," * 1_500_000 + "1]", '{"x": "' + "a" * 3_900_000 + '"}', "[" + "[]," * 2_000_000 + "[]]",
    )  # fmt: skip
    return str(_pick(rng, texts))


def _spoil_array(arrays: dict[str, NDArray[Any]], rng: Rng) -> None:
    name = _pick(rng, sorted(arrays))
    array = arrays[name]
    match int(rng.integers(11)):
        case 0 | 1 | 2 | 3 if array.size:
            changed = array.copy()
            value = _pick(rng, _FLOATS) if array.dtype.kind == "f" else _pick(rng, (0, 1, 2, 5, 127))
            with np.errstate(all="ignore"):
                changed.flat[int(rng.integers(array.size))] = value
            arrays[name] = changed
        case 4:
            factor = _pick(rng, (0.0, -1.0, 1 + 1e-9, 1e-300, 1e300))
            with np.errstate(all="ignore"):
                arrays[name] = (
                    (array * factor).astype(array.dtype, copy=False) if array.dtype.kind == "f" else array * 0
                )
        case 5:
            shapes = [array.T, array[None], array.ravel(), array[:0] if array.ndim else array[None]]
            arrays[name] = np.array(_pick(rng, shapes))
        case 6:
            kinds = ("<f4", "<i8", "|u1", "|b1", "<i2")
            with np.errstate(all="ignore"):
                arrays[name] = np.nan_to_num(array).astype(_pick(rng, kinds))
        case 7:
            del arrays[name]
        case 8:
            arrays[_pick(rng, ("x", name + ".0", name + "/x", "gains.x", "families.99999999.rho", "results.0.u"))] = (
                array
            )
        case 9:
            other = _pick(rng, sorted(arrays))
            arrays[name], arrays[other] = arrays[other], arrays[name]
        case _:
            arrays[name] = np.concatenate([array, array]) if array.ndim else np.zeros((70_000, 0))


def _spoil_value(meta: dict[str, Any], rng: Rng) -> None:
    """Replace, remove, add or double a value somewhere in the tree of JSON values."""
    node: Any = meta
    while True:
        keys = sorted(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            break
        key = _pick(rng, keys)
        if isinstance(node[key], dict | list) and rng.random() < 0.8:
            node = node[key]
            continue
        match int(rng.integers(8)):
            case 0:
                del node[key]
            case 1 if isinstance(node, dict):
                node[_pick(rng, ("x", "", "kind", str(key) + " "))] = copy.deepcopy(node[key])
            case 1 | 2 if isinstance(node, list):
                node.append(copy.deepcopy(node[key]))
            case 3 if isinstance(node[key], int | float) and not isinstance(node[key], bool):
                node[key] = node[key] * _pick(rng, (-1, 0, 2, 0.5, 1 + 1e-9)) + _pick(rng, (0, 0, 1))
            case _:
                node[key] = copy.deepcopy(_pick(rng, _VALUES))
        return
