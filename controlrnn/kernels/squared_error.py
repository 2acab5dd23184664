"""Mean squared error and its gradient in one compiled call, with memory that calls of the same sizes use again.

For a small network the time between compiled calls is longer than that within.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from controlrnn.kernels._engine import Blank, Floats, Packed, Sizes, groups_of, groups_of_task, scratch, usable
from controlrnn.kernels.compiled import runs
from controlrnn.kernels.compiled import squared_error as compiled
from controlrnn.kernels.compiled.buffers import Buffer
from controlrnn.kernels.compiled.scan import PAD

# Memory is kept for the last kinds of calls, for some threads each; where it takes more bytes than this, a call takes
# so long that making it anew does not count.
_KINDS, _THREADS, _BYTES = 32, 4, 2**20


class Kind(NamedTuple):
    """What calls have in common that use the same memory."""

    sizes: Sizes
    dtype: np.dtype[Any]
    line: int
    records: int
    steps: int
    wanted: tuple[bool, ...]
    feedforward: bool


class Work:
    """Memory of a call of one kind, with all that does not depend on its numbers."""

    def __init__(self, kind: Kind) -> None:
        sizes, dtype, line, records, steps, wanted, feedforward = kind
        nz, nr, nx, ny = sizes.nz, sizes.nr, sizes.nx, sizes.ny
        groups = groups_of(records, line)
        lanes, each = groups.step > 1, groups_of_task(len(groups))
        self.loop = compiled.by_lanes if lanes else compiled.by_rows
        self.x0 = np.empty((records, 1, nx), dtype)
        shapes = (records, steps, ny), (records, steps, ny), (records, 0, nx), (records, steps, 0), (records, nx)
        flat = [Buffer(scratch(steps, n, line, by_lanes=lanes), dtype) for n in (nz, nr)]
        sums = np.empty((-(-len(groups) // each), nr + PAD, nz + line), dtype)
        self.scratch = (self.x0, *(np.empty(s, dtype) for s in shapes), *(b.array for b in flat), sums)
        blanks = [Blank(sizes, n, dtype, by_lanes=lanes, adjoint=back) for n, back in ((ny, False), (0, True))]
        self.packs = [(b.M, b.template, b.panels, b.ends if lanes else b.P) for b in blanks]
        self._kept = flat, blanks  # their memory goes back when this object is deleted
        self.tables = sizes.table, sizes.ends, sizes.need(wanted, feedforward)
        self.numbers = nx, sizes.nv, line, each * groups.step
        self.bytes = sum(a.nbytes for a in (*self.scratch, *self.packs[0], *self.packs[1]))

    def __call__(self, packed: Packed, data: tuple[Floats, Floats, int], targets: Sequence[int]) -> float:
        """Mean squared error; gradients are written to the addresses."""
        law, layout = (packed.code, packed.laws), (packed.addresses, np.array(targets, np.int64), *self.tables)
        value: float = self.loop(*self.packs, law, data, self.scratch, layout, self.numbers)
        return value


idle: dict[Kind, list[Work]] = {}


def squared_error(
    packed: Packed,
    data: tuple[Floats, Floats, int],
    x0: Floats | None,
    want: tuple[tuple[bool, ...], bool],
    targets: Sequence[int],
) -> float:
    """Mean squared error of free runs; its gradients are written to the targets.

    Args:
        packed: The system.
        data: Inputs (B, T, nu), measurements (B, T, ny) with NaN where missing, number of samples that do not count.
        x0: Initial states (B, nx), zero for None.
        want: For each of `MATRICES`, whether its gradient is wanted; whether of a feedforward network's entries only.
        targets: Addresses for the gradients of `MATRICES`, 0 where none is wanted.
    """
    (u, y, washout), dtype = data, packed.dtype
    records, steps = u.shape[:2]
    u, y = usable(u, dtype), usable(y, dtype)
    if len(groups_of(records, packed.line)) > 1 and packed.sizes.threads(records * steps) > 1:
        run = packed.run(u, x0, keep=True)
        n, gy = runs.scored(y, washout), np.empty_like(run.y)
        total = runs.errors(run.y, y, 0, records, washout, n, gy, 0.0)
        _, _, sums = run.pullback(gy, None, with_input=False, wanted=want[0], feedforward=want[1])
        run.unpack(sums, targets)
        return float(total / max(n, 1))
    kind = Kind(packed.sizes, dtype, packed.line, records, steps, *want)
    work = _taken(kind) or Work(kind)
    work.x0[:, 0] = 0 if x0 is None else x0
    value = work(packed, (u, y, washout), targets)
    if work.bytes <= _BYTES:
        _keep(kind, work)
    return value


def _taken(kind: Kind) -> Work | None:
    """Memory that waits for a call of this kind, which no other thread gets; None if there is none."""
    try:
        return idle[kind].pop()
    except (KeyError, IndexError):
        return None


def _keep(kind: Kind, work: Work) -> None:
    """Let memory wait for the next call; its kind is forgotten last. Threads may lose some, and share none."""
    waiting = idle.pop(kind, [])
    if len(waiting) < _THREADS:
        waiting.append(work)
    idle[kind] = waiting
    while len(idle) > _KINDS:
        try:
            idle.pop(next(iter(idle)), None)
        except (StopIteration, RuntimeError):  # another thread was faster
            return
