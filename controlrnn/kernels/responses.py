# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Derivatives of simulations, all of the same length, by variables on which the inputs depend linearly.

The derivatives of a run are forward sensitivities (Bock & Plitt, IFAC 1984, section 3: the recursion of condensing).
Those of a Lur'e system come from the same system with every neuron replaced by its slope,

    [dv; dx+; dy] = M [0; du; dx; dw],     dw = s'(v) dv,

in the packed form of `controlrnn.kernels.compiled.scan`, whose lines here hold variables side by side. A line is
computed from the first sample on at which one of its variables moves an input.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array, as_array
from controlrnn.errors import ShapeError
from controlrnn.kernels.compiled import simd
from controlrnn.kernels.compiled.scan import CHAINED, COPY, MIXED, SLOPE, _entry, _part, activate_one, law_one, sums
from controlrnn.kernels.scan import Rollout, packed_of, rollout
from controlrnn.systems import LureSystem


class Responses:
    """Simulations of a frozen system and their derivatives by variables that move the inputs.

    Args:
        system: A frozen system.
        by_input: Derivatives of the inputs by n variables, shape (T, nu, n).

    Attributes:
        states: Derivatives of the states by the variables, shape (T + 1, nx, n), from the last `follow`; those at one
            sample may be replaced before the next samples are followed.
        outputs: Derivatives of the outputs, shape (T, ny, n).
        neurons: Derivatives of the neurons' inputs v, shape (T, nv, n).
    """

    def __init__(self, system: LureSystem, by_input: Array) -> None:
        by_input = as_array("by_input", by_input, ("T", system.nu, "n"), hint="T, inputs, variables")
        if not by_input.size:
            raise ShapeError(f"by_input must have shape (T, nu, n) without a zero, got {by_input.shape}")
        self.steps, nu, n = by_input.shape
        self._system = system
        self._packed = packed_of(system)
        line, sizes = self._packed.line, self._packed.sizes
        lines = -(-n // line)
        first = 1 + nu + system.nx
        Z = _zeros(self.steps + 1, sizes.nz, lines * line)
        V, Y = (_zeros(self.steps, rows, lines * line) for rows in (system.nv, system.ny))
        Z[:-1, 1 : 1 + nu, :n] = by_input
        self.states = Z[:, 1 + nu : first, :n]
        self.outputs = Y[..., :n]
        self.neurons = V[..., :n]
        moved = np.zeros((self.steps + 1, lines * line), bool)
        moved[-1], moved[:-1, :n] = True, by_input.any(axis=1)
        self._starts = moved.reshape(-1, lines, line).any(axis=2).argmax(axis=0)
        self._flat = 1 + nu, lines * line, Z.ravel(), V.ravel(), Y.ravel()

    def run(self, u: Array, x0: Array) -> Rollout:
        """Simulate inputs u (T, nu), C-contiguous float64, from x0 (nx,).

        Raises:
            ShapeError: ``u`` or ``x0`` does not fit.
        """
        return rollout(self._system, u, x0)

    def follow(self, w: Array, start: int = 0, stop: int | None = None) -> None:
        """Compute the derivatives along a run over the samples from ``start`` to before ``stop``.

        Args:
            w: The neurons' outputs along the run, shape (T, nv), C-contiguous.
            start: First sample; the derivatives of its states must be known.
            stop: End, T when left out; the derivatives of the states at this sample are computed as well.
        """
        packed, last = self._packed, self.steps if stop is None else stop
        if w.shape != (self.steps, packed.sizes.nv) or not 0 <= start <= last <= self.steps:
            raise ShapeError(
                f"w must have shape ({self.steps}, {packed.sizes.nv}) and 0 <= start <= stop <= {self.steps}, "
                f"got {w.shape}, {start} and {last}"
            )
        _follow(*packed.arranged(True).arguments, packed.code, packed.laws, w, self._starts, start, last, *self._flat)


def _zeros(*shape: int) -> Array:
    """Zeros that start at a cache line, in memory of their own."""
    whole = np.zeros(int(np.prod(shape)) + 8)
    skip = (-whole.ctypes.data % 64) // 8
    return whole[skip : skip + whole.size - 8].reshape(shape)


@_part
def _copy(n, source, s, stride, out, o, step):
    """Copy n lines."""
    for i in range(n):
        simd.copy_line(source, s + i * stride, source, s + i * stride, out, o + i * step)


@_entry
def _follow(M, panels, ends, code, table, w, starts, start, stop, n_in, width, Z, V, Y):
    """Compute the derivatives Y (T, ny, width), V (T, nv, width) and Z (T + 1, nz, width), all flat.

    Z comes with its inputs and first states. ``starts`` holds the sample from which each line is computed; M, panels
    and ends are as for `scan_lanes`.
    """
    nz, nv, line = M.shape[1], w.shape[1], simd.line_of(Z)
    nx = nz - nv - n_in
    ny = len(ends) - nv - nx
    v, slopes = np.empty(8 * line), np.empty(nv)
    for t in range(start, stop):
        for i in range(nv):
            if code == MIXED:
                slopes[i] = law_one(Z, SLOPE + code, table, i, 1.0, w[t, i])
            else:
                slopes[i] = activate_one(SLOPE + code, 1.0, w[t, i])
        # As in `scan_lanes`, with slopes instead of activations, and lines of variables instead of records.
        for p in range(len(panels)):
            row, n, low, high, kind = panels[p, 0], panels[p, 1], panels[p, 2], panels[p, 3], panels[p, 4]
            skip, on = panels[p, 5], panels[p, 6]
            for g in range(len(starts)):
                if starts[g] > t:
                    continue
                here = t * nz * width + g * line
                if kind != COPY:
                    sums(n, M, row, nz, Z, here, width, low, skip, on, high, v)
                elif row >= nv:
                    _copy(n, Z, here + low * width, width, Z, here + (nz + n_in + row - nv) * width, width)
                    continue
                else:
                    _copy(n, Z, here + low * width, width, v, 0, line)
                if row >= nv + nx:
                    _copy(n, v, 0, line, Y, (t * ny + row - nv - nx) * width + g * line, width)
                    continue
                if row >= nv:
                    _copy(n, v, 0, line, Z, here + (nz + n_in + row - nv) * width, width)
                    continue
                target = here + (n_in + nx + row) * width
                for i in range(n):
                    if kind == CHAINED:
                        others, terms = here + high * width, ends[row + i] - high
                        simd.add_product1(M, (row + i) * nz + high, 0, 1, Z, others, width, v, i * line, terms)
                    into, kept = target + i * width, (t * nv + row + i) * width + g * line
                    simd.copy_line(v, i * line, v, i * line, V, kept)
                    simd.scale_line(slopes, row + i, 0, 0, v, i * line, 0, Z, into, 1)
