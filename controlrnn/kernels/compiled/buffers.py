"""Scratch memory that is reused: fresh memory of some megabytes costs more than the simulation that fills it."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

MOST = 2**28  # most bytes that wait to be reused
_LINE = 64  # bytes of a cache line
waiting: defaultdict[int, list[NDArray[np.uint8]]] = defaultdict(list)  # by size in bytes
held = [0]  # bytes that wait; threads may make it drift by a few buffers, which does not matter


class Buffer:
    """Uninitialised flat array, reused memory, that starts at a cache line with a readable line in front.

    When the object is deleted its memory goes to the next buffer of about this size, so nothing else may keep `array`.

    Args:
        size: Number of elements.
        dtype: Their type.
    """

    __slots__ = ("_memory", "array")

    def __init__(self, size: int, dtype: np.dtype[Any]) -> None:
        needed = size * dtype.itemsize
        step = 1 << max(needed.bit_length() - 4, 6)  # at most an eighth more than needed
        rounded = -(-needed // step) * step
        try:
            self._memory = waiting[rounded].pop()
            held[0] -= rounded
        except IndexError:
            whole = np.empty(rounded + 2 * _LINE, np.uint8)
            skip = _LINE + -whole.ctypes.data % _LINE
            self._memory = whole[skip : skip + rounded]
        self.array: NDArray[Any] = self._memory[:needed].view(dtype)

    def __del__(self) -> None:
        size = self._memory.size
        if held[0] + size <= MOST:
            held[0] += size
            waiting[size].append(self._memory)
