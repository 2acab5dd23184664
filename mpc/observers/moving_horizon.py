"""Moving horizon estimation: the model's state from the last W samples by least squares (`mpc.observers.window_fit`).

Rao, Rawlings, Mayne, "Constrained state estimation for nonlinear discrete-time systems", IEEE TAC 2003, eq. 6. The
arrival cost, with mean m and covariance R R', summarises the samples before the window. When a sample leaves the
window, it is updated by one step of an extended Kalman filter, linearised at the smoothed trajectory, with the input
errors as noise. The last solution, shifted, is the starting point of the next problem. There is an estimate in all
cases, and with a guard (`mpc.observers.guarded`) its error stays certified.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array, count, per_channel, positive, read_only
from controlrnn.errors import SettingError
from controlrnn.kernels import output, simulate, step
from controlrnn.kernels.dense import eigen, product, solve
from controlrnn.typed import typed
from mpc.observers.guarded import GuardedObserver
from mpc.observers.window_fit import Fit, Window, WindowFitter
from mpc.predictor import Predictor

_SPREAD_STEPS = 1000  # samples of the simulation that gives the default spread of initial states,
_HOLDS = (1, 50)  # and the samples between switches of its inputs
_FLOOR = 1e-12  # least eigenvalue of a covariance, relative to its trace


@dataclass(frozen=True)
@typed(infinite=("cost",))
class EstimateInfo:
    """Outcome of the last least-squares problem.

    Args:
        iterations: Gauss-Newton steps taken.
        cost: Half the sum of squares.
        seconds: Wall time.
        timed_out: Whether the time limit stopped it.
    """

    iterations: int
    cost: float
    seconds: float
    timed_out: bool


class MovingHorizonObserver(GuardedObserver):
    """Moving horizon observer: constrained least squares over the last samples.

    Missing measurements are left out; late ones enter through `correct` while their sample is within the window. Input
    errors are estimated as well where ``input_error`` is positive.

    Args:
        predictor: Model.
        steps: Samples before the estimate may be used.
        window: Number W of samples in the window.
        output_std: Standard deviation of measurement minus model, scalar or (ny,), positive.
        start_std: Standard deviation of the initial state, scalar or (nx,); the spread of the model's states under
            inputs that switch between their limits when left out.
        offset_std: Standard deviation of an output offset that is constant over the window, scalar or (ny,).
        state_limits: Lower and upper limits of the states, each (nx,), e.g. of the reachable set. Estimates are clipped
            to them, and violations at both ends of the window are penalised.
        iterations: Most Gauss-Newton steps per sample.
        time_limit: Seconds per sample after which no further step is begun.
        tolerance: Relative decrease of the cost at which to stop.
        options: Arguments of `GuardedObserver`, among them ``guard``.
    """

    @typed()
    def __init__(
        self,
        predictor: Predictor,
        steps: int,
        *,
        window: int,
        output_std: ArrayLike,
        start_std: ArrayLike | None = None,
        offset_std: ArrayLike = 0.0,
        state_limits: tuple[ArrayLike, ArrayLike] | None = None,
        iterations: int = 5,
        time_limit: float = np.inf,
        tolerance: float = 1e-6,
        input_error: ArrayLike = 0.0,
        **options: Any,
    ) -> None:
        self.window = count("window", window)
        self.state_limits = None if state_limits is None else _limits(state_limits, predictor.nx)
        spread = per_channel("output_std", output_std, predictor.ny)
        if not (spread > 0).all() or not time_limit > 0:
            raise SettingError(f"output_std and time_limit must be positive, got {spread} and {time_limit!r}")
        self.fitter = WindowFitter(
            predictor.system,
            output_std=spread,
            offset_std=per_channel("offset_std", offset_std, predictor.ny),
            input_error=per_channel("input_error", input_error, predictor.nu),
            state_limits=self.state_limits,
            iterations=count("iterations", iterations),
            time_limit=float(time_limit),
            tolerance=positive("tolerance", tolerance),
        )
        self._spreads = start_std is None
        root = _spread(predictor) if start_std is None else np.diag(per_channel("start_std", start_std, predictor.nx))
        self._first_root = read_only(root)
        super().__init__(predictor, steps, input_error=input_error, **options)

    def start(self) -> None:
        """Start again with an empty window and the initial arrival cost."""
        super().start()
        self._past: deque[tuple[Array, Array]] = deque(maxlen=self.window)
        self._mean = self.initial_state
        self._root = self._first_root
        self._fit: Fit | None = None
        self._last = EstimateInfo(0, 0.0, 0.0, False)

    @property
    def info(self) -> EstimateInfo:
        """Outcome of the last least-squares problem."""
        return self._last

    @property
    def offset(self) -> Array:
        """Estimated offset of the outputs, shape (ny,)."""
        return np.zeros(self.predictor.ny) if self._fit is None else self._fit.offset

    def _method(self) -> str:
        return f"moving horizon estimate over {self.window} samples, used after {self.steps} steps"

    def _arrays(self) -> dict[str, Array]:
        fitter, limits = self.fitter, self.state_limits or ()
        arrays = {"output_std": fitter.output_std, "offset_std": fitter.offset_std}
        arrays |= self._input_range() if self._spreads else {"start_root": self._first_root}
        return arrays | {"input_error": self.input_error} | {f"limit{i}": side for i, side in enumerate(limits)}

    def _settings(self) -> dict[str, Any]:
        meta = {"window": self.window, "tolerance": self.fitter.tolerance, "iterations": self.fitter.iterations}
        return super()._settings() | meta

    def _propose(self, u: Array, y: Array) -> Array:
        full = len(self._past) == self.window
        with np.errstate(all="ignore"):  # estimates that are not finite are not used
            if full and self._fit is not None:
                self._pass_on(self._fit)
            guess = self._guess(full)
            self._past.append((u, y))
            return self._solve(guess)

    def _late(self, age: int, y: Array) -> Array:
        if age >= len(self._past) or self._fit is None:
            return self.state
        u, seen = self._past[-1 - age]
        self._past[-1 - age] = (u, np.where(np.isnan(y), seen, y))
        with np.errstate(all="ignore"):
            return self._accept(self._solve(self._fit.z))

    def _solve(self, guess: Array) -> Array:
        began = time.perf_counter()
        u, y = (np.array(rows) for rows in zip(*self._past, strict=True))
        self._fit, taken, late = self.fitter.fit(Window(u, y, self._mean, self._root), guess)
        self._last = EstimateInfo(taken, self._fit.cost, time.perf_counter() - began, late)
        end = self._fit.x[-1] if np.isfinite(self._fit.cost) else np.full(self.predictor.nx, np.nan)
        return np.asarray(end if self.state_limits is None else np.clip(end, *self.state_limits))

    def _guess(self, full: bool) -> Array:
        """Starting point of the next problem: the last solution shifted by one sample; zero where there is none."""
        nx, nu, samples = self.predictor.nx, self.predictor.nu, min(len(self._past) + 1, self.window)
        guess = np.zeros(self.fitter.size(samples))
        if self._fit is None or not np.isfinite(self._fit.cost):
            return guess
        z = self._fit.z
        if full:
            # zeta of the second state with respect to the new arrival cost; the columns of a root are orthogonal.
            sizes = (self._root**2).sum(axis=0)
            away = product(self._fit.x[1] - self._mean, self._root) / np.where(sizes > 0, sizes, np.inf)
            guess[:nx] = away if np.isfinite(away).all() else 0.0
        else:
            guess[:nx] = z[:nx]
        if self.fitter.inexact:
            known = z[nx + nu * full : nx + nu * len(self._past)]
            guess[nx : nx + len(known)] = known
        if self.fitter.shifted:
            guess[-self.predictor.ny :] = z[-self.predictor.ny :]
        return guess

    def _pass_on(self, fit: Fit) -> None:
        """Update the arrival cost, mean and root, by the first sample of the window (extended Kalman filter)."""
        nx, fitter = self.predictor.nx, self.fitter
        lin = fitter.linearise(fit.x[:1], fit.u[:1])
        before, seen = self._past[0]
        # Joint distribution of the state and its true input, uniform within the input error.
        mean = np.concatenate([self._mean, before])
        spread = np.zeros((len(mean), len(mean)))
        spread[:nx, :nx] = product(self._root, self._root.T)
        spread[nx:, nx:] = np.diag(self.input_error**2 / 3)
        at = np.concatenate([fit.x[0], fit.u[0]])
        known = ~np.isnan(seen)
        H, noise = lin.output[0][known], (fitter.output_std**2 + fitter.offset_std**2)[known]
        if known.any():  # measurement update
            innovation = (seen - output(self.system, fit.x[0], fit.u[0]))[known] - product(H, mean - at)
            seen_by = product(H, spread)
            gained = solve(product(seen_by, H.T) + np.diag(noise), seen_by)
            if gained is not None:
                mean, spread = mean + product(innovation, gained), spread - product(gained.T, seen_by)
        F = lin.state[0]  # time update
        mean = step(self.system, fit.x[0], fit.u[0]) + product(F, mean - at)
        root = _root(product(product(F, spread), F.T))
        if root is None or not np.isfinite(mean).all():  # diverged: restart at the smoothed state
            mean, root = fit.x[1], self._first_root
        self._mean = mean
        self._root = root


def _root(covariance: Array) -> Array | None:
    scale = float(np.trace(covariance))
    if not np.isfinite(scale):
        return None
    found = eigen(0.5 * (covariance + covariance.T))
    if found is None:
        return None
    values, rows = found
    return np.ascontiguousarray(rows.T) * np.sqrt(np.maximum(values, _FLOOR * scale))


def _spread(predictor: Predictor) -> Array:
    """Root of the covariance of the model's states under inputs that switch randomly between their limits."""
    rng = np.random.default_rng(0)
    lower, upper = predictor.input_limits()
    hold = rng.integers(*_HOLDS, size=_SPREAD_STEPS)
    u = np.repeat(rng.choice([0.0, 1.0], (_SPREAD_STEPS, predictor.nu)), hold, axis=0)[:_SPREAD_STEPS]
    x = simulate(predictor.system, lower + (upper - lower) * u)[1]
    centred = x - x.mean(axis=0)
    root = _root(centred.T @ centred / len(x))
    return np.eye(predictor.nx) if root is None else root


def _limits(limits: tuple[ArrayLike, ArrayLike], nx: int) -> tuple[Array, Array]:
    low, high = (read_only(as_array("state_limits", side, (nx,))) for side in limits)
    if not (low < high).all():
        raise SettingError(f"state_limits must satisfy lower < upper, got {low} and {high}")
    return low, high
