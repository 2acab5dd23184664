"""Observers that use recorded inputs alone: restarted over a window at every sample, or running on.

The theorem on their errors and jumps is that of `mpc.observers.base`. (Proofs: docs/theory/reinitialisation.md.)
"""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels import step
from controlrnn.kernels.dense import dot
from mpc.c_tables import ObserverTable
from mpc.observers.base import Observer
from mpc.observers.state_error import ROUNDING, StateError
from mpc.observers.straying import anywhere, astray, followed


class Washout(Observer):
    """Open-loop observer that simulates the last ``steps`` recorded inputs from ``initial_state`` at every sample.

    The estimate depends on nothing older, so that any error is forgotten after ``steps`` samples.
    """

    def _resume(self) -> None:
        self._record = np.zeros((0, self.predictor.nu))
        self._astray = astray(self)  # z and d of `mpc.observers.straying`
        #: Samples since the model's state is known to be where inputs in range lead to.
        self._clean = self.steps if self._astray is None else 0

    @property
    def restart(self) -> StateError:
        """Bound on the distance of x* from ``initial_state``; see `Observer.restart`."""
        return StateError.stated(self._reach(), self._certificate().metric)

    def _own_jump(self) -> StateError | None:
        # Two runs over the same window, whose starts are one step of the model apart.
        if self.contraction is None:
            return None
        radius = self._motion * self.contraction.rate**self.steps * ROUNDING
        return StateError.stated(radius, self.contraction.metric)

    @property
    def certified(self) -> bool:
        """Whether the certified error holds for the present estimate.

        False after an input outside the actuators' range, or an unknown one, until the model's state is back in the
        ball that inputs in range lead to, and a window of clean inputs has passed since then.
        """
        return super().certified and self._clean >= self.steps

    def _next(self, u: Array, y: Array) -> Array:  # noqa: ARG002 -- open loop: the measurement is not used
        if self.contraction is not None:
            self._clean = 0 if self._lost or self._astray is not None else min(self._clean + 1, self.steps)
            self._astray = followed(self, self._astray, u)
        self._record = np.vstack([self._record, u])[-self.steps :]
        return np.asarray(self.predictor.states(self.initial_state, self._record)[-1])

    def estimates(self, u: Array, y: Array) -> Array:
        """Estimates along a whole record, all windows in one batch; see `Observer.estimates`."""
        u, y = self._samples(u, y)
        rows = np.full((len(u) + 1, self.predictor.nx), np.nan)
        if len(u) >= self.steps:
            windows = np.lib.stride_tricks.sliding_window_view(u, self.steps, axis=0).swapaxes(1, 2)
            rows[self.steps :] = self.predictor.states(self.initial_state, windows)[:, -1]
        return rows

    def describe(self) -> str:
        """One line for reports; see `Observer.describe`."""
        return f"washout of {self.steps} steps at every sample; {self._error_text()}"


class RunningOn(Observer):
    """Open-loop observer that simulates from sample to sample without re-initialisation; ready after ``steps``."""

    @property
    def restart(self) -> StateError:
        """Bound on the error of every earlier estimate; see `Observer.restart`."""
        certificate = self._certificate()
        settled = dot(certificate.input_gain, self.input_error) / (1 - float(certificate.rate)) * ROUNDING
        return StateError.stated(max(self._reach(), settled), certificate.metric)

    def _resume(self) -> None:
        self._bound = np.inf if self.contraction is None else self._reach() + self._excess

    @property
    def certified(self) -> bool:
        """Whether the certified error holds; False after inputs unknown or out of range until they are forgotten."""
        return super().certified and self._bound <= self._promised

    @cached_property
    def _promised(self) -> float:
        return self.error.radius

    def c_table(self) -> ObserverTable:
        """Numbers of the certified error that C code needs; see `Observer.c_table`."""
        return replace(super().c_table(), promised=None if self.contraction is None else self._promised)

    def _next(self, u: Array, y: Array) -> Array:  # noqa: ARG002
        after = step(self.system, self._state, u)
        if self._lost:
            self._bound = anywhere(self, after)
        elif self.contraction is not None:
            self._bound = self.contraction.rate * self._bound + dot(self.contraction.input_gain, self.input_error)
        return after

    def _own_jump(self) -> StateError:
        return StateError(0.0, np.eye(self.predictor.nx) if self.contraction is None else self.contraction.metric)

    def describe(self) -> str:
        """One line for reports; see `Observer.describe`."""
        return f"running on, used after {self.steps} steps; {self._error_text()}"
