"""Schemas: what is missing, surplus, of another type, shape or range is refused, wherever it stands."""

import json
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import pytest

from controlrnn.errors import DataError, FileFormatError
from controlrnn.records import (
    Count,
    Digest,
    Exactly,
    Flag,
    FreeArrays,
    ListOf,
    Number,
    Numbers,
    Part,
    Schema,
    Stored,
    TableOf,
    Text,
    read_record,
    write_record,
)


@dataclass(frozen=True, eq=False)
class Inner(Stored):
    SCHEMA: ClassVar[Schema] = Schema("inner", 1, arrays={"row": Numbers("n", least=0.0)}, meta={"name": Text(5)})

    row: np.ndarray
    name: str


@dataclass(frozen=True, eq=False)
class Outer(Stored):
    SCHEMA: ClassVar[Schema] = Schema(
        "outer", 3,
        arrays={
            "a": Numbers("n", "m"), "longer": Numbers("n + 1"), "twice": Numbers("2 * N + 1", nan=True),
            "box": Numbers(2, "n", otherwise=(2, 0)), "maybe": Numbers("n", optional=True),
        },
        meta={"N": Count(size="N"), "rate": Number(above=0.0, below=1.0), "names": ListOf(Text(), "n + m")},
        parts={"inner": Part(Inner), "many": Part(Inner, many=True, own=True), "none": Part(Inner, none=True)},
    )  # fmt: skip

    a: np.ndarray
    longer: np.ndarray
    twice: np.ndarray
    box: np.ndarray
    N: int
    rate: float
    names: tuple
    inner: Inner
    many: tuple
    none: Inner | None = None
    maybe: np.ndarray | None = None


def outer(**change):
    fields = {
        "a": np.ones((2, 3)), "longer": np.ones(3), "twice": np.full(9, np.nan), "box": np.zeros((2, 0)), "N": 4,
        "rate": 0.5, "names": tuple("abcde"), "inner": Inner(np.ones(2), "x"), "many": (Inner(np.ones(7), "y"),) * 3,
    }  # fmt: skip
    return Outer(**(fields | change))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "o.npz"


def test_parts_options_and_lists_come_back(path):
    for one in (outer(), outer(none=Inner(np.zeros(2), "z"), maybe=np.ones(2), box=np.ones((2, 2)), many=())):
        one.save(path)
        again = Outer.load(path)
        assert again.digest == one.digest
        assert len(again.many) == len(one.many)
        assert (again.none is None) == (one.none is None)
        assert again.names == list(one.names)
        assert type(again.inner) is Inner


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"a": np.ones((3, 3))}, "shape"),
        ({"longer": np.ones(2)}, "longer must have shape"),
        ({"twice": np.ones(8)}, "twice must have shape"),
        ({"twice": np.full(9, np.inf)}, "finite or NaN"),
        ({"a": np.full((2, 3), np.nan)}, "a must be finite"),
        ({"a": np.ones((2, 3), complex)}, "type"),
        ({"box": np.ones((2, 1))}, "box must have shape"),
        ({"maybe": np.ones(3)}, "maybe must have shape"),
        ({"rate": 1.0}, "rate must be > 0 and < 1"),
        ({"rate": "0.5"}, "rate must be a finite number"),
        ({"rate": True}, "rate must be a finite number"),
        ({"N": 4.0}, "N must be a whole number"),
        ({"N": True}, "N must be a whole number"),
        ({"N": -1}, "N must be a whole number"),
        ({"N": 10**30}, "N must be a whole number"),
        ({"N": 5}, "twice must have shape"),
        ({"names": tuple("abc")}, "names must have shape"),
        ({"inner": Inner(np.ones(3), "x")}, r"inner.row must have shape \(n,\) with"),
        ({"inner": Inner(-np.ones(2), "x")}, "inner.row must be >= 0"),
        ({"inner": Inner(np.ones(2), "too long")}, "inner.name must be a text of at most 5"),
        ({"many": (Inner(np.ones(0), "x"),)}, "must have n >= 1"),
    ],
)
def test_what_could_not_be_read_is_not_written(path, change, match):
    with pytest.raises(DataError, match=match):
        outer(**change).save(path)
    assert not path.exists()


@pytest.mark.parametrize("where", ["a", "longer", "inner.row", "many.1.row"])
def test_missing_arrays_are_named(path, where):
    arrays, meta = outer().record()
    del arrays[where]
    write_record(path, "outer", 3, arrays, meta)
    with pytest.raises(FileFormatError, match=f"lacks '{where.rpartition('.')[2]}'"):
        Outer.load(path)


@pytest.mark.parametrize(
    "name", ["x", "inner.x", "many.1.x", "many.3.row", "many.01.row", "many.row", "none.row", "a/x"]
)
def test_surplus_arrays_are_refused(path, name):
    arrays, meta = outer().record()
    write_record(path, "outer", 3, arrays | {name: np.zeros(2)}, meta)
    with pytest.raises(FileFormatError):
        Outer.load(path)


