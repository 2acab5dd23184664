"""Scratch memory that is used again."""

from __future__ import annotations

import numpy as np
import pytest

from controlrnn.kernels.compiled import buffers
from controlrnn.kernels.compiled.buffers import Buffer


@pytest.fixture(autouse=True)
def nothing_waits(monkeypatch):
    monkeypatch.setattr(buffers, "waiting", type(buffers.waiting)(list))
    monkeypatch.setattr(buffers, "held", [0])


@pytest.mark.parametrize("size", [0, 1, 100, 12345])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_a_buffer_has_its_size_and_starts_at_a_cache_line(size, kind):
    buffer = Buffer(size, np.dtype(kind))
    assert buffer.array.shape == (size,)
    assert buffer.array.dtype == kind
    assert size == 0 or buffer.array.ctypes.data % 64 == 0
    buffer.array[:] = 1.0


def test_memory_is_used_again_but_never_by_two_at_once():
    first, second = Buffer(1000, np.dtype(np.float32)), Buffer(1000, np.dtype(np.float32))
    place = first.array.ctypes.data
    assert second.array.ctypes.data != place
    del first
    third = Buffer(990, np.dtype(np.float32))
    assert third.array.ctypes.data == place
    assert not np.shares_memory(second.array, third.array)


def test_what_waits_is_limited(monkeypatch):
    monkeypatch.setattr(buffers, "MOST", 10_000)
    made = [Buffer(1000, np.dtype(np.float64)) for _ in range(5)]
    made.clear()
    assert 0 < sum(len(memory) for memories in buffers.waiting.values() for memory in memories) <= 10_000
