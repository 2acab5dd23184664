"""Every operation of the proofs' arithmetic against rational numbers, down to subnormal and up to huge ones."""

import ctypes
import platform
from fractions import Fraction

import numpy as np
import pytest
import torch
from exact_numbers import exact, holds
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlrnn.certification.proof.arithmetic import enclosure as e
from controlrnn.certification.proof.arithmetic.enclosure import TINY, UNIT, Enclosure, two_sum
from controlrnn.certification.proof.arithmetic.twofold import Twofold, two_prod

SIZES = st.one_of(
    st.just(0.0),
    st.floats(0.5, 2.0),
    st.builds(lambda m, k: float(np.ldexp(m, k)), st.floats(0.5, 1.0), st.integers(-1073, 1023)),
    st.sampled_from([5e-324, 2.0**-1022, 1e-200, 1e200, 1.7e308, 1.0, 1 + 2**-52, 3e-162]),
)
NUMBERS = st.builds(lambda s, v: s * v, st.sampled_from([-1.0, 1.0]), SIZES)
SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=150)
KINDS = [Enclosure, Twofold]


def make(kind, rng, shape, log=None):
    """An enclosure around random numbers, and numbers within it, at its edges more often than not."""
    size = rng.uniform(-330, 300) if log is None else log
    mid = rng.standard_normal(shape) * 10.0 ** np.clip(rng.uniform(size - 9, size + 9, shape), -330, 300)
    mid[rng.random(shape) < 0.15] = 0.0
    rad = np.abs(mid) * 10.0 ** rng.uniform(-20 if kind is Enclosure else -36, 1, shape) * (rng.random(shape) < 0.5)
    rad[rng.random(shape) < 0.1] = 10.0 ** max(size - 3, -320)
    rad *= rng.random() < 0.6  # numbers that are known exactly show every rounding
    where = exact(rad) * exact(rng.choice([-1.0, 0.0, 0.5, 1.0], shape))
    if kind is Enclosure:
        return Enclosure(mid, rad), exact(mid) + where
    lo = mid * 2.0**-53 * rng.choice([-1, -0.7, 0, 0.3, 1], shape)
    return Twofold(mid, lo, rad), exact(mid) + exact(lo) + where


def around(found, true):
    """Whether an enclosure holds the fractions, in the precision that it is kept in."""
    if isinstance(found, Enclosure):
        return holds(found, true)
    known = np.isfinite(found.hi) & np.isfinite(found.lo) & np.isfinite(found.rad)
    away = np.where(known, np.ravel(true).reshape(known.shape), 0)
    hi, lo, rad = (exact(np.where(known, part, 0.0)) for part in (found.hi, found.lo, found.rad))
    return bool((abs(away - hi - lo) <= rad).all()) and holds(found.enclosure(), true)


OPERATIONS = {
    "add": lambda a, b: a + b, "subtract": lambda a, b: a - b, "multiply": lambda a, b: a * b,
    "negate": lambda a, b: -a + (b - b),
}  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPERATIONS)
@FAST
@given(a=NUMBERS, b=NUMBERS, ra=SIZES, rb=SIZES, sa=st.sampled_from([-1, 0, 1]), sb=st.sampled_from([-1, 0, 1]))
@example(a=1e-200, b=0.0, ra=0.0, rb=1e-200, sa=1, sb=1)  # zero times a small number, which is only known to be small
@example(a=0.0, b=0.0, ra=1e-200, rb=1e-200, sa=1, sb=1)
@example(a=1e200, b=5e-324, ra=0.0, rb=0.0, sa=0, sb=0)
@example(a=3e-162, b=3e-162, ra=0.0, rb=0.0, sa=0, sb=0)
def test_scalars_of_any_size(kind, name, a, b, ra, rb, sa, sb):
    operation = OPERATIONS[name]
    x, y = Fraction(a) + sa * Fraction(ra), Fraction(b) + sb * Fraction(rb)
    with np.errstate(all="ignore"):
        found = operation(kind.of(np.array([a]), np.array([ra])), kind.of(np.array([b]), np.array([rb])))
    assert around(found, [operation(x, y)])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", OPERATIONS)
