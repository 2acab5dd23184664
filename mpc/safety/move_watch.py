"""Check that inputs move as slowly as before the predictions that an error was calibrated on.

Such an error says nothing about what follows larger moves (`mpc.calibration.slow_inputs`). Plans keep the move limit,
but inputs that somebody else chose or an actuator took may not have, and what moved before the first sample is not
known. So nothing is certified until inputs have kept the limit for as many samples as before a prediction that counts.
What limits learnt meanwhile is forgotten then, and so is a disturbance estimate that enters them, which remembers
errors for longer than that.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array, read_only
from mpc.c_tables import MoveTable
from mpc.calibration.slow_inputs import LAST_PLACES, SLACK, slow
from mpc.promises.premises import Premises


class MoveWatch:
    """Counts the inputs in a row between which all moves kept a limit.

    Args:
        premises: Of the controller; without a ``move_window`` there is nothing to watch.
    """

    def __init__(self, premises: Premises) -> None:
        self.window = premises.move_window or 0
        self.limit = premises.move_limit if self.window else None
        self.reset()

    def reset(self) -> None:
        """Forget all inputs."""
        self._before: Array | None = None
        self._last: Array | None = None
        self._run_before = 0
        #: Inputs in a row between which all moves were slow, up to one more than the window.
        self.run = 0

    def take_over(self, old: MoveWatch) -> None:
        """Go on from what another watch of the same moves has counted; one of others has nothing to tell."""
        same = self.limit is not None and old.limit is not None and np.array_equal(self.limit, old.limit)
        if same and self.window == old.window:
            vars(self).update(vars(old))

    @property
    def kept(self) -> bool:
        """Whether inputs have kept the limit for long enough."""
        return self.limit is None or self.run >= self.window

    @property
    def becomes_slow(self) -> bool:
        """Whether inputs have kept the limit for just long enough, and had not one sample before."""
        return self.limit is not None and self.run == self.window

    @property
    def words(self) -> str:
        """Text of what is missing, empty where nothing is."""
        if self.kept:
            return ""
        return f"inputs are known to have moved slowly for {self.run} samples, calibrated after {self.window}"

    def advance(self, u: Array, *, known: bool) -> None:
        """Take in the input that acts from this sample on.

        Args:
            u: Input, shape (nu,).
            known: Whether it is what acts, as far as anybody knows.
        """
        if self.limit is not None:
            self._before = self._last
            self._run_before = self.run
            self._take(u, known)

    def revise(self, u: Array, *, known: bool) -> None:
        """Replace the last input; arguments as of `advance`."""
        if self.limit is not None:
            self._take(u, known)

    def _take(self, u: Array, known: bool) -> None:
        self._last, before, limit = read_only(u), self._before, self.limit
        goes_on = self._run_before > 0 and before is not None and limit is not None and bool(slow(before, u, limit))
        self.run = min(self._run_before + 1 if goes_on else 1, self.window + 1) if known else 0

    def c_table(self) -> MoveTable | None:
        """Numbers that C code needs; None where nothing is watched."""
        if self.limit is None:
            return None
        return MoveTable(window=self.window, limit=self.limit * (1 + SLACK), last_places=LAST_PLACES)
