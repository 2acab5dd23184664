"""Lur'e systems packed for the compiled loops, their runs, and the gradients of their runs; numpy only.

`controlrnn.kernels.compiled.scan` describes the packed form and derives why the adjoint has the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.kernels._threads import run, thread_limit
from controlrnn.kernels.compiled import pack as packing
from controlrnn.kernels.compiled import runs
from controlrnn.kernels.compiled import scan as loops
from controlrnn.kernels.compiled.buffers import Buffer
from controlrnn.kernels.compiled.laws import ACTIVATIONS, table_of
from controlrnn.kernels.compiled.scan import PAD, PANEL
from controlrnn.kernels.compiled.simd import line_length
from controlrnn.systems import MATRICES, Activation, Laws

Floats = NDArray[Any]  # float32 or float64
Whole = NDArray[np.int64]

_BLOCK = 256  # samples that a run without a pullback keeps at a time
# The number of tasks stays below twice this, for any number of records: each sums a matrix gradient of its own.
_TASKS = 32
_WORTH_THREADS = 4_000_000  # multiplications below which a second thread costs more than it saves


def _panels(
    layers: tuple[int, ...], before: int, nx: int, n_rows: int, n_columns: int, width: int
) -> tuple[Whole, Whole]:
    """Divide the rows of M into panels (row0, rows, 0, high, kind, high, high), and find each row's end of columns."""
    # A neuron may depend on the columns before the neurons' and on earlier layers, a later row on all columns.
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
        while filled + n > width:  # a layer of more rows than a panel holds is split
            starts.append(starts[-1] + width)
            n -= width
        filled += n
    # States and outputs start panels of their own, because they are stored elsewhere than neurons.
    starts = [s for s in starts if s < nv]
    starts += [*range(nv, nv + nx, width), *range(nv + nx, n_rows, width), n_rows]
    ends += [n_columns] * (n_rows - nv)
    panels = []
    for a, b in pairwise(starts):
        chained = ends[b - 1] > ends[a]
        kind = loops.CHAINED if chained else loops.PRODUCT
        high = before + a if chained else ends[a]
        panels.append((a, b - a, 0, high, kind, high, high))
    return np.array(panels, np.int64).reshape(-1, 7), np.array(ends, np.int64)


@dataclass(frozen=True)
class Sizes:
    """Layout of the packed matrix M (nr, nz) of a system; one object serves all systems of the same sizes."""

    nx: int
    nu: int
    ny: int
    layers: tuple[int, ...]

    @cached_property
    def nv(self) -> int:
        """Number of neurons."""
        return sum(self.layers)

    @cached_property
    def nr(self) -> int:
        """Number of rows of M: [v; x+; y]."""
        return self.nv + self.nx + self.ny

    @cached_property
    def nz(self) -> int:
        """Number of columns of M: [1, u, x, w]."""
        return 1 + self.nu + self.nx + self.nv

    @cached_property
    def places(self) -> dict[str, tuple[slice, slice]]:
        """Rows and columns of each matrix in M."""
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
        """Mask of the entries of D11 that belong to the model: those below its block diagonal."""
        layer = np.repeat(np.arange(len(self.layers)), self.layers)  # the layer of each neuron
        return np.asarray(layer[:, None] > layer[None, :])

    @cached_property
    def shapes(self) -> list[tuple[int, ...]]:
        """Shapes of `MATRICES`, in their order."""
        return [
            (int(rows),) if _MAPS[m][1] == "1" else (int(rows), int(columns))
            for m, (_, rows, _, columns) in zip(MATRICES, self.table, strict=True)
        ]

    @cached_property
    def table(self) -> Whole:
        """Place (row0, rows, column0, columns) of each of `MATRICES` in M, in their order."""
        places = [self.places[name] for name in MATRICES]
        return np.array([(r.start, r.stop - r.start, c.start, c.stop - c.start) for r, c in places], np.int64)

    @cached_property
    def ends(self) -> Whole:
        """End of the columns of each row of M: the first column that it must not depend on."""
        return self.panels(self.ny, PANEL, adjoint=False)[1]

    def threads(self, samples: int) -> int:
        """Number of threads that a run over this many samples of all records is worth."""
        return thread_limit() if samples * self.nz * self.nr > _WORTH_THREADS else 1

    @cached_property
    def _known(self) -> dict[Any, Any]:
        """Cache of `need` and `panels`."""
        return {}

    def need(self, wanted: tuple[bool, ...], feedforward: bool) -> Whole:
        """Columns (first, end, skip, on) in each row of the flipped M that cover the gradients of the wanted matrices.

        Those from skip to on are left out, where layers of a ``feedforward`` network do not touch.
        """
        key = wanted, feedforward
        found: Whole | None = self._known.get(key)
        if found is None:
            need, ends = np.zeros((self.nr, 4), np.int64), self.ends
            for name, want in zip(MATRICES, wanted, strict=True):
                rows, columns = self.places[name]
                part = need[rows if want else slice(0, 0)]
                empty = part[:, 1] == part[:, 0]
                part[:, 0] = np.where(empty, columns.start, np.minimum(part[:, 0], columns.start))
                # Beyond its end a row of D11 has no entries.
                own = np.clip(ends[rows if want else slice(0, 0)], columns.start, columns.stop)
                part[:, 1] = np.maximum(part[:, 1], own)
            if feedforward and self.layers:
                before = 1 + self.nu + self.nx
                stops = np.cumsum(self.layers)
                starts = stops - self.layers
                for k in range(1, len(self.layers)):  # the bias and the layer before
                    need[starts[k] : stops[k], 2:] = 1, before + starts[k - 1]
                need[self.nv :, 2:] = before, before + starts[-1]
            found = self._known[key] = np.ascontiguousarray(need[::-1])
        return found

    def panels(self, outputs: int, width: int, *, adjoint: bool) -> tuple[Whole, Whole]:
        """Panels for one direction and number of outputs, before zeros are removed, and the ends of its rows."""
        key = outputs, width, adjoint
        found: tuple[Whole, Whole] | None = self._known.get(key)
        if found is None:
            layers, before = (self.layers[::-1], self.ny) if adjoint else (self.layers, 1 + self.nu)
            columns = before + self.nx + self.nv
            found = self._known[key] = _panels(
                layers, before + self.nx, self.nx, self.nv + self.nx + outputs, columns, width
            )
        return found