@FAST
@given(seed=SEEDS)
def test_arrays(kind, name, seed):
    rng = np.random.default_rng(seed)
    (a, x), (b, y) = make(kind, rng, (2, 3)), make(kind, rng, (3,))
    with np.errstate(all="ignore"):
        assert around(OPERATIONS[name](a, b), OPERATIONS[name](x, y + 0 * x))


@pytest.mark.parametrize("kind", KINDS)
@FAST
@given(seed=SEEDS, k=st.integers(1, 7))
def test_products_of_matrices(kind, seed, k):
    rng = np.random.default_rng(seed)
    (a, x), (b, y) = make(kind, rng, (2, 3, k)), make(kind, rng, (k, 2), log=rng.uniform(-300, 150))
    with np.errstate(all="ignore"):
        found, turned = a @ b, b.T @ a.T
    assert found.enclosure().mid.shape == (2, 3, 2)
    assert around(found, np.array([one.dot(y) for one in x]))
    assert around(turned, np.array([one.dot(y).T for one in x]))


@pytest.mark.parametrize(("kind", "relative"), [(Enclosure, 3e-16), (Twofold, 1e-30)])
@FAST
@given(seed=SEEDS, k=st.integers(1, 7))
def test_radii_are_no_larger_than_rounding_makes_them(kind, relative, seed, k):
    """Relative to the sum of absolute values; `Twofold` knows about twice the digits, before it is rounded to one."""
    rng = np.random.default_rng(seed)
    a, b = rng.standard_normal((3, k)), rng.standard_normal((k, 2))
    product, total, scaled = kind.of(a) @ kind.of(b), kind.of(a) + kind.of(a[::-1]), kind.of(a) * kind.of(a[::-1])
    assert (product.rad <= (k + 1) * relative * (np.abs(a) @ np.abs(b)) + 1e-290).all()
    assert (total.rad <= relative * (np.abs(a) + np.abs(a[::-1]))).all()
    assert (scaled.rad <= relative * np.abs(a * a[::-1]) + 1e-290).all()
    small = kind.of(a, 1e-20 * np.abs(a)) @ kind.of(b, 2e-20 * np.abs(b))
    assert (small.rad - product.rad <= 3.01e-20 * (np.abs(a) @ np.abs(b)) * (1 + 1e-9)).all()
    ab = kind.of(a, 0.25 * np.abs(a)) * kind.of(a[::-1], 0.5 * np.abs(a[::-1]))
    assert (ab.rad <= (0.25 + 0.5 + 0.125) * np.abs(a * a[::-1]) * (1 + 1e-12) + 1e-290).all()


def test_terms_that_cancel_keep_their_digits_in_twice_the_precision():
    third = np.full((1, 3), 1 / 3)
    ones = np.array([[1.0], [1.0], [-2.0]])
    a = Twofold.of(third) * Twofold.of(third)
    found = (a @ Twofold.of(ones)).enclosure()
    assert abs(found.mid.item()) <= found.rad.item() < 1e-30
    square = Twofold.of(1 + 2.0**-40) * Twofold.of(1 + 2.0**-40) - Twofold.of(1 + 2.0**-39)
    assert square.enclosure().mid == 2.0**-80
    deep = Twofold.of([[1.0, 1e16, -1e16, 1.0]]) @ Twofold.of([[1.0], [1.0], [1.0], [2.0**-60]])
    assert deep.enclosure().mid.item() == 1 + 2.0**-60


