import cvxpy as cp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpc.quadratic import QuadraticProgram


def random_program(seed, n=7, m=5, *, reach=1.0):
    rng = np.random.default_rng(seed)
    root = rng.standard_normal((n, n))
    high = reach * rng.uniform(-1, 1, m)
    lower = np.concatenate([-np.ones(n), high - rng.uniform(0.1, 1, m)])
    return root @ root.T / n + 0.1 * np.eye(n), 3 * rng.standard_normal(n), rng.standard_normal((m, n)), lower, high


def by_cvxpy(H, g, C, lower, upper, prices):
    n = len(g)
    z, s = cp.Variable(n), cp.Variable(len(prices), nonneg=True)
    kept = np.where(np.isfinite(prices), prices, 0.0)
    rows = [lower[:n] <= z, z <= upper[:n], lower[n:] - s <= C @ z, C @ z <= upper[n:] + s]
    rows += [s[i] == 0 for i in np.flatnonzero(~np.isfinite(prices))]
    task = cp.Problem(cp.Minimize(cp.quad_form(z, cp.psd_wrap(H)) / 2 + g @ z + kept @ s), rows)
    task.solve(solver="CLARABEL", tol_gap_abs=1e-11, tol_gap_rel=1e-11, tol_feas=1e-11)
    return z.value


@given(st.integers(0, 10**6), st.sampled_from([0.1, 1.0, 30.0]))
@settings(max_examples=20, deadline=None)
def test_prices_per_unit_are_exact(seed, price):
    H, g, C, lower, high = random_program(seed)
    prices = np.random.default_rng(seed).uniform(0.5, 2, 5) * price
    upper = np.concatenate([np.ones(7), high])
    found = QuadraticProgram(7, prices).solve(H, g, C, lower, upper)
    np.testing.assert_allclose(found.z, by_cvxpy(H, g, C, lower, upper, prices), atol=2e-6)
    assert (np.abs(found.multipliers) <= prices * (1 + 1e-5)).all()
    # Stationary: what neither the rows nor the variables' own limits hold is zero.
    slope = H @ found.z + g + C.T @ found.multipliers
    free = np.abs(found.z) < 1 - 1e-6
    np.testing.assert_allclose(slope[free], 0, atol=1e-6 * (1 + price))


def test_rows_without_price_are_kept_or_there_is_no_solution():
    H, g, C, lower, high = random_program(3, reach=0.1)
    prices = np.array([np.inf, 0.01, 0.01, 0.01, 0.01])
    upper = np.concatenate([np.ones(7), high])
    program = QuadraticProgram(7, prices)
    z = program.solve(H, g, C, lower, upper).z
    assert lower[7] - 1e-8 <= C[0] @ z <= upper[7] + 1e-8
    assert (C[1:] @ z > upper[8:] + 1e-3).any()
    np.testing.assert_allclose(z, by_cvxpy(H, g, C, lower, upper, prices), atol=1e-6)
    lower[7], upper[7] = 50.0, 60.0  # out of reach of the box
    assert program.solve(H, g, C, lower, upper) is None


def test_history_does_not_matter_and_problems_without_rows_work():
    program = QuadraticProgram(7, np.full(5, 2.0))
    H, g, C, lower, high = random_program(1)
    upper = np.concatenate([np.ones(7), high])
    first = program.solve(H, g, C, lower, upper)
    program.solve(H, -g, C, lower, upper)
    again = program.solve(H, g, C, lower, upper)
    np.testing.assert_array_equal(again.z, first.z)
    np.testing.assert_array_equal(again.multipliers, first.multipliers)
    free = QuadraticProgram(7, np.zeros(0)).solve(H, 0.01 * g, np.zeros((0, 7)), -np.ones(7), np.ones(7))
    np.testing.assert_allclose(free.z, np.linalg.solve(H, -0.01 * g), atol=1e-10)


@pytest.mark.parametrize("bad", [np.nan, -1.0])
def test_what_is_not_convex_is_refused_not_solved(bad):
    H, g, C, lower, high = random_program(1)
    H[0, 0] = bad
    assert QuadraticProgram(7, np.full(5, 2.0)).solve(H, g, C, lower, np.concatenate([np.ones(7), high])) is None
