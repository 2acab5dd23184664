import numpy as np
import pytest
from mpc_networks import NormContraction, elman, signals, switching

from controlrnn.data import Trajectory
from controlrnn.errors import SettingError
from controlrnn.identification import fit_encoder
from mpc import EncoderObserver, Predictor, RunningOn, calibrate_estimates

PAST = 4


@pytest.fixture(scope="module")
def records():
    system, found = elman(), []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        u = switching(rng, 120, 2)
        y = system.simulate(u)[0] + 0.01 * rng.standard_normal((120, 2))
        found.append(Trajectory(u=u, y=y, dt=1.0, name=str(seed)))
    return found


@pytest.fixture(scope="module")
def encoder(records):
    return fit_encoder(elman(), records[:2], past=PAST, washout=30, hidden=4, steps=30)


def test_it_gives_what_the_encoder_gives(predictor, encoder, records):
    record, observer = records[5], EncoderObserver(predictor, encoder)
    rows = observer.estimates(record.u, record.y)
    assert observer.steps == PAST
    for t in (PAST, 50, 120):
        expected = encoder.estimate(record.u[t - PAST : t], record.y[t - PAST : t])
        np.testing.assert_allclose(rows[t], expected, atol=1e-12)
    assert np.isnan(rows[: PAST - 1]).all()


def test_the_model_bridges_gaps_and_late_measurements_close_them(predictor, encoder, records):
    u, y = records[5].u, records[5].y
    observer, punctual = EncoderObserver(predictor, encoder), EncoderObserver(predictor, encoder)
    for t in range(20):
        observer.update(u[t], y[t])
        punctual.update(u[t], y[t])
    before = observer.state
    np.testing.assert_allclose(observer.update(u[20], [np.nan, 0.0]), predictor.system.step(before, u[20]), atol=1e-14)
    for t in (20, 21, 22):
        punctual.update(u[t], y[t])
    for t in (21, 22):
        before = observer.state
        expected = predictor.system.step(before, u[t])
        np.testing.assert_allclose(observer.update(u[t], y[t]), expected, atol=1e-14)
    np.testing.assert_allclose(observer.correct(2, y[20]), punctual.state, atol=1e-12)
    assert np.abs(observer.state - expected).max() > 0
    before = observer.state
    np.testing.assert_array_equal(observer.correct(PAST, y[0]), before)


def test_its_error_is_calibrated_in_words_or_certified_by_a_guard(predictor, encoder, records):
    free = EncoderObserver(predictor, encoder)
    assert free.jump is None
    with pytest.raises(SettingError, match="calibrat"):
        free.error  # noqa: B018 -- the property raises
    calibration = calibrate_estimates(free, records[2:], washout=30, coverage=0.8)
    stated = EncoderObserver(predictor, encoder, calibration=calibration)
    assert stated.error.radius == calibration.error.radius > 0
    assert stated.jump.radius == calibration.jump.radius > 0
    assert "with probability >= 0.8" in stated.describe()
    assert "calibrated" in stated.describe()
    assert not stated.certified
    contraction = NormContraction.of(predictor.system)
    guard = RunningOn(predictor, 30, contraction=contraction, input_error=0.01)
    both = EncoderObserver(predictor, encoder, 30, guard=guard)
    assert "certified" in both.promise
    assert both.error.radius <= 2 * guard.error.radius * (1 + 1e-6)
    with pytest.raises(SettingError, match="another observer"):
        EncoderObserver(predictor, encoder, 30, calibration=calibration)


def test_wrong_parts_are_refused(predictor, encoder):
    other = Predictor(elman(seed=3), signals("u", 2, 1.0))
    with pytest.raises(SettingError, match="one model"):
        EncoderObserver(other, encoder)
    with pytest.raises(SettingError, match="window"):
        EncoderObserver(predictor, encoder, PAST - 1)
