"""Prices of input errors, and the boxes within them."""

from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import exact
from hypothesis import given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS

from controlrnn.certification.proof.input_error import InputDifferences
from controlrnn.errors import ControlRnnError


@FAST
@given(seed=SEEDS, kind=st.sampled_from(["box", "ball", "few", "constant", "rate_limited"]))
def test_prices_of_input_errors(seed, kind):
    """No member of the set costs more than its price; the worst that is known costs as much."""
    rng, K = np.random.default_rng(seed), 4
    more = (
        {"steps": int(rng.integers(1, 6))}
        if kind == "few"
        else {"rate": rng.random(2)}
        if kind == "rate_limited"
        else {}
    )
    b = rng.random(2) * 10.0 ** rng.uniform(-3, 3, 2)
    error = InputDifferences.of(InputDifferences(kind=kind, radius=b, **more), 2)
    rho, gains = rng.random((K, 2)), rng.random((K, 1, 2))
    added = error.added(gains)
    size, sums = (gains[:, 0] * b), (rho * b * b)
    for k in range(K):
        many = slice(0, k + 1)
        steps = min(more.get("steps", K), k + 1)
        if kind == "ball":
            wanted = np.sqrt((size[many] ** 2).sum(axis=1)).sum()
            price = sums[many].max(axis=1).sum()
        else:
            wanted = np.sort(size[many].sum(axis=1))[-steps:].sum()
            price = np.sort(sums[many].sum(axis=1))[-steps:].sum()
        assert wanted <= added[k, 0] <= wanted * (1 + 1e-12)
        if not error.is_state:
            assert price <= error.energies(rho)[k] <= price * (1 + 1e-12)
    if kind == "constant":
        assert not error.energies(np.zeros((K, 0))).any()
    if kind == "rate_limited":
        price = np.cumsum((rho * error.changes**2).sum(axis=1))
        assert np.allclose(error.energies(rho), price, rtol=1e-12)
        assert (error.energies(rho) >= price * (1 - 1e-15)).all()


def test_boxes_within_input_errors():
    b = np.array([3.0, 0.0, 4.0])

    def box(horizon, **kind):
        return InputDifferences.of(InputDifferences(radius=b, **kind), 3).covered_box(horizon)

    assert box(5).tolist() == b.tolist()
    small = InputDifferences.of(InputDifferences(kind="ball", radius=np.array([0.3, 0.0])), 2).covered_box(5)
    assert 0.3 * (1 - 1e-15) <= small[0] <= 0.3  # a ball of one channel is a box
    small = InputDifferences.of(InputDifferences(kind="ball", radius=np.full(2, 0.3)), 2).covered_box(5)
    assert 2 * (small[0] / 0.3) ** 2 <= 1
    ball = exact(box(5, kind="ball"))
    assert (ball[0] / 3) ** 2 + (ball[2] / 4) ** 2 <= 1
    assert float(ball[0]) == pytest.approx(3 / np.sqrt(2), rel=1e-12)
    assert box(5, kind="constant").tolist() == [0, 0, 0]
    assert box(0, kind="constant").tolist() == b.tolist()
    assert box(2, kind="few", steps=3).tolist() == b.tolist()
    assert box(3, kind="few", steps=3).tolist() == [0, 0, 0]
    assert box(3, kind="rate_limited", rate=5.0).tolist() == [2.5, 0, 2.5]
    assert box(3, kind="rate_limited", rate=7.0).tolist() == [3.0, 0, 3.5]
    for ulps in (1, 2, 3, 5):
        rate = ulps * 5e-324
        assert 2 * Fraction(box(3, kind="rate_limited", rate=rate)[0]) <= Fraction(rate)
    assert InputDifferences.of(0.5, 3).b.tolist() == [0.5] * 3
    assert InputDifferences.of(InputDifferences(kind="rate_limited", radius=b, rate=2.0), 3).changes.tolist() == [
        2,
        0,
        2,
    ]


@pytest.mark.parametrize("bad", [
    {"radius": -1.0}, {"radius": np.nan}, {"radius": np.inf}, {"radius": np.ones(2)}, {"kind": "few"},
    {"kind": "few", "steps": 0}, {"kind": "few", "steps": 1.5}, {"kind": "rate_limited"}, {"rate": 1.0},
    {"kind": "rate_limited", "rate": -1.0}, {"kind": "rate_limited", "rate": np.nan}, {"steps": 2}, {"kind": "wild"},
], ids=lambda bad: "-".join(bad))  # fmt: skip
def test_input_errors_that_make_no_sense(bad):
    with pytest.raises(ControlRnnError):
        InputDifferences.of(InputDifferences(**({"radius": 1.0} | bad)), 3)


def test_scaled_input_errors_and_their_words():
    error = InputDifferences.of(InputDifferences(kind="rate_limited", radius=1e-300, rate=5e-324), 2).scaled(-990)
    assert error.b == pytest.approx(np.ldexp(1e-300, 990))
    assert (error.changes >= np.ldexp(5e-324, 990)).all()
    for kind, word in (({"kind": "ball"}, "ellipsoid"), ({"kind": "few", "steps": 3}, "no more than 3 steps"),
                       ({"kind": "constant"}, "a constant"), ({"kind": "rate_limited", "rate": 0.25}, "changing by"),
                       ({"kind": "box"}, "per channel and step")):  # fmt: skip
        text = str(InputDifferences.of(InputDifferences(radius=0.5, **kind), 1))
        assert word in text
        assert "0.5" in text
    assert "step" not in str(InputDifferences(kind="constant", radius=0.5))


@pytest.mark.parametrize("bad", [
    {"rate": -0.1}, {"rate": np.nan}, {"rate": np.array([0.1, -0.1])}, {"rate": np.ones((2, 1))}, {"rate": "fast"},
    {"rate": np.ones(3)}, {"radius": -0.1}, {"radius": np.nan}, {"radius": np.ones((2, 2))},
], ids=lambda bad: next(iter(bad)))  # fmt: skip
def test_rates_and_radii_that_make_no_sense(bad):
    good = {"kind": "rate_limited", "radius": np.array([0.5, 0.2]), "rate": np.array([0.1, 0.3])}
    assert InputDifferences(**good).changes.tolist() == [0.1, 0.3]
    with pytest.raises(ControlRnnError):
        InputDifferences(**(good | bad))


def test_errors_at_few_steps_stay_so_in_other_units():
    error = InputDifferences.of(InputDifferences(kind="few", radius=0.5, steps=np.int64(2)), 2)
    assert type(error.steps) is int
    assert error.changes.tolist() == [0.0, 0.0]
    assert InputDifferences.of(InputDifferences(kind="constant", radius=0.5), 2).changes.tolist() == [0.0, 0.0]
    small = error.scaled(3)
    assert small.steps == 2
    assert small.b.tolist() == [0.0625, 0.0625]
    rho = np.ones((4, 2))
    np.testing.assert_allclose(small.energies(rho) * 64, error.energies(rho), rtol=1e-12)
    slow = InputDifferences.of(InputDifferences(kind="rate_limited", radius=0.5, rate=0.25), 2).scaled(1)
    assert slow.changes.tolist() == [0.125, 0.125]


def test_a_ball_without_channels_costs_nothing():
    exact_channels = InputDifferences.of(InputDifferences(kind="ball", radius=0.0), 2)
    assert not exact_channels.energies(np.zeros((3, 0))).any()
    no_inputs = InputDifferences.of(InputDifferences(kind="ball", radius=np.zeros(0)), 0)
    assert not no_inputs.added(np.zeros((3, 1, 0))).any()
