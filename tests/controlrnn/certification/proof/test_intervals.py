"""Boxes carried through systems, against ball arithmetic: they hold what they are said to hold."""

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from exact_numbers import exact
from hypothesis import example, given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS
from random_systems import random_system

from controlrnn.certification.proof import intervals, slopes
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.errors import ControlRnnError, SettingError
from controlrnn.systems import Activation, LureSystem

flint = pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision, row  # noqa: E402
from controlrnn.certification.ball.intervals import apply  # noqa: E402
from controlrnn.certification.refutation.trajectories import neurons, step  # noqa: E402

ACTIVATIONS = ["tanh", "sigmoid", "relu", "leaky_relu"]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@FAST
@given(seed=SEEDS)
def test_images_of_intervals(activation, seed):
    rng = np.random.default_rng(seed)
    mid = rng.standard_normal(5) * 10.0 ** rng.uniform(-300, 3, 5)
    rad = np.abs(mid) * 10.0 ** rng.uniform(-18, 1, 5) * (rng.random(5) < 0.7)
    image = intervals.activated(activation, Enclosure(mid, rad))
    low, high = exact(image.mid) - exact(image.rad), exact(image.mid) + exact(image.rad)
    with precision(1400):
        for k in range(5):
            for v in (mid[k] - rad[k], mid[k], mid[k] + rad[k]):
                value = apply(Activation(activation), number(v))
                lower, upper = (flint.arb(flint.fmpq(x.numerator, x.denominator)) for x in (low[k], high[k]))
                assert lower <= value <= upper
    width = np.abs(intervals.values_at(activation, mid + rad) - intervals.values_at(activation, mid - rad))
    size = np.abs(mid) + rad + (activation == "sigmoid")
    assert (2 * image.rad <= width + 4e-14 * np.minimum(size, np.abs(image.mid) + image.rad + 1) + 1e-290).all()


@FAST
@given(low=st.floats(-1e300, 1e300), width=st.sampled_from([0.0, 5e-324, 1e-20, 1.0, 1e300]))
@example(low=5e-324, width=0.0)
def test_boxes_are_rounded_outwards(low, width):
    high = low + width
    box = intervals.box_of((np.array([low]), np.array([high])))
    mid, rad = Fraction(box.mid[0]), Fraction(box.rad[0])
    assert mid - rad <= Fraction(low) <= Fraction(high) <= mid + rad
    assert (
        rad <= (Fraction(high) - Fraction(low)) * Fraction(0.5 + 1e-15) + Fraction(1e-300) + abs(Fraction(low)) / 2**52
    )
    if low == high and abs(low) > 1e-300:
        assert rad == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_systems_of_intervals(activation, seed):
    system = random_system(seed, layers=(3, 2), activation=activation)
    rng = np.random.default_rng(seed)
    x0, u0 = rng.standard_normal(3), rng.standard_normal(2)
    rx, ru = 0.1 * rng.random(3) * (seed > 0), 0.1 * rng.random(2) * (seed > 1)
    X, U = Enclosure(x0, rx), Enclosure(u0, ru)
    v, w = intervals.neurons(system, X, U)
    after, y = intervals.next_state(system, X, U), intervals.outputs(system, X, U)
    total = np.concatenate([v.rad, w.rad, after.rad, y.rad])
    assert (total < (1e-13 if seed == 0 else 10)).all()
    with precision(200):
        for _ in range(10):
            x, u = (m + rng.choice([-1.0, 0.0, 1.0], m.shape) * r for m, r in ((x0, rx), (u0, ru)))
            x, u = np.clip(x, X.lower(), X.upper()), np.clip(u, U.lower(), U.upper())
            one = neurons(system, row(x), row(u))
            for found, true in zip((v, w, after, y), (*one, *step(system, row(x), row(u))), strict=True):
                for m, r, t in zip(found.mid, found.rad, true, strict=True):
                    assert abs(t - number(m)) <= number(r) * (1 + number(1e-12))


@pytest.mark.parametrize("seed", range(4))
def test_slopes_in_boxes(seed):
    """Over all steps of runs from the box; wider boxes know less; boxes that explode know nothing."""
    system = random_system(seed, layers=(2, 2), activation=ACTIVATIONS[seed])
    rng = np.random.default_rng(seed)
    u, x = (-0.1 * np.ones(2), 0.2 * np.ones(2)), (-0.1 * np.ones(3), 0.1 * np.ones(3))
    alpha, beta = intervals.local_slopes(system, u, x, 3)
    least, most = slopes.global_slopes(system.activation)
    assert ((least <= alpha) & (alpha <= beta) & (beta <= most)).all()
    for _ in range(40):
        state = rng.uniform(*x)
        for _ in range(4):
            at = rng.uniform(*u)
            v, _ = intervals.neurons(system, Enclosure.of(state), Enclosure.of(at))
            low, high = slopes.slopes_on(system.activation, (v.mid, v.mid))
            assert ((alpha <= low + 2e-12) & (high <= beta + 2e-12)).all()
            state = system.step(state, at)
    wide = intervals.local_slopes(system, u, x, 5)
    assert ((wide[0] <= alpha) & (beta <= wide[1])).all()
    far = intervals.local_slopes(replace(system, A=1e200 * np.eye(3)), u, x, 3)
    assert (far[0] == least).all()
    assert (far[1] == most).all()
    for bad in ({"steps": -1}, {"input_range": (u[1], u[0])}, {"state_range": (x[1], x[0])},
                {"input_range": (u[0][:1], u[1])}, {"state_range": (x[0], x[1] * np.nan)}):  # fmt: skip
        with pytest.raises(ControlRnnError):
            intervals.local_slopes(system, **({"input_range": u, "state_range": x, "steps": 2} | bad))


