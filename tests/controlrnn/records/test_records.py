"""Records: exact, atomic, and anything damaged is named as such."""

import json
import os
import zipfile
from pathlib import Path

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from controlrnn import records
from controlrnn.errors import DataError, FileFormatError
from controlrnn.records.archive import write_archive

ARRAYS = {"a": np.arange(6.0).reshape(2, 3), "n": np.array([1, 2], np.int64), "one": np.array(2.5)}
THING = records.Schema(
    "thing",
    1,
    arrays={"a": records.Numbers(2, 3), "n": records.Numbers("n", dtype="<i8"), "one": records.Numbers()},
    meta={
        "text": records.Text(),
        "values": records.ListOf(records.Number(none=True)),
        "nested": records.TableOf(records.Flag()),
    },
)
META = {"text": "ü", "values": [1, 2.5, None], "nested": {"yes": True}}


@pytest.fixture
def path(tmp_path) -> Path:
    return records.save_record(tmp_path / "deep" / "r.npz", THING, ARRAYS, META)


def test_round_trip_keeps_bits_types_and_shapes(path):
    arrays, meta = records.load_record(path, THING)
    assert meta == META
    assert arrays.keys() == ARRAYS.keys()
    for name, value in ARRAYS.items():
        assert arrays[name].dtype == value.dtype
        assert arrays[name].shape == value.shape
        assert arrays[name].tobytes() == value.tobytes()


@settings(max_examples=30)
@given(
    array=hnp.arrays(np.float64, hnp.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4)),
    meta=st.dictionaries(
        st.text(max_size=5),
        st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5) | st.none(),
        max_size=3,
    ),
)
def test_any_content_round_trips(tmp_path_factory, array, meta):
    path = tmp_path_factory.mktemp("any") / "r.npz"
    records.write_record(path, "thing", 1, {"array": array}, meta)
    _, _, arrays, found = records.read_record(path)
    assert arrays["array"].tobytes() == array.tobytes()
    assert arrays["array"].shape == array.shape
    assert found == meta


def test_every_flipped_bit_is_refused_or_harmless(path):
    """A flipped bit either leaves the content as it was (zip time stamps, ...) or is a FileFormatError."""
    raw = path.read_bytes()
    refused = 0
    for i in range(0, len(raw), 3):
        damaged = bytearray(raw)
        damaged[i] ^= 1 << (i % 8)
        path.write_bytes(damaged)
        try:
            arrays, meta = records.load_record(path, THING)
        except FileFormatError:
            refused += 1
        else:
            assert records.digest(arrays, meta) == records.digest(ARRAYS, META)
    assert refused > len(raw) // 6


@pytest.mark.parametrize("part", [0.0, 0.1, 0.5, 0.9, 0.99])
def test_truncated_file_is_refused(path, part):
    raw = path.read_bytes()
    path.write_bytes(raw[: int(part * len(raw))])
    with pytest.raises(FileFormatError, match="not a controlrnn record"):
        records.load_record(path, THING)


def test_edited_array_is_refused(path):
    content = dict(np.load(path))
    content["a"] = content["a"] + 1e-15
    np.savez(path, **content)
    with pytest.raises(FileFormatError, match="SHA-256"):
        records.load_record(path, THING)


def test_edited_meta_is_refused(path):
    content = dict(np.load(path))
    header = json.loads(bytes(content["header.json"]))
    header["meta"]["text"] = "other"
    content["header.json"] = np.frombuffer(json.dumps(header).encode(), np.uint8)
    np.savez(path, **content)
    with pytest.raises(FileFormatError, match="SHA-256"):
        records.load_record(path, THING)


def test_pickled_objects_are_never_loaded(tmp_path):
    path = tmp_path / "evil.npz"
    np.savez(path, **{"header.json": np.array([{"kind": "thing"}], dtype=object)})
    with pytest.raises(FileFormatError):
        records.load_record(path, THING)


