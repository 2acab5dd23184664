"""Limits on outputs just after each input acts, for plants with feedthrough (docs/timing.md).

The reading at t + 1, g(x[t+1], u[t]), is limited like any output. With feedthrough the output just after u[t] acts,
g(x[t], u[t]), is another number, and u[t] changes it in step 0 already. Plans then have 2 ny limited outputs, those
just before and those just after each input. Only the former are measured, enter the cost, and have calibrated errors.

*Feedthrough by D22 alone* (no neuron reads the input on its way to the output): with r and c the bounds on true minus
commanded and recorded minus commanded inputs, the output just after the input is tightened by 2 |D22| r + |D22| c more
than the reading of the same sample. It is then as certain as the reading, provided its residual, which is not measured,
is no larger than the one declared for the reading (derivation: docs/timing.md). Plans remain recursively feasible by
the theorem of `mpc.tightening.terminal_set` for 2 ny outputs, whose growth then starts at step 0
(`mpc.make_recursive`).

*Feedthrough through neurons*: nothing is known about the growth of the output just after the input. Plans without a
terminal set limit it by the tightening of the reading; plans with one do not limit it, to keep their theorem.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array
from controlrnn.errors import InfeasibleError
from controlrnn.systems import answers_through_neurons
from mpc.observers.base import Observer
from mpc.predictor import Predictor
from mpc.problem.ocp import OptimalControlProblem
from mpc.problem.settings import Limits, Prices, Tracking


class Answers:
    """Output channels of plans that are limited just before and just after each input.

    Args:
        observer: The controller's observer.
        guaranteed: Whether plans end in a terminal set.
    """

    def __init__(self, observer: Observer, *, guaranteed: bool) -> None:
        predictor = observer.predictor
        through = predictor.answers and answers_through_neurons(predictor.system)
        #: The predictor of plans; the controller's own for models without feedthrough.
        self.planner: Predictor = predictor if guaranteed and through else predictor.with_answers
        self._ny = predictor.ny
        self._names = [s.name for s in predictor.outputs]
        self.copies = self.planner.ny // predictor.ny
        self._more = np.zeros(self._ny)  # additional tightening just after an input; see the module docstring
        if self.copies > 1 and not through:
            gain = np.abs(predictor.system.C2[:, -predictor.nu :])
            self._more = gain @ (2 * observer.prediction_input_error + observer.command_error)

    def refuse_empty(self, lower: Array, upper: Array) -> None:
        """Raise InfeasibleError where nothing is left of an output just after an input, which step 0 changes already.

        Args:
            lower: Lower limits of readings by the tightening alone, shape (N + 1, ny).
            upper: Upper limits, likewise.
        """
        low, high = lower + self._more, upper - self._more
        for k, i in np.argwhere(low >= high)[: self.copies - 1]:
            raise InfeasibleError(
                f"tightening leaves nothing of output {self._names[i]!r} just after an input at step {k}: limits "
                f"{low[k, i]:.4g} to {high[k, i]:.4g}; reduce its largest part, or the feedthrough"
            )

    def wide(self, values: Array) -> Array:
        """Repeat values of the outputs (..., ny) for all outputs of plans, (..., copies ny)."""
        return values if self.copies == 1 else np.concatenate([values] * self.copies, axis=-1)

    def cost(self, problem: OptimalControlProblem, y: Array, reference: Array, u: Array, before: Array) -> float:
        """Cost of readings y (T, ny) and inputs u (T, nu); see `mpc.problem.ocp.OptimalControlProblem.cost`."""
        return problem.cost(self.wide(y), self.wide(reference), u, before)

    def narrow(self, values: Array) -> Array:
        """Larger of the values just before and just after the input, per output, shape (..., ny)."""
        return np.asarray(values.reshape(*values.shape[:-1], self.copies, self._ny).max(axis=-2))

    def settings(self, tracking: Tracking, prices: Prices, limits: Limits) -> tuple[Tracking, Prices, Limits]:
        """Settings for `planner`: outputs just after an input have limits, but neither weights nor prices.

        Args:
            tracking: Settings for the measured outputs.
            prices: Likewise.
            limits: Likewise.
        """
        if self.copies == 1:
            return tracking, prices, limits
        weights = {name: self._also(getattr(tracking, name), 0.0) for name in ("output_weight", "terminal_weight")}
        return (
            replace(tracking, **weights),
            replace(prices, output_price=self._also(prices.output_price, 0.0)),
            replace(limits, penalty=self._also(limits.penalty)),
        )

    def _also(self, value: ArrayLike | None, after: float | None = None) -> Any:
        """Extend a value per output by ``after`` for outputs just after an input; by the same value when left out."""
        if value is None:
            return value
        each = np.broadcast_to(np.asarray(value, dtype=np.float64), self._ny) if np.ndim(value) == 0 else value
        return np.concatenate([each, each if after is None else np.full(self._ny, after)])

    def limits(self, lower: Array, upper: Array, shown: tuple[Array, Array]) -> tuple[Array, Array]:
        """Lower and upper limits of all outputs of plans, each (N + 1, outputs).

        Args:
            lower: Lower limits of readings by the tightening alone, shape (N + 1, ny).
            upper: Upper limits, likewise.
            shown: Present limits of readings, which may have been widened by measurements.
        """
        if self.copies == 1:
            return shown
        low, high = np.array(shown[0]), np.array(shown[1])
        low[0], high[0] = -np.inf, np.inf  # no input moves the reading at hand
        return np.hstack([low, lower + self._more]), np.hstack([high, upper - self._more])
