import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlrnn.errors import DataError, ShapeError
from controlrnn.identification import Scores, fit_percent, nrmse, r2, rmse


def test_definitions_on_a_worked_example():
    measured = np.array([[9.0, 0.0], [1.0, 2.0], [3.0, 4.0]])
    simulated = np.array([[0.0, 0.0], [1.0, 3.0], [1.0, 5.0]])
    np.testing.assert_allclose(rmse(measured, simulated, skip=1), [np.sqrt(2), 1.0])
    np.testing.assert_allclose(nrmse(measured, simulated, skip=1), [np.sqrt(2), 1.0])  # std over 1, 3 and 2, 4 is 1
    np.testing.assert_allclose(fit_percent(measured, simulated, skip=1), 100 * (1 - np.array([np.sqrt(2), 1.0])))
    np.testing.assert_allclose(r2(measured, simulated, skip=1), [-1.0, 0.0], atol=1e-12)


@given(st.integers(0, 5), st.integers(0, 2**31))
def test_records_are_pooled_after_the_skip_of_each(skip, seed):
    rng = np.random.default_rng(seed)
    pairs = [(rng.normal(size=(n, 2)), rng.normal(size=(n, 2))) for n in (7, 12)]
    pooled = rmse(*(np.concatenate([p[i][skip:] for p in pairs]) for i in (0, 1)))
    np.testing.assert_allclose(rmse([p[0] for p in pairs], [p[1] for p in pairs], skip=skip), pooled)


def test_perfect_and_mean_models():
    y = np.random.default_rng(0).normal(size=(50, 1))
    assert fit_percent(y, y)[0] == 100
    assert abs(r2(y, np.full_like(y, y.mean()))[0]) < 1e-12


def test_a_constant_channel_has_no_nrmse_but_an_rmse():
    y = np.ones((10, 1))
    assert np.isnan(nrmse(y, y + 1)[0])
    assert rmse(y, y + 1)[0] == 1


def test_a_diverged_run_scores_infinitely_bad():
    y = np.random.default_rng(0).normal(size=(10, 1))
    run = y.copy()
    run[5:] = np.nan
    scores = Scores.of(y, run)
    assert scores.rmse[0] == np.inf
    assert scores.fit_percent[0] == -np.inf


def test_bad_input_is_refused():
    y = np.ones((5, 1))
    with pytest.raises(DataError, match="skip = 5 leaves none"):
        rmse(y, y, skip=5)
    with pytest.raises(ShapeError, match="same shapes"):
        rmse(y, np.ones((6, 1)))
    with pytest.raises(DataError, match="no sample of channel 1"):
        rmse(np.full((5, 1), np.nan), y)
    with pytest.raises(DataError, match="infinite"):
        rmse(np.full((5, 1), np.inf), y)
    with pytest.raises(DataError, match="at least one record"):
        rmse([], [])
