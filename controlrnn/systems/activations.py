"""Static nonlinearities with the slope interval that every certificate rests on."""

from __future__ import annotations

from enum import StrEnum

from controlrnn.systems.ops import Ops, Value


class Activation(StrEnum):
    """An elementwise function whose difference quotients all lie in `slope`."""

    TANH = "tanh"
    RELU = "relu"
    SIGMOID = "sigmoid"
    LEAKY_RELU = "leaky_relu"

    @property
    def slope(self) -> tuple[float, float]:
        """(alpha, beta) with alpha <= (s(a) - s(b)) / (a - b) <= beta for all a != b."""
        return _SLOPES[self]

    def apply(self, ops: Ops, v: Value) -> Value:
        """Evaluate on any backend, elementwise."""
        if self is Activation.TANH:
            return ops.tanh(v)
        if self is Activation.RELU:
            return ops.relu(v)
        if self is Activation.SIGMOID:
            return ops.sigmoid(v)
        return LEAK * v + (1 - LEAK) * ops.relu(v)


LEAK = 0.01
_SLOPES = {
    Activation.TANH: (0.0, 1.0),
    Activation.RELU: (0.0, 1.0),
    Activation.SIGMOID: (0.0, 0.25),
    Activation.LEAKY_RELU: (LEAK, 1.0),
}
