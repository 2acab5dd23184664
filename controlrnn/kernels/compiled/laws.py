# mypy: allow-untyped-defs, allow-untyped-calls, allow-untyped-decorators
"""Laws of single neurons in compiled code: values, and slopes from values, by the formulas of `systems.laws`.

A row of the table holds code, low, high, width, f(low), f(high), f'(low), f'(high); float64 in every precision, because
a range is a fact about the model.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np

from controlrnn.systems import Activation, Law, Laws

ACTIVATIONS = {
    Activation.TANH: 0,
    Activation.RELU: 1,
    Activation.SIGMOID: 2,
    Activation.LEAKY_RELU: 3,
}
# In the table the activations have the codes above.
IDENTITY, ROOT, SIGNED_ROOT, SQUARE, EXPONENTIAL, RECIPROCAL, SINE, SATURATION, DEAD_ZONE = range(4, 13)
_CODES = {law: ACTIVATIONS[law.activation] for law in Law if law.activation is not None} | {
    Law.IDENTITY: IDENTITY,
    Law.ROOT: ROOT,
    Law.SIGNED_ROOT: SIGNED_ROOT,
    Law.SQUARE: SQUARE,
    Law.EXPONENTIAL: EXPONENTIAL,
    Law.RECIPROCAL: RECIPROCAL,
    Law.SINE: SINE,
    Law.SATURATION: SATURATION,
    Law.DEAD_ZONE: DEAD_ZONE,
}
_NONE = np.zeros((0, 8))  # no rows for one activation
_part = numba.njit(nogil=True, error_model="numpy", no_cpython_wrapper=True, no_cfunc_wrapper=True)


def table_of(activation: Activation | Laws) -> Any:
    """Table (nv, 8) of laws that differ; no rows for one activation."""
    if not isinstance(activation, Laws):
        return _NONE
    codes = np.array([_CODES[n.law] for n in activation.neurons], dtype=np.float64)
    return np.column_stack([codes, activation.parameters, activation.ends])


@_part
def _inside(code, v, e):
    """Value of a curved law within its range."""
    if code == ROOT:
        return np.sqrt(v)
    if code == SIGNED_ROOT:
        return v / np.sqrt(np.sqrt(v * v + e * e))
    if code == SQUARE:
        return v * v
    if code == EXPONENTIAL:
        return np.exp(v)
    if code == SINE:
        return np.sin(v)
    return -1.0 / v


@_part
def value(table, i, v):
    """Value of the law of neuron i, which is no activation, at a float64."""
    code, low, high = int(table[i, 0]), table[i, 1], table[i, 2]
    if code == IDENTITY:
        return v
    c = v
    if v < low:
        c = low
    elif v > high:
        c = high
    if code == SATURATION:
        return c
    if code == DEAD_ZONE:
        return v - c
    beyond = 0.0
    if v < low:
        beyond = -(table[i, 6] * (low - v))
    elif v > high:
        beyond = table[i, 7] * (v - high)
    return _inside(code, c, table[i, 3]) + beyond


@_part
def slope(table, i, w):
    """Slope of the law of neuron i, which is no activation, where its value is w."""
    code, low, high, e = int(table[i, 0]), table[i, 1], table[i, 2], table[i, 3]
    if code == IDENTITY:
        return 1.0
    if code == SATURATION:
        return 1.0 if low < w < high else 0.0
    if code == DEAD_ZONE:
        return 0.0 if w == 0 else 1.0
    if w <= table[i, 4]:
        return table[i, 6]
    if w >= table[i, 5]:
        return table[i, 7]
    if code == ROOT:
        return 0.5 / w
    if code == SIGNED_ROOT:
        q = 0.5 * (w * w + np.hypot(w * w, 2.0 * e))  # sqrt(v^2 + e^2)
        return 0.5 * (q + e * (e / q)) / (q * np.sqrt(q))
    if code == SQUARE:
        return 2.0 * np.sqrt(w)
    if code == EXPONENTIAL:
        return w
    if code == SINE:
        return np.sqrt((1.0 - w) * (1.0 + w))
    return w * w
