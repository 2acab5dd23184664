"""Balanced units for multiplier searches, so that results do not depend on the user's units.

States, inputs and outputs are scaled so that what enters a state and what leaves it are of one size (balancing, as
Osborne, J. ACM 1960; neurons have units of their own), and the numbers are rounded to single precision: the same model
in other units gives the same search to the bit, up to rare ties, although it was rounded differently. Multipliers are
taken back to the user's units, where everything is proven for the model itself.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlrnn.certification.families import PredictionInequality
from controlrnn.certification.input_error import InputError
from controlrnn.certification.proof.slopes import Box
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.systems import LureSystem

_SWEEPS = 300
_FIXED = 1e-14  # relative change of a scale at which balancing stops
_SELF = 1e-3
_FARTHEST = 1e100  # units that nothing bounds


@dataclass(frozen=True, eq=False)
class Units:
    """One unit for each state, input and output, in the user's units.

    Args:
        x: Shape (nx,), positive.
        u: Shape (nu,), positive.
        y: Shape (ny,), positive.
        size: Unit of all differences, to which bounds are proportional and of which multipliers are independent.
    """

    x: Array
    u: Array
    y: Array
    size: float = 1.0

    @classmethod
    def of(
        cls, system: LureSystem, inputs: Array | None, outputs: Array | None = None, *, start: Array | None = None
    ) -> Units:
        """Balance the units of states, inputs and outputs.

        Args:
            system: A frozen system.
            inputs: Size of the inputs, shape (nu,), 0 for those that do not count; None: what makes one unit of effect.
            outputs: Size of the outputs, shape (ny,); None: what one unit of everything makes of them.
            start: Size of the initial difference of each state, shape (nx,); None: none.
        """
        # Where outputs have a size of their own, inputs of their size are what counts.
        size = _size(system, inputs, start) if outputs is None else 1.0
        inputs, start = (None if part is None else part / size for part in (inputs, start))
        weigh = np.ones(system.nu) if inputs is None else np.asarray(inputs > 0, dtype=np.float64)
        x, y = np.ones(system.nx), np.ones(system.ny) if outputs is None else outputs
        u = np.ones(system.nu) if inputs is None else np.where(inputs > 0, inputs, 1.0)
        loop = np.abs(system.A)
        np.fill_diagonal(loop, 0.0)
        first = np.zeros(system.nx) if start is None else start
        for _ in range(_SWEEPS):
            before = x.copy()
            if outputs is None:
                y = _sizes(_norms(system.C2 * x, system.D21, system.D22 * (u * weigh)))
            if inputs is None:
                u = 1 / _sizes(_norms(system.D12.T, system.B2.T / x, system.D22.T / y))
            entering = _norms(system.B1, system.B2 * (u * weigh), first[:, None])
            leaving = _norms(system.C1.T, system.C2.T / y)
            for i in range(system.nx):
                # A little of itself keeps a state where it is that has nothing to be balanced with.
                enters = float((loop[i] * x).sum() + entering[i]) + _SELF * x[i]
                leaves = float((loop[:, i] / x).sum() + leaving[i]) + _SELF / x[i]
                # Where nothing differs at the start and no input counts, only outputs pull: not beyond all measure.
                x[i] = min(max(np.sqrt(enters / leaves), 1 / _FARTHEST), _FARTHEST)
            if (np.abs(x - before) <= _FIXED * x).all():
                break
        return cls(x, u, np.asarray(y, dtype=np.float64), size)

    def system(self, system: LureSystem) -> LureSystem:
        """The system in these units, rounded to single precision."""
        x, u, y = self.x, self.u, self.y
        scaled: dict[str, Any] = {
            "A": system.A / x[:, None] * x, "B1": system.B1 / x[:, None], "B2": system.B2 / x[:, None] * u,
            "C1": system.C1 * x, "D11": system.D11, "D12": system.D12 * u,
            "C2": system.C2 / y[:, None] * x, "D21": system.D21 / y[:, None], "D22": system.D22 / y[:, None] * u,
            "bx": system.bx / x, "by": system.by / y,
        }  # fmt: skip
        scaled = {name: _rounded(value) for name, value in scaled.items()}
        return replace(system, **scaled)

    def metric(self, P: Array, radius: float) -> Array:
        """Metric (nx, nx) in these units, rounded likewise, whose unit ball is radius ``radius`` of the metric P."""
        factor = np.linalg.cholesky(P * self.x[:, None] * self.x) * (self.size / radius)
        factor = _rounded(np.asarray(factor))
        found = np.asarray(factor @ factor.T)
        if not (np.isfinite(found).all() and (found.diagonal() > 0).all()):
            raise CertificationError("the initial radius and its metric are far from the sizes of inputs and states")
        return found

    def problem(
        self, claim: PredictionInequality, system: LureSystem, boxes: tuple[Box, Box] | None
    ) -> PredictionInequality:
        """The inequality of ``claim`` in these units, for a search."""
        error, radius = claim.asked, claim.claimed_radius
        rate = None if error.rate is None else self._differences(np.asarray(error.rate))
        scaled = InputError(kind=error.kind, radius=self._differences(error.b), rate=rate, steps=error.steps)
        # Without an initial difference its metric means nothing.
        metric = self.metric(claim.claimed_metric, radius) if radius else None
        if boxes is not None:
            boxes = (tuple(end / self.u for end in boxes[0]), tuple(end / self.x for end in boxes[1]))  # type: ignore[assignment]
        radius = 1.0 if radius else 0.0
        return PredictionInequality(
            self.system(system), claim.horizon, radius, metric, scaled, boxes=boxes, lifted=claim.lifted
        )

    def _differences(self, radius: Array) -> Array:
        """Radii (nu,) of differences of inputs in these units; none that differs vanishes, or its multipliers would."""
        return np.where(radius > 0, np.maximum(_rounded(radius / self.size / self.u), 1 / _FARTHEST), 0.0)

    def back(self, multipliers: Array, rho: Array, output: float, inputs: Array) -> tuple[Array, Array]:
        """Convert multipliers (K, nv) and rho (K, m) to the user's units.

        Args:
            multipliers: In these units.
            rho: In these units.
            output: Unit of the output that they are for.
            inputs: Units of the channels that differ, shape (m,).
        """
        with np.errstate(over="ignore"):
            # Inputs that differ by next to nothing may weigh next to everything, but no more than float64 knows.
            weights = np.minimum(rho * (output / inputs) ** 2, output**2 * _FARTHEST)
        return output**2 * multipliers, weights


def _size(system: LureSystem, inputs: Array | None, start: Array | None) -> float:
    """Largest effect of a difference on a neuron, in the neuron's own unit; without neurons any size does."""
    seen = [np.zeros(1)]
    for matrix, part in ((system.C1, start), (system.D12, inputs)):
        if part is not None:
            seen.append(np.abs(matrix * part).ravel())
    largest = max(float(one.max(initial=0.0)) for one in seen)
    others = [float(part.max(initial=0.0)) for part in (start, inputs) if part is not None]
    return largest or max(others, default=0.0) or 1.0


def _norms(*parts: Array) -> Array:
    """Norms of the rows of matrices that stand side by side."""
    rows = np.hstack(parts)
    # Relative to the largest, whose square neither overflows nor vanishes.
    size = _sizes(np.abs(rows).max(axis=1, initial=0.0))
    return np.asarray(size * np.sqrt(((rows / size[:, None]) ** 2).sum(axis=1)))


def _sizes(norms: Array) -> Array:
    """Replace norms of zero by one, so that they can be divided by."""
    return np.where(norms > 0, norms, 1.0)


def _rounded(value: Array) -> Array:
    """Round to single precision, except for what would overflow."""
    with np.errstate(over="ignore", under="ignore"):
        single = np.asarray(value, dtype=np.float32).astype(np.float64)
    return np.where(np.isfinite(single), single, value)
