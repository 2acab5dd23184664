"""Argument checks with one voice: what, got, expected, do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import DataError, SettingError, ShapeError

Array = NDArray[np.float64]


def as_array(name: str, value: Any, shape: Sequence[int | str], *, hint: str = "", finite: bool = True) -> Array:
    """Return ``value`` as a float64 array after checking its shape and that it is finite.

    Args:
        name: Name of the argument, for the message.
        value: Anything that numpy turns into an array of numbers.
        shape: Expected shape; an int is a required length, a string names a free one, e.g. ``("T", 2)``.
        hint: What the caller should look at when the shape is wrong.
        finite: Whether NaN and infinity are refused.

    Raises:
        ShapeError: The number of axes or a required length differs.
        DataError: The values are not numbers, or not finite.
    """
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} must be an array of numbers, got {type(value).__name__}: {error}") from error
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


def read_only(array: Any) -> Array:
    """Return a contiguous float64 copy that cannot be written to."""
    copy = np.array(array, dtype=np.float64, order="C")
    copy.setflags(write=False)
    return copy


def positive(name: str, value: float, *, what: str = "a positive number", zero: bool = False) -> float:
    """Return ``value`` as float after checking that it is finite and > 0 (or >= 0)."""
    try:
        number = float(value)
    except (TypeError, ValueError) as error:
        raise SettingError(f"{name} must be {what}, got {value!r}") from error
    if not np.isfinite(number) or number < 0 or (number == 0 and not zero):
        raise SettingError(f"{name} must be {what}, got {value!r}")
    return number


def count(name: str, value: int, *, least: int = 1) -> int:
    """Return ``value`` as int after checking that it is a whole number >= ``least``."""
    try:
        number = int(value)
    except (TypeError, ValueError, OverflowError):  # not a number, NaN, infinity
        number = least - 1
    if isinstance(value, bool) or number != value or number < least:
        raise SettingError(f"{name} must be a whole number >= {least}, got {value!r}")
    return number


def scales(name: str, value: Any, n: int) -> Array:
    """Return ``value``, a positive number for all channels or one for each, as an array (n,)."""
    array = as_array(name, np.full(n, value) if np.ndim(value) == 0 else value, (n,), hint="one number per channel")
    if not (array > 0).all():
        raise SettingError(f"{name} must be positive in every channel, got {array}")
    return array


class Choice(StrEnum):
    """A setting with a few named values; an unknown name is refused by a message that lists them."""

    @classmethod
    def _missing_(cls, value: object) -> NoReturn:
        name = re.sub("(?<!^)(?=[A-Z])", "_", cls.__name__).lower()
        raise SettingError(f"{name} must be one of {', '.join(repr(str(k)) for k in cls)}, got {value!r}")
