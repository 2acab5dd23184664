"""Slopes of activations on intervals and of chords, against ball arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS

from controlrnn.certification.proof import intervals, slopes
from controlrnn.systems import Laws, Neuron
from controlrnn.systems.activations import LEAK, Activation

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision
from controlrnn.certification.ball.intervals import apply, derivative

ACTIVATIONS = ["tanh", "sigmoid", "relu", "leaky_relu"]


def slope_of(activation, v):
    if activation in ("tanh", "sigmoid"):
        return derivative(Activation(activation), number(v))
    return number(1.0 if v > 0 else LEAK if activation == "leaky_relu" else 0.0)


def chord(activation, a, b):
    s = Activation(activation)
    return (apply(s, number(b)) - apply(s, number(a))) / (number(b) - number(a))


def test_the_same_leak_everywhere():
    assert slopes.LEAK == LEAK


@pytest.mark.parametrize("activation", ACTIVATIONS)
@FAST
@given(seed=SEEDS)
def test_slopes_on_intervals(activation, seed):
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-9, 2)
    low = size * rng.standard_normal(6)
    high = low + size * 10.0 ** rng.uniform(-6, 1) * rng.random(6)
    alpha, beta = slopes.slopes_on(activation, (low, high))
    least, most = slopes.global_slopes(activation)
    with precision(200):
        for a, b, p, q in zip(low, high, alpha, beta, strict=True):
            points = [float(a), float(b), *(rng.uniform(a, b, 3))]
            points += [0.0] if a <= 0 <= b and "relu" not in activation else []
            found = [slope_of(activation, v) for v in points if a <= v <= b]
            assert all(number(p) <= s <= number(q) for s in found)
            if "relu" not in activation:
                assert p >= max(float(min(map(float, found))) - 1.1e-12, least) - 1e-15
                assert q <= min(float(max(map(float, found))) + 1.1e-12, most) + 1e-15
            assert least <= p <= q <= most


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_where_they_are_known(activation):
    ends = np.array([-np.inf, -3.0, 2.0, 0.0, -1.0]), np.array([np.inf, -2.0, 3.0, 1.0, 0.0])
    alpha, beta = slopes.slopes_on(activation, ends)
    least, most = slopes.global_slopes(activation)
    assert (alpha[0], beta[0]) == (least, most)
    if "relu" in activation:
        assert np.allclose(alpha, [least, least, 1, 1, least], atol=2e-12, rtol=0)
        assert np.allclose(beta, [1, least, 1, 1, least], atol=2e-12, rtol=0)
    else:
        assert beta[3] == beta[4] == most
        assert beta[1] == beta[2] < 0.8 * most
    chords = slopes.secant_slopes(activation, np.array([-3.0, 3.0, 0.0]), np.zeros(3), np.array([1.0, 1.0, 1e-200]))
    if "relu" in activation:
        assert np.allclose(chords, [[least, 1, least], [least, 1, 1]], atol=2e-12, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=60)
@given(seed=SEEDS, base=st.floats(-6, 6), le=st.floats(-12, 0.5), lr=st.floats(-9, 1.5))
@example(seed=0, base=0.0, le=-12.0, lr=0.0)
@example(seed=0, base=0.5, le=-12.0, lr=0.3)
@example(seed=0, base=1.0, le=-3.0, lr=1.0)
def test_chords_with_one_known_end(activation, seed, base, le, lr):
    rng = np.random.default_rng(seed)
    error, reach = rng.random() * 10.0**le * (rng.random() < 0.7), rng.random() * 10.0**lr
    (alpha,), (beta,) = slopes.secant_slopes(activation, np.array([base]), np.array([error]), np.array([reach]))
    least, most = slopes.global_slopes(activation)
    assert least <= alpha <= beta <= most
    with precision(200):
        for a in (base - error, base, base + error):
            for b in (a + reach * np.array([-1.0, -0.7, -0.4, -0.1, 0.01, 0.5, 1.0])).tolist():
                allowed = abs(Fraction(a) - Fraction(base)) <= Fraction(error)
                if allowed and a != b and abs(Fraction(b) - Fraction(a)) <= Fraction(reach):
                    found = chord(activation, a, b)
                    assert not found < number(alpha)
                    assert not found > number(beta)
    if error < 1e-9 and reach > 1e-3:  # and no looser than it has to be
        steps = reach * np.linspace(-1, 1, 800)
        values = (intervals.values_at(activation, base + steps) - intervals.values_at(activation, base)) / steps
        assert alpha >= values.min() - 2e-3 * (1 + reach) - 1e-3 * ("relu" in activation)
        assert beta <= values.max() + 2e-3 * (1 + reach)


def test_chords_that_touch():
    """From a to the far side of zero the steepest chord touches the curve, whatever lies beyond."""
    a = np.array([0.3, 1.0, 2.0, 5.0, 7.9999, 9.0, 0.30003])
    _, beta = slopes.secant_slopes("tanh", a, np.zeros(7), np.full(7, 50.0))
    for x, b in zip(a, beta, strict=True):
        h = np.linspace(-2 * x, -x * 0.5, 20001)
        found = float(((np.tanh(x + h) - np.tanh(x)) / h).max())
        assert found - 1e-14 <= b <= found + (3e-4 if x < 8 else 0.05)
    _, near = slopes.secant_slopes("tanh", a, np.zeros(7), np.full(7, 0.01))
    assert (near < beta).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_numbers_that_overflowed_have_no_slope_that_is_too_flat(activation):
    """NaN goes on as NaN, which every decision refuses."""
    with np.errstate(all="ignore"):
        alpha, beta = slopes.secant_slopes(activation, np.array([np.nan, 0.5]), np.zeros(2), np.array([1.0, 0.1]))
    assert not beta[0] < slopes.global_slopes(activation)[1]
    assert not alpha[0] > slopes.global_slopes(activation)[0]
    assert beta[1] > 0


def test_chords_of_laws_lie_within_all_that_error_and_reach_allow(monkeypatch):
    given = []
    monkeypatch.setattr(slopes, "hull", lambda *of: given.append(of[2]) or of[2])
    rng, laws = np.random.default_rng(0), Laws([Neuron("square", 0.0, 1.0)] * 400)
    base = rng.standard_normal(400)
    error, reach = (10.0 ** rng.uniform(-17, 1, 400) for _ in range(2))
    slopes.secant_slopes(laws, base, error, reach)
    for b, e, r, low, high in zip(base, error, reach, *given[0], strict=True):
        away = Fraction(e) + Fraction(r)
        assert Fraction(low) <= Fraction(b) - away
        assert Fraction(high) >= Fraction(b) + away
        assert high - low <= 2 * (e + r) + 2e-15 * (abs(b) + e + r)


def test_the_functions_of_some_neurons():
    assert slopes.within("tanh", 1, 3) == "tanh"
    laws = Laws([Neuron("tanh"), Neuron("identity"), Neuron("square", 0.0, 1.0)])
    assert slopes.within(laws, 1, 3).neurons == laws.neurons[1:]
    assert slopes.within(laws, 0, 1).neurons == laws.neurons[:1]
