"""Offset-free tracking with any observer, by an output disturbance model and a level correction of the predictions.

An estimate that is corrected by measurements is no steady state of the model while the plant is at rest: with a
constant inflow that the model does not know, xhat = f(xhat, u) + L (y - g(xhat)), and predictions drift away from xhat
although the plant does not. A set point tracked with them has an offset. The theory (Pannocchia & Rawlings, AIChE
Journal 2003, theorem 1; Maeder, Borrelli & Morari, Automatica 2009, theorem 1) needs as many disturbances as outputs,
an estimator of them that settles, and a target from the same estimate. The disturbance model here is d+ = d on the
outputs. Its estimator is the model simulated in parallel to the observer from the same start, z+ = f(z, u), without
measurements: where the model forgets its initial state, z settles with u, and so does the estimate y - g(z) of d.

The cost takes the *level* of predictions from that model, and the *transient* from the observer. With y_k(x) the
outputs under the held last input from x, e = y - g(xhat) and a low-pass filter F of gain g, the filter of
`mpc.calibration.residuals`, predictions of the cost are those from xhat, plus

    F(e)  +  F( [y_k(z) - y_0(z)] - [y_k(xhat) - y_0(xhat)] )           at step k,
    F(e)  +  F( y_0(xhat) - y_0(z) )                                    at the steady state of a plan's last input.

Theorem: let the loop come to rest at some u, y and xhat, with the model contracting, and no limit active. Then
predictions under the held input equal y at every step. If moreover the steady output's derivative by u has full row
rank, and inputs have neither prices nor weights, y is the set point. (Proof: docs/theory/offset_free.md.) The only
property of the observer that is used is that it comes to rest. For an observer that runs on, z = xhat, and the second
filter is zero.

The promise about limits does not change: in guaranteed mode neither filter enters them; in practical mode the first
does, as it was calibrated; without a tightening, where nothing is promised, both do.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.kernels import step
from mpc.calibration.residuals import DisturbanceFilter
from mpc.observers.base import Observer


class OutputDisturbance:
    """Estimates of the output disturbance and of the level correction; see the module docstring.

    Args:
        observer: The controller's observer.
        horizon: Number N of steps.
        low_pass: The first filter; the second has the same gain.
        at_rest: Whether plans end at the steady state of their last input instead of at x_N.
        in_limits: Whether the first filter enters limits.
        level_in_limits: Whether the second one does, too.
    """

    def __init__(
        self,
        observer: Observer,
        horizon: int,
        low_pass: DisturbanceFilter,
        at_rest: bool,
        in_limits: bool,
        level_in_limits: bool,
    ) -> None:
        self.predictor = observer.predictor
        self._start = observer.initial_state
        self._filter = low_pass
        self._horizon = horizon
        self._at_rest = at_rest
        self._entering = (in_limits, in_limits and level_in_limits)
        #: Whether the model forgets its initial state, so that z settles; if not, there is no level correction.
        self.forgets = observer.contraction is not None or _forgets(observer)
        self.reset()

    def reset(self) -> None:
        """Start again without disturbance and level correction."""
        self._beside = self._last = self._start
        self._estimate: Array | None = None
        self._level = np.zeros((self._horizon + 2, self.predictor.ny))

    def forget_errors(self) -> None:
        """Let the first filter start anew where it enters limits: it has learnt of errors that are not calibrated."""
        if self._entering[0]:
            self._estimate = None

    @property
    def estimate(self) -> Array:
        """Output disturbance estimate by the first filter, shape (ny,); zero until a first complete measurement."""
        return np.zeros(self.predictor.ny) if self._estimate is None else self._estimate

    @property
    def rows(self) -> Array:
        """Correction that the cost adds to the predicted outputs of steps 0..N, shape (N + 1, ny)."""
        return np.asarray(self.estimate + self._level[:-1])

    @property
    def steady(self) -> Array:
        """Correction that the cost adds to the output of a steady state, shape (ny,)."""
        return np.asarray(self.estimate + self._level[-1])

    @property
    def in_limits(self) -> Array:
        """Correction of the model's outputs in limits and in reported predictions, shape (N + 1, ny)."""
        first, second = self._entering
        return np.asarray(first * self.estimate + second * self._level[:-1])

    def update(self, error: Array, x: Array, held: Array) -> None:
        """Update both filters with a measurement.

        Args:
            error: Measured output minus that of the estimate, shape (ny,); NaN where missing.
            x: The state estimate, shape (nx,).
            held: The last input, shape (nu,).
        """
        if self._estimate is not None or not np.isnan(error).any():  # as on records, it starts with a complete one
            self._estimate = self._filter._update(self._estimate, error)
        if self.forgets and np.isfinite(x).all():
            self._level += self._filter.gain * (self._difference(x, held) - self._level)

    def after(self, error: Array) -> Array:
        """Remaining output error (ny,) after the filter's correction by this measurement, if that enters limits."""
        if not self._entering[0] or (self._estimate is None and np.isnan(error).any()):
            return error
        return np.asarray(error - self._filter._update(self._estimate, error))

    def advance(self, u: Array) -> None:
        """Simulate the parallel model to the next sample under the input u (nu,)."""
        self._last = self._beside
        if self.forgets:
            self._beside = step(self.predictor.system, self._beside, u)

    def revise(self, u: Array) -> None:
        """Repeat the last `advance` with the input u (nu,) that is known to have acted."""
        self._beside = self._last
        self.advance(u)

    def _difference(self, x: Array, held: Array) -> Array:
        """Argument of the second filter for the steps 0..N and for the steady state, shape (N + 2, ny)."""
        rows = np.zeros_like(self._level)
        if np.array_equal(x, self._beside):
            return rows
        inputs = np.tile(held, (self._horizon, 1))  # one run after the other: a batch may be shared among threads
        y = np.stack([self.predictor.predict(start, inputs) for start in (self._beside, x)])
        moved = y - y[:, :1]
        rows[:-1], rows[-1] = moved[0] - moved[1], y[1, 0] - y[0, 0]
        if self._at_rest:
            rows[-2] = rows[-1]
        return rows


def _forgets(observer: Observer) -> bool:
    """Whether the model is stable near its steady state in the middle of the inputs' range; False if it has none."""
    predictor = observer.predictor
    try:
        u = np.mean(predictor.input_limits(), axis=0)
        A = predictor.linearise(predictor.equilibrium(u), u)[0]
    except SettingError:
        return False
    return bool((np.abs(np.linalg.eigvals(A)) < 1.0 - 1e-9).all())
