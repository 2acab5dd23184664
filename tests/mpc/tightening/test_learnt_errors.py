"""The recursion of error intervals against one that is written out, sample by sample and output by output."""

from types import SimpleNamespace

import numpy as np
import pytest

from controlrnn.data import Signal
from controlrnn.errors import InfeasibleError
from mpc import ErrorMemory
from mpc.tightening.learnt_errors import MEASURED, LearntErrors

N, K = 4, 2
OUTPUTS = (Signal("a", lower=-5.0, upper=4.0), Signal("b", lower=-np.inf, upper=9.0))
LOWER, UPPER = np.array([-5.0, -np.inf]), np.array([4.0, 9.0])


def memory(**fields):
    steps = np.arange(N + 1)[:, None]
    claim = {
        "drift": np.array([[0.1, 0.2], [0.3, 0.3]]), "change": np.array([[0.05, 0.1], [0.1, 0.1]]),
        "jump": np.array([[0.01, 0.02], [0.02, 0.03], [0.03, 0.01], [0.01, 0.01]]),
        "absolute": 0.5 + 0.1 * steps * np.array([1.0, 2.0]), "growth": 0.02 * steps * np.array([1.0, 3.0]),
        "end": np.array([1.5, 2.5]), "promise": "",
    }  # fmt: skip
    return ErrorMemory(**(claim | fields))


def expected(one, interval, error):
    """Intervals after a measurement, and the outputs that contradict what was known."""
    low, high = np.array(interval[0]), np.array(interval[1])
    odd = []
    for i in range(2):
        if np.isnan(error[i]):
            continue
        wrong = not (
            low[0, i] - MEASURED * one.absolute[0, i] <= error[i] <= high[0, i] + MEASURED * one.absolute[0, i]
        )
        seen = [(error[i] - one.spread[k, i], error[i] + one.spread[k, i]) for k in range(K)]
        for k, (a, b) in enumerate(seen, 1):
            wrong = wrong or max(low[k, i], a) > min(high[k, i], b)
        for k, (a, b) in enumerate(seen, 1):
            w = one.absolute[k, i]
            if wrong:
                low[k, i], high[k, i] = max(min(low[k, i], a), -w), min(max(high[k, i], b), w)
            else:
                low[k, i], high[k, i] = max(low[k, i], a), min(high[k, i], b)
        if wrong:
            odd.append(i)
    return np.array([low, high]), odd


def shifted(one, interval):
    low, high = np.array(interval[0]), np.array(interval[1])
    for k in range(N):
        low[k] = np.maximum(interval[0][k + 1] - one.jump[k], -one.absolute[k])
        high[k] = np.minimum(interval[1][k + 1] + one.jump[k], one.absolute[k])
    low[N], high[N] = -one.absolute[N], one.absolute[N]
    return np.array([low, high])


@pytest.mark.parametrize("seed", range(6))
def test_intervals_follow_their_recursion(seed):
    one, rng = memory(), np.random.default_rng(seed)
    errors, wanted, contradicted = LearntErrors(one, OUTPUTS, None), None, 0
    wanted = np.array([-one.absolute, one.absolute])
    np.testing.assert_array_equal(errors.interval, wanted)
    for _ in range(60):
        error = np.where(
            rng.random(2) < 0.2, np.nan, rng.uniform(-0.5, 0.5, 2) + (rng.random(2) < 0.1) * 3 * rng.choice([-1, 1], 2)
        )
        before = wanted
        wanted, odd = expected(one, wanted, error)
        text = errors.update(error, certified=True)
        np.testing.assert_allclose(errors.interval, wanted, rtol=0, atol=1e-13)
        assert bool(text) == bool(odd)
        contradicted += bool(odd)
        if odd:
            said = (
                f"{OUTPUTS[i].name} measured {error[i]:.3g} from the prediction, possible were {a[0]:.3g} to "
                f"{b[0]:.3g} now and {a[1]:.3g} to {b[1]:.3g} next"
                for i in odd
                for a, b in [(before[0, :, i], before[1, :, i])]
            )
            assert text == f"drifts faster than calibrated, or an outlier: {'; '.join(said)}"
        wanted = shifted(one, wanted)
        errors.advance()
        np.testing.assert_allclose(errors.interval, wanted, rtol=0, atol=1e-13)
        lower, upper = errors.limits()
        np.testing.assert_allclose(lower, LOWER + one.growth - wanted[0], rtol=0, atol=1e-12)
        np.testing.assert_allclose(upper, UPPER - one.growth - wanted[1], rtol=0, atol=1e-12)
    assert contradicted


