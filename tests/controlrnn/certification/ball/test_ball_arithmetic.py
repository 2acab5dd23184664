"""The tools of the ball checker: elimination, exact matrices above, intervals, chords."""

import numpy as np
import pytest

flint = pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball import arithmetic, intervals  # noqa: E402
from controlrnn.certification.ball.arithmetic import (  # noqa: E402
    UndecidedError,
    decide,
    eliminate,
    exact_above,
    from_rows,
    matrix,
    number,
    precision,
    row,
    semidefinite,
)
from controlrnn.certification.proof.slopes import secant_slopes, slopes_on  # noqa: E402
from controlrnn.errors import CertificationError  # noqa: E402
from controlrnn.systems import Activation  # noqa: E402
from controlrnn.systems.ops import NUMPY  # noqa: E402

KINDS = list(Activation)


@pytest.fixture(autouse=True)
def bits():
    with precision(212):
        yield


@pytest.mark.parametrize("good", [
    [[2.0, 1.0], [1.0, 1.0]], [[5e-324, 0.0], [0.0, 1e308]], [[0.0, 0.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]],
    [[1.0, 1.0], [1.0, 1.0]],
    [[1.0, 1.0 - 2.0**-53], [1.0 - 2.0**-53, 1.0]],
])  # fmt: skip
def test_semidefinite_matrices_of_exact_numbers_are_proven(good):
    assert semidefinite(matrix(np.array(good))) > 0


@pytest.mark.parametrize("bad", [
    [[1.0, 2.0], [2.0, 1.0]], [[0.0, 1e-300], [1e-300, 1.0]], [[-5e-324, 0.0], [0.0, 1.0]],
    [[5e-324, 1.0], [1.0, 1.0]], [[1.0, 1.0 + 2.0**-52], [1.0 + 2.0**-52, 1.0]],
])  # fmt: skip
def test_indefinite_ones_are_refused(bad):
    with pytest.raises(CertificationError) as caught:
        semidefinite(matrix(np.array(bad)))
    assert not isinstance(caught.value, UndecidedError)


def test_a_pivot_that_may_be_zero_is_undecided_and_the_complement_is_right():
    wide = from_rows([[number(0).union(number(1e-9)), number(0)], [number(0), number(1)]], 2)
    with pytest.raises(UndecidedError):
        semidefinite(wide)
    rng = np.random.default_rng(0)
    G = rng.standard_normal((5, 5))
    A = G @ G.T
    rest, least = eliminate(matrix(A), 3)
    expected = A[3:, 3:] - A[3:, :3] @ np.linalg.solve(A[:3, :3], A[:3, 3:])
    assert float(rest[0][0]) == pytest.approx(expected[0, 0], rel=1e-9)
    assert float(rest[0][1]) == pytest.approx(expected[0, 1], rel=1e-9)
    assert 0 < least <= 1


def test_what_few_bits_leave_open_more_bits_decide_and_flints_own_setting_is_kept():
    before, seen = flint.ctx.prec, []

    def claim():
        seen.append(flint.ctx.prec)
        gap = number(1) / 3 * 3 - 1 + number(2) ** -300  # a third is not exact
        if not gap > 0:
            raise UndecidedError("not yet")
        return 1.0

    assert decide(claim) == 1.0
    assert seen == [106, 212, 424]
    assert flint.ctx.prec == before
    with pytest.raises(CertificationError, match="2000 bits"):
        decide(lambda: semidefinite(from_rows([[number(1) / 3 * 3 - 1]], 1)))


def test_an_exact_matrix_lies_above_every_matrix_in_the_balls():
    rng = np.random.default_rng(1)
    size = 10.0 ** np.array([8.0, 0.0, -8.0])
    G = size[:, None] * rng.standard_normal((3, 3))
    third = matrix(G @ G.T) / 3
    with precision(53):
        coarse = matrix(G @ G.T) / 3
        above = exact_above(coarse)
    assert all(above[i, j].is_exact() for i in range(3) for j in range(3))
    assert semidefinite(above - third) > 0
    relative = [float((above[i, i] - third[i, i]) / third[i, i]) for i in range(3)]
    assert max(relative) < 1e-12, "small states are not drowned by large ones"


@pytest.mark.parametrize("activation", KINDS)
def test_functions_and_slopes_agree_with_float64(activation):
    rng = np.random.default_rng(2)
    for a, b in np.sort(3 * rng.standard_normal((50, 2)), axis=1):
        value = float(intervals.apply(activation, number(a)))
        assert value == pytest.approx(float(activation.apply(NUMPY, np.array(a))), rel=1e-14, abs=1e-15)
        least, most = (float(v) for v in intervals.slopes_between(activation, number(a), number(b)))
        low, high = slopes_on(activation, (np.array([a]), np.array([b])))
        assert low[0] <= least <= most <= high[0]
        assert least - low[0] < 1e-11
        assert high[0] - most < 1e-11


@pytest.mark.parametrize("activation", KINDS)
def test_chords_lie_between_what_is_proven_of_them(activation):
    """Also very short ones, long ones, and where chords touch the curve; and float64's slopes hold them as well."""
    rng = np.random.default_rng(3)
    base, reach = 2 * rng.standard_normal(60), 10.0 ** rng.uniform(-9, 0.7, 60)
    base[:5], reach[5:10] = 0.0, 30.0
    low, high = secant_slopes(activation, base, np.zeros(60), reach)
    for a, d, least, most in zip(base, reach, low, high, strict=True):
        flattest, steepest = intervals.chords_from(activation, number(a), number(d))
        assert number(least) <= flattest
        assert number(most) >= steepest
        for share in np.linspace(-1, 1, 24):
            h = number(d) * number(share)
            slope = (intervals.apply(activation, number(a) + h) - intervals.apply(activation, number(a))) / h
            # The bounds are reached: a slope may be one of them, which balls cannot tell from being beyond.
            assert not slope < flattest
            assert not slope > steepest
            assert slope > flattest - number(1e-50)
            assert slope < steepest + number(1e-50)


def test_intervals_hold_what_they_are_images_of():
    rng = np.random.default_rng(4)
    M, centre, half = rng.standard_normal((3, 4)), rng.standard_normal(4), np.abs(rng.standard_normal(4))
    M[0, 0] = 0.0
    box = row(centre - half), row(centre + half)
    low, high = intervals.image([row(line) for line in M], box, row([1.0, 0.0, -1.0]))
    for corner in centre + half * rng.choice([-1.0, 1.0], (30, 4)):
        y = M @ corner + [1.0, 0.0, -1.0]
        assert all(float(a) - 1e-12 <= v <= float(b) + 1e-12 for a, v, b in zip(low, y, high, strict=True))
    assert [float(b - a) for a, b in zip(low, high, strict=True)] == pytest.approx(2 * np.abs(M) @ half)


def test_without_flint_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "flint", None)
    with pytest.raises(ModuleNotFoundError, match=r"controlrnn\[audit\]"):
        arithmetic.flint()