# Each matrix maps one part of [1, u, x, w] to one part of [v, x+, y].
_MAPS = {
    "A": ("x", "x"), "B1": ("x", "w"), "B2": ("x", "u"), "bx": ("x", "1"),
    "C1": ("v", "x"), "D11": ("v", "w"), "D12": ("v", "u"), "bv": ("v", "1"),
    "C2": ("y", "x"), "D21": ("y", "w"), "D22": ("y", "u"), "by": ("y", "1"),
}  # fmt: skip
sizes_of = lru_cache(maxsize=256)(Sizes)


class Blank:
    """Memory for the packed matrix M of a system, or of its adjoint, and for its panels; arguments as of `Arranged`."""

    def __init__(self, sizes: Sizes, outputs: int, dtype: np.dtype[Any], *, by_lanes: bool, adjoint: bool) -> None:
        line, columns = line_length(dtype.itemsize), sizes.nr if adjoint else sizes.nz
        self.template, self.ends = sizes.panels(outputs, PANEL if by_lanes else line, adjoint=adjoint)
        self.M: Floats = np.zeros((sizes.nv + sizes.nx + outputs + PAD, columns), dtype)
        self.panels = np.empty_like(self.template)
        # Aligned, because its lines are loaded at every sample; it goes back when this object is deleted.
        self._buffer = Buffer(0 if by_lanes else len(self.template) * columns * 4 * line, dtype)
        self.P = self._buffer.array


class Arranged:
    """Packed matrix M with the leading arguments of the loops of one kind.

    Args:
        sizes: Sizes of the system.
        outputs: Number of rows of M beyond neurons and states.
        dtype: float32 or float64.
        source: Addresses of the matrices of a system, or, for an adjoint, the M of its forward run.
        by_lanes: Whether it is for `scan_lanes` instead of `scan_rows`.
        adjoint: Whether to arrange the adjoint of the M in ``source``.
    """

    def __init__(
        self, sizes: Sizes, outputs: int, dtype: np.dtype[Any], source: Whole | Floats, *, by_lanes: bool, adjoint: bool
    ) -> None:
        line = line_length(dtype.itemsize)
        self._blank = made = Blank(sizes, outputs, dtype, by_lanes=by_lanes, adjoint=adjoint)
        self.M = M = made.M
        width, widest = (PANEL, PANEL) if by_lanes else (line, 4 * line)
        rest = made.template, made.panels, sizes.nv, sizes.nx, width, widest, made.P
        if adjoint:
            count, length = packing.prepare_adjoint(source, M, *rest)
        else:
            count, length = packing.prepare(source, sizes.table, sizes.ends, M, *rest)
        panels = made.panels[:count]
        self.arguments: tuple[Any, ...] = (M, panels, made.ends) if by_lanes else (made.P, length, M.shape[1], panels)


