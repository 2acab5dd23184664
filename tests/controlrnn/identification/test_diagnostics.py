import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.identification import (
    ResidualTest,
    SimulationError,
    check_residuals,
    estimate_delays,
    free_run,
    identify,
    identify_subspace,
    score_predictions,
    select_order,
    with_delays,
    without_delays,
)
from controlrnn.identification.linear.regression import lti
from controlrnn.models import Elman, ResidualRNN
from controlrnn.systems import MATRICES


def third_order():
    A = np.array([[0.9, 0.2, 0.0], [-0.2, 0.9, 0.3], [0.0, 0.0, 0.5]])
    return lti(A, np.array([[0.0, 0.5], [0.2, 0.0], [1.0, 0.3]]), np.array([[1.0, 0.3, 0.0]]), np.zeros((1, 2)), 0.1)


def record(T, seed, noise=0.0, system=None):
    system = third_order() if system is None else system
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(T, system.nu))
    return Trajectory(u, system.simulate(u)[0] + noise * rng.normal(size=(T, 1)), 0.1)


def test_predictions_of_the_true_system_are_as_good_as_the_noise_and_those_of_a_wrong_one_grow():
    records = [record(120, 0, 0.1), record(90, 1, 0.1)]
    right = score_predictions(third_order(), records, 12, past=25)
    assert right.n == (120 - 36) + (90 - 36)
    np.testing.assert_allclose(right.rmse, 0.1, rtol=0.35)
    first_order = identify_subspace(records, 1, strictly_proper=True).system
    wrong = score_predictions(first_order, records, 12, past=25)
    assert wrong.rmse[-1] > 3 * right.rmse[-1]
    assert (right.rmse < right.persistence).all()
    assert score_predictions(third_order(), records, 12, past=25, stride=7).n == 12 + 8  # starts 0, 7, ...
    assert len(right.plot().axes) == 1


def test_a_prediction_uses_no_output_after_its_start():
    one = record(60, 3)
    y = one.y.copy()
    y[40:] += 100.0
    spoiled = Trajectory(one.u, y, 0.1)
    a = score_predictions(third_order(), [one[:41]], 1, past=40)
    b = score_predictions(third_order(), [spoiled[:41]], 1, past=40)
    np.testing.assert_allclose(a.rmse[0], 0.0, atol=1e-6)
    np.testing.assert_allclose(b.rmse[0], 100.0, atol=1e-5)


def test_the_bands_hold_what_they_promise():
    """Of white residuals independent of a coloured input, 1 % of the lags lie outside of a 99 % band."""
    rng = np.random.default_rng(0)
    auto, cross = [], []
    for _ in range(60):
        u = np.convolve(rng.normal(size=640), 0.9 ** np.arange(40), "valid")[:600, None]
        test = check_residuals([Trajectory(u, rng.normal(size=(600, 1)), 1.0)], [np.zeros((600, 1))])
        auto.append(test.auto_outside)
        cross.append(test.cross_outside)
    assert np.mean(auto) < 0.02
    assert np.mean(cross) < 0.04


def test_the_bands_of_short_records_are_as_wide_as_they_say():
    """At 60 samples far lags have few pairs; the share outside of a 95 % band is 5 %, at every lag."""
    rng = np.random.default_rng(3)
    tests = [
        check_residuals([Trajectory(u, e, 1.0)], [np.zeros_like(e)], confidence=0.95)
        for u, e in (rng.normal(size=(2, 60, 1)) for _ in range(600))
    ]
    assert 0.04 < np.mean([t.auto_outside for t in tests]) < 0.06
    assert 0.04 < np.mean([t.cross_outside for t in tests]) < 0.06
    far = [np.abs(t.auto[20:]) > t.auto_band[20:, None] for t in tests]
    assert 0.035 < np.mean(far) < 0.065


def test_missed_dynamics_and_coloured_residuals_are_seen_at_their_lags(tmp_path):
    rng = np.random.default_rng(1)
    u, v = rng.normal(size=(2000, 2)), rng.normal(size=2001)
    e = 0.3 * np.roll(u[:, 1], 4) + v[1:] + 0.8 * v[:-1]
    test = check_residuals([Trajectory(u, e[:, None], 1.0)], [np.zeros((2000, 1))], lags=10)
    np.testing.assert_allclose(test.auto[0], 1.0)
    assert test.auto[1, 0] > test.auto_band[1]
    assert np.argmax(np.abs(test.cross[:, 0, 1])) == 10 + 4
    assert test.cross[14, 0, 1] > test.cross_band[14, 0, 1]
    assert (np.abs(test.cross[:, 0, 0]) < 2 * test.cross_band[:, 0, 0]).all()
    test.save(tmp_path / "test.npz")
    np.testing.assert_array_equal(ResidualTest.load(tmp_path / "test.npz").cross, test.cross)
    assert len(test.plot().axes) == 3


