"""Activation functions with the bounds on their slopes that every certificate uses."""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array, Choice
from controlrnn.systems.ops import Ops, Value


class Activation(Choice):
    """Elementwise activation function whose difference quotients all lie in the interval `slope`."""

    TANH = "tanh"
    RELU = "relu"
    SIGMOID = "sigmoid"
    LEAKY_RELU = "leaky_relu"

    @property
    def slope(self) -> tuple[float, float]:
        """Slope bounds (alpha, beta): alpha <= (s(a) - s(b)) / (a - b) <= beta for all a != b."""
        return _SLOPES[self]

    def apply(self, ops: Ops, v: Value) -> Value:
        """Evaluate the function elementwise on values of any backend."""
        if self is Activation.TANH:
            return ops.tanh(v)
        if self is Activation.RELU:
            return ops.relu(v)
        if self is Activation.SIGMOID:
            return ops.sigmoid(v)
        return LEAK * v + (1 - LEAK) * ops.relu(v)

    def derivative(self, w: Array) -> Array:
        """Derivative s'(v) at the v with s(v) = ``w``; at a kink the one from the left."""
        if self is Activation.TANH:
            return 1.0 - w * w
        if self is Activation.SIGMOID:
            return w * (1.0 - w)
        return np.where(w > 0, 1.0, 0.0 if self is Activation.RELU else LEAK)

    def curvature(self, w: Array) -> Array:
        """Second derivative s''(v) at the v with s(v) = ``w``; zero for the piecewise linear functions."""
        if self is Activation.TANH:
            return -2.0 * w * (1.0 - w * w)
        if self is Activation.SIGMOID:
            return w * (1.0 - w) * (1.0 - 2.0 * w)
        return np.zeros_like(w)


LEAK = 0.01
_SLOPES = {
    Activation.TANH: (0.0, 1.0),
    Activation.RELU: (0.0, 1.0),
    Activation.SIGMOID: (0.0, 0.25),
    Activation.LEAKY_RELU: (LEAK, 1.0),
}