def test_what_lies_at_the_edge_agrees():
    one = memory()
    for beyond, agrees in ((0.9, True), (1.1, False)):
        for sign in (-1.0, 1.0):
            errors = LearntErrors(one, OUTPUTS, None)
            measured = sign * one.absolute[0] * np.array([1 + beyond * MEASURED, 0.0])
            assert (errors.update(measured, certified=True) == "") is agrees
    errors = LearntErrors(one, OUTPUTS, None)
    errors._lower[1], errors._upper[1] = [0.65, -1.0], [0.9, 1.0]
    assert errors.update(np.array([0.5, 0.0]), certified=True) == ""  # one point in common: 0.65
    errors._lower[1] = [0.6501, -1.0]
    assert "a measured 0.5" in errors.update(np.array([0.5, 0.0]), certified=True)


def test_what_is_not_certified_is_forgotten():
    errors = LearntErrors(memory(), OUTPUTS, None)
    assert errors.update(np.array([0.2, 0.1]), certified=True) == ""
    assert np.abs(errors.interval[:, 1]).max() < 1
    assert errors.update(np.array([9.0, 9.0]), certified=False) == ""
    np.testing.assert_array_equal(errors.interval, [-memory().absolute, memory().absolute])
    errors.update(np.array([0.2, 0.1]), certified=True)
    errors.reset()
    np.testing.assert_array_equal(errors.interval, [-memory().absolute, memory().absolute])
    assert not errors.interval.flags.writeable


def test_the_end_of_plans_with_a_terminal_set_does_not_learn():
    one, margin = memory(), np.array([0.25, 0.5])
    errors = LearntErrors(one, OUTPUTS, SimpleNamespace(margin=margin))
    errors.update(np.array([0.2, 0.1]), certified=True)
    for _ in range(3):
        lower, upper = errors.limits()
        low, high = errors.interval
        np.testing.assert_allclose(upper[:N], (UPPER - one.growth - high)[:N], rtol=0, atol=1e-12)
        np.testing.assert_allclose(lower[:N], (LOWER + one.growth - low)[:N], rtol=0, atol=1e-12)
        assert upper[N] == pytest.approx([4.0 - 1.75, 9.0 - 3.0], rel=1e-12)
        assert lower[N, 0] == pytest.approx(-5.0 + 1.75, rel=1e-12)
        assert lower[N, 1] == -np.inf
        errors.advance()
    table = errors.c_table()
    assert table.learning == N
    np.testing.assert_allclose(table.upper[:N], (UPPER - one.growth)[:N], rtol=1e-12)
    np.testing.assert_allclose(table.lower[N], lower[N])
    assert LearntErrors(one, OUTPUTS, None).c_table().learning == N + 1


def test_intervals_are_taken_over_from_the_same_memory_only():
    one = memory()
    old, new, other = (LearntErrors(m, OUTPUTS, None) for m in (one, one, memory()))
    old.update(np.array([0.2, 0.1]), certified=True)
    new.take_over(old)
    other.take_over(old)
    np.testing.assert_array_equal(new.interval, old.interval)
    np.testing.assert_array_equal(other.interval, [-one.absolute, one.absolute])
    old.advance()
    assert (new.interval != old.interval).any()


@pytest.mark.parametrize(("step", "output"), [(1, 0), (3, 1), (N, 0)])
def test_nothing_left_names_the_output_and_the_step(step, output):
    outputs = (Signal("a", lower=-5.0, upper=4.0), Signal("b", lower=-9.0, upper=9.0))
    wide = np.array(memory().absolute)
    wide[step, output] = (4.5, 9.0)[output] - memory().growth[step, output]
    with pytest.raises(InfeasibleError, match=rf"output '{'ab'[output]}' at step {step} while nothing has been"):
        LearntErrors(memory(absolute=wide), outputs, None)
    LearntErrors(memory(absolute=wide * (1 - 1e-6)), outputs, None)
    now = np.array(memory().absolute)
    now[0] = 9.5  # nothing can be done about the present
    LearntErrors(memory(absolute=now), outputs, None)