def test_correlations_never_mix_records():
    rng = np.random.default_rng(2)
    parts = [rng.normal(size=(T, 1)) for T in (80, 70)]
    mean = np.concatenate(parts).mean()
    records = [Trajectory(p, p, 1.0) for p in parts]
    test = check_residuals(records, [np.zeros_like(p) for p in parts], lags=3)
    sums = [sum(float((p[: len(p) - k] - mean)[:, 0] @ (p[k:] - mean)[:, 0]) for p in parts) for k in range(4)]
    np.testing.assert_allclose(test.auto[:, 0], np.array(sums) / sums[0])


def test_the_order_of_a_linear_system_is_found_by_both_ways():
    selection = select_order(
        [record(600, 0, 0.002)], [record(300, 1, 0.002)], orders=range(1, 7), skip=20, strictly_proper=True
    )
    assert selection.by_validation == selection.by_gap == selection.best.nx == 3
    assert selection.errors[0] > 3 * selection.errors[2]
    assert len(selection.plot().axes) == 2


@given(st.lists(st.integers(0, 5), min_size=2, max_size=2), st.integers(0, 2**31))
@settings(max_examples=20)
def test_delays_put_back_into_the_system_are_those_taken_from_the_records(delays, seed):
    rng = np.random.default_rng(seed)
    for system in (third_order(), Elman(nu=2, ny=1, nx=3, seed=seed % 97).freeze()):
        delayed = with_delays(system, delays)
        assert delayed.nx == system.nx + sum(delays)
        for name in ("A", "B2", "C1", "C2"):  # only moved, so that the digest is the same on every processor
            assert np.isin(
                getattr(delayed, name), [0.0, 1.0, *(m for n in MATRICES for m in getattr(system, n).flat)]
            ).all()
        u, most = rng.normal(size=(40, 2)), max(delays)
        y, x = delayed.simulate(u)
        cut = without_delays(Trajectory(u, y, 1.0), delays)
        assert len(cut) == 40 - most
        np.testing.assert_allclose(system.simulate(cut.u, x[most, : system.nx])[0], cut.y, atol=1e-12)


def test_dead_times_are_estimated_and_pay():
    true = with_delays(third_order(), [6, 2])
    records = [record(400, s, 0.02, true) for s in (0, 1)]
    # The second input acts within one sample, so its delay is the whole dead time; so does the first, through x2.
    delays = estimate_delays(records, 10)
    assert delays == (6, 2)
    cut = [without_delays(r, delays) for r in records]
    system = with_delays(identify_subspace(cut, 3, strictly_proper=True).system, delays)
    run, _ = free_run(system, records)
    assert np.sqrt(np.mean((run[0] - records[0].y)[10:] ** 2)) < 0.06


def test_records_of_any_lengths_train_together():
    records = tuple(record(T, s) for s, T in enumerate((60, 131, 97, 60)))
    data = Dataset(records[:3], (records[3],))
    for refine in ("lbfgs", "levenberg_marquardt"):
        fit = identify(
            ResidualRNN(nu=2, ny=1, nx=3, nv=2),
            data,
            loss=SimulationError(),
            steps=1,
            window=50,
            skip=10,
            initial_state="estimated",
            refine=refine,
            refine_steps=15,
        )
        assert fit.scores["train"].nrmse[0] < 0.02


def test_bad_input_is_refused():
    one = record(60, 0)
    with pytest.raises(SettingError, match="past must be"):
        score_predictions(third_order(), [one], 3, past=2)
    with pytest.raises(DataError, match=r"past \+ horizon = 70"):
        score_predictions(third_order(), [one], 30, past=40)
    with pytest.raises(ShapeError, match="simulate every record"):
        check_residuals([one], [one.y[:-1]])
    with pytest.raises(DataError, match="lower lags"):
        check_residuals([one], [one.y + 1], lags=30)
    with pytest.raises(DataError, match="must vary"):
        check_residuals([one], [one.y], lags=5)
    with pytest.raises(DataError, match="diverges"):
        check_residuals([one], [np.full_like(one.y, np.inf)], lags=5)
    with pytest.raises(SettingError, match="confidence"):
        check_residuals([one], [one.y + 1], confidence=1.0)
    with pytest.raises(DataError, match="at least one candidate"):
        select_order([one], [one], orders=())
    with pytest.raises(ShapeError, match="each of 2 inputs"):
        with_delays(third_order(), [1])
    with pytest.raises(DataError, match="longest delay"):
        without_delays(one, [60, 0])
    with pytest.raises(DataError, match="lower most"):
        estimate_delays([one], 60)
