"""Directions of limited-memory BFGS: those of the dense update, in any shape."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlrnn.quasi_newton import lbfgs_direction


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 5))
def test_it_is_that_of_the_dense_update(seed, n, kept):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, n))
    curvature = root @ root.T + np.eye(n)
    steps = rng.standard_normal((kept, n))
    pairs = [(s, curvature @ s) for s in steps]
    s, y = pairs[-1]
    H = np.eye(n) * (s @ y) / (y @ y)
    for s, y in pairs:
        left = np.eye(n) - np.outer(s, y) / (s @ y)
        H = left @ H @ left.T + np.outer(s, s) / (s @ y)
    gradient = rng.standard_normal(n)
    expected = -H @ gradient
    found = lbfgs_direction(gradient, pairs)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-8 * np.linalg.norm(expected))
    assert found @ gradient < 0


def test_without_pairs_it_descends_steepest_and_shapes_are_kept():
    gradient = np.arange(6.0).reshape(2, 3)
    before = gradient.copy()
    np.testing.assert_array_equal(lbfgs_direction(gradient, []), -gradient)
    pair = (np.full((2, 3), 0.5), np.ones((2, 3)))
    flat = lbfgs_direction(gradient.ravel(), [(pair[0].ravel(), pair[1].ravel())])
    assert lbfgs_direction(gradient, [pair]) == pytest.approx(flat.reshape(2, 3))
    np.testing.assert_array_equal(gradient, before)
