"""Set points without offset, whatever the observer: the cost predicts with a model whose steady state holds.

An estimate that measurements move is no steady state of the model while the plant is at rest: with a constant inflow
that the model does not know, xhat = f(xhat, u) + L (y - g(xhat)), and predictions drift away from xhat as if the plant
did. A target found with them is missed for ever. The theory (Pannocchia & Rawlings, AIChE Journal 2003, theorem 1;
Maeder, Borrelli & Morari, Automatica 2009, theorem 1) asks for as many disturbances as outputs, an estimator of them
that settles, and a target from the same estimate. The disturbance model here is d+ = d on the outputs, its estimator
the model that runs on beside the observer from the same start, z+ = f(z, u), for which measurements do not count: where
the model forgets, z settles with u, and so does the estimate y - g(z) of d.

The cost takes the *level* of predictions from that model, and the *transient* from the observer. With y_k(x) the
outputs under the held last input from x, e = y - g(xhat) and a low-pass filter F of gain g, the filter of
`mpc.calibration.residuals`, predictions of the cost are those from xhat, plus

    F(e)  +  F( [y_k(z) - y_0(z)] - [y_k(xhat) - y_0(xhat)] )           at step k,
    F(e)  +  F( y_0(xhat) - y_0(z) )                                    at the steady state of a plan's last input.

Theorem: let the loop come to rest at some u, y and xhat, with the model contracting, and no limit active. Then z rests
at the steady state x_s(u), the filters at their arguments, and the prediction under the held input is at every step

    y_k(xhat) + y - g(xhat) + [g(x_s) - g(x_s)] - [y_k(xhat) - g(xhat)] = y ,

likewise g(x_s) + y - g(xhat) + g(xhat) - g(x_s) = y at the end. So holding u is free of predicted errors if and only if
y is the set point; if it is not, and the steady output's derivative by u has full row rank, the gradient of the cost at
the held plan does not vanish, and the controller would move u: at rest, y is the set point. Nothing about the observer
entered but that it rests. For an observer that runs on, z = xhat, and the second filter is zero.

What is promised about limits does not change: in guaranteed mode neither filter enters them; in practical mode the
first does, as it was calibrated; without a tightening, where nothing is promised, both do.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.kernels import step
from mpc.calibration.residuals import DisturbanceFilter
from mpc.observers.base import Observer


class OutputDisturbance:
    """What a controller adds to the model's outputs; see the module docstring.

    Args:
        observer: The controller's.
        horizon: N.
        low_pass: The first filter; the second has its gain.
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
        #: Whether the model forgets, so that its run beside the observer settles; if not, it corrects nothing.
        self.forgets = observer.contraction is not None or _forgets(observer)
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._beside = self._last = self._start
        self._estimate: Array | None = None
        self._level = np.zeros((self._horizon + 2, self.predictor.ny))

    @property
    def estimate(self) -> Array:
        """The first filter's, shape (ny,); zero until a complete measurement has been seen."""
        return np.zeros(self.predictor.ny) if self._estimate is None else self._estimate

    @property
    def rows(self) -> Array:
        """What the cost adds to outputs predicted for the steps 0..N, shape (N + 1, ny)."""
        return np.asarray(self.estimate + self._level[:-1])

    @property
    def steady(self) -> Array:
        """What it adds to the output of a steady state, shape (ny,)."""
        return np.asarray(self.estimate + self._level[-1])

    @property
    def in_limits(self) -> Array:
        """What limits, and what is said about predictions, count on top of the model's outputs, (N + 1, ny)."""
        first, second = self._entering
        return np.asarray(first * self.estimate + second * self._level[:-1])

    def see(self, error: Array, x: Array, held: Array) -> None:
        """Take in a measurement.

        Args:
            error: Measured output minus that of the estimate, shape (ny,); NaN where missing.
            x: The estimate, shape (nx,).
            held: The last input, shape (nu,).
        """
        if self._estimate is not None or not np.isnan(error).any():  # as on records, it starts with a complete one
            self._estimate = self._filter._update(self._estimate, error)
        if self.forgets and np.isfinite(x).all():
            self._level += self._filter.gain * (self._difference(x, held) - self._level)

    def after(self, error: Array) -> Array:
        """A measured error less what predictions for now will be corrected by once it is seen, shape (ny,)."""
        if not self._entering[0] or (self._estimate is None and np.isnan(error).any()):
            return error
        return np.asarray(error - self._filter._update(self._estimate, error))

    def advance(self, u: Array) -> None:
        """Go on to the next sample under the input u (nu,)."""
        self._last = self._beside
        if self.forgets:
            self._beside = step(self.predictor.system, self._beside, u)

    def revise(self, u: Array) -> None:
        """Replace the input of the last `advance` by what is known to have acted, shape (nu,)."""
        self._beside = self._last
        self.advance(u)

    def _difference(self, x: Array, held: Array) -> Array:
        """The second filter's argument for the steps 0..N and at rest, shape (N + 2, ny)."""
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
    """Whether the model is stable near its steady state in the middle of the inputs' range."""
    predictor = observer.predictor
    try:
        u = np.mean(predictor.input_limits(), axis=0)
        A = predictor.linearise(predictor.equilibrium(u), u)[0]
    except SettingError:
        return False
    return bool((np.abs(np.linalg.eigvals(A)) < 1.0 - 1e-9).all())
