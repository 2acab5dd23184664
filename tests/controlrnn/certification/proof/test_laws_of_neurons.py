"""Values and sizes of neurons with laws of their own, at the arguments where formulas end, against ball arithmetic."""

import numpy as np
import pytest
from random_systems import random_neuron

from controlrnn.certification.proof import laws
from controlrnn.systems import Law, Neuron

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision
from controlrnn.certification.ball.laws import size, slopes, value

OWN = [law for law in Law if law.activation is None]


def neurons():
    rng = np.random.default_rng(0)
    return [random_neuron(rng, law) for law in OWN for _ in range(4)]


def parameters(neuron):
    return np.array([[neuron.low, neuron.high, neuron.width]])


@pytest.mark.parametrize("neuron", neurons(), ids=lambda neuron: str(neuron.law))
def test_sizes_hold_all_that_a_value_is_made_of(neuron):
    span = neuron.high - neuron.low if neuron.law.has_range else 1.0
    for share in (-1e6, -3.0, -0.5, 0.0, 0.3, 1.0, 1.7, 1e6):
        v = neuron.low + share * span
        found = laws.sizes(str(neuron.law), parameters(neuron), np.array([v]))
        assert found.shape == (1,)
        with precision(200):
            true = size(neuron, number(v))
            assert true <= number(float(found[0]))
            assert number(float(found[0])) <= true * number(1 + 3e-12) + number(1e-300)


@pytest.mark.parametrize("neuron", neurons(), ids=lambda neuron: str(neuron.law))
def test_slopes_on_intervals(neuron):
    rng = np.random.default_rng(1)
    span = neuron.high - neuron.low if neuron.law.has_range else 1.0
    low = neuron.low + span * rng.uniform(-1, 1.5, 30)
    high = low + span * 10.0 ** rng.uniform(-6, 0.5, 30)
    low[0], high[1] = neuron.low, neuron.high
    alpha, beta = laws.hull(str(neuron.law), parameters(neuron), (low[:, None], high[:, None]))
    with precision(200):
        for a, b, p, q in zip(low, high, alpha[:, 0], beta[:, 0], strict=True):
            if a <= b:
                least, most = slopes(neuron, number(a), number(b))
                assert number(p) <= least
                assert most <= number(q)
                slack = number(1e-11) * most if neuron.law.is_curved else number(2e-3)
                assert number(q) - number(p) <= most - least + slack


@pytest.mark.parametrize("neuron", [
    Neuron("square", 0.0, 2.0), Neuron("signed_root", -1.0, 1.0, 0.5), Neuron("sine", -1.0, 1.0),
    Neuron("signed_root", 0.0, 2.0, 1e-3), Neuron("dead_zone", 0.0, 1.0), Neuron("saturation", 0.0, 1.0),
    Neuron("root", 0.25, 1.0), Neuron("exponential", -1.0, 1.0), Neuron("reciprocal", 0.5, 2.0), Neuron("identity"),
], ids=lambda neuron: str(neuron.law))  # fmt: skip
def test_values_about_zero_and_at_the_ends_of_a_range(neuron):
    for v in (0.0, 5e-324, -5e-324, 1e-200, -1e-200, 1e-310, neuron.low, neuron.high, -1e150, 1e150):
        low, high = laws.values(str(neuron.law), parameters(neuron), np.array([v]))
        with precision(4000):
            true = value(neuron, number(v))
            assert number(float(low[0])) <= true
            assert true <= number(float(high[0]))
            slack = number(1e-12) * abs(true) + number(1e-13 if neuron.law is Law.SINE or "o" in neuron.law else 1e-300)
            assert number(float(high[0])) - number(float(low[0])) <= slack


@pytest.mark.parametrize("neuron", neurons(), ids=lambda neuron: str(neuron.law))
def test_values_hold_what_rounding_does(neuron):
    span = neuron.high - neuron.low if neuron.law.has_range else 1.0
    v = neuron.low + span * np.random.default_rng(2).uniform(-1, 2, 60)
    low, high = laws.values(str(neuron.law), parameters(neuron), v)
    with precision(200):
        for one, a, b in zip(v, low, high, strict=True):
            true = value(neuron, number(float(one)))
            assert number(float(a)) <= true
            assert true <= number(float(b))


def test_values_at_infinity_where_the_slope_is_zero():
    """A parabola from its minimum on goes on as a constant, of which infinity times zero is no part."""
    low, high = laws.values("square", np.array([[0.0, 2.0, 0.0]]), np.array([-np.inf]))
    assert -1e-300 < low[0] <= 0 <= high[0] < 1e-300