class Packed:
    """Packed system, ready to run.

    Args:
        sizes: Sizes of the system.
        activation: Activation function s, or the law of each neuron.
        dtype: float32 or float64.
        addresses: Address of contiguous numbers of that type for each of `MATRICES`; they must stay valid for as long
            as runs are started.
    """

    def __init__(
        self, sizes: Sizes, activation: Activation | Laws, dtype: np.dtype[Any], addresses: Sequence[int]
    ) -> None:
        self.sizes = sizes
        self.dtype = dtype
        self.code = loops.MIXED if isinstance(activation, Laws) else ACTIVATIONS[activation]
        self.laws = table_of(activation)
        self.line = line_length(dtype.itemsize)
        self.addresses = np.array(addresses, np.int64)
        self._arranged: dict[bool, Arranged] = {}
        self._kept: Sequence[Floats] = ()

    @classmethod
    def of(cls, matrices: Sequence[Floats], activation: Activation | Laws, layers: tuple[int, ...]) -> Packed:
        """Pack the arrays of `MATRICES`, all of one type, and keep them alive."""
        plain = [np.ascontiguousarray(m) for m in matrices]
        B2, by = plain[2], plain[-1]
        sizes = sizes_of(B2.shape[0], B2.shape[1], len(by), layers)
        packed = cls(sizes, activation, by.dtype, [m.ctypes.data for m in plain])
        packed._kept = plain
        return packed

    def arranged(self, by_lanes: bool) -> Arranged:
        """Matrix and leading arguments for the loops of one kind, made at the first use."""
        found = self._arranged.get(by_lanes)
        if found is None:
            sizes = self.sizes
            found = Arranged(sizes, sizes.ny, self.dtype, self.addresses, by_lanes=by_lanes, adjoint=False)
            self._arranged[by_lanes] = found
        return found

    def run(self, u: Floats, x0: Floats | None, *, keep: bool) -> Run:
        """Simulate u (B, T, nu) from x0 (B, nx), zero for None; with ``keep`` the run can be differentiated."""
        return Run(self, u, x0, keep)


