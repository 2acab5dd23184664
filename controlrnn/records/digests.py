"""Digests: SHA-256 over arrays and JSON values, the same on every machine."""

from __future__ import annotations

import hashlib
import json
import numbers
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import DataError


def digest(arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> str:
    """SHA-256 over names, shapes and values of ``arrays`` and over ``meta``: equal values give equal digests.

    Memory layout, byte order and precision do not count, nor which zero (0, -0) or which NaN it is; in ``meta``, 1 and
    1.0 and numpy's numbers are one number.

    Raises:
        DataError: An array holds neither numbers nor truth values nor text.
    """
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = canonical(name, arrays[name])
        sha.update(f"{name}|{array.dtype.str}|{array.shape}|".encode())
        sha.update(array.tobytes())
    sha.update(json.dumps(_canonical_json(meta), sort_keys=True).encode())
    return sha.hexdigest()


def canonical(name: str, array: NDArray[Any]) -> NDArray[Any]:
    """Convert an array to the form that digests cover: C order, little endian, 64 bits, one zero, one NaN.

    Args:
        name: Name of the array, for the message.
        array: Numbers, truth values or text.

    Raises:
        DataError: It holds something else.
    """
    array = np.asarray(array)
    stored = {"b": "|b1", "i": "<i8", "u": "<u8", "f": "<f8", "U": f"<U{array.dtype.itemsize // 4}"}
    if array.dtype.kind not in stored or (array.dtype.kind == "f" and array.dtype.itemsize > 8):
        raise DataError(f"{name} must hold float64, integers, truth values or text, got {array.dtype}: convert it")
    fixed = np.array(array, dtype=stored[array.dtype.kind], order="C")
    if array.dtype.kind == "f":
        fixed[fixed == 0] = 0.0  # -0 as well
        fixed[np.isnan(fixed)] = np.nan  # one bit pattern of many
    return fixed


def _canonical_json(value: Any) -> Any:
    """Convert a JSON value to plain containers and one representation for every number."""
    if isinstance(value, Mapping):
        return {key: _canonical_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_canonical_json(inner) for inner in value]
    if isinstance(value, bool | np.bool_):
        return bool(value)
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return int(number) if number.is_integer() and abs(number) < 2**53 else number
    return value
