"""Hostile values, made from a valid value of the same argument."""

from __future__ import annotations

import copy
import datetime
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import torch


class Kind(StrEnum):
    """Expected outcome of a call with a hostile value."""

    SAME = "same"
    """The valid value in other clothes: the call has to give the same result."""
    VALUE = "value"
    """Numbers, arrays and texts of all kinds: an error of ours, or a right result."""
    ABSURD = "absurd"
    """A thing of a wrong type: TypeError or AttributeError will do as well."""


@dataclass(frozen=True)
class Hostile:
    """A hostile value with its label and the expected outcome.

    Args:
        label: Description of the value, for reports.
        kind: Expected outcome.
        value: The value.
    """

    label: str
    kind: Kind
    value: Any


Made = list[tuple[str, Kind, Callable[[], Any]]]
_HUGE = 10**400
_NUMBERS: list[Any] = [
    np.nan, np.inf, -np.inf, 1e300, -1e300, 1.7e308, 1e-300, 5e-324, -5e-324, -1.0, -1, 0, 0.0, -0.0, 0.5, 2.5, 1, 2, 7,
    10**18, 2**31, 2**63, -(2**63), 2**64, _HUGE, -_HUGE, np.float32("nan"), np.float64("inf"), np.int64(-(2**63)),
    np.uint64(2**64 - 1), np.int8(-1), np.longdouble("1e400") if np.finfo(np.longdouble).max > 1e309 else np.inf,
    Fraction(1, 3), Decimal("0.1"), Decimal("NaN"), np.bool_(True), True, False,
]  # fmt: skip
_TEXTS: list[Any] = [
    "", "1", "1.0", "nan", "x", "\x00", "a\nb", "*/", "é\u2028", "x" * 10_000, b"1", np.str_("2"), "../..", "%s%n",
]  # fmt: skip
_COMPLEX: list[Any] = [1j, complex(1, 0), np.complex64(1), np.array([1 + 1j]), np.datetime64("2020-01-01")]
_ARRAYS: list[Callable[[], Any]] = [
    lambda: np.zeros(0), lambda: np.zeros((0, 2)), lambda: np.zeros((2, 0)), lambda: np.zeros((1, 1)),
    lambda: np.ones((2, 2)), lambda: np.ones(2), lambda: np.ones(3), lambda: np.array(3.0), lambda: np.array("a"),
    lambda: np.array([None]), lambda: np.ma.masked, lambda: np.zeros((2, 2, 2)), lambda: [[1.0], [1.0, 2.0]],
    lambda: [], lambda: (), lambda: [1], lambda: np.zeros(2, dtype=[("a", float)]), lambda: np.eye(50),
]  # fmt: skip
_ABSURD: list[Callable[[], Any]] = [
    lambda: object, object, dict, set, lambda: (lambda: 0), lambda: (i for i in range(2)), lambda: type(None),
    lambda: datetime.datetime(2020, 1, 1), lambda: {"a": 1}, lambda: NotImplemented, lambda: range(3), lambda: ...,
]  # fmt: skip


def hostile(value: Any, rng: np.random.Generator, others: list[Any]) -> Hostile:
    """Draw a hostile value in place of ``value``, which is valid.

    Args:
        value: The valid value.
        rng: Chooses.
        others: Objects to put where an object is expected.
    """
    makers = _makers(value, rng, others)
    label, kind, make = makers[int(rng.integers(len(makers)))]
    return Hostile(label, kind, make())


def _makers(value: Any, rng: np.random.Generator, others: list[Any]) -> Made:
    if isinstance(value, bool | np.bool_):
        return [("numpy bool", Kind.SAME, lambda: np.bool_(value)), *_foreign(rng)]
    if isinstance(value, int | np.integer):
        return _same_number(int(value)) + _pick(rng, _NUMBERS, 8, "number") + _foreign(rng)
    if isinstance(value, float | np.floating):
        return _same_number(float(value)) + _pick(rng, _NUMBERS, 8, "number") + _foreign(rng)
    if isinstance(value, str):
        return [("numpy text", Kind.SAME, lambda: np.str_(value)), *_foreign(rng)]
    if isinstance(value, torch.Tensor):
        return [(label, kind, partial(_tensor_of, make)) for label, kind, make in _arrays(_numpy(value), rng)]
    if isinstance(value, np.ndarray):
        return _arrays(value, rng) + _foreign(rng)
    if isinstance(value, list | tuple) and value:
        return _sequences(value, rng, others) + _foreign(rng)
    return _objects(rng, others)


