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
@settings(max_examples=20)
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


@pytest.mark.parametrize("apart", [1.0, 1e-6, 1e-9])
@pytest.mark.parametrize("long", [1.0, 1e6, 1e9])
def test_rows_too_long_in_the_metric_of_the_hessian_are_left_unsolved(apart, long):
    """The diagonal does not tell: daqp wrote beyond its memory on such programs, whose diagonal is near one."""
    H = np.array([[1.0, 1.0 - apart], [1.0 - apart, 1.0]])
    C, reach = np.array([[long, -long]]), np.array([1.0, 1.0, 0.5 * long])
    found = QuadraticProgram(2, np.full(1, np.inf)).solve(H, np.array([-1.0, 1.0]), C, -reach, reach)
    if long**2 * 2 / apart > 1e20:
        assert found is None
    else:
        assert found.z == pytest.approx([0.25, -0.25], rel=1e-4)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_rows_that_are_no_numbers_are_left_unsolved_without_a_warning(bad):
    C, reach = np.array([[1.0, bad]]), np.ones(3)
    assert QuadraticProgram(2, np.ones(1)).solve(np.eye(2), np.ones(2), C, -reach, reach) is None


@pytest.mark.parametrize("unit", [1e-100, 1e-30, 1e-9, 1e3, 1e9, 1e12, 1e20, 1e100])
@pytest.mark.parametrize("price", [np.inf, 10.0])
def test_the_unit_of_the_objective_does_not_matter(unit, price):
    """Rows very short in the metric of H are left out by daqp: hard limits were broken, and that was solved."""
    H, reach = np.eye(2), np.ones(3)
    program = QuadraticProgram(2, np.full(1, unit * price))
    for scale in (unit, 1.0, unit):  # also one after the other: with a price of one unit they mean different things
        if scale == unit or price == np.inf:
            found = program.solve(scale * H, -scale * np.array([2.0, 2.0]), np.ones((1, 2)), -reach, reach)
            assert found.z == pytest.approx([0.5, 0.5], abs=1e-6)
            assert found.multipliers == pytest.approx([1.5 * scale], rel=1e-6)


def test_hard_rows_that_the_solver_leaves_out_are_no_solution():
    """As above with a short row alone: limits of 1e-6 on 1e-6 (z1 + z2)."""
    for share in (1.0, 1e-3, 1e-6, 1e-9):
        far, row = np.full(2, 10.0), np.array([share])
        reach = np.append(far, row)
        found = QuadraticProgram(2, np.full(1, np.inf)).solve(
            np.eye(2), -np.array([2.0, 2.0]), np.full((1, 2), share), -reach, reach
        )
        assert found is None if share < 1e-5 else found.z == pytest.approx([0.5, 0.5], abs=1e-6)


@pytest.mark.parametrize("at", [0, 7])
def test_limits_that_are_no_numbers_are_no_limits_to_daqp_and_refused(at):
    H, g, C, lower, high = random_program(1)
    upper = np.concatenate([np.ones(7), high])
    program = QuadraticProgram(7, np.full(5, 2.0))
    assert program.solve(H, g, C, lower, upper) is not None
    for limits in (lower, upper):
        kept, limits[at] = limits[at], np.nan
        assert program.solve(H, g, C, lower, upper) is None
        limits[at] = kept


@given(st.integers(0, 10**6))
@settings(max_examples=30)
def test_variables_stay_within_their_own_limits_to_the_last_bit(seed):
    rng = np.random.default_rng(seed)
    H, g, C, lower, high = random_program(seed)
    lower[:7], upper = -(10.0 ** rng.uniform(-6, 3, 7)), np.append(10.0 ** rng.uniform(-6, 3, 7), high)
    found = QuadraticProgram(7, np.full(5, 2.0)).solve(H, 10.0 ** rng.uniform(-3, 3) * g, C, lower, upper)
    assert (lower[:7] <= found.z).all()
    assert (found.z <= upper[:7]).all()
