"""Numbers that are the same everywhere, and radii with room."""

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings
from kernels import KERNELS, REASON, run_under

from controlrnn.errors import ShapeError
from controlrnn.portable import chosen, product, published, told_apart

DERIVED = """
import hashlib, sys
import numpy as np
from random_systems import random_system
from controlrnn.data import Scaler
from controlrnn.systems import GatedSystem, change_system, observer_system

def layouts(a):
    wide = np.zeros((2 * a.shape[0], 3 * a.shape[1]))
    wide[::2, ::3] = a
    return np.ascontiguousarray(a), np.asfortranarray(a), wide[::2, ::3], a[::-1, ::-1].copy()[::-1, ::-1]

every = hashlib.sha256()
for seed in range(400):
    rng = np.random.default_rng(seed)
    nx, nu, ny, n = rng.integers(1, 12), rng.integers(1, 4), rng.integers(1, 4), rng.integers(1, 20)
    system = random_system(seed, nx=int(nx), nu=int(nu), ny=int(ny), layers=(int(n), 2))
    # The norm that scales random systems is LAPACK's: plain draws instead.
    system = type(system)(**{k: rng.standard_normal(getattr(system, k).shape) * (getattr(system, k) != 0)
                             for k in ("A", "B1", "B2", "bx", "C1", "D11", "D12", "bv", "C2", "D21", "D22", "by")},
                          layers=system.layers, dt=0.1)
    gain, units = rng.standard_normal((nx, ny)), Scaler(rng.standard_normal(nu), rng.uniform(0.1, 9, nu))
    out = Scaler(rng.standard_normal(ny), rng.uniform(0.1, 9, ny))
    seen = {observer_system(system, form).digest for form in layouts(gain)}
    assert len(seen) == 1, (seed, seen)
    gru = GatedSystem(W=rng.standard_normal((9, nu)), U=rng.standard_normal((9, 3)), b=rng.standard_normal(9),
                      C=rng.standard_normal((ny, 3)), by=rng.standard_normal(ny), cell="gru", dt=1.0)
    made = [change_system(observer_system(system, gain), 2), system.scaled(units, out), gru.scaled(units, out)]
    every.update("".join([*seen, *(one.digest for one in made)]).encode())
print(every.hexdigest())
"""


@pytest.mark.parametrize(("rows", "inner", "columns"), [(3, 5, 2), (1, 0, 4), (0, 3, 2), (40, 70, 30)])
def test_the_product_is_one_up_to_rounding(rows, inner, columns):
    rng = np.random.default_rng(rows)
    a, b = rng.standard_normal((rows, inner)), rng.standard_normal((inner, columns))
    room = (inner + 1) * 2.0**-52 * np.abs(a) @ np.abs(b)
    assert (np.abs(product(a, b) - a @ b) <= room).all()
    assert np.array_equal(product(a, b[:, 0]), product(a, b)[:, 0])


def test_the_product_adds_in_the_order_of_the_inner_index():
    terms = np.array([[1.0, 2.0**-53, 2.0**-53]])
    assert product(terms, np.ones((3, 1))) == 1.0  # each is rounded away; together they would not be
    assert product(terms[:, ::-1], np.ones((3, 1))) == 1.0 + 2.0**-52


def test_factors_that_do_not_fit_are_named():
    with pytest.raises(ShapeError, match=r"\(2, 3\) and \(2, 3\)"):
        product(np.ones((2, 3)), np.ones((2, 3)))


@given(st.floats(1e-300, 1e300), st.floats(-1e-8, 1e-8))
def test_what_is_stated_covers_what_others_compute_and_state(radius, other):
    stated = published(radius)
    assert radius * (1 + abs(other)) <= stated <= radius * (1 + 4e-7)
    assert published(radius * (1 + other)) <= published(stated)
    assert np.ldexp(np.frexp(stated)[0], 24).is_integer()


@pytest.mark.parametrize("radius", [0.0, np.inf])
def test_the_ends_of_the_range_are_stated_as_they_are(radius):
    assert published(radius) == radius
    assert 0 < 5e-324 <= published(5e-324) < 1e-300


def test_two_machines_state_and_choose_the_same_numbers():
    values = np.random.default_rng(0).uniform(0.1, 10, (2000, 2))
    assert all(published(r) == published(r * (1 + 1e-14)) for r in values[:, 0])
    assert np.array_equal(chosen(values), chosen(values * (1 - 1e-13)))
    assert np.abs(chosen(values) / values - 1).max() < 2e-3
    assert np.abs(chosen(values) - values).max() <= np.abs(values).max() * 2.0**-16
    assert chosen(np.asfortranarray(values)).flags.c_contiguous
    assert not chosen(np.zeros((2, 2))).any()


def test_numbers_that_are_compared_read_differently():
    assert told_apart(0.043531, 0.0435312) == ["0.043531", "0.0435312"]
    assert told_apart(1.0, 2.0) == ["1", "2"]
    assert told_apart(0.5, 0.5) == ["0.5", "0.5"]
    assert len(set(told_apart(0.1, np.nextafter(0.1, 1)))) == 2


@settings(max_examples=50)
@given(
    a=hnp.arrays(np.float64, (3, 4), elements=st.floats(-1e3, 1e3)),
    b=hnp.arrays(np.float64, (4, 2), elements=st.floats(-1e3, 1e3)),
)
def test_layout_does_not_matter(a, b):
    exact = product(a, b)
    strided = np.zeros((6, 8))
    strided[::2, ::2] = a
    for left in (np.asfortranarray(a), strided[::2, ::2]):
        assert product(left, np.asfortranarray(b)).tobytes() == exact.tobytes()


@pytest.mark.skipif(bool(REASON), reason=REASON)
def test_derived_systems_have_one_digest_on_every_processor():
    jobs = [(["-c", DERIVED], kernel, threads) for kernel, threads in zip(KERNELS, (1, 2, 1, 2), strict=False)]
    printed = {text.strip() for text in run_under(jobs)}
    assert len(printed) == 1
    assert len(printed.pop()) == 64
