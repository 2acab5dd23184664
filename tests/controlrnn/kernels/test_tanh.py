"""The vectorisable hyperbolic tangent."""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
import pytest

from controlrnn.kernels.compiled.simd import tanh


@numba.njit  # type: ignore[untyped-decorator]
def all_of(x: Any, out: Any) -> None:
    for i in range(x.size):
        out[i] = tanh(x[i])


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_error_is_within_three_ulp_everywhere(kind: type[np.floating[Any]]) -> None:
    rng = np.random.default_rng(0)
    size = 200_000
    x = np.concatenate([rng.uniform(-25, 25, size), rng.uniform(-1, 1, size), np.exp(rng.uniform(-60, 3, size))])
    x = x.astype(kind)
    found = np.empty_like(x)
    all_of(x, found)
    exact = np.tanh(x.astype(np.longdouble))
    assert (np.abs(found - exact) / np.spacing(np.abs(exact).astype(kind))).max() <= 3.0


@pytest.mark.parametrize("kind", [np.float32, np.float64])
def test_special_values(kind: type[np.floating[Any]]) -> None:
    x = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e30, np.finfo(kind).smallest_subnormal], kind)
    found = np.empty_like(x)
    all_of(x, found)
    np.testing.assert_array_equal(found, np.array([0.0, -0.0, 1.0, -1.0, np.nan, 1.0, x[-1]], kind))
    assert np.signbit(found[1])
