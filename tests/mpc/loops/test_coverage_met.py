import numpy as np
import pytest
from loop_cases import LIMIT, MODEL, N, loop

from controlrnn.errors import SettingError
from mpc import MonteCarloResult, anytime_interval, back_off, clopper_pearson
from mpc.promises.coverage_met import met, stretches


def test_stretches_are_inside_where_all_their_steps_are():
    inside = np.array([1, 1, 1, 0, 1, 1, 1], dtype=bool)
    np.testing.assert_array_equal(stretches(inside, 3), [True, False])
    np.testing.assert_array_equal(stretches(inside, 1), inside)
    assert len(stretches(inside, 8)) == 0
    with pytest.raises(SettingError, match=r"^stretch"):
        stretches(inside, 0)


def test_a_run_is_looked_at_again_and_again_and_runs_once():
    tightening = back_off(MODEL, N, np.array([0.15, 0.0]))
    runs = MonteCarloResult(tuple(loop(tightening, s) for s in range(30)))
    kept = [(r.y[1:, 0] <= LIMIT).all() for r in runs.results]
    found = runs.coverage_met()
    assert (found.inside, found.n, found.anytime) == (sum(kept), 30, False)
    assert (found.lower, found.upper) == clopper_pearson(sum(kept), 30)
    summary = runs.summary()
    assert (summary["runs_in_limits"], summary["runs_in_limits_lower"]) == (found.inside, found.lower)
    one = runs.results[0]
    np.testing.assert_array_equal(one.steps_kept(), one.y[1:, 0] <= LIMIT)
    each = one.coverage_met(stretch=3, confidence=0.9)
    assert each.n == 4
    assert (each.lower, each.upper) == anytime_interval(each.inside, 4, 0.9)
    assert one.coverage_met().n == 1
    assert f"{each.inside} of 4 stretches" in each.words


def test_errors_are_counted_on_both_sides_and_where_they_are_known():
    one = loop(back_off(MODEL, N, np.full(2, 0.1)), 0)
    by_hand = [(np.abs(e)[~np.isnan(e)] <= 0.1).all() for e in one.errors]
    np.testing.assert_array_equal(one.steps_kept("predictions"), by_hand)
    assert 0 < sum(by_hand) < len(by_hand)


def test_a_promise_is_refuted_by_enough_misses_alone():
    assert not met("runs", np.array([True] * 9 + [False])).contradicts(0.9)
    assert not met("runs", np.array([True] * 8 + [False] * 2)).contradicts(0.9)
    assert met("runs", np.array([True] * 60 + [False] * 40)).contradicts(0.9)
    assert met("runs", np.zeros(0, dtype=bool)).words.startswith("0 of 0")
    edge = met("runs", np.array([True] * 9 + [False] * 3))
    assert not edge.contradicts(edge.upper)
    assert edge.contradicts(np.nextafter(edge.upper, 1.0))


def test_words_say_what_the_interval_rests_on():
    for anytime, premise in ((True, "whatever went before, each is as likely inside"), (False, "they are independent")):
        found = met("runs", np.array([True, False]), confidence=0.9, anytime=anytime)
        assert found.words.startswith("1 of 2 runs inside: probability within [")
        assert found.words.endswith(f"with confidence 0.9, if {premise}")
