"""Limits just after each input, where outputs answer to it at once (docs/timing.md).

What is measured at t + 1, g(x[t+1], u[t]), is limited like any output. Where outputs answer at once, g(x[t], u[t]), the
output just after u[t] acts, is another one, and u[t] moves it in step 0 already. Plans then have 2 ny limited outputs,
those just before each input and those just after it, of which only the former cost, are measured and have errors that
were calibrated.

With D22 alone in the way (no neurons read the input for the output) their tightening follows from that of the readings:
with r and c the bounds on true minus commanded and recorded minus commanded inputs, the effect of the estimate's error
is C dx + D22 du, and that of the reading of the same sample C dx + D22 dp, with |du| and |dp| at most r: the last input
is known like any other, and no observer estimates it. So they differ
by at most 2 |D22| r, and the effects of a jump, under equal inputs, by at most |D22| c. Hence tightened by 2 |D22| r +
|D22| c more than the reading of the same sample, they are as certain as it is if the residual just after an input is no
larger than what is declared for the reading just before it, which nobody measures. Plans that could be continued still
can, by the theorem of `mpc.tightening.terminal_set` for 2 ny outputs, whose growth then starts at step 0
(`mpc.recursive`).

Where neurons do read the input for the output, nothing is known about what comes just after: plans without a terminal
set limit it by the tightening of the reading, those with one do not limit it at all, lest they lose their theorem.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array
from controlrnn.systems import answers_through_neurons
from mpc.observers.base import Observer
from mpc.predictor import Predictor

if TYPE_CHECKING:
    from mpc.problem.ocp import OptimalControlProblem


class Answers:
    """Channels of plans that limit outputs just before and just after each input.

    Args:
        observer: The controller's.
        guaranteed: Whether plans end in a terminal set.
    """

    def __init__(self, observer: Observer, *, guaranteed: bool) -> None:
        predictor = observer.predictor
        through = predictor.carries and answers_through_neurons(predictor.system)
        #: The predictor of plans; the controller's own where outputs do not answer at once.
        self.planner: Predictor = predictor if guaranteed and through else predictor.with_answers
        self._ny = predictor.ny
        self.copies = self.planner.ny // predictor.ny
        self._more = np.zeros(self._ny)
        if self.copies > 1 and not through:
            gain = np.abs(predictor.system.C2[:, -predictor.nu :])
            self._more = gain @ (2 * observer.prediction_input_error + observer.command_error)

    def wide(self, values: Array) -> Array:
        """Numbers of outputs (..., ny), for both kinds of outputs."""
        return values if self.copies == 1 else np.concatenate([values] * self.copies, axis=-1)

    def cost(self, problem: OptimalControlProblem, y: Array, reference: Array, u: Array, before: Array) -> float:
        """See `mpc.problem.ocp.OptimalControlProblem.cost`, of readings y (T, ny)."""
        return problem.cost(self.wide(y), self.wide(reference), u, before)

    def narrow(self, values: Array) -> Array:
        """The larger of the two numbers, (..., ny)."""
        return np.asarray(values.reshape(*values.shape[:-1], self.copies, self._ny).max(axis=-2))

    def setting(self, value: ArrayLike | None, *, priced: bool = False) -> Any:
        """A weight or price per output: of outputs just after an input it is zero, unless ``priced``."""
        if value is None or self.copies == 1:
            return value
        given = np.asarray(value, dtype=np.float64)
        each = np.full(self._ny, given) if given.ndim == 0 else given
        return np.concatenate([each, each if priced else np.zeros_like(each)])

    def limits(self, lower: Array, upper: Array, shown: tuple[Array, Array]) -> tuple[Array, Array]:
        """Limits of plans, each (N + 1, outputs).

        Args:
            lower: Of readings as the tightening alone has them, shape (N + 1, ny).
            upper: Likewise.
            shown: Of readings as they are now, where they learn from measurements.
        """
        if self.copies == 1:
            return shown
        low, high = np.array(shown[0]), np.array(shown[1])
        low[0], high[0] = -np.inf, np.inf  # no input moves the reading at hand
        return np.hstack([low, lower + self._more]), np.hstack([high, upper - self._more])
