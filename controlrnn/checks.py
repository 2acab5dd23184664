"""Argument checks, with one form of message: what is wrong, what was got, what was expected, what to do.

Numbers of any library are accepted and returned as Python's ``int`` and ``float`` or as float64 arrays, so that results
can be digested and saved. Text, complex numbers and masked values are not numbers.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import EnumType, StrEnum
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import DataError, SettingError, ShapeError

Array = NDArray[np.float64]
MOST = 100_000_000  # largest count of anything; more is a typing error, and a loop that would not end
LARGEST = 20_000  # largest side of a matrix
_SEEDS = 2**63  # numpy and torch both accept seeds below this


def as_array(name: str, value: Any, shape: Sequence[int | str], *, hint: str = "", finite: bool = True) -> Array:
    """Return ``value`` as a float64 array after checking its shape and that it is finite.

    Args:
        name: Name of the argument, for the message.
        value: Anything that numpy turns into an array of real numbers.
        shape: Expected shape; an int is a required length, a string names a free one, e.g. ``("T", 2)``.
        hint: Advice for the message when the shape is wrong.
        finite: Whether NaN and infinity are refused.

    Raises:
        ShapeError: The number of axes or a required length differs.
        DataError: The values are not real numbers, or not finite.
    """
    array = numbers(name, value)
    free = any(isinstance(n, str) for n in shape)
    fits = array.ndim == len(shape) and all(
        isinstance(n, str) or n == m for n, m in zip(shape, array.shape, strict=True)
    )
    if not fits:
        expected = "(" + ", ".join(str(n) for n in shape) + ("," if len(shape) == 1 else "") + ")"
        do = hint or (f"use {name}[:, None] for a single channel" if free and array.ndim == 1 else "check its axes")
        raise ShapeError(f"{name} must have shape {expected}, got {array.shape}: {do}")
    if finite and not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        bad = int((~np.isfinite(array)).sum())
        raise DataError(
            f"{name} must be finite, got {bad} NaN or infinite values, the first at {where}: clean the data"
        )
    return array


def numbers(name: str, value: Any) -> Array:
    """Return ``value`` as a float64 array of any shape, NaN and infinity included.

    Raises:
        DataError: It holds text, complex numbers, masked values, or nothing that numpy could make an array of.
    """
    if type(value) is np.ndarray and value.dtype == np.float64:  # the common case, without a copy
        # A reversed view is copied: torch takes none.
        return value if value.flags.c_contiguous or min(value.strides) >= 0 else value.copy()
    if value is None:
        raise DataError(f"{name} must be an array of numbers, got None")
    if isinstance(value, np.ma.MaskedArray):
        if np.ma.getmaskarray(value).any():
            raise DataError(f"{name} must be an array of numbers, got masked values: fill them, e.g. with NaN")
        value = value.data
    try:
        array = np.asarray(value)
        if array.dtype.kind == "O" and not any(isinstance(v, str | bytes | complex) for v in array.flat):
            array = np.asarray(array, dtype=np.float64)  # None is NaN
        if array.dtype.kind in "biuf":  # truth values, integers, floats
            with np.errstate(over="ignore"):  # longdouble beyond the range of float64 is infinite
                return np.asarray(array, dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError) as error:  # RuntimeError: tensors with a gradient
        raise DataError(f"{name} must be an array of numbers, got {type(value).__name__}: {error}") from error
    raise DataError(
        f"{name} must be an array of numbers, got {type(value).__name__} of {array.dtype}: convert it to real numbers"
    )


def read_only(array: Any) -> Array:
    """Return a contiguous float64 copy that cannot be written to."""
    copy = np.array(numbers("the array", array), dtype=np.float64, order="C")
    copy.setflags(write=False)
    return copy


def number(
    name: str,
    value: Any,
    *,
    least: float = -math.inf,
    most: float = math.inf,
    above: float = -math.inf,
    below: float = math.inf,
    what: str = "a finite number",
    infinite: bool = False,
) -> float:
    """Return ``value`` as float after checking its range.

    Args:
        name: Name of the argument, for the message.
        value: A real number of any library, an array of no axes included.
        least: Smallest allowed value.
        most: Largest allowed value.
        above: The value has to be larger.
        below: The value has to be smaller.
        what: Expected value in words, for the message.
        infinite: Whether infinity is allowed.

    Raises:
        SettingError: It is no number, NaN, infinite, or out of range.
    """
    real = _real(value)
    if (
        real is None
        or math.isnan(real)
        or not (infinite or math.isfinite(real))
        or not (least <= real <= most and (real > above or above == -math.inf) and (real < below or below == math.inf))
    ):
        raise SettingError(f"{name} must be {what}, got {shown(value)}")
    return real


def positive(name: str, value: Any, *, what: str = "a positive number", zero: bool = False) -> float:
    """Return ``value`` as float after checking that it is finite and > 0 (or >= 0)."""
    return number(name, value, what=what, least=0) if zero else number(name, value, what=what, above=0)


def share(name: str, value: Any, *, what: str = "") -> float:
    """Return ``value`` as float after checking that it lies in [0, 1]."""
    return number(name, value, least=0, most=1, what=what or "a number in [0, 1]")


def count(name: str, value: Any, *, least: int = 1, most: int = MOST) -> int:
    """Return ``value`` as int after checking that it is a whole number from ``least`` to ``most``."""
    real = None if isinstance(value, int) else _real(value)
    try:
        whole = int(operator.index(value)) if real is None else int(real)
    except (TypeError, ValueError, OverflowError):  # not a number, NaN, infinity
        whole, real = least - 1, None
    if isinstance(value, bool | np.bool_) or whole < least or (real is not None and whole != real):
        raise SettingError(f"{name} must be a whole number >= {least}, got {shown(value)}")
    if whole > most:
        raise SettingError(f"{name} must be a whole number >= {least} and at most {most}, got {shown(value)}")
    return whole


def size(name: str, value: Any, *, least: int = 1) -> int:
    """Return ``value`` as int after checking that it may be the side of a matrix, e.g. a number of states."""
    return count(name, value, least=least, most=LARGEST)


def checked_seed(value: Any, name: str = "seed") -> int:
    """Return ``value`` as int after checking that every random generator takes it: a whole number in [0, 2^63)."""
    return count(name, value, least=0, most=_SEEDS - 1)


def flag(name: str, value: Any) -> bool:
    """Return ``value`` as bool after checking that it is true or false."""
    if not isinstance(value, bool | np.bool_):
        raise SettingError(f"{name} must be True or False, got {shown(value)}")
    return bool(value)


def text(name: str, value: Any, *, most: int | None = None) -> str:
    """Return ``value`` as str after checking that it is text, of at most ``most`` characters."""
    if not isinstance(value, str):
        raise SettingError(f"{name} must be text, got {shown(value)}")
    if most is not None and len(value) > most:
        raise SettingError(f"{name} must be a text of at most {most} characters, got {len(value)}: shorten it")
    return str(value)


def texts(name: str, value: Any) -> dict[str, str]:
    """Return ``value`` as a dict after checking that its keys and values are texts."""
    if not isinstance(value, Mapping):
        raise SettingError(f"{name} must be a dict of texts, got {shown(value)}")
    return {text(f"a name in {name}", k): text(f"{name}[{k!r}]", v) for k, v in value.items()}


def items(name: str, value: Any, kind: type | tuple[type, ...], *, least: int = 0) -> tuple[Any, ...]:
    """Return ``value`` as a tuple after checking that it holds at least ``least`` items, all of type ``kind``.

    Raises:
        SettingError: It is no sequence, too short, or holds something else.
    """
    kinds = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
    axes = value.ndim if isinstance(value, np.ndarray | np.generic) else 1
    if isinstance(value, str | bytes) or not isinstance(value, Iterable) or not axes:
        raise SettingError(f"{name} must be a sequence of {kinds}, got {shown(value)}")
    found = tuple(value)
    other = [v for v in found if not isinstance(v, kind)]
    if other or len(found) < least:
        got = f"a {type(other[0]).__name__} among them" if other else f"{len(found)}"
        raise SettingError(f"{name} must hold at least {least} of {kinds}, got {got}")
    return found


def scales(name: str, value: Any, n: int) -> Array:
    """Return ``value``, a positive number for all channels or one for each, as an array (n,)."""
    array = channels(name, value, n)
    if not (array > 0).all():
        raise SettingError(f"{name} must be positive in every channel, got {array}")
    return array


def channels(name: str, value: Any, n: int, *, finite: bool = True) -> Array:
    """Return ``value``, a number for all channels or one for each, as an array (n,)."""
    array = numbers(name, value)
    return as_array(name, np.full(n, array) if array.ndim == 0 else array, (n,), hint="one per channel", finite=finite)


def per_channel(name: str, value: Any, n: int) -> Array:
    """Return ``value`` >= 0, a number for all channels or one for each, as a read-only array (n,)."""
    array = channels(name, value, n)
    if (array < 0).any():
        raise SettingError(f"{name} must be >= 0 in every channel, got {array}")
    return read_only(array)


def nonnegative(name: str, value: Any, shape: Sequence[int | str], *, hint: str = "") -> Array:
    """Return ``value`` as a read-only float64 array of that shape after checking that it is finite and >= 0."""
    array = as_array(name, value, shape, hint=hint)
    if (array < 0).any():
        raise SettingError(f"{name} must be >= 0, got negative entries")
    return read_only(array)


def rows(name: str, value: Any, n: int, *, hint: str = "check its columns") -> Array:
    """Return ``value`` as an array (..., n) with any leading axes; NaN passes, `evaluated` finds it in the result."""
    array = numbers(name, value)
    if array.ndim < 1 or array.shape[-1] != n:
        raise ShapeError(f"{name} must have shape (..., {n}), got {array.shape}: {hint}")
    return array


def evaluated(function: Callable[..., Any], *arguments: Any, **named: Array) -> Array:
    """Call ``function`` on ``arguments`` and on the arrays ``named`` (..., n), and check that the result is finite.

    The leading axes of the arrays must broadcast. A value of the result that is not finite comes from one in an
    argument, or from numbers beyond float64; checking the result is cheaper than checking every argument.

    Raises:
        ShapeError: The leading axes do not broadcast.
        DataError: An argument, or the result, is not finite.
    """
    arrays = tuple(named.values())
    if any(a.ndim > 1 for a in arrays):
        try:
            np.broadcast_shapes(*(a.shape[:-1] for a in arrays))
        except ValueError:
            got = ", ".join(f"{n} {a.shape}" for n, a in named.items())
            raise ShapeError(f"the leading axes of {', '.join(named)} must broadcast, got {got}") from None
    with np.errstate(over="ignore", invalid="ignore"):
        result = np.asarray(function(*arguments, *arrays))
    if not np.isfinite(result).all():
        for name, array in named.items():
            as_array(name, array, ["n"] * array.ndim)
        raise DataError(f"{', '.join(named)} lead to numbers beyond the range of float64: check their units")
    return result


def _has_factor(matrix: Array) -> bool:
    try:
        np.linalg.cholesky(matrix)
    except np.linalg.LinAlgError:
        return False
    return True


def definite(name: str, value: Any, n: int | str = "n", *, has_factor: Callable[[Array], bool] = _has_factor) -> Array:
    """Return ``value`` as a read-only symmetric positive definite matrix (n, n).

    Args:
        name: Name of the argument, for the message.
        value: Anything that numpy turns into an array of real numbers.
        n: Number of rows, or its name in the message.
        has_factor: Whether a symmetric matrix has a Cholesky factor; numpy's wakes threads, and control steps must not.

    Raises:
        ShapeError, DataError: It is not such a matrix of finite numbers.
        SettingError: It is not symmetric, or not positive definite.
    """
    matrix = as_array(name, value, (n, n))
    if matrix.shape[0] != matrix.shape[1]:
        raise ShapeError(f"{name} must be square, got {matrix.shape}")
    # |M_ij| <= sqrt(M_ii M_jj) for a definite matrix, so this scale judges each entry in its channels' own units.
    size = np.sqrt(np.abs(matrix.diagonal()))
    if (np.abs(matrix - matrix.T) > 1e-9 * np.outer(size, size)).any():
        raise SettingError(f"{name} must be symmetric, got a matrix that is not: use (M + M.T) / 2")
    if not has_factor(matrix):
        raise SettingError(f"{name} must be positive definite, got a matrix that is not")
    return read_only(matrix)


def put(instance: object, **values: Any) -> None:
    """Set fields of a frozen dataclass, for a ``__post_init__`` that stores what it has checked."""
    for name, value in values.items():
        object.__setattr__(instance, name, value)


def _real(value: Any) -> float | None:
    """Return ``value`` as float; None where it is not a real number."""
    if isinstance(value, float | int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return math.inf if value > 0 else -math.inf
    if isinstance(value, np.ma.MaskedArray) or not hasattr(type(value), "__float__"):
        return None
    if isinstance(value, np.ndarray | np.generic) and (value.ndim or value.dtype.kind not in "iuf"):
        return None
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        return None


def shown(value: Any) -> str:
    """Text that shows ``value`` in a message: in full where that is short, else its type and shape."""
    try:
        said = repr(value)
    except ValueError:  # an int of more digits than Python prints
        return f"an int of {value.bit_length()} bits"
    if len(said) <= 60 and "\n" not in said:
        return said
    shape = getattr(value, "shape", None)
    return f"{type(value).__name__}" + ("" if shape is None else f" of shape {tuple(shape)}")


class _ChoiceType(EnumType):
    """Metaclass of `Choice` that accepts only text as a name, never an object that merely compares equal to one."""

    def __call__(cls, value: Any, *more: Any, **options: Any) -> Any:
        if cls.__members__ and not isinstance(value, str):
            return cls._missing_(value)  # type: ignore[attr-defined]  # raises
        return super().__call__(value, *more, **options)


class Choice(StrEnum, metaclass=_ChoiceType):
    """Base class of settings with a few named values; an unknown name raises an error that lists them."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        name = re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).lower()  # the class's name as an argument is spelt
        raise SettingError(f"{name} must be one of {', '.join(repr(str(k)) for k in cls)}, got {shown(value)}")