class Run:
    """Finished simulation of a batch: outputs y (B, T, ny), states x (B, T + 1, nx), and their gradients."""

    def __init__(self, packed: Packed, u: Floats, x0: Floats | None, keep: bool) -> None:
        self.packed, u, sizes, line = packed, usable(u, packed.dtype), packed.sizes, packed.line
        self.records, self.steps = u.shape[:2]
        self.y = y = np.empty((self.records, self.steps, sizes.ny), packed.dtype)
        self.x = x = np.empty((self.records, self.steps + 1, sizes.nx), packed.dtype)
        x[:, 0] = 0 if x0 is None else x0
        self.groups = groups_of(self.records, line)
        self.by_lanes = self.groups.step > 1
        self.kept: dict[int, Buffer] = {}
        self._forward = packed.arranged(self.by_lanes)
        loop = runs.forward_lanes if self.by_lanes else runs.forward_rows
        block = self.steps if keep else min(self.steps, _BLOCK)

        def simulate(first: int) -> None:
            Z = self._buffer(block, sizes.nz)
            for start in range(0, self.steps, block):
                steps = min(block, self.steps - start)
                loop(*self._forward.arguments, packed.code, packed.laws, u, x, first, start, steps, line, Z.array, y)
            if keep:
                self.kept[first] = Z

        self._each([[first] for first in self.groups], simulate)

    def pullback(
        self,
        gy: Floats | None,
        gx: Floats | None,
        *,
        with_input: bool = True,
        wanted: tuple[bool, ...] = (False,) * len(MATRICES),
        feedforward: bool = False,
    ) -> tuple[Floats, Floats, Floats]:
        """Compute the gradients of a cost from its derivatives by y and x (the adjoint of the run).

        Args:
            gy: Derivatives by y, shape (B, T, ny); None for zero.
            gx: Derivatives by x, shape (B, T + 1, nx); None for zero.
            with_input: Whether the gradient by u is wanted.
            wanted: For each of `MATRICES`, whether its gradient is wanted.
            feedforward: Whether only those of a feedforward network's entries are; see `LureSystem`.

        Returns:
            ``(gu, gx0, sums)`` of shapes (B, T, nu) (or (B, T, 0)) and (B, nx); `matrix_gradients` takes the sums.
        """
        packed, line, sizes = self.packed, self.packed.line, self.packed.sizes
        gy = np.zeros_like(self.y) if gy is None else usable(gy, packed.dtype)
        gx = np.empty((self.records, 0, sizes.nx), packed.dtype) if gx is None else usable(gx, packed.dtype)
        gu = np.empty((self.records, self.steps, sizes.nu if with_input else 0), packed.dtype)
        gx0 = np.empty((self.records, sizes.nx), packed.dtype)
        need, outputs = sizes.need(wanted, feedforward), sizes.nu if with_input else 0
        # The flipped transpose; its outputs are the input gradients.
        matrix = Arranged(sizes, outputs, packed.dtype, self._forward.M, by_lanes=self.by_lanes, adjoint=True)
        loop = runs.backward_lanes if self.by_lanes else runs.backward_rows
        firsts = list(self.groups)
        n = groups_of_task(len(firsts))
        tasks = [firsts[i : i + n] for i in range(0, len(firsts), n)]
        sums = np.zeros((len(tasks), sizes.nr + PAD, sizes.nz + line), packed.dtype)

        def adjoint(first: int) -> None:
            G, Z = sums[first // (n * self.groups.step)], self.kept[first].array
            L = self._buffer(self.steps, sizes.nr)
            loop(
                *matrix.arguments, packed.code, packed.laws, gy, gx, first, line, Z, sizes.nz, need, L.array, gu, gx0, G
            )

        self._each(tasks, adjoint)
        return gu, gx0, sums

    def matrix_gradients(self, sums: Floats, wanted: Sequence[bool]) -> list[Floats | None]:
        """Gradient of each of `MATRICES`, None where it is not wanted."""
        sizes = self.packed.sizes
        found = [np.empty(s, sums.dtype) if want else None for s, want in zip(sizes.shapes, wanted, strict=True)]
        self.unpack(sums, [0 if g is None else g.ctypes.data for g in found])
        return found

    def unpack(self, sums: Floats, targets: Sequence[int]) -> None:
        """Write the gradients by `MATRICES` to addresses, 0 for none."""
        # The order of these sums does not depend on which thread did what.
        packing.unpack(sums, self.packed.sizes.table, self.packed.sizes.ends, np.array(targets, np.int64))

    def _each(self, tasks: Sequence[Sequence[int]], work: Callable[[int], None]) -> None:
        """Call ``work`` for every group of every task, in several threads where that is worth it."""
        threads = self.packed.sizes.threads(self.records * self.steps) if len(tasks) > 1 else 1
        if threads == 1:
            for task in tasks:
                for first in task:
                    work(first)
            return

        def all_of(task: Sequence[int]) -> None:
            for first in task:
                work(first)

        run([partial(all_of, task) for task in tasks], threads)

    def _buffer(self, steps: int, n: int) -> Buffer:
        """Scratch memory for n numbers of each record at ``steps + 1`` samples."""
        return Buffer(scratch(steps, n, self.packed.line, by_lanes=self.by_lanes), self.packed.dtype)


def groups_of(records: int, line: int) -> range:
    """First record of each group that runs together: as many side by side as a line takes, or single ones.

    Filling a line with fewer records than this loses against running them one by one.
    """
    return range(0, records, line if records > line // 4 else 1)


def groups_of_task(groups: int) -> int:
    """Groups of records whose matrix gradients are summed together."""
    return -(-groups // _TASKS)


def scratch(steps: int, n: int, line: int, *, by_lanes: bool) -> int:
    """Size of memory for n numbers of each record at ``steps + 1`` samples, and for what the loops write beyond."""
    return ((steps + 1) * n + PAD) * line if by_lanes else (steps + 1) * (n + line) + 4 * line


def usable(array: Floats, dtype: np.dtype[Any]) -> Floats:
    """Return ``array`` in the form that the loops are compiled for: of ``dtype``, contiguous, aligned, writable."""
    return array if array.dtype == dtype and array.flags.carray else np.require(array, dtype, ["C", "A", "W"])
