"""Limited-memory BFGS, whose state can be saved between any two iterations.

Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Prog. 1989; the line search is
the bisection for the weak Wolfe conditions of Lewis & Overton, "Nonsmooth optimization via quasi-Newton methods", Math.
Prog. 2013, algorithm 2.6: it needs no more than finite values, and takes an infinite one for a step that is too long.
There is no stop by a small relative decrease: on simulation errors that ends the search within the first iterations.
The search for multipliers (`controlrnn.certification.search.riccati`) shares the direction; its line search is another,
in logarithms by limited factors, and starts anew where no step helps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from controlrnn.checks import Array
from controlrnn.quasi_newton import lbfgs_direction

_DECREASE, _CURVATURE = 1e-4, 0.9  # of the weak Wolfe conditions
_TRIALS = 30  # step lengths that one line search tries

# Value and gradient at a point; where the function is undefined the value is infinite and the gradient meaningless.
Function = Callable[[Array], tuple[float, Array]]


class LBFGS:
    """L-BFGS minimisation of a function of many variables.

    Args:
        function: Function that returns value and gradient.
        x: Starting point, shape (n,).
        memory: Pairs of steps and gradient changes that are kept.
    """

    validate_every = 10

    def __init__(self, function: Function, x: Array, *, memory: int = 30) -> None:
        self._function = function
        self._memory = memory
        self.x = np.array(x)
        self.value, self._gradient = function(self.x)
        self._steps = np.zeros((0, len(self.x)))
        self._changes = np.zeros((0, len(self.x)))

    def iterate(self) -> bool:
        """Make one descent step; returns False where none leads further down."""
        if not np.isfinite(self.value):
            return False
        direction = self._direction()
        slope = float(direction @ self._gradient)
        if not slope < 0:
            # Rounding spoiled the memory, or this is a stationary point: try once more from steepest descent.
            self._steps = self._steps[:0]
            self._changes = self._changes[:0]
            direction = self._direction()
            slope = float(direction @ self._gradient)
        found = self._search(direction, slope) if slope < 0 else None
        if found is None:
            return False
        x, value, gradient = found
        step, change = x - self.x, gradient - self._gradient
        # Only a positive curvature along the step keeps the approximate Hessian positive definite.
        if step @ change > 1e-14 * np.linalg.norm(step) * np.linalg.norm(change):
            self._steps = np.concatenate([self._steps, step[None]])[-self._memory :]
            self._changes = np.concatenate([self._changes, change[None]])[-self._memory :]
        self.x = x
        self.value = value
        self._gradient = gradient
        return True

    def arrays(self) -> dict[str, Array]:
        """State of the optimiser: everything that the next iteration depends on."""
        return {
            "x": self.x,
            "value": np.array(self.value),
            "gradient": self._gradient,
            "steps": self._steps,
            "changes": self._changes,
        }

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Restore the state that `arrays` returned."""
        self.x = arrays["x"]
        self.value = float(arrays["value"])
        self._gradient = arrays["gradient"]
        self._steps = arrays["steps"]
        self._changes = arrays["changes"]

    def _direction(self) -> Array:
        """Descent direction; a first step has length one at most."""
        if not len(self._steps):
            return -self._gradient / max(1.0, float(np.linalg.norm(self._gradient)))
        return lbfgs_direction(self._gradient, zip(self._steps, self._changes, strict=True))

    def _search(self, direction: Array, slope: float) -> tuple[Array, float, Array] | None:
        """Line search for the weak Wolfe conditions; returns point, value and gradient, None where nothing descends."""
        low, high, length = 0.0, np.inf, 1.0  # the bracket, open to the right until a step is too long
        best = None
        for _ in range(_TRIALS):
            x = self.x + length * direction
            value, gradient = self._function(x)
            if not (np.isfinite(value) and value <= self.value + _DECREASE * length * slope):
                high = length
            elif gradient @ direction < _CURVATURE * slope:
                low, best = length, (x, value, gradient)
            else:
                return x, value, gradient
            length = 2 * low if np.isinf(high) else 0.5 * (low + high)
        return best