@FAST
@given(a=NUMBERS, b=NUMBERS)
def test_transformations_without_error(a, b):
    with np.errstate(all="ignore"):
        total, error = two_sum(np.array([a]), np.array([b]))
        product, rest = two_prod(np.array([a]), np.array([b]))
    if np.isfinite(total[0]) and np.isfinite(error[0]):
        assert Fraction(total[0]) + Fraction(error[0]) == Fraction(a) + Fraction(b)
    if np.isfinite(product[0]) and np.isfinite(rest[0]):
        off = abs(Fraction(product[0]) + Fraction(rest[0]) - Fraction(a) * Fraction(b))
        assert off <= (0 if abs(product[0]) > 1e-280 or not a or not b else 4 * Fraction(TINY))


@pytest.mark.parametrize("kind", KINDS)
def test_parts_turned_and_placed(kind):
    rng = np.random.default_rng(0)
    a, x = make(kind, rng, (2, 3), log=0)
    assert holds(a.T.enclosure(), x.T)
    assert holds(a[1].enclosure(), x[1])
    placed = a.placed((2, 4, 3), (np.array([0, 1]), np.array([3, 0]))).enclosure()
    whole = np.zeros((2, 4, 3), dtype=object) + Fraction(0)
    whole[0, 3], whole[1, 0] = x[0], x[1]
    assert holds(placed, whole)
    assert (placed.rad[whole == 0] == 0).all()
    assert not a.placed((2, 4, 3), (np.array([0, 1]), np.array([3, 0]))).enclosure().mid[0, 0].any()


@pytest.mark.parametrize("shape", [(60,), (1, 60), (2, 3, 60), (5, 2, 60)], ids=str)
def test_radii_of_products_count_every_term(shape):
    """What Higham's gamma_k and the radii ask for in exact numbers, which a sum of 60 terms never uses up."""
    rng, k = np.random.default_rng(0), 60
    a, b = rng.standard_normal(shape), rng.standard_normal((k, 2))
    for log in (-20, -14, -1):
        ra, rb = 10.0**log * rng.random(a.shape), 10.0**log * rng.random(b.shape)
        found = Enclosure(a, ra) @ Enclosure(b, rb)
        size_a, size_b = exact(np.abs(a)), exact(np.abs(b))
        for p, q in ((found.rad, 1), ((Enclosure(a, 0 * ra) @ Enclosure(b, rb)).rad, 0)):
            needed = np.dot(size_a, k * Fraction(UNIT) * size_b + exact(rb)) + q * np.dot(exact(ra), size_b + exact(rb))
            assert (exact(p) >= needed).all()
    up = e.dot_up(np.abs(a), np.abs(b))
    assert (exact(up) >= exact(np.abs(a) @ np.abs(b)) * (1 + k * Fraction(UNIT))).all()
    for kind in KINDS:
        tiny = kind.of(np.full((2, 3, k), 1e-200)) @ kind.of(np.full((k, 2), 1e-200))
        assert (tiny.rad >= k * TINY).all()
    assert (e.dot_up(np.full(shape, 1e-200), np.full((k, 2), 1e-200)) >= k * TINY).all()


@pytest.mark.parametrize("kind", KINDS)
@FAST
@given(seed=SEEDS)
def test_parts_added_and_set_in_place(kind, seed):
    rng = np.random.default_rng(seed)
    (a, x), (b, y), (c, z) = (
        make(kind, rng, (4, 3), log=0),
        make(kind, rng, (2, 3), log=0),
        make(kind, rng, (3,), log=0),
    )
    whole = a.placed((5, 3), slice(0, 4))
    whole.add_at(slice(1, 3), b)
    whole.set_at(4, c)
    x[1:3] += y
    assert around(whole, np.vstack([x, z]))
    found = whole.enclosure()
    assert np.isfinite(found.mid).all()
    assert np.isfinite(found.rad).all()