def _same_number(value: float) -> Made:
    same: Made = [
        ("numpy float64", Kind.SAME, lambda: np.float64(value)),
        ("array of no axes", Kind.SAME, lambda: np.array(value)),
    ]
    if isinstance(value, int):
        same.append(("numpy int64", Kind.SAME, lambda: np.int64(value)))
        same.append(("numpy uint8", Kind.SAME, lambda: np.uint8(value)) if 0 <= value < 256 else same[0])
    elif float(np.float32(value)) == value:
        same.append(("numpy float32", Kind.SAME, lambda: np.float32(value)))
    return same


def _arrays(value: np.ndarray, rng: np.random.Generator) -> Made:
    real = value.dtype.kind == "f"

    def at_random(number: Any) -> Callable[[], Any]:
        def make() -> Any:
            changed = np.array(value, dtype=np.float64)
            if changed.size:
                changed.flat[int(rng.integers(changed.size))] = number
            return changed

        return make

    def strided() -> Any:
        wide = np.zeros((*value.shape, 2), dtype=value.dtype)
        wide[..., 0] = value
        return wide[..., 0]

    def frozen() -> Any:
        copied = value.copy()
        copied.setflags(write=False)
        return copied

    def bare(f: Callable[[np.ndarray], Any]) -> Callable[[], Any]:
        return lambda: f(np.array(value))

    spots = [np.nan, np.inf, -np.inf, 1e300, -1e300, 1.7e308, 5e-324, 0.0, -1.0]
    made: Made = [
        ("list", Kind.SAME, lambda: value.tolist()) if value.ndim else ("copy", Kind.SAME, lambda: value.copy()),
        ("strided", Kind.SAME, strided),
        ("Fortran order", Kind.SAME, lambda: np.asfortranarray(value)),
        ("read-only", Kind.SAME, frozen),
        ("other byte order", Kind.SAME, lambda: value.astype(value.dtype.newbyteorder())),
        ("long double", Kind.SAME, lambda: value.astype(np.longdouble) if real else value.copy()),
        ("masked, nothing hidden", Kind.SAME, lambda: np.ma.array(value)),
        ("objects", Kind.SAME, lambda: value.astype(object) if real else value.copy()),
        *((f"one {v}", Kind.VALUE, at_random(v)) for v in spots),
        *((f"all {v}", Kind.VALUE, lambda v=v: np.full(value.shape, v)) for v in spots),
        ("negative", Kind.VALUE, bare(lambda a: -1.0 * a)),
        ("times 1e300", Kind.VALUE, bare(lambda a: 1e300 * a)),
        ("times 1e-300", Kind.VALUE, bare(lambda a: 1e-300 * a)),
        ("float32", Kind.VALUE, bare(lambda a: a.astype(np.float32))),
        ("whole numbers", Kind.VALUE, bare(lambda a: np.nan_to_num(a, posinf=0, neginf=0).astype(np.int64))),
        ("complex", Kind.VALUE, bare(lambda a: a + 1j)),
        ("texts", Kind.VALUE, bare(lambda a: a.astype(str))),
        ("masked", Kind.VALUE, lambda: np.ma.array(value, mask=np.ones(value.shape, bool))),
        ("huge ints", Kind.VALUE, lambda: np.full(value.shape, _HUGE, dtype=object)),
        ("bools", Kind.VALUE, bare(lambda a: a > 0)),
        ("one axis more", Kind.VALUE, lambda: value[None]),
        ("one axis more behind", Kind.VALUE, lambda: value[..., None]),
        ("one axis less", Kind.VALUE, lambda: value[0] if value.ndim and len(value) else 1.0),
        ("transposed", Kind.VALUE, lambda: value.T),
        ("no rows", Kind.VALUE, lambda: value[:0] if value.ndim else np.zeros(0)),
        ("no columns", Kind.VALUE, lambda: value[..., :0] if value.ndim else np.zeros(0)),
        ("one row more", Kind.VALUE, lambda: np.concatenate([value, value[-1:]]) if value.ndim else np.zeros(2)),
        ("one row less", Kind.VALUE, lambda: value[:-1] if value.ndim else np.zeros(2)),
        ("one column more", Kind.VALUE, lambda: np.concatenate([value, value[..., -1:]], -1) if value.ndim else 1),
        ("reversed", Kind.VALUE, lambda: value[::-1] if value.ndim else value),
        ("one number", Kind.VALUE, lambda: 1.0),
    ]
    return made


