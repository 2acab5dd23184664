"""Neurons with laws of their own in C: tables of their parameters, values, and derivatives from values."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.systems import Law, Laws
from controlrnn.systems.activations import LEAK


def law_tables(laws: Laws) -> dict[str, NDArray[Any]]:
    """Table ``law`` of the neurons' laws and ``law_data`` of their ranges, and of values and slopes at the ends.

    Args:
        laws: Of all neurons.
    """
    kinds = np.array([list(Law).index(n.law) for n in laws.neurons])
    return {"law": kinds, "law_data": np.hstack([laws.parameters, laws.ends])}


# The laws in the order of the enum `Law`; p: low, high, width, f(low), f(high), f'(low), f'(high).
LAW_VALUES = f"""\
enum {{ {", ".join(f"LAW_{law.name}" for law in Law)} }};

/* Law of neuron i: on its declared range itself, beyond it a straight line. */
static double activation(int i, double v)
{{
    const double *p = law_data + 7 * i;
    const double c = v < p[0] ? p[0] : v > p[1] ? p[1] : v;
    const double beyond = v < p[0] ? -(p[5] * (p[0] - v)) : v > p[1] ? p[6] * (v - p[1]) : 0;
    switch (law[i]) {{
    case LAW_TANH: return tanh(v);
    case LAW_RELU: return v > 0 ? v : 0;
    case LAW_SIGMOID: return 0.5 + 0.5 * tanh(0.5 * v);
    case LAW_LEAKY_RELU: return v > 0 ? v : {LEAK!r} * v;
    case LAW_ROOT: return sqrt(c) + beyond;
    case LAW_SIGNED_ROOT: return c / sqrt(sqrt(c * c + p[2] * p[2])) + beyond;
    case LAW_SQUARE: return c * c + beyond;
    case LAW_EXPONENTIAL: return exp(c) + beyond;
    case LAW_RECIPROCAL: return -1 / c + beyond;
    case LAW_SINE: return sin(c) + beyond;
    case LAW_SATURATION: return c;
    case LAW_DEAD_ZONE: return v - c;
    default: return v;
    }}
}}

"""
LAW_DERIVATIVES = f"""\
/* sqrt(v^2 + e^2) of a signed root whose value is w. */
static double head(double w, double e) {{ return 0.5 * (w * w + sqrt(w * w * w * w + 4 * e * e)); }}

static double derivative(int i, double w)
{{
    const double *p = law_data + 7 * i;
    switch (law[i]) {{
    case LAW_TANH: return 1 - w * w;
    case LAW_RELU: return w > 0 ? 1 : 0;
    case LAW_SIGMOID: return w * (1 - w);
    case LAW_LEAKY_RELU: return w > 0 ? 1 : {LEAK!r};
    case LAW_SATURATION: return w > p[0] && w < p[1] ? 1 : 0;
    case LAW_DEAD_ZONE: return w < 0 || w > 0 ? 1 : 0;
    case LAW_IDENTITY: return 1;
    default: break;
    }}
    if (w <= p[3]) return p[5];
    if (w >= p[4]) return p[6];
    const double q = law[i] == LAW_SIGNED_ROOT ? head(w, p[2]) : 1;
    switch (law[i]) {{
    case LAW_ROOT: return 0.5 / w;
    case LAW_SIGNED_ROOT: return 0.5 * (q + p[2] * p[2] / q) / (q * sqrt(q));
    case LAW_SQUARE: return 2 * sqrt(w);
    case LAW_EXPONENTIAL: return w;
    case LAW_SINE: return sqrt((1 - w) * (1 + w));
    default: return w * w;
    }}
}}

static double curvature(int i, double w)
{{
    const double *p = law_data + 7 * i;
    if (law[i] == LAW_TANH) return -2 * w * (1 - w * w);
    if (law[i] == LAW_SIGMOID) return w * (1 - w) * (1 - 2 * w);
    if (w <= p[3] || w >= p[4]) return 0;
    const double q = law[i] == LAW_SIGNED_ROOT ? head(w, p[2]) : 1, v = w * sqrt(q);
    switch (law[i]) {{
    case LAW_ROOT: return -0.25 / (w * w * w);
    case LAW_SIGNED_ROOT: return -v * (0.25 * q + 1.25 * (p[2] * p[2] / q)) / (q * q * q * sqrt(q));
    case LAW_SQUARE: return 2;
    case LAW_EXPONENTIAL: return w;
    case LAW_RECIPROCAL: return 2 * w * w * w;
    case LAW_SINE: return -w;
    default: return 0;
    }}
}}
"""
