"""Scratch memory that is used again: fresh memory of some megabytes costs more than the simulation that fills it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

_MOST = 2**28  # bytes that wait to be used again
_LINE = 64
_waiting: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)
_held = [0]  # their bytes; threads may make it drift by a few rooms, which does not matter


class Room:
    """An uninitialised flat array that starts at a cache line, with a line in front that may be read.

    Its memory goes to the next room of about this size when the object is no more, so nothing else may keep `array`.

    Args:
        size: Numbers it must hold.
        dtype: Their type.
    """

    __slots__ = ("_memory", "array")

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        needed = size * dtype.itemsize
        step = 1 << max(needed.bit_length() - 4, 6)  # at most an eighth more than needed
        rounded = -(-needed // step) * step
        try:
            self._memory = _waiting[rounded].pop()
            _held[0] -= rounded
        except IndexError:
            whole = np.empty(rounded + 2 * _LINE, np.uint8)
            skip = _LINE + -whole.ctypes.data % _LINE
            self._memory = whole[skip : skip + rounded]
        self.array: NDArray[Any] = self._memory[:needed].view(dtype)

    def __del__(self) -> None:
        size = self._memory.size
        if _held[0] + size <= _MOST:
            _held[0] += size
            _waiting[size].append(self._memory)