def test_other_kind_newer_version_and_missing_file(path, tmp_path):
    with pytest.raises(FileFormatError, match="must hold a 'other', got a 'thing'"):
        records.load_record(path, records.Schema("other", 1))
    records.write_record(path, "thing", 3, ARRAYS, META)
    with pytest.raises(FileFormatError, match="update controlrnn"):
        records.load_record(path, THING)
    with pytest.raises(FileNotFoundError):
        records.load_record(tmp_path / "none.npz", THING)


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04", b"\x93NUMPY\x01\x00"])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(FileFormatError):
        records.read_record(path)


def test_foreign_archive_is_refused(tmp_path):
    path = tmp_path / "foreign.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(FileFormatError):
        records.read_record(path)


def test_digest_sees_everything():
    base = records.digest(ARRAYS, META)
    assert base == records.digest(dict(reversed(ARRAYS.items())), dict(reversed(META.items())))
    others = [
        ({**ARRAYS, "a": ARRAYS["a"].T}, META),
        ({**ARRAYS, "a": ARRAYS["a"].astype(np.int64)}, META),
        ({**ARRAYS, "a": -ARRAYS["a"]}, META),
        ({**ARRAYS, "b": ARRAYS["a"]}, META),
        (ARRAYS, {**META, "text": "u"}),
    ]
    digests = {records.digest(*other) for other in others}
    assert len(digests) == len(others)
    assert base not in digests


def test_digest_sees_values_not_bits():
    values = np.array([[0.0, -1.5, np.nan], [np.inf, 2.0, 0.0]])
    same = [
        np.asfortranarray(values), values.astype(">f8"), values.astype(np.float32), np.where(values == 0, -0.0, values),
        np.repeat(values, 2, axis=1)[:, ::2], np.negative(-values), np.where(np.isnan(values), -np.nan, values),
    ]  # fmt: skip
    base = records.digest({"a": values}, {"n": 1, "x": [0.0, 2.5, True]})
    assert {records.digest({"a": one}, {"n": 1, "x": [0.0, 2.5, True]}) for one in same} == {base}
    numbers = {"n": np.int32(1), "x": (-0.0, np.float32(2.5), np.bool_(True))}
    assert (
        records.digest({"a": values}, numbers)
        == records.digest({"a": values}, {"n": 1.0, **{"x": numbers["x"]}})
        == base
    )
    assert records.digest({"a": values}, {"n": True, "x": [0.0, 2.5, True]}) != base
    assert records.digest({"a": np.ones(2, int)}, {}) != records.digest({"a": np.ones(2)}, {})


def test_what_has_no_canonical_bytes_is_named():
    with pytest.raises(DataError, match=r"z must hold float64.*complex128"):
        records.digest({"z": np.array([1j])}, {})


def test_failed_write_leaves_the_old_file_and_no_debris(path, monkeypatch):
    before = path.read_bytes()

    def crash(*_args: object) -> None:
        raise OSError("power cut")

    monkeypatch.setattr(os, "replace", crash)
    with pytest.raises(OSError, match="power cut"):
        records.write_atomic(path, b"new")
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_json_refuses_nan(tmp_path):
    records.write_json(tmp_path / "ok.json", {"a": 1.5})
    assert json.loads((tmp_path / "ok.json").read_text()) == {"a": 1.5}
    with pytest.raises(ValueError, match="JSON"):
        records.write_json(tmp_path / "bad.json", float("nan"))
    assert not (tmp_path / "bad.json").exists()


def test_headers_of_too_many_values_are_neither_written_nor_read(tmp_path):
    """Each value takes time to check: a file that claims millions would hold the reader up."""
    with pytest.raises(DataError, match="save it in parts"):
        records.write_record(tmp_path / "r.npz", "thing", 1, {}, {"values": [0] * 500_000})
    header = np.frombuffer(b"[" + b"0," * 1_000_000 + b"0]", dtype=np.uint8)
    (tmp_path / "r.npz").write_bytes(write_archive({"header.json": header}))
    with pytest.raises(FileFormatError, match="at most 50000 lists and 400000 values"):
        records.read_record(tmp_path / "r.npz")
