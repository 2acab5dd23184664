"""Settled states: no run that has gone on for long leaves the set that is said to hold them."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS, linear
from random_systems import random_elman

from controlrnn.certification.proof import intervals, reachable
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.stationary import prove_contraction


@FAST
@given(a=st.floats(0.05, 0.95), centre=st.floats(-3, 3), low=st.floats(-2, 2), width=st.floats(0, 2))
@example(a=0.25, centre=1.0, low=-1.0, width=0.0)
@example(a=0.25, centre=-1.0, low=-1.0, width=8.0)
def test_settled_states_of_a_filter(a, centre, low, width):
    """x+ = a x + (1 - a) u settles in the range of its inputs, so that the radius is known."""
    z, system = np.zeros, linear([[a]], B2=[[1 - a]])
    rate, gain = a * (1 + 1e-9), np.array([(1 - a) * 2 * (1 + 1e-9)])
    metric = np.array([[4.0]])
    prove_contraction(system, rate, metric, z(0), gain, z((1, 0)))
    ends = np.array([low]), np.array([low + width])
    found = reachable.settled_radius(system, rate, metric, gain, np.array([centre]), ends)
    true = 2 * max(abs(low - centre), abs(low + width - centre))
    assert found >= true * (1 - 1e-12)  # (1 - a) is rounded
    assert found <= true * (1 + 1e-3) + 1e-6 + 2 * width


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("seed", range(3))
def test_settled_states_of_networks(activation, seed):
    system = random_elman(seed, nx=3, norm=0.5, activation=activation)
    system = replace(system, A=0.2 * np.eye(3)) if seed else system
    rate, metric, lam, gain = 0.9, np.eye(3), np.full(3, 1.0), np.full(2, 30.0)
    prove_contraction(system, rate, metric, lam, gain, np.ones((2, 3)))
    ends = -np.ones(2), 0.5 * np.ones(2)
    found = reachable.settled_radius(system, rate, metric, gain, np.full(3, 0.3), ends)
    rng = np.random.default_rng(seed)
    u = np.where(rng.random((300, 60, 2)) < 0.5, *ends)
    x = system.simulate(u, np.zeros((300, 3)))[1][:, -1]
    reached = np.linalg.norm(x - 0.3, axis=1).max()
    assert reached <= found
    assert found < 5 * reached  # far below gain' h / (1 - rate) = 450
    u, known = intervals.box_of(ends), Enclosure(np.zeros(3), np.full(3, 1e3))
    box = reachable.settled_box(system, ends, known)
    assert ((box.lower() <= x) & (x <= box.upper())).all()
    bounded = reachable.bounded_box(system, u)
    if activation == "relu":
        assert bounded is None
    else:
        assert ((bounded.lower() <= x) & (x <= bounded.upper())).all()
        assert reachable.bounded_box(replace(system, A=1.01 * np.eye(3)), u) is None
        assert (bounded.rad < 2).all()


@pytest.mark.parametrize("factor", [1.0, 0.9, 0.5, 0.0])
def test_a_guess_of_a_box_that_is_left_is_refused(monkeypatch, factor):
    system, u, solve = random_elman(0, nx=3, norm=0.5), intervals.box_of((-np.ones(2), np.ones(2))), np.linalg.solve
    system = replace(system, A=0.2 * np.eye(3))
    monkeypatch.setattr(np.linalg, "solve", lambda M, b: solve(M, b) * (factor if (b > 0).all() else 1.0))
    assert (reachable.bounded_box(system, u) is None) == (factor < 1)


@FAST
@given(seed=SEEDS)
def test_a_box_that_is_left_by_a_hair_is_refused(seed):
    """Guesses that are too small by their last digits, or whose centre is off."""
    rng = np.random.default_rng(seed)
    a, h = rng.choice([-1, 1]) * 10.0 ** rng.uniform(-4, -0.1), 10.0 ** rng.uniform(-6, 0)
    b, c = rng.uniform(0.1, 2, 2)
    off = c * rng.choice([0.0, 1e-3, 1.0])
    system, u = linear([[a]], B2=[[b]]), Enclosure(np.array([(1 - a) * c / b]), np.array([h]))
    away = abs(Fraction(a) * Fraction(c + off) + Fraction(b) * Fraction(float(u.mid[0])) - Fraction(c + off))
    least = (away + Fraction(b) * Fraction(h)) / (1 - abs(Fraction(a)))
    for ulps in (*range(-20, 40), 10**9):
        r = float(least) * (1 + ulps * 2.0**-53)
        guesses = iter((np.array([c + off]), np.array([r])))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(np.linalg, "solve", lambda *_, guesses=guesses: next(guesses))
            found = reachable.bounded_box(system, u)
        assert found is None or Fraction(r) >= least
    assert found is not None
