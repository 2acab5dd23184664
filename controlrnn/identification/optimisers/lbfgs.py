"""Limited-memory BFGS, whose state can be written down between any two iterations.

Liu & Nocedal, "On the limited memory BFGS method for large scale optimization", Math. Prog. 1989; the line search is
the bisection for the weak Wolfe conditions of Lewis & Overton, "Nonsmooth optimization via quasi-Newton methods", Math.
Prog. 2013, algorithm 2.6: it needs no more than finite values, and takes an infinite one for a step that is too long.
There is no stop by a small relative decrease: on simulation errors that ends the search within the first iterations.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from controlrnn.checks import Array

_DECREASE, _CURVATURE = 1e-4, 0.9
_TRIALS = 30

# Value and gradient at a point; the value is infinite, and the gradient of no meaning, where there is none.
Function = Callable[[Array], tuple[float, Array]]


class LBFGS:
    """Minimises a function of many variables.

    Args:
        function: Gives value and gradient.
        x: Where to start, shape (n,).
        memory: Pairs of steps and gradient changes that are kept.
    """

    validate_every = 10

    def __init__(self, function: Function, x: Array, *, memory: int = 30) -> None:
        self._function, self._memory = function, memory
        self.x = np.array(x)
        self.value, self._gradient = function(self.x)
        self._steps = np.zeros((0, len(self.x)))
        self._changes = np.zeros((0, len(self.x)))

    def iterate(self) -> bool:
        """One descent step; False where no step leads further down."""
        if not np.isfinite(self.value):
            return False
        direction = self._direction()
        slope = float(direction @ self._gradient)
        if not slope < 0:
            # Rounding spoiled the memory, or this is a stationary point: try once more from steepest descent.
            self._steps, self._changes = self._steps[:0], self._changes[:0]
            direction = self._direction()
            slope = float(direction @ self._gradient)
        found = self._search(direction, slope) if slope < 0 else None
        if found is None:
            return False
        x, value, gradient = found
        step, change = x - self.x, gradient - self._gradient
        if step @ change > 1e-14 * np.linalg.norm(step) * np.linalg.norm(change):
            self._steps = np.concatenate([self._steps, step[None]])[-self._memory :]
            self._changes = np.concatenate([self._changes, change[None]])[-self._memory :]
        self.x, self.value, self._gradient = x, value, gradient
        return True

    def arrays(self) -> dict[str, Array]:
        """Everything that the next iteration depends on."""
        return {
            "x": self.x, "value": np.array(self.value), "gradient": self._gradient,
            "steps": self._steps, "changes": self._changes,
        }  # fmt: skip

    def restore(self, arrays: Mapping[str, Array]) -> None:
        """Go back to where `arrays` was called."""
        self.x, self.value, self._gradient = arrays["x"], float(arrays["value"]), arrays["gradient"]
        self._steps, self._changes = arrays["steps"], arrays["changes"]

    def _direction(self) -> Array:
        """Two-loop recursion."""
        q: Array = -self._gradient
        if not len(self._steps):
            return np.asarray(q / max(1.0, float(np.linalg.norm(q))))
        rho = 1.0 / np.einsum("ij,ij->i", self._steps, self._changes)
        alpha = np.zeros(len(rho))
        for i in range(len(rho) - 1, -1, -1):
            alpha[i] = rho[i] * (self._steps[i] @ q)
            q = q - alpha[i] * self._changes[i]
        q = q / (rho[-1] * (self._changes[-1] @ self._changes[-1]))
        for i in range(len(rho)):
            q = q + (alpha[i] - rho[i] * (self._changes[i] @ q)) * self._steps[i]
        return q

    def _search(self, direction: Array, slope: float) -> tuple[Array, float, Array] | None:
        low, high, length = 0.0, np.inf, 1.0
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
