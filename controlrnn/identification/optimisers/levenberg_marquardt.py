"""Levenberg-Marquardt: Gauss-Newton steps, damped as much as the last ones needed.

Marquardt 1963, with the damping of Nielsen, "Damping parameter in Marquardt's method", IMM-REP-1999-05. Damping weighs
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

_TRIALS = 25
_COMMON = 1e-2
_PROGRESS = 1e-14  # relative decrease below which a step is rounding, not descent


class LeastSquares(Protocol):
    """A cost whose Hessian has a Gauss-Newton approximation."""

    def value(self, x: Array) -> float:
        """The cost; infinite where there is none."""

    def gauss_newton(self, x: Array) -> tuple[float, Array, Array]:
        """Cost, gradient (n,) and approximate Hessian (n, n), positive semidefinite."""


class LevenbergMarquardt:
    """Minimises a sum of squares.

    Args:
        problem: The cost.
        x: Where to start, shape (n,).
        damping: Damping of the first step, relative to the curvature.
    """

    validate_every = 1

    def __init__(self, problem: LeastSquares, x: Array, *, damping: float = 1e-2) -> None:
        self._problem = problem
        self.x = np.array(x)
        self.value = problem.value(self.x)
        self._damping, self._growth = damping, 2.0

    def iterate(self) -> bool:
        """One step down; False where even the most damped one does not lead down."""
        if not np.isfinite(self.value):
            return False
        value, gradient, hessian = self._problem.gauss_newton(self.x)
        if not (np.isfinite(gradient).all() and np.isfinite(hessian).all()):
            return False
        curvature = np.diag(hessian)
        # The last term is there where nothing has any curvature.
        scale = curvature + _COMMON * curvature.mean() + 1e-300
        for _ in range(_TRIALS):
            step = _solve(hessian, self._damping * scale, gradient)
            trial = np.inf if step is None else self._problem.value(self.x - step)
            if step is not None and trial < value * (1 - _PROGRESS):
                expected = float(step @ (gradient - 0.5 * hessian @ step))
                ratio = (value - trial) / max(expected, 1e-300)
                self._damping = max(self._damping * max(1 / 3, 1 - (2 * ratio - 1) ** 3), 1e-12)
                self._growth, self.x, self.value = 2.0, self.x - step, trial
                return True
            self._damping *= self._growth
            self._growth *= 2
        return False

    def arrays(self) -> dict[str, Array]:
        """Everything that the next iteration depends on."""
        numbers = np.array([self.value, self._damping, self._growth])
        return {"x": self.x, "numbers": numbers}

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go back to where `arrays` was called."""
        self.x = arrays["x"]
        self.value, self._damping, self._growth = arrays["numbers"].tolist()


def _solve(hessian: Array, damping: Array, gradient: Array) -> Array | None:
    try:
        factor = scipy.linalg.cho_factor(hessian + np.diag(damping), lower=True)
    except (scipy.linalg.LinAlgError, ValueError):
        return None
    return np.asarray(scipy.linalg.cho_solve(factor, gradient))
