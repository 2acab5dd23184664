"""Archives: what is read takes no more memory than the file has bytes, and nothing is hidden in it."""

import io
import struct
import tracemalloc
import zipfile
import zlib

import numpy as np
import pytest

from controlrnn.errors import FileFormatError
from controlrnn.records.archive import TYPES, read_archive, write_archive

ARRAYS = {
    "a": np.arange(6.0).reshape(2, 3), "empty": np.zeros((0, 4)), "one": np.array(3, np.int8), "ü": np.array([True]),
}  # fmt: skip
GOOD = "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), }"


def entry(name: str, body: bytes, *, method: int = 0, size: int | None = None, at: int = 0) -> tuple[bytes, bytes]:
    """Local part and directory entry of a file in an archive, with whatever size it claims."""
    size = len(body) if size is None else size
    crc = zlib.crc32(body)
    common = struct.pack("<5H3L2H", 20, 0, method, 0, 0, crc, len(body), size, len(name), 0)
    local = b"PK\x03\x04" + common + name.encode() + body
    listed = b"PK\x01\x02" + struct.pack("<H", 20) + common + struct.pack("<3H2L", 0, 0, 0, 0, at) + name.encode()
    return local, listed


def end(entries: bytes, n: int, at: int) -> bytes:
    return b"PK\x05\x06" + struct.pack("<4H2LH", 0, 0, n, n, len(entries), at, 0)


def npy(header: str, data: bytes, version: bytes = b"\x01\x00") -> bytes:
    return b"\x93NUMPY" + version + struct.pack("<H", len(header) + 1) + header.encode() + b"\n" + data


def single(body: bytes) -> bytes:
    local, listed = entry("a.npy", body)
    return local + listed + end(listed, 1, len(local))


def test_round_trip_is_exact_and_the_same_arrays_give_the_same_bytes():
    raw = write_archive(ARRAYS)
    assert raw == write_archive(ARRAYS)
    again = read_archive(raw)
    assert again.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert again[name].dtype == array.dtype
        assert again[name].shape == array.shape
        assert again[name].tobytes() == array.tobytes()
        assert again[name].flags.writeable
        assert again[name].flags.aligned
    with np.load(io.BytesIO(raw)) as loaded:  # anybody's numpy reads it
        assert sorted(loaded.files) == sorted(ARRAYS)


def test_every_type_that_is_stored_comes_back_in_its_own_byte_order():
    for kind in TYPES:
        array = np.array([0, 1, 1], kind)
        assert read_archive(write_archive({"a": array.astype(array.dtype.newbyteorder(">"))}))["a"].dtype == kind
    for bad in (np.array(["text"]), np.array([None]), np.zeros(2, complex), np.zeros(2, "f2"), np.zeros(2, "M8[s]")):
        with pytest.raises(FileFormatError, match="must be of a type in"):
            write_archive({"a": bad})


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_compressed_entries_are_refused_before_they_are_unpacked(method):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        archive.writestr("a.npy", npy(GOOD.replace("2", "1000000"), bytes(8_000_000)))
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="compressed or encrypted"):
        read_archive(buffer.getvalue())
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()


SHAPES = (
    "(268435456,)", "(4294967296, 4294967296)", "(99999999999999999, 0)", "(3,)", "()", "(1, 1, 1, 1, 1, 1, 1, 1, 2)",
)  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_that_the_bytes_do_not_bear_out_is_refused_without_memory(shape):
    body = npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': {shape}, }}", bytes(16))
    tracemalloc.start()
    with pytest.raises(FileFormatError):
        read_archive(single(body))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
    assert not read_archive(single(npy(GOOD, bytes(16))))["a"].any()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|O', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (2,), }",
        "{'descr': '>f8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<c8', 'fortran_order': False, 'shape': (2,), }",
        "{'descr': [('a', '<f8')], 'fortran_order': False, 'shape': (2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (-2,), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (__import__('os'),), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1" * 60000 + ",), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (2,), 'more': 1}",
        "",
    ],
)
def test_other_headers_than_our_own_are_refused(header):
    with pytest.raises(FileFormatError, match=r"unknown format or type|cannot have"):
        read_archive(single(npy(header, bytes(16))))
    with pytest.raises(FileFormatError, match="unknown format or type"):
        read_archive(single(npy(GOOD, bytes(16), version=b"\x02\x00")))


def test_truth_values_are_zero_or_one():
    with pytest.raises(FileFormatError, match="truth values"):
        read_archive(single(npy("{'descr': '|b1', 'fortran_order': False, 'shape': (2,), }", b"\x01\x02")))


def test_overlapping_repeated_hidden_and_lying_entries_are_refused():
    body = npy(GOOD, bytes(16))
    local, listed = entry("a.npy", body)
    second, other = entry("b.npy", body, at=len(local))
    twice, again = entry("a.npy", body, at=len(local))
    cases = {
        "overlaps": local + listed + listed.replace(b"a.npy", b"b.npy") + end(listed * 2, 2, len(local)),
        "called 'a'": local + twice + listed + again + end(listed + again, 2, len(local + twice)),
        "between the entries and the directory": local + second + listed + end(listed, 1, len(local + second)),
        "gap": local + b"hidden" + second + listed
        + entry("b.npy", body, at=len(local) + 6)[1] + end(listed + other, 2, len(local + second) + 6),
        "follows": local + listed + end(listed, 1, len(local)) + b"more",
        "otherwise": local.replace(b"a.npy", b"c.npy") + listed + end(listed, 1, len(local)),
        "checksum": local[:-1] + b"\x01" + listed + end(listed, 1, len(local)),
    }  # fmt: skip
    for match, raw in cases.items():
        with pytest.raises(FileFormatError, match=match):
            read_archive(raw)
    right = local + second + listed + other + end(listed + other, 2, len(local + second))
    assert read_archive(right).keys() == {"a", "b"}


def test_an_entry_that_claims_gigabytes_is_refused():
    local, listed = entry("a.npy", b"abc", size=2**31)
    with pytest.raises(FileFormatError):
        read_archive(local + listed + end(listed, 1, len(local)))
    packed = zlib.compress(bytes(50_000_000), 9)[2:-4]
    local, listed = entry("a.npy", packed, method=8, size=50_000_000)
    tracemalloc.start()
    with pytest.raises(FileFormatError, match="compressed"):
        read_archive(local + listed + end(listed, 1, len(local)))
    assert tracemalloc.get_traced_memory()[1] < 1_000_000
    tracemalloc.stop()
