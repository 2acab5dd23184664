"""Ranks, quantiles and intervals against exact enumeration: a rank off by one breaks an equality, not a simulation."""

import re
from fractions import Fraction
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from controlrnn.errors import DataError, SettingError
from mpc import anytime_interval, clopper_pearson, confident_rank, conformal_rank
from mpc.promises.order_statistics import least_number, pooled_quantile, rank_of

COVERAGES = (0.05, 0.5, 0.8, 0.9, 0.95, 0.99)


@pytest.mark.parametrize(
    ("n", "coverage", "rank"),
    [(9, 0.9, 9), (19, 0.9, 18), (99, 0.95, 95), (100, 0.95, 96), (10, 0.9, 10), (20, 0.9, 19), (5, 0.8, 5)],
)
def test_rank_is_the_textbook_one(n, coverage, rank):
    assert conformal_rank(n, coverage) == rank == rank_of(n, coverage)


@pytest.mark.parametrize("coverage", COVERAGES)
def test_rank_is_the_least_that_covers(coverage):
    """n + 1 exchangeable scores: P(new <= r-th) = r / (n + 1) exactly, for scores without ties."""
    for n in range(1, 60):
        try:
            rank = conformal_rank(n, coverage)
        except DataError:
            assert Fraction(n, n + 1) < Fraction(str(coverage))
            continue
        assert Fraction(rank, n + 1) >= Fraction(str(coverage))
        assert rank == 1 or Fraction(rank - 1, n + 1) < Fraction(str(coverage))


def test_probability_of_a_rank_by_enumeration():
    n, rank = 5, conformal_rank(5, 0.8)
    hits = [order[-1] <= sorted(order[:-1])[rank - 1] for order in permutations(range(n + 1))]
    assert Fraction(sum(hits), len(hits)) == Fraction(rank, n + 1) == Fraction(5, 6)


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
@pytest.mark.parametrize("coverage", COVERAGES)
def test_confident_rank_is_the_least_that_suffices(coverage, confidence):
    """The share below the r-th of n uniform scores is at least c where at most r - 1 of them lie below c."""
    for n in (1, 5, 10, 22, 29, 50, 200):
        try:
            rank = confident_rank(n, coverage, confidence)
        except DataError:
            assert coverage**n > 1 - confidence
            continue
        assert binom.cdf(rank - 1, n, coverage) >= confidence - 1e-12
        assert rank == 1 or binom.cdf(rank - 2, n, coverage) < confidence
        assert rank_of(n, coverage, confidence) == rank


def test_confidence_for_this_set_by_simulation(rng):
    n, coverage, confidence, sets = 40, 0.9, 0.95, 20_000
    scores = np.sort(rng.random((sets, n)), axis=1)  # of uniform scores the share below is the score itself
    held = (scores[:, confident_rank(n, coverage, confidence) - 1] >= coverage).mean()
    assert held >= confidence - 4 * np.sqrt(0.05 * 0.95 / sets)
    marginal = (scores[:, conformal_rank(n, coverage) - 1] >= coverage).mean()
    assert marginal < 0.8  # the average promise does not give it: that is why there are two


