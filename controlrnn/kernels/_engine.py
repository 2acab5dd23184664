"""A Lur'e system packed for the compiled loops, its runs, and the pullbacks of its runs; numpy only.

What the packed form is and why the adjoint has it too: see `controlrnn.kernels._numba_scan`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.kernels import _numba_scan as loops
from controlrnn.kernels._numba_simd import line_length
from controlrnn.kernels._threads import run, thread_limit
from controlrnn.systems import MATRICES, Activation
from controlrnn.systems.activations import LEAK

Floats = NDArray[Any]  # float32 or float64

_CODES = {
    Activation.TANH: loops.TANH,
    Activation.RELU: loops.RELU,
    Activation.SIGMOID: loops.SIGMOID,
    Activation.LEAKY_RELU: loops.LEAKY_RELU,
}
_PANEL = 8  # rows of a panel where records fill the lines
_PAD = 16  # rows or numbers that a loop may read, never use, beyond the end
_BLOCK = 256  # samples that a run without a pullback keeps at a time
_TASKS = 32  # at most twice as many tasks, whatever the number of records: each sums a matrix gradient of its own
_WORTH_THREADS = 500_000  # multiplications below which a second thread costs more than it saves


@dataclass(frozen=True, eq=False)
class Direction:
    """One matrix of a system or of its adjoint, in the two arrangements that the loops want."""

    M: Floats
    layers: tuple[int, ...]
    before: int  # columns in front of the neurons
    line: int

    @cached_property
    def lanes(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """(matrix, panels, ends) for `scan_lanes`."""
        panels, ends = self._tight(_PANEL, _PANEL)
        return self.M, panels, ends

    @cached_property
    def rows(self) -> tuple[Floats, NDArray[np.int64], NDArray[np.int64]]:
        """(matrix, panels, ends) for `scan_rows`."""
        panels, ends = self._tight(self.line, 4 * self.line)
        widest = panels[:, 1].max()
        width = self.line * (1 if widest <= self.line else 2 if widest <= 2 * self.line else 4)
        P = np.zeros((len(panels), self.M.shape[1], width), self.M.dtype)
        loops.side_by_side(self.M, panels, P)
        return P, panels, ends

    def _tight(self, width: int, widest: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        panels, ends = _panels(self.layers, self.before, len(self.M) - _PAD, self.M.shape[1], width)
        panels = panels.copy()
        return panels[: loops.shrink(self.M, panels, sum(self.layers), width, widest)], ends


@lru_cache(maxsize=256)
def _panels(
    layers: tuple[int, ...], before: int, n_rows: int, n_columns: int, width: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(row0, rows, 0, high, kind) of each panel, and for each row the first column that it must not see."""
    ends: list[int] = []
    for n in layers:
        ends += [before + len(ends)] * n
    nv = len(ends)
    starts, filled = [0], 0
    for n in layers:
        # Small layers share a panel, whose rows then wait for each other; others start a new one.
        if filled and (n >= width // 2 or filled + n > width):
            starts.append(starts[-1] + filled)
            filled = 0
        while filled + n > width:
            starts.append(starts[-1] + width)
            n -= width
        filled += n
    starts = [s for s in starts if s < nv] + list(range(nv, n_rows, width)) + [n_rows]
    ends += [n_columns] * (n_rows - nv)
    panels = []
    for a, b in pairwise(starts):
        chained = ends[b - 1] > ends[a]
        kind = loops.CHAINED if chained else loops.PRODUCT
        panels.append((a, b - a, 0, before + a if chained else ends[a], kind))
    return np.array(panels, np.int64).reshape(-1, 5), np.array(ends, np.int64)


@dataclass(frozen=True)
class Sizes:
    """Where everything stands in the packed matrix M (nr, nz) of a system; one object for all systems of that size."""

    nx: int
    nu: int
    ny: int
    layers: tuple[int, ...]

    @cached_property
    def nv(self) -> int:
        return sum(self.layers)

    @cached_property
    def nr(self) -> int:
        return self.nv + self.nx + self.ny

    @cached_property
    def nz(self) -> int:
        return 1 + self.nu + self.nx + self.nv

    @cached_property
    def places(self) -> dict[str, tuple[slice, slice]]:
        """(rows, columns) of each matrix."""
        nu, nx, nv = self.nu, self.nx, self.nv
        row = {"v": slice(0, nv), "x": slice(nv, nv + nx), "y": slice(nv + nx, self.nr)}
        column = {
            "1": slice(0, 1),
            "u": slice(1, 1 + nu),
            "x": slice(1 + nu, 1 + nu + nx),
            "w": slice(1 + nu + nx, self.nz),
        }
        return {name: (row[to], column[of]) for name, (to, of) in _MAPS.items()}

    @cached_property
    def below(self) -> NDArray[np.bool_]:
        """The entries of D11 that take part in the model: those below its block diagonal."""
        layer = np.repeat(np.arange(len(self.layers)), self.layers)
        return np.asarray(layer[:, None] > layer[None, :])

    @lru_cache(maxsize=64)  # noqa: B019  (the objects are few and live in a cache of their own)
    def need(self, matrices: tuple[str, ...]) -> NDArray[np.int64]:
        """For each row of the flipped M the range of columns that covers the gradients of these matrices."""
        need = np.zeros((self.nr, 2), np.int64)
        for name in matrices:
            rows, columns = self.places[name]
            part = need[rows]
            empty = part[:, 1] == part[:, 0]
            part[:, 0] = np.where(empty, columns.start, np.minimum(part[:, 0], columns.start))
            part[:, 1] = np.maximum(part[:, 1], columns.stop)
        return np.ascontiguousarray(need[::-1])


# Each matrix maps one part of [1, u, x, w] to one part of [v, x+, y].
_MAPS = {
    "A": ("x", "x"), "B1": ("x", "w"), "B2": ("x", "u"), "bx": ("x", "1"),
    "C1": ("v", "x"), "D11": ("v", "w"), "D12": ("v", "u"), "bv": ("v", "1"),
    "C2": ("y", "x"), "D21": ("y", "w"), "D22": ("y", "u"), "by": ("y", "1"),
}  # fmt: skip
_sizes = lru_cache(maxsize=256)(Sizes)


class Packed:
    """A system ready to run.

    Args:
        matrices: The arrays named in `MATRICES`, all float32 or all float64.
        activation: The function s.
        layers: Sizes of the layers.
    """

    def __init__(self, matrices: Sequence[Floats], activation: Activation, layers: tuple[int, ...]) -> None:
        A, B2, by = matrices[0], matrices[2], matrices[-1]
        self.sizes = sizes = _sizes(B2.shape[0], B2.shape[1], len(by), layers)
        self.dtype = A.dtype
        self.code, self.leak = _CODES[activation], A.dtype.type(LEAK)
        self.line = line_length(A.dtype.itemsize)
        M = np.zeros((sizes.nr + _PAD, sizes.nz), A.dtype)
        for name, value in zip(MATRICES, matrices, strict=True):
            if name != "D11":
                M[sizes.places[name]] = value if value.ndim == 2 else value[:, None]
            elif len(layers) > 1:
                np.copyto(M[sizes.places[name]], value, where=sizes.below)
        self.forward = Direction(M, layers, sizes.nz - sizes.nv, self.line)

    def adjoint(self, with_input: bool) -> Direction:
        """The flipped transpose; its outputs are the input gradients, left out where nobody wants them."""
        sizes = self.sizes
        n = sizes.nv + sizes.nx + (sizes.nu if with_input else 0)
        M = np.zeros((n + _PAD, sizes.nr), self.dtype)
        M[:n] = self.forward.M[: sizes.nr].T[::-1, ::-1][:n]
        return Direction(M, sizes.layers[::-1], sizes.ny + sizes.nx, self.line)

    def run(self, u: Floats, x0: Floats, *, keep: bool) -> Run:
        """Simulate u (B, T, nu) from x0 (B, nx); ``keep`` what a pullback needs."""
        return Run(self, u, x0, keep)


class Run:
    """A finished simulation: y (B, T, ny), x (B, T + 1, nx), and its pullback."""

    def __init__(self, packed: Packed, u: Floats, x0: Floats, keep: bool) -> None:
        self.packed, u = packed, _plain(u, packed.dtype)
        self.records, self.steps = u.shape[:2]
        self.y = np.empty((self.records, self.steps, packed.sizes.ny), packed.dtype)
        self.x = np.empty((self.records, self.steps + 1, packed.sizes.nx), packed.dtype)
        self.x[:, 0] = x0
        # Filling a line with fewer records than this loses against running them one by one.
        self.by_lanes = self.records > packed.line // 4
        self.groups = range(0, self.records, packed.line if self.by_lanes else 1)
        self.kept: dict[int, Floats] = {}
        matrix = packed.forward.lanes if self.by_lanes else packed.forward.rows
        loop = loops.forward_lanes if self.by_lanes else loops.forward_rows
        block = self.steps if keep else min(self.steps, _BLOCK)

        def simulate(first: int) -> None:
            Z = self._trajectory(block)
            for start in range(0, self.steps, block):
                steps = min(block, self.steps - start)
                loop(*matrix, packed.code, packed.leak, u, self.x, first, start, steps, packed.line, Z, self.y)
            if keep:
                self.kept[first] = Z

        self._each([[first] for first in self.groups], simulate)

    def pullback(
        self, gy: Floats | None, gx: Floats | None, *, with_input: bool = True, matrices: Sequence[str] = ()
    ) -> tuple[Floats, Floats, dict[str, Floats]]:
        """Gradients of a cost from its derivatives by y and x.

        Args:
            gy: Derivatives by y, shape (B, T, ny); None for zero.
            gx: Derivatives by x, shape (B, T + 1, nx); None for zero.
            with_input: Whether the gradient by u is wanted.
            matrices: Names of the matrices whose gradients are wanted.

        Returns:
            ``(gu, gx0, gradients)`` of shapes (B, T, nu) (or (B, T, 0)), (B, nx), and one array per name.
        """
        packed, line, sizes = self.packed, self.packed.line, self.packed.sizes
        gy = np.zeros_like(self.y) if gy is None else _plain(gy, packed.dtype)
        gx = np.empty((self.records, 0, sizes.nx), packed.dtype) if gx is None else _plain(gx, packed.dtype)
        gu = np.empty((self.records, self.steps, sizes.nu if with_input else 0), packed.dtype)
        gx0 = np.empty((self.records, sizes.nx), packed.dtype)
        need = sizes.need(tuple(matrices))
        direction = packed.adjoint(with_input)
        matrix = direction.lanes if self.by_lanes else direction.rows
        loop = loops.backward_lanes if self.by_lanes else loops.backward_rows
        firsts = list(self.groups)
        n = -(-len(firsts) // _TASKS)
        tasks = [firsts[i : i + n] for i in range(0, len(firsts), n)]
        sums = np.zeros((len(tasks), sizes.nr + _PAD, sizes.nz + line), packed.dtype)

        def adjoint(first: int) -> None:
            G = sums[first // (n * self.groups.step)]
            Z = self.kept[first]
            loop(*matrix, packed.code, packed.leak, gy, gx, first, line, Z, sizes.nz, need, gu, gx0, G)

        self._each(tasks, adjoint)
        # The order of this sum does not depend on which thread did what.
        G = (sums.sum(axis=0) if len(tasks) > 1 else sums[0])[sizes.nr - 1 :: -1]
        gradients = {name: np.array(G[sizes.places[name]]) for name in matrices}
        if "D11" in gradients:
            gradients["D11"] *= sizes.below
        return gu, gx0, {name: g[:, 0] if _MAPS[name][1] == "1" else g for name, g in gradients.items()}

    def _each(self, tasks: Sequence[Sequence[int]], work: Callable[[int], None]) -> None:
        """Run ``work`` for the groups of each task."""

        def all_of(task: Sequence[int]) -> None:
            for first in task:
                work(first)

        effort = self.records * self.steps * self.packed.sizes.nz * self.packed.sizes.nr
        run([partial(all_of, task) for task in tasks], thread_limit() if effort > _WORTH_THREADS else 1)

    def _trajectory(self, steps: int) -> Floats:
        """Room for z at ``steps + 1`` samples, which starts at a cache line."""
        packed, nz = self.packed, self.packed.sizes.nz
        size = (steps + 1) * (nz * packed.line if self.by_lanes else nz + packed.line)
        room = np.empty(size + 64, packed.dtype)
        skip = -room.__array_interface__["data"][0] % 64 // packed.dtype.itemsize
        return room[skip : skip + size]


def _plain(array: Floats, dtype: np.dtype[Any]) -> Floats:
    """The one kind of array that the loops are compiled for: contiguous, aligned, writable."""
    return np.require(array, dtype, ["C", "A", "W"])