def _sequences(value: list[Any] | tuple[Any, ...], rng: np.random.Generator, others: list[Any]) -> Made:
    kind, at = type(value), int(rng.integers(len(value)))
    inner = _makers(value[at], rng, others)
    label, expected, make = inner[int(rng.integers(len(inner)))]

    def one_changed() -> Any:
        changed = list(value)
        changed[at] = make()
        return kind(changed) if kind in (list, tuple) else changed

    within: Made = [(f"[{at}] {label}", expected, one_changed)]
    return [
        *within * 6,
        ("list", Kind.SAME, lambda: list(value)),
        ("tuple", Kind.SAME, lambda: tuple(value)),
        ("reversed", Kind.VALUE, lambda: kind(value[::-1]) if kind in (list, tuple) else value[::-1]),
        ("one less", Kind.VALUE, lambda: value[:-1]),
        ("one more", Kind.VALUE, lambda: [*value, copy.copy(value[-1])]),
        ("the same twice", Kind.VALUE, lambda: [value[0]] * len(value)),
        ("empty", Kind.VALUE, lambda: kind() if kind in (list, tuple) else ()),
        ("its first", Kind.VALUE, lambda: value[0]),
    ]


def _foreign(rng: np.random.Generator) -> Made:
    """Draw values of all types, whatever is expected."""
    return [
        *_pick(rng, _NUMBERS, 2, "number"),
        *_pick(rng, _TEXTS, 2, "text"),
        *_pick(rng, _COMPLEX, 1, "complex"),
        *((f"array {i}", Kind.VALUE, _ARRAYS[i]) for i in rng.integers(len(_ARRAYS), size=2)),
        ("None", Kind.VALUE, lambda: None),
        *((f"absurd {i}", Kind.ABSURD, _ABSURD[i]) for i in rng.integers(len(_ABSURD), size=1)),
    ]


def _objects(rng: np.random.Generator, others: list[Any]) -> Made:
    """Draw values in place of an object: of wrong types, which are absurd, and other objects of ours."""
    wrong = [(label, Kind.ABSURD, make) for label, _, make in _foreign(rng)]
    at = rng.integers(len(others), size=8)
    return wrong + [(f"another {type(others[i]).__name__}", Kind.ABSURD, partial(others.__getitem__, i)) for i in at]


def _pick(rng: np.random.Generator, values: list[Any], n: int, what: str) -> Made:
    chosen = [values[i] for i in rng.integers(len(values), size=n)]
    return [(f"{what} {_shown(v)}", Kind.VALUE, partial(_itself, v)) for v in chosen]


def _shown(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) > 2**65:
        return f"of {value.bit_length()} bits"
    return repr(value)[:30]


def _numpy(value: torch.Tensor) -> np.ndarray:
    return np.asarray(value.detach().numpy())


def _tensor_of(make: Callable[[], Any]) -> Any:
    value = make()
    try:
        return torch.as_tensor(np.ascontiguousarray(value))
    except (TypeError, ValueError, RuntimeError):
        return value


def _itself(value: Any) -> Any:
    return value