@pytest.mark.parametrize("confidence", [None, 0.01, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("coverage", [1e-12, *COVERAGES, 0.999])
def test_least_number_of_scores_with_a_rank(coverage, confidence):
    least = least_number(coverage, confidence)
    assert 1 <= rank_of(least, coverage, confidence) <= least
    with pytest.raises(DataError, match=f"at least {least} "):
        rank_of(least - 1, coverage, confidence)
    for name, *wrong in (("coverage", 0.0), ("coverage", 1.0), ("confidence", 0.5, 0.0), ("confidence", 0.5, 1.0)):
        with pytest.raises(SettingError, match=f"^{name} must"):
            least_number(*wrong)


@pytest.mark.parametrize(("coverage", "least"), [(0.9, 9), (0.95, 19), (0.5, 1), (0.99, 99)])
def test_too_few_records_say_how_many_are_needed(coverage, least):
    assert conformal_rank(least, coverage) <= least
    with pytest.raises(DataError, match=f"at least {least} "):
        conformal_rank(least - 1, coverage)
    for confidence in (0.5, 0.9):
        with pytest.raises(DataError) as said:
            confident_rank(0, coverage, confidence)
        needed = int(re.search(r"at least (\d+)", str(said.value))[1])
        assert confident_rank(needed, coverage, confidence) == needed
        with pytest.raises(DataError):
            confident_rank(needed - 1, coverage, confidence)


def test_what_an_error_advises_passes():
    for n in range(1, 300):
        for rank, wanted in ((conformal_rank, (1 - 1e-7,)), (confident_rank, (1 - 1e-7, 0.9)),
                             (confident_rank, (1 - 1e-7, 0.9999))):  # fmt: skip
            with pytest.raises(DataError) as said:
                rank(n, *wanted)
            advised = float(re.search(r"at most (\S+)$", str(said.value))[1])
            assert rank(n, advised, *wanted[1:]) == n
            best = n / (n + 1) if len(wanted) == 1 else (1 - wanted[1]) ** (1 / n)
            assert best - advised <= 1e-3


def test_pooled_quantile_covers_a_random_score_of_a_new_group_by_enumeration():
    """Every group takes the place of the new one once: over these the average share inside is the probability."""
    rng = np.random.default_rng(0)
    for coverage in (0.5, 0.7, 0.8):
        for _ in range(30):
            groups = [rng.gamma(1.0) * np.cumsum(rng.standard_normal(rng.integers(1, 9))) for _ in range(6)]
            inside = [
                np.mean(new <= pooled_quantile(groups[:i] + groups[i + 1 :], coverage)) for i, new in enumerate(groups)
            ]
            assert np.mean(inside) >= coverage - 1e-12


def test_pooled_quantile_is_the_least_and_weighs_groups_alike():
    assert pooled_quantile([np.array([s]) for s in (3.0, 1.0, 2.0, 4.0)], 0.8) == 4.0
    assert pooled_quantile([np.array([s]) for s in (3.0, 1.0, 2.0, 4.0)], 0.6) == 3.0
    assert pooled_quantile([np.zeros(1000), np.ones(1)], 0.4) == 1.0  # 1/3 of the weight is at 0, however many
    assert pooled_quantile([np.zeros(1000), np.ones(1)], 0.33) == 0.0
    with pytest.raises(DataError):
        pooled_quantile([np.zeros(10)], 0.6)


@given(st.integers(0, 60), st.integers(0, 60), st.sampled_from([0.5, 0.9, 0.99]))
def test_clopper_pearson_inverts_the_binomial_tails(a, b, confidence):
    successes, n = min(a, b), max(a, b)
    lower, upper = clopper_pearson(successes, n, confidence)
    tail = (1 - confidence) / 2
    assert 0 <= lower <= successes / max(n, 1) <= upper <= 1 or n == 0
    if successes:
        assert binom.sf(successes - 1, n, lower) == pytest.approx(tail)
    else:
        assert lower == 0
    if successes < n:
        assert binom.cdf(successes, n, upper) == pytest.approx(tail)
    else:
        assert upper == 1


@pytest.mark.parametrize("p", [0.5, 0.9, 0.99])
def test_clopper_pearson_covers_exactly(p):
    for n in (5, 20, 40):
        weights = binom.pmf(range(n + 1), n, p)
        held = [lo <= p <= hi for lo, hi in (clopper_pearson(s, n, 0.9) for s in range(n + 1))]
        assert weights @ held >= 0.9 - 1e-12


@pytest.mark.parametrize("p", [0.3, 0.9])
def test_anytime_interval_holds_at_every_look(p):
    """Exact: probability that any of the first 150 intervals misses p, by forward recursion over the counts."""
    n, confidence = 150, 0.8
    alive = np.array([1.0])
    for t in range(1, n + 1):
        alive = np.concatenate([alive * (1 - p), [0]]) + np.concatenate([[0], alive * p])
        held = np.array([lo <= p <= hi for lo, hi in (anytime_interval(s, t, confidence) for s in range(t + 1))])
        alive *= held
    assert alive.sum() >= confidence
    fixed = np.array([1.0])
    for t in range(1, n + 1):
        fixed = np.concatenate([fixed * (1 - p), [0]]) + np.concatenate([[0], fixed * p])
        fixed *= [lo <= p <= hi for lo, hi in (clopper_pearson(s, t, confidence) for s in range(t + 1))]
    assert fixed.sum() < confidence  # the interval for one look does not allow many


def test_anytime_interval_ends_where_the_evidence_does():
    assert anytime_interval(0, 0) == (0.0, 1.0)
    for n in (1, 10, 1000):
        assert anytime_interval(n, n)[1] == 1.0
        assert anytime_interval(0, n)[0] == 0.0
        lower = anytime_interval(n, n, 0.95)[0]
        assert lower == pytest.approx((0.05 / (n + 1)) ** (1 / n))  # 1 / ((n + 1) p^n) = 20
        assert anytime_interval(0, n, 0.95)[1] == pytest.approx(1 - lower)
    wide, narrow = anytime_interval(9, 10), anytime_interval(900, 1000)
    assert wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1]


@pytest.mark.parametrize(("call", "error", "said"), [
    (lambda: conformal_rank(5, 1.5), SettingError, "coverage must"),
    (lambda: conformal_rank(5, 0.9), DataError, "coverage 0.9 needs at least 9"),
    (lambda: confident_rank(5, 1.5, 0.5), SettingError, "coverage must"),
    (lambda: confident_rank(5, 0.5, 1.5), SettingError, "confidence must"),
    (lambda: confident_rank(-1, 0.5, 0.5), SettingError, "n must"),
    (lambda: conformal_rank(5, 0.0), SettingError, "coverage must"),
    (lambda: clopper_pearson(-1, 2), SettingError, "successes must"),
    (lambda: anytime_interval(1, -2), SettingError, "n must"),
    (lambda: clopper_pearson(1, 2, 1.5), SettingError, "confidence must"),
    (lambda: anytime_interval(3, 2), SettingError, "successes must"),
    (lambda: confident_rank(2, 0.9, 0.5), DataError, "coverage 0.9 with confidence 0.5 needs at least 7"),
])  # fmt: skip
def test_errors_name_what_is_wrong(call, error, said):
    with pytest.raises(error, match=rf"^{said}"):
        call()


@pytest.mark.parametrize("call", [clopper_pearson, anytime_interval])
def test_intervals_are_of_95_percent_unless_told(call):
    assert call(3, 10) == call(3, 10, 0.95)


@pytest.mark.parametrize("call", [clopper_pearson, anytime_interval])
def test_counts_that_cannot_be_are_refused(call):
    for wrong in ((3, 2), (-1, 2), (1, 2, 1.0), (1, 2, 0.0), (0.5, 2), (1, 2, np.nan)):
        with pytest.raises(SettingError):
            call(*wrong)
    for wrong in ((10, 1.0), (10, 0.0), (10, np.nan)):
        with pytest.raises(SettingError):
            conformal_rank(*wrong)
    with pytest.raises(SettingError, match="confidence"):
        confident_rank(10, 0.5, 1.0)