@pytest.mark.parametrize(
    "change", [{"x": 1}, {"many": None}, {"many": {}}, {"inner": None}, {"inner": []}, {"none": {}}]
)
def test_surplus_and_misplaced_values_are_refused(path, change):
    arrays, meta = outer().record()
    write_record(path, "outer", 3, arrays, meta | change)
    with pytest.raises(FileFormatError):
        Outer.load(path)


@pytest.mark.parametrize("version", [-7, 0, 2, 4, 10**12])
def test_other_versions_are_refused(path, version):
    write_record(path, "outer", version, *outer().record())
    with pytest.raises(FileFormatError):
        Outer.load(path)


@pytest.mark.parametrize("value", ["3", True, 3.0, None, [3]])
def test_kind_and_version_stand_under_the_checksum(path, value):
    outer().save(path)
    content = dict(np.load(path))
    header = json.loads(bytes(content["header.json"]))
    assert header["version"] == 3
    for changed in ({"version": value}, {"version": 4}, {"kind": "inner"}, {"format": 1}):
        content["header.json"] = np.frombuffer(json.dumps(header | changed).encode(), np.uint8)
        np.savez(path, **content)
        with pytest.raises(FileFormatError):
            read_record(path)


def test_values_of_each_kind():
    good = [
        (Number(none=True), None), (Number(), -1e308), (Count(1), 1), (Flag(), False), (Text(choices=("a", "b")), "b"),
        (Digest(), "0" * 64), (Digest(empty=True), ""), (ListOf(Flag(), none=True), None), (TableOf(Flag()), {}),
        (TableOf(Count(), ("x",)), {"x": 1}), (Exactly({"a": "b"}), {"a": "b"}),
    ]  # fmt: skip
    bad = [
        (Number(), None), (Number(), "1"), (Number(), False), (Number(least=0.0), -5e-324), (Number(above=0.0), 0.0),
        (Count(), 1.0), (Count(), True), (Count(), 2**40), (Flag(), 1), (Flag(), None), (Text(), 1), (Text(3), "abcd"),
        (Text(), "\ud800"), (Text(choices=("a",)), "A"), (Digest(), "0" * 63), (Digest(), "G" * 64), (Digest(), ""),
        (ListOf(Flag()), {}), (ListOf(Flag(), 2), [True]), (ListOf(Flag()), [1]), (TableOf(Flag()), []),
        (TableOf(Flag()), {"*/": True}), (TableOf(Flag()), {"": True}), (TableOf(Flag(), ("x",)), {"y": True}),
        (TableOf(Flag(), most=1), {"a": True, "b": True}), (Exactly({"a": "b"}), {}),
    ]  # fmt: skip
    for kind, value in good:
        kind.check("it", value, {})
    for kind, value in bad:
        with pytest.raises(FileFormatError, match="it"):
            kind.check("it", value, {})


def test_arrays_of_unknown_names_are_still_numbers():
    schema = Schema("s", 1, free={"parameters": FreeArrays()})
    schema.check({"parameters/x.y/z": np.zeros((2, 3), np.float32)}, {})
    for name, array in (
        ("parameters", np.zeros(2)), ("other/x", np.zeros(2)), ("parameters/x", np.array([np.nan])),
        ("parameters/x", np.zeros(2, np.int8)),
    ):  # fmt: skip
        with pytest.raises(FileFormatError):
            schema.check({name: array}, {})


@pytest.mark.parametrize(
    "text",
    [
        '{"a": NaN}', '{"a": 1e999}', '{"a": -Infinity}', '{"a": 1, "a": 2}', '{"a": ' + "9" * 5000 + "}",
        '{"a": ' + "[" * 25 + "]" * 25 + "}", '{"a": ' + "[" * 100_000 + "]" * 100_000 + "}",
        '{"a": [' + "[]," * 60_000 + "[]]}",
    ],
)  # fmt: skip
def test_headers_are_json_as_the_standard_has_it_and_of_a_size_that_can_be_read(path, text):
    outer().save(path)
    content = dict(np.load(path))
    header = bytes(content["header.json"]).decode().replace('"meta": {', f'"meta": {text[:-1]}, ', 1)
    content["header.json"] = np.frombuffer(header.encode(), np.uint8)
    np.savez(path, **content)
    with pytest.raises(FileFormatError, match="header"):
        read_record(path)


def test_numbers_of_numpy_are_numbers(path):
    one = outer(rate=np.float32(0.5), N=np.int64(4), a=np.ones((2, 3), np.float32), longer=np.ones(3, int))
    one.save(path)
    again = Outer.load(path)
    assert again.digest == one.digest == outer().digest
    assert again.a.dtype == np.float64
