"""Levenberg-Marquardt: Gauss-Newton steps with a damping that adapts to the success of the last ones.

Marquardt 1963, with the damping of Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05. Damping weights
each unknown by its own curvature plus a hundredth of the mean: the former makes units irrelevant, the latter stops the
inner weights of a network from jumping into saturation while its outer weights, and with them their curvature, are
still small. (Measured on the cascaded tanks, where either alone ends at twice the error.)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import scipy.linalg

from controlrnn.checks import Array

_TRIALS = 25  # dampings that one iteration tries
_COMMON = 1e-2  # share of the mean curvature in the damping of every unknown
_PROGRESS = 1e-14  # relative decrease below which a step is rounding, not descent


class LeastSquares(Protocol):
    """Cost whose Hessian has a Gauss-Newton approximation."""

    def value(self, x: Array) -> float:
        """Cost at ``x``; infinite where it is undefined."""

    def gauss_newton(self, x: Array) -> tuple[float, Array, Array]:
        """Cost, gradient (n,) and approximate Hessian (n, n), positive semidefinite."""


class LevenbergMarquardt:
    """Levenberg-Marquardt minimisation of a sum of squares.

    Args:
        problem: The cost.
        x: Starting point, shape (n,).
        damping: Damping of the first step, relative to the curvature.
    """

    validate_every = 1

    def __init__(self, problem: LeastSquares, x: Array, *, damping: float = 1e-2) -> None:
        self._problem = problem
        self.x = np.array(x)
        self.value = problem.value(self.x)
        self._damping = damping
        self._growth = 2.0

    def iterate(self) -> bool:
        """Make one descent step; returns False where even the most damped one does not descend."""
        if not np.isfinite(self.value):
            return False
        value, gradient, hessian = self._problem.gauss_newton(self.x)
        if not (np.isfinite(gradient).all() and np.isfinite(hessian).all()):
            return False
        curvature = np.diag(hessian)
        # The last term keeps the scale positive where no unknown has any curvature.
        scale = curvature + _COMMON * curvature.mean() + 1e-300
        for _ in range(_TRIALS):
            step = _solve(hessian, self._damping * scale, gradient)
            trial = np.inf if step is None else self._problem.value(self.x - step)
            if step is not None and trial < value * (1 - _PROGRESS):
                # Nielsen: the better the quadratic model predicted the decrease, the less damping next time.
                expected = float(step @ (gradient - 0.5 * hessian @ step))
                ratio = (value - trial) / max(expected, 1e-300)
                self._damping = max(self._damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 1e-12)
                self._growth = 2.0
                self.x = self.x - step
                self.value = trial
                return True
            self._damping *= self._growth
            self._growth *= 2
        return False

    def arrays(self) -> dict[str, Array]:
        """State of the optimiser: everything that the next iteration depends on."""
        numbers = np.array([self.value, self._damping, self._growth])
        return {"x": self.x, "numbers": numbers}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Restore the state that `arrays` returned."""
        self.x = arrays["x"]
        self.value, self._damping, self._growth = arrays["numbers"].tolist()


def _solve(hessian: Array, damping: Array, gradient: Array) -> Array | None:
    """Solve the damped normal equations; None where they are not positive definite."""
    try:
        factor = scipy.linalg.cho_factor(hessian + np.diag(damping), lower=True)
    except (scipy.linalg.LinAlgError, ValueError):
        return None
    return np.asarray(scipy.linalg.cho_solve(factor, gradient))
