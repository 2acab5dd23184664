"""Rows of a study as Parquet files in its folder: stored as they come, found again by their mark, read as they are.

A file holds rows of the same columns and types, so that every value comes back as what it was: whole numbers, real
numbers to the last bit, texts, flags, nothing, lists of one kind; anything nested is JSON text in its column. Files are
written whole or not at all, and named after the SHA-256 of their content: what was damaged is not read. Small ones are
gathered from time to time, after which the old ones go.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from controlrnn.errors import StorageError
from controlrnn.records import write_atomic

MARK = "stored_mark"  # column of the mark
SOON = 0.3  # seconds that a row may wait for others to be written with it
OPEN = 4  # files that are kept in memory for reading: rows of several kinds may alternate
MANY, LARGE = 40, 20_000  # files of one kind that are gathered; rows of a file that stays as it is
_SCALARS = {
    "null": pa.null(), "flag": pa.bool_(), "whole": pa.int64(), "real": pa.float64(), "text": pa.string(),
    "json": pa.string(), "mark": pa.string(),
}  # fmt: skip
_LISTED = ("flag", "whole", "real", "text")
_KIND = b"kind"
Kinds = tuple[tuple[str, str], ...]  # names and kinds of the columns


class StoredRows:
    """Rows in a folder, by mark.

    Args:
        folder: The folder.
        fresh: Whether to delete what is there.
        say: Called with what went wrong: a damaged file, a row that cannot be written.
    """

    def __init__(self, folder: Path, *, fresh: bool = False, say: Callable[[str], None]) -> None:
        self._folder = folder
        self._say = say
        self._lock = threading.RLock()
        self._timer: threading.Timer | None = None
        self._new: defaultdict[Kinds, list[tuple[str, dict[str, Any]]]] = defaultdict(list)
        self._waiting: dict[str, dict[str, Any]] = {}
        self._failing = False
        self._files: dict[Path, Kinds] = {}
        self._place: dict[bytes, tuple[Path, int]] = {}
        self._open: dict[Path, pa.Table] = {}
        for path in sorted(folder.glob("rows-*.parquet")):
            if fresh:
                path.unlink()
                continue
            try:
                self._note(path, _read(path))
            except StorageError as error:
                say(f"{error}: its rows are computed again")

    def __len__(self) -> int:
        return len(self._place) + len(self._waiting)

    def __contains__(self, mark: str) -> bool:
        return mark in self._waiting or _short(mark) in self._place

    def get(self, mark: str) -> dict[str, Any] | None:
        """Row with this mark, or None.

        Raises:
            StorageError: Its file has gone since the rows were read.
        """
        with self._lock:
            if mark in self._waiting:
                return dict(self._waiting[mark])
            if (place := self._place.get(_short(mark))) is None:
                return None
            path, at = place
            if path not in self._open:
                try:
                    table = _read(path)
                except StorageError as error:
                    raise StorageError(f"{path} was there when the study began: {error}") from error
                while len(self._open) >= OPEN:
                    del self._open[next(iter(self._open))]
                self._open[path] = table
            return _row(self._open[path], at)

    def put(self, mark: str, row: Mapping[str, Any], *, now: bool = True) -> None:
        """Store a row.

        Args:
            mark: Its mark.
            row: JSON values by name.
            now: Whether to write it at once, instead of soon and together with others.

        Raises:
            TypeError, ValueError: The row holds what is no JSON value.
        """
        kinds = _kinds(row)
        _table(kinds, [(mark, row)])  # raises here, not when others are to be written with it
        with self._lock:
            self._waiting[mark] = dict(row)
            self._new[kinds].append((mark, dict(row)))
            if now or sum(map(len, self._new.values())) >= 1000:
                self.write()
            elif self._timer is None:
                self._timer = threading.Timer(SOON, self.write)
                self._timer.daemon = True
                self._timer.start()

    def write(self) -> None:
        """Write all rows that wait."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            new, self._new = self._new, defaultdict(list)
            for kinds, rows in new.items():
                try:
                    self._write(_table(kinds, rows))
                except StorageError as error:
                    if not self._failing:
                        self._say(f"{error}; the study goes on, and rows are written as soon as that is possible")
                    self._failing = True
                    self._new[kinds] += rows
                else:
                    self._failing = False
                    for mark, _ in rows:
                        self._waiting.pop(mark, None)
            self._gather(MANY)

    def close(self) -> None:
        """Write what waits, and gather small files."""
        with self._lock:
            self.write()
            self._gather(1)

    def _write(self, table: pa.Table) -> None:
        buffer = io.BytesIO()
        pq.write_table(table, buffer)
        content = buffer.getvalue()
        self._folder.mkdir(parents=True, exist_ok=True)
        path = write_atomic(self._folder / f"rows-{time.time_ns():020d}-{_digest(content)}.parquet", content)
        self._note(path, table)

    def _note(self, path: Path, table: pa.Table) -> None:
        self._files[path] = tuple((f.name, f.metadata[_KIND].decode()) for f in table.schema)
        for at, mark in enumerate(table.column(MARK)):
            self._place[_short(mark.as_py())] = path, at

    def _gather(self, most: int) -> None:
        """Gather small files of one kind into one where there are more than ``most``."""
        kinds: defaultdict[Kinds, list[Path]] = defaultdict(list)
        for path, kind in self._files.items():
            kinds[kind].append(path)
        for paths in kinds.values():
            if len(paths) <= most:
                continue
            try:
                small = [p for p in paths if pq.read_metadata(p).num_rows < LARGE]
                if len(small) > 1:
                    self._write(pa.concat_tables(map(_read, small)))
                    self._open.clear()
                    for path in small:
                        del self._files[path]
                        path.unlink(missing_ok=True)
            except (pa.ArrowException, OSError, StorageError) as error:
                self._say(f"rows stay in many files: {error}")