@FAST
@given(seed=SEEDS, log=st.integers(-200, 100))
def test_the_largest_norm_in_a_box(seed, log):
    rng = np.random.default_rng(seed)
    B, unit = rng.standard_normal((3, 3)), 10.0**log
    P = B @ B.T + 0.1 * np.eye(3)
    P = 0.5 * (P + P.T)
    mid, rad = unit * rng.standard_normal(3), unit * rng.random(3) * (rng.random() < 0.7)
    found = intervals.norm_up(Enclosure(mid, rad), P)
    M = exact(P)
    corners = [exact(mid) + exact(rad) * exact(np.array(s)) for s in ([1, 1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, -1])]
    assert all(Fraction(found) ** 2 >= c.dot(M).dot(c) for c in corners)
    most = np.sqrt(float(exact(mid).dot(M).dot(exact(mid)))) + np.sqrt(np.abs(rad) @ np.abs(P) @ np.abs(rad))
    assert found <= most * (1 + 1e-9) + 1e-140


def test_common_parts_of_intervals():
    a, b = Enclosure(np.array([0.0, 1.0]), np.array([1.0, 1.0])), Enclosure(np.array([1.0, 1.0]), np.array([0.5, 3.0]))
    both = intervals.intersection(a, b)
    assert np.allclose(both.mid, [0.75, 1.0])
    assert np.allclose(both.rad, [0.25, 1.0])
    assert intervals.settles(a)
    assert not intervals.settles(Enclosure(np.array([np.nan]), np.zeros(1)))
    assert not intervals.settles(Enclosure(np.zeros(1), np.array([np.inf])))


@pytest.mark.parametrize("steps", [0, 1, 3])
def test_slopes_of_a_neuron_that_moves_on(steps):
    """x+ = x + 1 from 0 and v = x: the neuron has come as far as there are steps."""
    one, z = np.ones((1, 1)), np.zeros
    system = LureSystem(
        A=one, B1=z((1, 1)), B2=one, bx=z(1), C1=one, D11=z((1, 1)), D12=z((1, 1)), bv=z(1), C2=one, D21=z((1, 1)),
        D22=z((1, 1)), by=z(1), activation="tanh", layers=(1,), dt=1.0,
    )  # fmt: skip
    alpha, beta = intervals.local_slopes(system, (np.ones(1), np.ones(1)), (z(1), z(1)), steps)
    assert alpha[0] == pytest.approx(1 - np.tanh(steps) ** 2, abs=1e-11)
    assert beta[0] == 1


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_images_have_room_for_the_rounding_that_is_trusted(activation):
    ends = np.array([-38.0, -20.0, -5.0, -1.0, -1e-3]), np.array([-20.0, -5.0, -1.0, 0.0, 2.0])
    image = intervals.activated(activation, intervals.box_of(ends))
    for found, end, sign in ((image.lower(), ends[0], 1), (image.upper(), ends[1], -1)):
        value = intervals.values_at(activation, end)
        size = np.maximum(np.abs(value), 0.5) if activation == "sigmoid" else np.abs(value)
        assert (sign * (value - found) >= 60 * 2.0**-53 * size).all()


def test_norms_that_cancel_are_never_rounded_down():
    rng = np.random.default_rng(0)
    for _ in range(100):
        b = 1 - 10.0 ** rng.uniform(-16, -8)
        P, mid = np.array([[1.0, -b], [-b, 1.0]]), rng.uniform(1, 2) * np.ones(2)
        found = intervals.norm_up(Enclosure.of(mid), P)
        assert Fraction(found) ** 2 >= exact(mid).dot(exact(P)).dot(exact(mid))


def test_slopes_are_those_of_frozen_systems():
    system = random_system(0, nx=2, layers=(2,))
    boxes = (-np.ones(2), np.ones(2)), (-np.ones(2), np.ones(2))
    names = ("A", "B1", "B2", "bx", "C1", "D11", "D12", "bv", "C2", "D21", "D22", "by", "nx", "nu", "ny", "nv")
    plain = SimpleNamespace(**{n: getattr(system, n) for n in (*names, "blocks", "activation")})
    for one in (plain, SimpleNamespace(**vars(plain), is_frozen=True)):
        np.testing.assert_array_equal(intervals.local_slopes(one, *boxes, 2), intervals.local_slopes(system, *boxes, 2))
    with pytest.raises(SettingError, match="frozen"):
        intervals.local_slopes(SimpleNamespace(**vars(plain), is_frozen=False), *boxes, 2)
