"""Scratch memory that is used again."""

from __future__ import annotations

import numpy as np
import pytest

from controlrnn.kernels import _rooms
from controlrnn.kernels._rooms import Room


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch):
    monkeypatch.setattr(_rooms, "_waiting", type(_rooms._waiting)(list))
    monkeypatch.setattr(_rooms, "_held", [0])


@pytest.mark.parametrize("size", [0, 1, 100, 12345])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_room_has_its_size_and_starts_at_a_cache_line(size, kind):
    room = Room(size, np.dtype(kind))
    assert room.array.shape == (size,)
    assert room.array.dtype == kind
    assert size == 0 or room.array.ctypes.data % 64 == 0
    room.array[:] = 1.0


def test_memory_is_used_again_but_never_by_two_at_once():
    first, second = Room(1000, np.dtype(np.float32)), Room(1000, np.dtype(np.float32))
    place = first.array.ctypes.data
    assert second.array.ctypes.data != place
    del first
    third = Room(990, np.dtype(np.float32))
    assert third.array.ctypes.data == place
    assert not np.shares_memory(second.array, third.array)


def test_what_waits_is_limited(monkeypatch):
    monkeypatch.setattr(_rooms, "_MOST", 10_000)
    rooms = [Room(1000, np.dtype(np.float64)) for _ in range(5)]
    rooms.clear()
    assert 0 < sum(len(memory) for waiting in _rooms._waiting.values() for memory in waiting) <= 10_000