@pytest.mark.parametrize("kind", KINDS)
def test_whole_numbers_and_lists_become_float64(kind):
    large = kind.of([[3 * 10**9]], [[1]]) * kind.of([[4 * 10**9]])  # beyond 64 bits
    found = large.enclosure()
    assert found.mid.dtype == found.rad.dtype == np.float64
    assert holds(found, [[Fraction(12 * 10**18)]])
    assert found.rad.item() == pytest.approx(4e9)
    assert kind.of(1).enclosure().mid.dtype == kind.of([1], [2]).rad.dtype == np.float64
    big = 4 * 10**9
    assert 16e18 <= float(e.times_up(big, big)) <= 16e18 * (1 + 4 * UNIT)
    assert float(e.root_up(0)) == float(e.ldexp_up(0, 5)) == 0.0
    assert float(e.ldexp_up(1, 70)) == 2.0**70


def test_a_zero_that_is_known_stays_exact():
    for a in (0.0, 1.0, 5.0):
        for rad in (0.0, 1.0, 2.0):
            zero, other = Enclosure.of([0.0]), Enclosure.of([a], [rad])
            for product in (zero * other, other * zero):
                assert (product.mid, product.rad) == (0.0, 0.0)


@FAST
@given(mid=NUMBERS, rad=SIZES)
def test_ends(mid, rad):
    value, m, r = Enclosure(np.array([mid]), np.array([rad])), Fraction(mid), Fraction(rad)
    with np.errstate(all="ignore"):
        upper, lower, size = value.upper()[0], value.lower()[0], value.magnitude()[0]
    assert np.isinf(upper) or Fraction(upper) >= m + r
    assert np.isinf(lower) or Fraction(lower) <= m - r
    assert np.isinf(size) or Fraction(size) >= abs(m) + r
    if mid and np.isfinite(size):
        assert size <= (abs(mid) + rad) * (1 + 4 * UNIT) + 1e-323


UP = {
    "times": (lambda a, b: e.times_up(a, b), lambda a, b: a * b),
    "divide": (lambda a, b: e.divide_up(a, b), lambda a, b: a / b if b else None),
    "sum": (lambda a, b: e.sum_up(np.array([a, b])), lambda a, b: a + b),
    "cumulated": (lambda a, b: e.cumulated_up(np.array([a, b]))[1], lambda a, b: a + b),
    "dot": (lambda a, b: e.dot_up(np.array([[a, b]]), np.array([b, a]))[0], lambda a, b: 2 * a * b),
    "thrice": (lambda a, b: e.times_up(a, b, a), lambda a, b: a * b * a),
}


@pytest.mark.parametrize("name", UP)
@FAST
@given(a=SIZES, b=SIZES)
@example(a=1e-170, b=1e-170)
@example(a=5e-324, b=0.5)
@example(a=5e-324, b=1.7e308)
@example(a=32.0, b=5e-324)
def test_rounding_up(name, a, b):
    up, true = UP[name]
    wanted = true(Fraction(a), Fraction(b))
    if wanted is None:
        return
    with np.errstate(all="ignore"):
        found = float(up(a, b))
    assert np.isfinite(found) or wanted > Fraction(10) ** 300
    assert np.isinf(found) or Fraction(found) >= wanted
    floor = 40 * TINY * (max(a, 1.0) if name == "thrice" else 1.0)  # the next factor enlarges padding
    assert np.isinf(found) or found <= float(min(wanted, Fraction(np.finfo(float).max))) * (1 + 64 * UNIT) + floor
    if name not in ("dot",):
        assert (found == 0) == (wanted == 0)


@FAST
@given(a=SIZES, b=SIZES, power=st.integers(-1073, 1073))
def test_rounding_down_roots_and_powers_of_two(a, b, power):
    with np.errstate(all="ignore"):
        if b:
            found = float(e.divide_down(a, b))
            assert 0 <= found < np.inf
            assert Fraction(found) <= Fraction(a) / Fraction(b)
            assert found >= min(a / b, 1.7e308) * (1 - 4 * UNIT) - 2 * TINY
        root, scaled = float(e.root_up(a)), float(e.ldexp_up(a, power))
    assert Fraction(root) ** 2 >= Fraction(a)
    assert root <= np.sqrt(a) * (1 + 4 * UNIT) + 1e-323
    assert np.isinf(scaled) or Fraction(scaled) >= Fraction(a) * Fraction(2) ** power
    assert np.isinf(scaled) or scaled <= np.ldexp(a, power) + 5e-324


