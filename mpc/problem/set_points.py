"""Set points with missing, infinite or unreachable values, as plant operators may give them.

A set point that is NaN is not known: it is replaced by the last known one of its output, and before there was one by
the estimated output, so that nothing moves. One that is infinite or far out of reach is clipped to `REACH` output
ranges from the middle between the limits: within that distance the default penalty is exact
(`mpc.problem.ocp.default_penalty` allows errors of ten ranges), and squares stay within float64.
"""

from __future__ import annotations

import logging

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array, numbers, read_only
from controlrnn.errors import ShapeError
from mpc.predictor import Predictor

_log = logging.getLogger(__name__)
REACH = 8.0  # output ranges


class SetPoints:
    """Completes and clips set points; keeps the last known one of every output.

    Args:
        predictor: Predictor with the outputs and their limits.
        scale: Range of each output, shape (ny,).
    """

    def __init__(self, predictor: Predictor, scale: Array) -> None:
        low, high = np.array([[s.lower, s.upper] for s in predictor.outputs]).T
        bounded = np.isfinite(low) & np.isfinite(high)
        middle = np.zeros(predictor.ny)
        middle[bounded] = 0.5 * (low[bounded] + high[bounded])
        if not bounded.all():
            rest = predictor.steady_output(np.mean(predictor.input_limits(), axis=0))
            middle[~bounded] = rest[~bounded]
        #: Set points are clipped to these, shape (ny,) each.
        self.lower = read_only(middle - REACH * scale)
        self.upper = read_only(middle + REACH * scale)
        self.reset()

    def reset(self) -> None:
        """Forget the last set point."""
        self._last: Array | None = None

    def rows(self, reference: ArrayLike, present: Array, rows: int) -> Array:
        """Complete set points for ``rows`` samples from now on, shape (rows, ny); the last one given is held.

        Args:
            reference: Shape (ny,) or (T, ny); NaN where not known.
            present: The outputs as estimated now, shape (ny,).
            rows: Number of rows.

        Raises:
            ShapeError: ``reference`` has neither shape, or no row.
        """
        ny = len(present)
        wanted = numbers("reference", reference)
        shape = (ny,) if wanted.ndim < 2 else ("T", ny)
        given = np.atleast_2d(as_array("reference", wanted, shape, finite=False))
        if not len(given):
            raise ShapeError(f"reference must have at least one row, got {given.shape}")
        known = np.clip(given, self.lower, self.upper)
        if np.isnan(known).any():
            last = np.clip(np.where(np.isfinite(present), present, 0.0), self.lower, self.upper)
            last = last if self._last is None else self._last
            known = known.copy()
            for row in known:
                row[:] = last = np.where(np.isnan(row), last, row)
        if not np.array_equal(known, given):
            _log.info("set point %s is missing or out of reach: %s is aimed at", given[0], known[0])
        self._last = read_only(known[0].copy())
        return np.asarray(known[np.minimum(np.arange(rows), len(known) - 1)])
