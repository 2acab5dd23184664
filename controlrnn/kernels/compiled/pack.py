# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
# ruff: noqa: SIM110 (generators are not compiled)
"""Conversion between the matrices of a system and the packed forms that `controlrnn.kernels.compiled.scan` runs.

Matrices are handed over as addresses of contiguous numbers: turning a dozen tensors into arrays takes longer than a
short simulation. ``places`` (12, 4) holds their (row0, rows, column0, columns) in the packed matrix, in the order of
`MATRICES`; ``ends`` the first column that each row must not depend on.
"""

from __future__ import annotations

from controlrnn.kernels.compiled.scan import CHAINED, COPY, PAD, PRODUCT, _entry, _part
from controlrnn.kernels.compiled.simd import load_at, store_at

LEAST_GAP = 8  # columns that cost less than a second product


@_part
def pack(table, places, ends, M):
    """Copy the matrices at the addresses of ``table`` (12,) to their places in M, which is zero."""
    for m in range(len(table)):
        row, rows, column, columns = places[m]
        for i in range(rows):
            for j in range(min(columns, ends[row + i] - column)):
                M[row + i, column + j] = load_at(M, table[m], i * columns + j)


@_entry
def prepare(table, places, ends, M, template, panels, nv, nx, width, widest, P):
    """Pack a system's matrices to M and arrange its panels: `pack`, then `arrange`."""
    pack(table, places, ends, M)
    return arrange(M, template, panels, nv, nx, width, widest, P)


@_entry
def prepare_adjoint(M, N, template, panels, nv, nx, width, widest, P):
    """Pack the adjoint of M to N and arrange its panels: `flip`, then `arrange`."""
    flip(M, N, len(N) - PAD)
    return arrange(N, template, panels, nv, nx, width, widest, P)


@_entry
def unpack(sums, places, ends, table):
    """Sum the gradients of all tasks (tasks, rows, columns) and copy each matrix's block to its address in ``table``.

    Address 0 skips a matrix. Entries that the model must not use have gradient zero.
    """
    for m in range(len(table)):
        row, rows, column, columns = places[m]
        for i in range(rows if table[m] else 0):
            r, seen = len(ends) - 1 - row - i, min(columns, ends[row + i] - column)
            for j in range(columns):
                total = sums.dtype.type(0)
                for task in range(len(sums) if j < seen else 0):
                    total += sums[task, r, column + j]
                store_at(sums, table[m], i * columns + j, total)


@_part
def flip(M, N, n):
    """Write to N the first n rows of the transpose of M with rows and columns flipped."""
    nr, nz = N.shape[1], M.shape[1]
    for i in range(n):
        for j in range(nr):
            N[i, j] = M[nr - 1 - j, nz - 1 - i]


@_part
def arrange(M, template, panels, nv, nx, width, widest, P):
    """Narrow the panels of up to ``width`` rows to the non-zeros of M, and fill P (flat) with their rows side by side.

    A P of length 0 is left out. Returns the number of panels and the row length of P.
    """
    panels[:, :] = template
    count = shrink(M, panels, nv, nx, width, widest)
    if len(P) == 0:
        return count, 0
    rows = 1
    for p in range(count):
        rows = max(rows, panels[p, 1])
    length = width if rows <= width else 2 * width if rows <= 2 * width else 4 * width
    for p in range(count):
        row, n, low, high, kind, _, _ = panels[p]
        for j in range(low, 0 if kind == COPY else M.shape[1] if kind == CHAINED else high):
            for i in range(length):
                P[(p * M.shape[1] + j) * length + i] = M[row + i, j] if i < n else 0
    return count, length


@_part
def shrink(M, panels, nv, nx, line, widest):
    """Narrow each panel to the columns where it is not exactly zero, then join those that see the same columns.

    An Elman network, for instance, has A = 0 and B1 = I; a layer of an R2DN sees the constant 1 and the layer before.

    The panels of up to ``line`` rows are changed in place; joined ones have up to ``widest``. Returns their number.
    """
    count = 0
    for p in range(len(panels)):
        row, n, low, high, kind, _, _ = panels[p]
        while low < high and is_zero(M, row, n, low):
            low += 1
        while high > low and kind != CHAINED and is_zero(M, row, n, high - 1):
            high -= 1
        if kind == PRODUCT and row < nv + nx and high - low == n and is_identity(M, row, n, low):
            kind = COPY
        skip, on = (high, high) if kind == COPY else gap(M, row, n, low, high)
        if count and row not in (nv, nv + nx) and row < nv + nx:
            _, rows, first, last, before, left, right = panels[count - 1]
            fits = before == kind and rows % line == 0 and rows + n <= widest
            alike = first == low and last == high and left == skip and right == on
            same = alike if kind == PRODUCT else kind == COPY and last == low
            if fits and same:
                panels[count - 1, 1] += n
                panels[count - 1, 3] = high
                panels[count - 1, 5], panels[count - 1, 6] = skip, on
                continue
        panels[count, 0], panels[count, 1], panels[count, 2], panels[count, 3] = row, n, low, high
        panels[count, 4], panels[count, 5], panels[count, 6] = kind, skip, on
        count += 1
    return count


@_part
def gap(M, row, n, low, high):
    """First column of the longest run of zero columns of n rows of M within low..high, and the first beyond it.

    Where none is worth skipping, both are ``high``.
    """
    skip, on, start = high, high, low
    for j in range(low, high + 1):
        if j == high or not is_zero(M, row, n, j):
            if j - start > max(on - skip, LEAST_GAP):
                skip, on = start, j
            start = j + 1
    return skip, on


@_part
def is_identity(M, row, n, column):
    """Whether the block (n, n) of M at (row, column) is the identity."""
    for i in range(n):
        for j in range(n):
            if M[row + i, column + j] != (1 if i == j else 0):
                return False
    return True


@_part
def is_zero(M, row, n, column):
    """Whether n rows of M, from ``row`` on, are zero in one column."""
    for i in range(n):
        if M[row + i, column] != 0:
            return False
    return True
