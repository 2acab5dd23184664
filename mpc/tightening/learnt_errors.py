"""Recursion of the error intervals of `mpc.tightening.error_memory` in the controller, and the limits they give."""

from __future__ import annotations

import logging

import numpy as np

from controlrnn.checks import Array, read_only
from controlrnn.data import Signal
from controlrnn.errors import InfeasibleError
from mpc.c_tables import LearntErrorsTable
from mpc.tightening.error_memory import ErrorMemory
from mpc.tightening.terminal_set import TerminalSet

_log = logging.getLogger(__name__)
MEASURED = 1e-9  # of the largest error: tolerance for rounding in the measured one


class LearntErrors:
    """Intervals E_0..E_N that contain the errors of predictions from the present estimate.

    Args:
        memory: The bounds that the intervals are made from.
        outputs: The outputs with their limits.
        terminal: Terminal set of the plans; without one (None) E_N is used for the limits at step N.

    Raises:
        InfeasibleError: Nothing is left of an output's range while nothing has been measured.
    """

    def __init__(self, memory: ErrorMemory, outputs: tuple[Signal, ...], terminal: TerminalSet | None) -> None:
        self.memory = memory
        self._names = [s.name for s in outputs]
        self._low = np.array([s.lower for s in outputs]) + memory.growth
        self._high = np.array([s.upper for s in outputs]) - memory.growth
        self._last = len(memory.growth) if terminal is None else memory.horizon  # limits before this step learn
        self._around = memory.spread
        if terminal is not None:
            moved = memory.end + terminal.margin
            self._low[-1], self._high[-1] = (
                np.array([s.lower for s in outputs]) + moved,
                np.array([s.upper for s in outputs]) - moved,
            )
        self.reset()
        lower, upper = self.limits()
        empty = np.argwhere(lower[1:] >= upper[1:])
        if len(empty):
            k, i = int(empty[0, 0]) + 1, int(empty[0, 1])
            raise InfeasibleError(
                f"the tightening leaves nothing of output {self._names[i]!r} at step {k} while nothing has been "
                f"measured: errors up to {memory.absolute[k, i]:.3g}; reduce them, or shorten the horizon"
            )

    def c_table(self) -> LearntErrorsTable:
        """Numbers that C code needs besides those of the error memory."""
        return LearntErrorsTable(lower=self._low, upper=self._high, learning=self._last)

    def reset(self) -> None:
        """Set the intervals to those without measurements."""
        self._lower = -self.memory.absolute
        self._upper = np.array(self.memory.absolute)

    def take_over(self, other: LearntErrors) -> None:
        """Go on from the intervals of another controller, if they are of the same memory."""
        if self.memory is other.memory:
            self._lower = other._lower.copy()
            self._upper = other._upper.copy()

    @property
    def interval(self) -> Array:
        """Lower and upper ends of E_0..E_N, shape (2, N + 1, ny)."""
        return read_only(np.stack([self._lower, self._upper]))

    def limits(self) -> tuple[Array, Array]:
        """Lower and upper limits of plans, each (N + 1, ny); infinite where an output has none."""
        lower, upper, rows = self._low.copy(), self._high.copy(), slice(0, self._last)
        lower[rows] -= self._lower[rows]
        upper[rows] -= self._upper[rows]
        return lower, upper

    def update(self, error: Array, *, certified: bool) -> str:
        """Update the intervals with the present measurement.

        Args:
            error: Measured output minus that of the estimate, shape (ny,); NaN where missing.
            certified: Whether the estimate's certified error holds; if not, the intervals are reset.

        Returns:
            Text of the outputs that contradict earlier measurements, with numbers; empty where none does.
        """
        if not certified:
            self.reset()
            return ""
        rows, around = slice(1, self.memory.steps + 1), self._around
        seen = np.stack([error - around, error + around])  # NaN where missing, which bounds nothing
        known = np.stack([self._lower[rows], self._upper[rows]])
        both = np.stack([np.fmax(known[0], seen[0]), np.fmin(known[1], seen[1])])
        tolerance = MEASURED * self.memory.absolute[0]
        agrees = ~((error < self._lower[0] - tolerance) | (error > self._upper[0] + tolerance)) & (
            both[0] <= both[1]
        ).all(axis=0)
        # On contradiction either the earlier interval or this measurement is wrong: their hull holds in both cases.
        widest = self.memory.absolute[rows]
        either = np.clip([np.fmin(known[0], seen[0]), np.fmax(known[1], seen[1])], -widest, widest)
        self._lower[rows], self._upper[rows] = np.where(agrees, both, either)
        if agrees.all():
            return ""
        found = [
            f"{self._names[i]} measured {error[i]:.3g} from the prediction, possible were {self._lower[0, i]:.3g} to "
            f"{self._upper[0, i]:.3g} now and {known[0, 0, i]:.3g} to {known[1, 0, i]:.3g} next"
            for i in np.flatnonzero(~agrees)
        ]
        message = f"drifts faster than calibrated, or an outlier: {'; '.join(found)}"
        _log.warning("%s", message)
        return message

    def advance(self) -> None:
        """Shift the intervals to the next sample; valid if the certified error holds for the old and new estimate."""
        widest, jump = self.memory.absolute, self.memory.jump
        for ends, sign in ((self._lower, -1.0), (self._upper, 1.0)):
            ends[:-1] = np.clip(ends[1:] + sign * jump, -widest[:-1], widest[:-1])
            ends[-1] = sign * widest[-1]
