import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from random_systems import random_system

from controlrnn.kernels import dense, output, rollout, step

sizes, seeds = st.integers(1, 20), st.integers(0, 10**6)


def arranged(a, how):
    """The same numbers with other strides, or read-only."""
    if how == "columns":
        return np.asfortranarray(a)
    if how == "gaps":
        wide = np.full([2 * n for n in a.shape], np.nan)
        wide[tuple(slice(None, None, 2) for _ in a.shape)] = a
        return wide[tuple(slice(None, None, 2) for _ in a.shape)]
    if how == "reversed":
        return a[::-1].copy()[::-1]
    a.flags.writeable = False
    return a


arrangements = st.sampled_from(["columns", "gaps", "reversed", "read-only"])


@given(seeds, sizes, st.integers(0, 20), sizes, st.integers(0, 4), arrangements, arrangements)
def test_products_are_numpys_whatever_the_strides(seed, m, k, n, stack, left, right):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((m, k)), rng.standard_normal((k, n))
    many, others = rng.standard_normal((stack, m, k)), rng.standard_normal((stack, k, n))
    pairs = [(A, B), (A, B[:, 0]), (A[0], B), (many, others), (A, others), (many, B), (many[:1], others)]
    for a, b in pairs:
        if len(a):
            found = dense.product(arranged(a.copy(), left), arranged(b.copy(), right))
            np.testing.assert_allclose(found, a @ b, atol=1e-13 * (1 + k))


@given(seeds, st.integers(0, 30), sizes, arrangements)
def test_squares_are_those_of_numpy_and_exactly_symmetric(seed, k, n, how):
    rng = np.random.default_rng(seed)
    X, weights = rng.standard_normal((k, n)), rng.standard_normal(k)
    found = dense.weighted_squares(arranged(X.copy(), how), weights)
    np.testing.assert_allclose(found, X.T @ (weights[:, None] * X), atol=1e-12)
    np.testing.assert_array_equal(found, found.T)
    e = rng.standard_normal(n)
    np.testing.assert_allclose(dense.dot(X, X), (X**2).sum(), rtol=1e-13)
    np.testing.assert_allclose(dense.length(e, X.T @ X), np.linalg.norm(X @ e), rtol=1e-6, atol=1e-7)


@given(seeds, sizes, st.integers(1, 4), arrangements)
def test_solutions_solve(seed, n, columns, how):
    rng = np.random.default_rng(seed)
    A, B = rng.standard_normal((n, n)), rng.standard_normal((n, columns))
    allowed = 1e-13 * n * np.linalg.cond(A)
    found = dense.solve(arranged(A.copy(), how), B)
    np.testing.assert_allclose(A @ found, B, atol=allowed * np.abs(B).max())
    np.testing.assert_array_equal(dense.solve(A, B[:, 0]), dense.solve(A, B[:, :1])[:, 0])
    P = A @ A.T + 0.1 * np.eye(n)
    np.testing.assert_allclose(P @ dense.cholesky_solve(arranged(P.copy(), how), B[:, 0]), B[:, 0], atol=1e-10)


def test_pivots_of_zero_need_exchanges_and_singular_matrices_have_no_solution():
    np.testing.assert_array_equal(dense.solve(np.array([[0.0, 2.0], [1.0, 0.0]]), np.array([4.0, 3.0])), [3.0, 2.0])
    assert dense.solve(np.array([[1.0, 2.0], [2.0, 4.0]]), np.ones(2)) is None
    assert dense.solve(np.zeros((3, 3)), np.ones(3)) is None


@given(seeds, sizes)
def test_definiteness_is_that_of_cholesky(seed, n):
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((n, n))
    A = A + A.T + rng.uniform(-2, 4) * n**0.5 * np.eye(n)
    least = np.linalg.eigvalsh(A)[0]
    if abs(least) > 1e-9:
        assert dense.positive_definite(A) == (least > 0)
        assert (dense.cholesky_solve(A, np.ones(n)) is None) == (least < 0)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_neither_definite_nor_decomposed(bad):
    A = np.diag([1.0, bad, 2.0])
    assert not dense.positive_definite(A)
    assert dense.cholesky_solve(A, np.ones(3)) is None
    assert dense.eigen(A) is None


KINDS = st.sampled_from(["full", "low rank", "repeated", "diagonal", "tiny", "huge", "graded"])


@given(seeds, sizes, KINDS, arrangements)
def test_eigenvectors_rebuild_the_matrix(seed, n, kind, how):
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((n, n)))[0]
    values = {
        "full": rng.standard_normal(n),
        "low rank": np.r_[np.zeros(n - 1), 1.0],
        "repeated": np.r_[np.ones(n - 1), 2.0],
        "diagonal": rng.standard_normal(n),
        "tiny": 1e-200 * rng.standard_normal(n),
        "huge": 1e300 * rng.standard_normal(n),
        "graded": 10.0 ** -np.arange(n),
    }[kind]
    A = np.diag(values) if kind == "diagonal" else (Q * values) @ Q.T
    A = 0.5 * (A + A.T)
    size = np.abs(values).max()
    found, rows = dense.eigen(arranged(A.copy(), how))
    assert (np.diff(found) >= 0).all()
    np.testing.assert_allclose(found / size, np.sort(values) / size, atol=1e-13)
    np.testing.assert_allclose(rows @ rows.T, np.eye(n), atol=1e-12)
    np.testing.assert_allclose((rows.T * found) @ rows / size, A / size, atol=1e-13 * (1 + n))


@pytest.mark.parametrize("n", [40, 130])
def test_large_matrices(n):
    rng = np.random.default_rng(0)
    A = rng.standard_normal((n, n))
    values, rows = dense.eigen(A + A.T)
    np.testing.assert_allclose(values, np.linalg.eigvalsh(A + A.T), atol=1e-11)
    np.testing.assert_allclose((rows.T * values) @ rows, A + A.T, atol=1e-11)
    np.testing.assert_allclose(dense.product(A, A), A @ A, atol=1e-11)
    np.testing.assert_allclose(A @ dense.solve(A, A[:, :3]), A[:, :3], atol=1e-9)


def test_shapes_that_do_not_fit_are_refused():
    A = np.ones((3, 4))
    for bad in (np.ones(3), np.ones((3, 4)), np.ones((2, 3, 4))):
        with pytest.raises(ValueError, match="cannot be multiplied"):
            dense.product(A, bad)
    with pytest.raises(ValueError, match="cannot be multiplied"):
        dense.product(np.ones((2, 3, 4)), np.ones((3, 4, 5)))
    with pytest.raises(ValueError, match="no scalar product"):
        dense.dot(np.ones(3), np.ones(4))


@given(seeds, st.sampled_from([(4,), (3, 2), (1, 1, 1)]), st.integers(0, 6))
def test_single_runs_and_steps_are_those_of_the_system(seed, layers, T):
    system, rng = random_system(seed, layers=layers), np.random.default_rng(seed)
    u, x0 = rng.standard_normal((T, 2)), rng.standard_normal(3)
    run, (y, x) = rollout(system, u, x0), system.simulate(u, x0) if T else (np.empty((0, 2)), x0[None])
    np.testing.assert_allclose(run.y, y, atol=1e-13)
    np.testing.assert_allclose(run.x, x, atol=1e-13)
    np.testing.assert_allclose(run.w, system.neurons(x[:-1], u @ system.D12.T + system.bv), atol=1e-13)
    if T:
        np.testing.assert_array_equal(step(system, x0, u[0]), run.x[1])
        np.testing.assert_array_equal(output(system, x0, u[0]), run.y[0])
