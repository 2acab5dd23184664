"""Base class of results that save themselves: a schema declares what is stored, and the digest covers exactly that."""

from __future__ import annotations

import os
from collections.abc import Mapping
from enum import Enum
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import DataError
from controlrnn.records.digests import digest
from controlrnn.records.record import conform, load_record, restoring, save_record
from controlrnn.records.schema import Numbers, Part, Schema, schema_of, split_parts

Arrays = dict[str, NDArray[Any]]
Meta = dict[str, Any]


class Stored:
    """Base class of frozen dataclasses whose fields are the arrays, JSON values and parts of their `SCHEMA`."""

    SCHEMA: ClassVar[Schema]

    def record(self) -> tuple[Arrays, Meta]:
        """Arrays and JSON values from which `from_record` restores the object."""
        schema = self.SCHEMA
        arrays: Arrays = {}
        for name, kind in schema.arrays.items():
            value = getattr(self, name)
            if not (value is None and kind.optional):
                arrays[name] = as_stored(value, kind)
        meta: Meta = {name: as_json(getattr(self, name)) for name in schema.meta}
        for name, part in schema.parts.items():
            value = getattr(self, name)
            if part.many:
                pairs = [_of(part, one) for one in value]
                arrays |= {f"{name}.{i}.{n}": a for i, (inner, _) in enumerate(pairs) for n, a in inner.items()}
                meta[name] = [m for _, m in pairs]
            elif value is None:
                meta[name] = None
            else:
                inner, meta[name] = _of(part, value)
                arrays |= {f"{name}.{n}": a for n, a in inner.items()}
        return arrays, meta

    @classmethod
    def from_record(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Self:
        """Restore an object from what `record` returned; the schema must have been checked."""
        schema = cls.SCHEMA
        values: Meta = {name: arrays.get(name) for name in schema.arrays}
        values |= {name: meta[name] for name in schema.meta}
        for name, part in schema.parts.items():
            inner = {n.removeprefix(f"{name}."): a for n, a in arrays.items() if n.startswith(f"{name}.")}
            own = meta[name]
            if part.many:
                each = zip(split_parts(inner, len(own), name), own, strict=True)
                values[name] = tuple(_restored(part, a, m) for a, m in each)
            else:
                values[name] = None if own is None else _restored(part, inner, own)
        return cls(**cls._fields(values))

    @classmethod
    def _fields(cls, values: Meta) -> Meta:
        """Arguments of the constructor from the stored values; a subclass may convert some."""
        return values

    def conform(self) -> None:
        """Check against the schema that this object could be saved and read again.

        Raises:
            DataError: It could not be saved and read again.
        """
        conform(self.SCHEMA, *self.record())

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is stored."""
        return digest(*self.record())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the object to a ``.npz`` record, atomically and without pickle.

        Raises:
            StorageError: The file cannot be written.
            DataError: Something is not finite or out of its range, so that the file could not be read again.
        """
        save_record(path, self.SCHEMA, *self.record())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Self:
        """Read an object from a file that `save` wrote; raises FileFormatError for any other file."""
        arrays, meta = load_record(path, cls.SCHEMA)
        with restoring(path):
            return cls.from_record(arrays, meta)


def as_json(value: Any) -> Any:
    """Convert numpy's numbers, enums, tuples and mappings to JSON values."""
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    return value


def as_stored(value: Any, kind: Numbers) -> NDArray[Any]:
    """Convert ``value`` to the type that is stored, unless that would change its kind (floats to integers, say)."""
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise DataError(f"an array must have rows of one length, got others: {error}") from error
    stored = np.dtype(kind.dtype[0])
    return array.astype(stored, copy=False) if np.can_cast(array.dtype, stored, "same_kind") else array


def _of(part: Part, value: Any) -> tuple[Arrays, Meta]:
    """Arrays and JSON values of a part, with its kind where the part may be of several."""
    arrays, meta = value.record()
    return arrays, ({"kind": value.SCHEMA.kind} | meta if isinstance(part.of, tuple) else meta)


def _restored(part: Part, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Any:
    """Restore a part from its arrays and JSON values."""
    kind: Any = schema_of(part, meta)
    return kind.from_record(
        arrays, {n: v for n, v in meta.items() if n != "kind"} if isinstance(part.of, tuple) else meta
    )