@FAST
@given(seed=SEEDS, n=st.integers(1, 40))
def test_long_sums_are_covered_in_any_order(seed, n):
    rng = np.random.default_rng(seed)
    a, b = 10.0 ** rng.uniform(-18, 0, (2, n)), 10.0 ** rng.uniform(-18, 0, (2, n))
    sums = [sum(row, Fraction(0)) for row in exact(a)]
    assert all(Fraction(v) >= s for v, s in zip(e.sum_up(a, axis=1), sums, strict=True))
    assert Fraction(float(e.sum_up(a))) >= sum(sums)
    assert Fraction(float(e.sum_up(a[..., None], axis=(0, 1))[0])) >= sum(sums)
    assert all(Fraction(v) >= s for v, s in zip(e.cumulated_up(a.T)[-1], sums, strict=True))
    dots = exact(a).dot(exact(b).T)
    assert all(Fraction(v) >= d for v, d in zip(e.dot_up(a, b.T).ravel(), dots.ravel(), strict=True))


def test_what_overflows_is_not_finite():
    with np.errstate(all="ignore"):
        for kind in KINDS:
            big = kind.of(np.full((1, 1), 1e200))
            for value in (big * big, big @ big, big * big - big * big, big * big * kind.of(np.zeros((1, 1)))):
                found = value.enclosure()
                assert not (np.isfinite(found.mid) & np.isfinite(found.rad)).any()


def test_gamma_and_units():
    assert np.finfo(float).eps / 2 == UNIT
    for n in (1, 2, 1000, 10**6):
        assert Fraction(e.gamma(n)) >= Fraction(n) * Fraction(UNIT) / (1 - n * Fraction(UNIT))
        assert e.gamma(n) <= 1.02 * n * UNIT
    assert TINY >= 8 * 2.0**-1022  # some flushed results together
    assert e.arithmetic_is_ieee()


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="the codes of rounding modes are x86's")
@pytest.mark.parametrize("mode", [0x400, 0x800, 0xC00], ids=["down", "up", "to zero"])
def test_other_rounding_is_noticed(mode):
    library = ctypes.CDLL(None)
    if not hasattr(library, "fesetround"):
        library = ctypes.CDLL("libm.so.6")
    assert library.fesetround(mode) == 0
    try:
        ieee = e.arithmetic_is_ieee()
    finally:
        library.fesetround(0)
    assert not ieee
    assert e.arithmetic_is_ieee()


def test_lost_subnormal_numbers_are_noticed():
    if not torch.set_flush_denormal(True):
        pytest.skip("this processor cannot flush to zero")
    try:
        ieee = e.arithmetic_is_ieee()
    finally:
        torch.set_flush_denormal(False)
    assert not ieee
    assert e.arithmetic_is_ieee()


def test_radii_of_long_products_are_rounded_up():
    """Some large radii, beside which thousands vanish one by one, also where a sum is kept in several parts."""
    k = 1 << 14
    rad = np.full(k, 0.9 * UNIT)
    rad[:64] = 1.0
    true = sum(map(Fraction, rad))
    for kind in (Enclosure, Twofold):
        exact_ones, spread = kind.of(np.ones((1, k))), kind.of(np.zeros((k, 1)), rad[:, None])
        assert Fraction(float((exact_ones @ spread).enclosure().rad[0, 0])) >= true
        assert Fraction(float((spread.T @ exact_ones.T).enclosure().rad[0, 0])) >= true