def _digest(content: bytes) -> str:
    """What a file's name says of its content."""
    return hashlib.sha256(content).hexdigest()[:32]


def _read(path: Path) -> pa.Table:
    """Rows of a file; raises StorageError unless it is as it was written."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise StorageError(f"{path.name} cannot be read ({error.strerror})") from error
    if path.stem.rpartition("-")[2] != _digest(content):
        raise StorageError(f"{path.name} cannot be read (its content is not what was written)")
    return pq.read_table(io.BytesIO(content))


def _short(mark: str) -> bytes:
    """A mark in few bytes."""
    return bytes.fromhex(mark)[:16]


def _kind(value: Any) -> str:
    """Kind of a JSON value; ``list of KIND`` where all of its items are of one that has a column."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "flag"
    if isinstance(value, int):
        return "whole" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "real"
    if isinstance(value, str):
        return "text"
    kinds = {_kind(item) for item in value} if isinstance(value, list) else set()
    return f"list of {kinds.pop()}" if len(kinds) == 1 and kinds <= set(_LISTED) else "json"


def _kinds(row: Mapping[str, Any]) -> Kinds:
    return ((MARK, "mark"), *((name, _kind(value)) for name, value in row.items()))


def _schema(kinds: Kinds) -> pa.Schema:
    fields = []
    for name, kind in kinds:
        of = kind.removeprefix("list of ")
        column = _SCALARS[of] if of == kind else pa.list_(_SCALARS[of])
        fields.append(pa.field(name, column, metadata={_KIND: kind.encode()}))
    return pa.schema(fields)


def _table(kinds: Kinds, rows: Sequence[tuple[str, Mapping[str, Any]]]) -> pa.Table:
    """Rows of one kind, each with its mark."""
    schema = _schema(kinds)
    arrays = [pa.array([mark for mark, _ in rows], pa.string())]
    arrays += [pa.array([_encoded(row[f.name], f) for _, row in rows], f.type) for f in list(schema)[1:]]
    return pa.Table.from_arrays(arrays, schema=schema)


def _encoded(value: Any, field: pa.Field) -> Any:
    return json.dumps(value) if field.metadata[_KIND] == b"json" else value


def _row(table: pa.Table, at: int) -> dict[str, Any]:
    (found,) = table.slice(at, 1).to_pylist()
    of_json = {f.name for f in table.schema if (f.metadata or {}).get(_KIND) == b"json"}
    return {k: json.loads(v) if k in of_json else v for k, v in found.items() if k != MARK}
