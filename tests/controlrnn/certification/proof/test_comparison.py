"""Comparison systems of gated networks, against ball arithmetic: no difference grows by more."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import exact
from hypothesis import given, settings
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS

from controlrnn.certification.proof import gated
from controlrnn.certification.proof.gated import Comparison
from controlrnn.errors import CertificationError
from controlrnn.systems import Activation, GatedSystem

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision, row
from controlrnn.certification.ball.intervals import apply, derivative
from controlrnn.certification.refutation.trajectories import step


def lstm(b, U=0.0, W=0.0):
    z = np.zeros
    ones = np.ones((4, 1))
    return GatedSystem(W=W * ones, U=U * ones, b=np.array(b, float), C=np.ones((1, 1)), by=z(1), cell="lstm", dt=1.0)


def test_gates_that_underflow_still_let_something_through():
    """s(-800) = 4e-348 is no float64, but what it lets through of 1e308 is more than 1e-300 of another unit."""
    system = lstm([0.0, -800.0, 5.0, 0.0])
    bound = Comparison(system, (np.zeros(1), np.zeros(1)), np.array([1.0, 2.0]))
    assert bound.rate(np.array([1e-300, 1e308])) > 1e200
    system = lstm([0.0, -1.0, -690.0, 0.0], U=np.array([[0.0], [1e-30], [0.0], [0.0]]))
    bound = Comparison(system, (np.zeros(1), np.zeros(1)), np.array([1.0, 1e308]))
    assert bound.rate(np.array([1e-300, 1e-30])) > 1e7


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@FAST
@given(seed=SEEDS)
def test_comparison_systems_bound_every_difference(cell, seed):
    rng = np.random.default_rng(seed)
    n, gates = 2, 4 if cell == "lstm" else 3
    draw = rng.standard_normal
    system = GatedSystem(
        W=draw((gates * n, 1)), U=0.4 * draw((gates * n, n)), b=rng.uniform(-2, 2) + draw(gates * n), C=np.ones((1, n)),
        by=np.zeros(1), cell=cell, dt=1.0,
    )  # fmt: skip
    low = rng.uniform(-1, 0, 1)
    ends = low, low + rng.random(1) * 10.0 ** rng.uniform(-6, 0)
    bound = Comparison(system, ends)
    x = rng.uniform(-1, 1, (2, system.nx)) * bound.state
    x[1] = np.clip(x[0] + 10.0 ** rng.uniform(-9, 0) * rng.standard_normal(system.nx), -bound.state, bound.state)
    u = rng.uniform(*ends, (2, 1))
    dx, du = np.abs(x[1] - x[0]), np.abs(u[1] - u[0])
    with precision(300):
        one, other = (step(system, row(a), row(b))[0] for a, b in zip(x, u, strict=True))
        moved = [abs(b - a) for a, b in zip(one, other, strict=True)]
        most = bound(dx * (1 + 2.0**-52), du * (1 + 2.0**-52))
        assert all(m <= number(b) for m, b in zip(moved, most, strict=True))
        assert all(abs(v) <= number(b) for v, b in zip([*one, *other], [*bound.state, *bound.state], strict=True))
    scale = 0.5 + rng.random(system.nx)
    assert bound.rate(scale) >= (bound(scale, np.zeros(1)) / scale).max()
    assert bound.gains(scale)[0] >= (bound(np.zeros(system.nx), np.ones(1)) / scale).max()
    with pytest.raises(CertificationError, match="state_bound"):
        Comparison(system, ends, 0.999 * bound.state)
    with pytest.raises(CertificationError, match="state_bound"):
        Comparison(system, ends, np.concatenate([np.full(n, 1.5), 2 * bound.state[n:]]))
    Comparison(system, ends, np.concatenate([np.ones(n), 2 * bound.state[n:]]))


def gru(b, U, W):
    z = np.zeros
    return GatedSystem(
        W=np.full((3, 1), W), U=np.full((3, 1), U), b=np.array(b, float), C=np.ones((1, 1)), by=z(1), cell="gru", dt=1.0
    )


def driven(system, dx, du):
    """Bounds on the differences of the pre-activations, exactly."""
    weights = zip(exact(system.W[:, 0]), exact(system.U[:, 0]), strict=True)
    return [abs(w) * Fraction(du[0]) + abs(u) * Fraction(dx[0]) for w, u in weights]


# Of weights, or such that what they add is lost in the rounding of a sum.
SIZES = st.sampled_from([1.0, 3e-16, 1e-16])


def first(values):
    return Fraction(float(values[0]))


@settings(max_examples=300)
@given(seed=SEEDS, size=SIZES)
def test_how_an_lstm_grows_is_never_rounded_down(seed, size):
    """The sums and products that follow the bounds of the gates, against rational arithmetic."""
    rng = np.random.default_rng(seed)
    system = lstm(rng.uniform(-3, 1, 4), U=size * rng.standard_normal(), W=size * rng.standard_normal())
    bound = Comparison(system, (-rng.random(1), rng.random(1)))
    dx, du = 2 * rng.random(2), rng.random(1)
    i, f, o = (first(bound.largest(k, gated.sigmoid)) for k in range(3))
    g, c = first(bound.largest(3, np.tanh)), Fraction(bound.state[1])
    assert 0 < Fraction(bound.forgets[0]) <= 1 - f
    assert c >= i * g / (1 - f)
    slopes = (first(bound.slope(k, most)) for k, most in enumerate((0.25, 0.25, 0.25, 1.0)))
    di, df, do, dg = (slope * each for slope, each in zip(slopes, driven(system, dx, du), strict=True))
    cell = f * Fraction(dx[1]) + c * df + i * dg + g * di
    hidden = o * cell + Fraction(np.tanh(bound.state[1])) * do
    for found, true in zip(bound(dx, du), (hidden, cell), strict=True):
        assert true <= Fraction(found) <= true * Fraction(1 + 1e-12)


@settings(max_examples=300)
@given(seed=SEEDS, size=SIZES)
def test_how_a_gru_grows_is_never_rounded_down(seed, size):
    rng = np.random.default_rng(seed)
    system = gru(rng.uniform(-3, 3, 3), U=size * rng.standard_normal(), W=size * rng.standard_normal())
    bound = Comparison(system, (-rng.random(1), rng.random(1)))
    dx, du = 2 * rng.random(1), rng.random(1)
    r = first(bound.largest(0, gated.sigmoid))
    (z, most_z), (n, most_n) = (map(first, bound.between(k, f)) for k, f in ((1, gated.sigmoid), (2, np.tanh)))
    dr, dz, _ = driven(system, dx, du)
    dr, dz = first(bound.slope(0, 0.25)) * dr, first(bound.slope(1, 0.25)) * dz
    reset = r * Fraction(dx[0]) + dr
    w, u = abs(Fraction(system.W[2, 0])), abs(Fraction(system.U[2, 0]))
    dn = first(bound.slope(2, 1.0)) * (w * Fraction(du[0]) + u * reset)
    mixed = max(end * Fraction(dx[0]) + (1 - end) * dn for end in (z, most_z))
    true = mixed + dz * max(1 - n, 1 + most_n)
    assert true <= first(bound(dx, du)) <= true * Fraction(1 + 1e-12)


@FAST
@given(seed=SEEDS, size=st.sampled_from([1.0, 20.0, 300.0]))
def test_values_and_slopes_of_gates(seed, size):
    """At the ends of their ranges, as ball arithmetic has them."""
    rng = np.random.default_rng(seed)
    bound = Comparison(gru(size * rng.standard_normal(3), U=rng.random(), W=rng.random()), (-np.ones(1), np.ones(1)))
    with precision(2600):
        for gate, kind in enumerate(("sigmoid", "sigmoid", "tanh")):
            function = np.tanh if kind == "tanh" else gated.sigmoid
            low, high = float(bound.lowest[gate]), float(bound.highest[gate])
            least, largest = (float(end[0]) for end in bound.between(gate, function))
            assert number(least) <= apply(Activation(kind), number(low))
            assert number(largest) >= apply(Activation(kind), number(high))
            assert largest - least <= function(high) - function(low) + 1e-13
            nearest = 0.0 if low <= 0 <= high else min(abs(low), abs(high))
            slope = derivative(Activation(kind), number(nearest))
            assert number(float(bound.slope(gate, 0.25 if kind == "sigmoid" else 1.0)[0])) >= slope


def test_an_update_gate_that_underflows_still_lets_something_through():
    system = gru([0.0, -800.0, 0.0], U=0.0, W=0.0)
    assert Comparison(system, (np.zeros(1), np.zeros(1)))(np.ones(1), np.zeros(1))[0] > 0


def test_gates_without_slack_are_met():
    """A GRU of one unit without inputs: the bound of small differences is nearly the derivative's."""
    z = np.zeros
    system = GatedSystem(
        W=z((3, 1)), U=np.array([[0.0], [0.0], [0.5]]), b=z(3), C=np.ones((1, 1)), by=z(1), cell="gru", dt=1.0
    )
    bound = Comparison(system, (np.zeros(1), np.zeros(1)))
    assert bound(np.ones(1), np.zeros(1))[0] == pytest.approx(0.5 + 0.5 * 0.5 * 0.5, rel=1e-12)
    tight = lstm([0.0, 0.0, 0.0, 0.5])
    found = Comparison(tight, (np.zeros(1), np.zeros(1)))
    cell = 0.5 * np.tanh(0.5) / 0.5
    assert found.state == pytest.approx([1.0, cell], rel=1e-12)
    assert found(np.array([0.0, 1.0]), np.zeros(1)) == pytest.approx([0.25, 0.5], rel=1e-12)
    driven = lstm([0.0, 0.0, 0.0, 0.0], W=1.0)
    found = Comparison(driven, (np.zeros(1), np.zeros(1)))
    # dc = i dg + c df + g di with c = g = 0, dg = du; dh = o dc + tanh(c) do
    assert found(np.zeros(2), np.ones(1)) == pytest.approx([0.25, 0.5], rel=1e-9, abs=1e-9)
    with pytest.raises(CertificationError, match="overflow"), np.errstate(all="ignore"):
        Comparison(replace(driven, b=np.full(4, 1e308), W=np.full((4, 1), 1e308)), (np.ones(1), np.ones(1)))
    with pytest.raises(CertificationError, match="forget"):
        Comparison(lstm([0.0, 60.0, 0.0, 0.0]), (np.zeros(1), np.zeros(1)))
