"""The proof of semidefiniteness against exact rational arithmetic: it may fail, it must never lie."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from controlrnn.certification.proof.arithmetic import definite
from controlrnn.certification.proof.arithmetic.definite import definite_margin, definite_margins
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.incremental import largest_ratio


def exactly_semidefinite(matrix):
    """Whether the numbers, taken as exact, form a positive semidefinite matrix (rational elimination)."""
    rows = [[Fraction(v) for v in row] for row in matrix]
    while rows:
        pivot, *rest = rows[0]
        if pivot < 0 or (pivot == 0 and any(rest)):
            return False
        factors = [row[0] / pivot if pivot else Fraction(0) for row in rows[1:]]
        rows = [
            [a - f * b for a, b in zip(row[1:], rest, strict=True)] for f, row in zip(factors, rows[1:], strict=True)
        ]
    return True


def margin_of(matrix, error=None):
    matrix = np.array(matrix, dtype=float)
    return definite_margin(Enclosure(matrix, np.zeros_like(matrix) if error is None else error))


def proven(matrix, error=None):
    return margin_of(matrix, error) > 0


def test_the_oracle_itself():
    assert exactly_semidefinite([[1, 1], [1, 1]])
    assert exactly_semidefinite([[0, 0], [0, 1]])
    assert not exactly_semidefinite([[1, 1], [1, 1 - 2.0**-52]])
    assert not exactly_semidefinite([[0, 1], [1, 1]])


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), rank=st.integers(1, 6), log=st.floats(-17, -8))
def test_never_certifies_an_indefinite_matrix(seed, n, rank, log):
    """Near the boundary: Gram matrices of full or deficient rank, shifted down by 1e-17 to 1e-8 of their size."""
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((n, rank)) * 10.0 ** rng.uniform(-3, 3, (n, 1))
    M = B @ B.T
    M -= 10.0**log * np.diag(M.diagonal())
    M = 0.5 * (M + M.T)
    if proven(M):
        assert exactly_semidefinite(M)


@settings(max_examples=200)
@given(x=st.lists(st.integers(-50, 50), min_size=2, max_size=7), power=st.integers(30, 45), data=st.data())
@example(x=[1, 1], power=43, data=None)
def test_an_eigenvalue_barely_below_zero_is_seen(x, power, data):
    """|x|^2 I - x x' has the null vector x; lowering one diagonal entry by 2^-power |x|^2 makes it indefinite.

    All numbers are exact in float64, and the smallest eigenvalue is between -2^-power and 0 relative to the largest.
    """
    x = np.array(x, dtype=float)
    k = int(np.argmax(np.abs(x))) if data is None else data.draw(st.integers(0, len(x) - 1))
    if x[k] == 0:
        x[k] = 1.0
    size = x @ x
    M = size * np.eye(len(x)) - np.outer(x, x)
    M[k, k] -= size * 2.0**-power
    assert not exactly_semidefinite(M)
    assert not proven(M)
    assert proven(M + size * (2.0**-power + 1e-11) * np.eye(len(x)))


@settings(max_examples=100)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 30))
def test_comfortably_definite_matrices_are_accepted_whatever_their_scaling(seed, n):
    rng = np.random.default_rng(seed)
    Q, _ = np.linalg.qr(rng.standard_normal((n, n)))
    M = (Q * rng.uniform(0.1, 1, n)) @ Q.T
    M = 0.5 * (M + M.T)
    margin = margin_of(M)
    assert 0.05 < margin <= 2
    powers = 2.0 ** rng.integers(-60, 60, n)
    scaled = powers[:, None] * M * powers
    assert margin_of(scaled) == margin
    uneven = 10.0 ** rng.uniform(-20, 20, n)
    assert proven(uneven[:, None] * M * uneven, 1e-15 * np.abs(uneven[:, None] * M * uneven))


def test_the_error_of_the_entries_counts():
    n = 5
    assert proven(np.eye(n), np.full((n, n), 0.99 / n))
    assert not proven(np.eye(n), np.full((n, n), 1.01 / n))  # I - 1.01 ones / n is indefinite


@pytest.mark.parametrize(
    "matrix",
    [
        [[0.0]],
        [[-1.0]],
        [[1.0, 2.0], [2.0, 1.0]],
        [[1.0, 1.0], [1.0, 1.0]],
        [[np.nan]],
        [[1.0, np.nan], [np.nan, 1.0]],
        [[np.inf]],
        [[1.0, 0.0], [0.0, 0.0]],
    ],
)
def test_what_cannot_be_proven_is_minus_infinity(matrix):
    assert margin_of(matrix) == -np.inf


@pytest.mark.parametrize(("n", "count"), [(1, 3000), (2, 3000), (3, 3000), (4, 3000), (20, 300), (40, 100)])
def test_no_factor_is_believed(n, count, monkeypatch):
    """Whatever the factor: here that of the matrix itself instead of a smaller one, with some last bits changed.

    |x|^2 I - x x' less 2^-40 to 2^-52 of a diagonal entry is indefinite, by little enough for a factor to hide it.
    """
    rng = np.random.default_rng(n)
    x = rng.integers(1, 60, (count, n)) * rng.choice([-1.0, 1.0], (count, n))
    M = (x * x).sum(axis=1)[:, None, None] * np.eye(n) - x[:, :, None] * x[:, None, :]
    k, every = rng.integers(0, n, count), np.arange(count)
    M[every, k, k] -= 2.0 ** (np.floor(np.log2(np.maximum(M[every, k, k], 1.0))) - rng.integers(40, 53, count))

    def factors(matrices):
        values, vectors = np.linalg.eigh(matrices)
        found = vectors * np.sqrt(np.maximum(values, 0.0))[:, None, :]
        off = rng.integers(-2, 3, found.shape) * rng.integers(0, 2, (len(found), 1, 1))
        return found * (1 + off * 2.0**-53)

    monkeypatch.setattr(definite, "factors", factors)
    assert (definite_margins(Enclosure.of(M), room=0.0) == -np.inf).all()
    for wrong in (np.nan, np.inf, 0.0, 1e200):
        monkeypatch.setattr(definite, "factors", lambda m, wrong=wrong: np.full(m.shape, wrong))
        with np.errstate(all="ignore"):
            assert (definite_margins(Enclosure.of(M)) == -np.inf).all()


def test_what_is_left_must_exceed_all_else_to_the_last_bit(monkeypatch):
    """With next to no factor the matrix itself has to be dominant; at the edge one within the radii is singular."""
    monkeypatch.setattr(definite, "factors", lambda m: np.broadcast_to(1e-100 * np.eye(m.shape[1]), m.shape))
    rng = np.random.default_rng(0)
    for n in (2, 3, 5, 8):
        lag = np.abs(np.arange(n)[:, None] - np.arange(n))
        lag = np.minimum(lag, n - lag)  # every row has the same entries
        for _ in range(50):
            away, rad = (np.where(lag == 0, 0.0, rng.random(n)[lag]) for _ in range(2))
            rad *= 10.0 ** -rng.integers(0, 17)
            total = sum((Fraction(v) for v in (*away[0], *rad[0])), Fraction(0))
            edge = float(total) if Fraction(float(total)) <= total else float(np.nextafter(float(total), 0.0))
            assert not proven(edge * np.eye(n) - away, rad)
            assert proven(edge * (1 + 1e-13) * np.eye(n) - away, rad)


def test_radii_that_differ_between_the_triangles_are_shared():
    """The true matrix is symmetric and within both: around the mean of both, by the mean of their radii."""
    n = 10
    mid, rad = np.eye(n), np.zeros((n, n))
    mid[0, 1:], mid[1:, 0], rad[1:, 0] = 0.49, -0.49, 0.98
    true = np.eye(n)
    true[0, 1:] = true[1:, 0] = 0.49  # of eigenvalue 1 - 3 * 0.49
    assert (np.abs(true - mid) <= rad).all()
    assert not proven(mid, rad)
    assert not proven(mid.T, rad.T)


def test_triangles_that_differ_are_known_by_their_mean(monkeypatch):
    """Rows of their own would each be dominant, by less than what they leave to each other."""
    monkeypatch.setattr(definite, "factors", lambda m: np.broadcast_to(1e-100 * np.eye(m.shape[1]), m.shape))
    mid, rad, true = np.eye(3), np.zeros((3, 3)), np.eye(3)
    mid[0, 1:], mid[1:, 0], rad[0, 1:] = 0.2499, 0.7499, 0.5
    true[0, 1:] = true[1:, 0] = 0.7499  # of eigenvalue 1 - 0.7499 sqrt(2)
    assert (np.abs(true - mid) <= rad + 1e-16).all()
    assert not proven(mid, rad)
    assert not proven(mid.T, rad.T)


def test_a_stack_is_judged_one_by_one():
    good = np.array([[1.0, 0.5], [0.5, 1.0]])
    bad = [np.full((2, 2), np.nan), -good, np.zeros((2, 2)), np.ones((2, 2)), np.diag([1.0, np.inf])]
    stack = np.array([good, *bad, *(good for _ in range(20)), *bad, 4 * good])
    margins = definite_margins(Enclosure.of(stack))
    usable = np.array([np.array_equal(one, good) or np.array_equal(one, 4 * good) for one in stack])
    assert (margins[~usable] == -np.inf).all()
    assert margins[usable] == pytest.approx(0.75)  # the least squared pivot
    assert margin_of(np.diag([1.0, 0.75, 1.25])) == pytest.approx(0.75)


def test_room_is_kept_by_single_matrices_and_by_stacks():
    M = Enclosure.of(np.eye(3))
    for room, holds in ((1.0, True), (1e12, True), (1e15, False)):
        assert (definite_margin(M, room=room) > 0) == holds
        assert (definite_margins(Enclosure.of(M.mid[None]), room=room) > 0).all() == holds


def test_the_empty_matrix_is_definite():
    assert margin_of(np.zeros((0, 0))) == np.inf


@settings(max_examples=50)
@given(seed=st.integers(0, 2**32 - 1), n=st.integers(1, 6), log=st.integers(-100, 100))
def test_largest_ratio_is_an_upper_bound_and_tight(seed, n, log):
    rng = np.random.default_rng(seed)
    B, L = rng.standard_normal((n, n)), np.eye(n) + 0.3 * rng.standard_normal((n, n))
    P, metric = 10.0**log * (B @ B.T), L @ L.T + 0.1 * np.eye(n)
    P, metric = 0.5 * (P + P.T), 0.5 * (metric + metric.T)
    ratio = largest_ratio(P, metric)
    top = np.linalg.eigvals(np.linalg.solve(metric, P)).real.max()
    assert top * (1 - 1e-9) <= ratio <= top * (1 + 1e-9)
    ratio, metric, P = Fraction(ratio), *([[Fraction(v) for v in row] for row in m.tolist()] for m in (metric, P))
    assert exactly_semidefinite(
        [[ratio * m - p for m, p in zip(*rows, strict=True)] for rows in zip(metric, P, strict=True)]
    )
