"""Schemas: a declaration of everything that a record must hold, checked before anything is built from it.

    Schema("error-memory", 2, arrays={"drift": Numbers("K", "ny", least=0.0), ...}, meta={"promise": Text(), ...})

Everything named must be present, and nothing else may be. Lengths with the same letter are equal throughout a record,
and sums of products of letters relate them (``"N + 1"``, ``"past * nu + past * ny + 1"``). Parts are records inside a
record: their arrays are called ``part.array`` (``part.0.array`` in a list of parts), their JSON values are an object of
that name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import FileFormatError
from controlrnn.records.values import Count, Sizes, Value, fits, range_of, same_shape, wrong


class Numbers:
    """Declaration of an array of numbers: its shape, type and range.

    Args:
        shape: Lengths: numbers, letters, or sums of products of them.
        least: Smallest value allowed.
        most: Largest value allowed.
        above: Every value must be larger.
        below: Every value must be smaller.
        nan: Whether NaN is allowed.
        infinite: Whether infinity is allowed, of a sign that the range permits.
        dtype: Types allowed.
        otherwise: Another shape that is allowed, e.g. for an array that may be left empty.
        optional: Whether the array may be missing.
    """

    def __init__(
        self,
        *shape: int | str,
        least: float = -math.inf,
        most: float = math.inf,
        above: float = -math.inf,
        below: float = math.inf,
        nan: bool = False,
        infinite: bool = False,
        dtype: str | tuple[str, ...] = "<f8",
        otherwise: tuple[int | str, ...] | None = None,
        optional: bool = False,
    ) -> None:
        self.shape = shape
        self.least = least
        self.most = most
        self.above = above
        self.below = below
        self.nan = nan
        self.infinite = infinite
        self.dtype = (dtype,) if isinstance(dtype, str) else dtype
        self.otherwise = otherwise
        self.optional = optional

    def check(self, where: str, array: NDArray[Any], sizes: Sizes) -> None:
        """Refuse an array of another type, shape or range; lengths that are new are added to ``sizes``."""
        if array.dtype.str not in self.dtype:
            raise FileFormatError(f"{where} must be of type {' or '.join(self.dtype)}, got {array.dtype.str}")
        if self.otherwise is None or not fits(array.shape, self.otherwise, sizes):
            same_shape(where, array.shape, self.shape, sizes)
        if array.dtype.kind not in "fiu" or not array.size:
            return
        values = array[~np.isnan(array)] if self.nan else array
        if not self.infinite and not np.isfinite(values).all():
            raise FileFormatError(f"{where} must be finite{' or NaN' if self.nan else ''}")
        inside = (self.least <= values) & (values <= self.most)
        if self.above > -math.inf:
            inside &= self.above < values
        if self.below < math.inf:  # where there is no end, infinity may be allowed
            inside &= values < self.below
        if not inside.all():
            raise FileFormatError(f"{where} must be {range_of(self)}, got {values[~inside].flat[0]!r}")


@dataclass(frozen=True)
class FreeArrays:
    """Declaration of arrays of any shape whose names the schema does not know, such as a model's parameters.

    Args:
        dtype: Types allowed.
        finite: Whether all numbers must be finite.
    """

    dtype: tuple[str, ...] = ("<f8", "<f4", "<i8", "|b1")
    finite: bool = True

    def check(self, where: str, array: NDArray[Any], sizes: Sizes) -> None:  # noqa: ARG002
        """Refuse an array of another type, or with numbers that are not finite; see `Numbers.check`."""
        if array.dtype.str not in self.dtype:
            raise FileFormatError(f"{where} must be of type {' or '.join(self.dtype)}, got {array.dtype.str}")
        if self.finite and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise FileFormatError(f"{where} must be finite")


class HasSchema(Protocol):
    """Class with a `Schema`, which may therefore be a part of a record."""

    SCHEMA: ClassVar[Schema]


@dataclass(frozen=True)
class Part:
    """Declaration of a record inside another record.

    Args:
        of: Class of the part, or several classes, told apart by the ``kind`` that is stored with it.
        many: Whether it is a list of parts.
        none: Whether it may be missing (null).
        own: Whether its letters are its own; otherwise they are those of the record around it.
    """

    of: type[HasSchema] | tuple[type[HasSchema], ...]
    many: bool = False
    none: bool = False
    own: bool = False


@dataclass(frozen=True, eq=False)
class Schema:
    """Declaration of everything that a record of one kind holds.

    Args:
        kind: Kind of record, e.g. ``"lure-system"``.
        version: Version of this kind's format.
        arrays: Arrays by name.
        meta: JSON values by name.
        parts: Records inside the record, by name.
        free: Arrays whose names start with these words and a slash.
        zero: Letters that may be zero; all others are at least one.
    """

    kind: str
    version: int
    arrays: Mapping[str, Numbers] = field(default_factory=dict)
    meta: Mapping[str, Value] = field(default_factory=dict)
    parts: Mapping[str, Part] = field(default_factory=dict)
    free: Mapping[str, FreeArrays] = field(default_factory=dict)
    zero: Collection[str] = ()

    def extended(self, kind: str, version: int, **more: Mapping[str, Any]) -> Schema:
        """Schema with more arrays, meta or parts than this one, under another name."""
        return Schema(
            kind,
            version,
            arrays={**self.arrays, **more.get("arrays", {})},
            meta={**self.meta, **more.get("meta", {})},
            parts={**self.parts, **more.get("parts", {})},
            free=self.free,
            zero=self.zero,
        )

    def check(self, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> None:
        """Refuse a record that lacks something, holds something else, or has a value out of its range.

        Raises:
            FileFormatError: The message names the first thing that is wrong.
        """
        self._check("", arrays, meta, {})

    def _check(self, where: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any], sizes: Sizes) -> None:
        """Check a record whose name in messages begins with ``where``; ``sizes`` holds the letters known so far."""
        outer = set(sizes)  # lengths that the record around this one has checked already
        own = {name: array for name, array in arrays.items() if name.partition(".")[0] not in self.parts}
        free = {name: array for name, array in own.items() if name.partition("/")[0] in self.free and "/" in name}
        own = {name: array for name, array in own.items() if name not in free}
        _names(where or self.kind, own, self.arrays, {n for n, a in self.arrays.items() if a.optional})
        _names(where or self.kind, meta, {**self.meta, **self.parts}, set())
        # Counts first, then arrays with plain letters: each fixes lengths that the later ones are compared with.
        counts = [name for name, value in self.meta.items() if isinstance(value, Count)]
        for name in counts:
            self.meta[name].check(where + name, meta[name], sizes)
        for name in sorted(own, key=lambda n: _difficulty(self.arrays[n].shape)):
            self.arrays[name].check(where + name, own[name], sizes)
        for name in self.meta.keys() - counts:
            self.meta[name].check(where + name, meta[name], sizes)
        small = [letter for letter, n in sizes.items() if n < 1 and letter not in {*self.zero, *outer}]
        if small:
            raise FileFormatError(f"{where or self.kind} must have {small[0]} >= 1, got {sizes[small[0]]}")
        for name, array in free.items():
            self.free[name.partition("/")[0]].check(where + name, array, sizes)
        for name, part in self.parts.items():
            inner = {n.removeprefix(f"{name}."): a for n, a in arrays.items() if n.startswith(f"{name}.")}
            _check_part(where + name, part, inner, meta[name], sizes)


def schema_of(part: Part, meta: Any, where: str = "part") -> type[HasSchema]:
    """Class of a part, by the ``kind`` among its JSON values where there are several."""
    if not isinstance(part.of, tuple):
        return part.of
    kinds = {one.SCHEMA.kind: one for one in part.of}
    kind = meta.get("kind") if isinstance(meta, Mapping) else None
    if not isinstance(kind, str) or kind not in kinds:
        raise wrong(f"{where}.kind", f"one of {', '.join(kinds)}", kind)
    return kinds[kind]


def split_parts(arrays: Mapping[str, NDArray[Any]], n: int, where: str = "part") -> list[dict[str, NDArray[Any]]]:
    """Split arrays called ``i.name`` into one dictionary for each i < n."""
    found: list[dict[str, NDArray[Any]]] = [{} for _ in range(n)]
    for name, array in arrays.items():
        i, _, inner = name.partition(".")
        if not re.fullmatch("0|[1-9][0-9]{0,8}", i) or int(i) >= n:
            raise FileFormatError(f"{where} has {n} entries, got an array of entry {i[:20]!r}")
        found[int(i)][inner] = array
    return found


def _check_part(where: str, part: Part, arrays: Mapping[str, NDArray[Any]], meta: Any, sizes: Sizes) -> None:
    """Check one part of a record, or a list of them, against the schema of its class."""
    if part.many:
        if not isinstance(meta, list):
            raise wrong(where, "a list", meta)
        each: Iterator[tuple[str, Any, Mapping[str, NDArray[Any]]]] = (
            (f"{where}.{i}", m, a)
            for i, (m, a) in enumerate(zip(meta, split_parts(arrays, len(meta), where), strict=True))
        )
    else:
        if meta is None and part.none:
            if arrays:
                raise FileFormatError(f"{where} is missing, but has an array {min(arrays)!r}")
            return
        each = iter([(where, meta, arrays)])
    for name, own, inner in each:
        if not isinstance(own, dict):
            raise wrong(name, "an object", own)
        schema = schema_of(part, own, name).SCHEMA
        if isinstance(part.of, tuple):
            own = {n: v for n, v in own.items() if n != "kind"}
        schema._check(f"{name}.", inner, own, {} if part.own else dict(sizes))


def _names(where: str, got: Mapping[str, Any], expected: Mapping[str, Any], optional: Collection[str]) -> None:
    """Refuse a record that lacks a name or has one too many."""
    missing = [name for name in expected if name not in got and name not in optional]
    surplus = [name for name in got if name not in expected]
    if missing or surplus:
        problem = f"lacks {missing[0]!r}" if missing else f"has {surplus[0][:64]!r}, which does not belong to it"
        raise FileFormatError(f"{where} {problem}")


def _difficulty(shape: Sequence[int | str]) -> int:
    """Sort key of a shape: the number of lengths that are sums, which are solved after the plain letters."""
    return sum(isinstance(n, str) and not n.isidentifier() for n in shape)
