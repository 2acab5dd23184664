import numpy as np
import pytest
from mpc_networks import elman
from record_cases import record

from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from mpc import DisturbanceFilter, Washout, calibration_errors, prediction_errors


def test_the_model_itself_has_no_error(system):
    errors = calibration_errors(system, record(system, 0), horizon=5, washout=10)
    assert errors.shape == (60 - 5 - 10, 6, 2)
    np.testing.assert_allclose(errors, 0, atol=1e-14)


def test_without_feedback_the_error_is_the_residual_at_that_time(system):
    trajectory = record(system, 1, wobble=0.1)
    residual = trajectory.y - system.simulate(trajectory.u)[0]
    errors = calibration_errors(system, trajectory, horizon=3, washout=4)
    for t in (4, 20):
        np.testing.assert_allclose(errors[t - 4], residual[t : t + 4], atol=1e-14)


def test_feedback_removes_a_constant_offset_and_starts_where_the_controller_does(system):
    trajectory = record(system, 2, offset=(0.3, -0.2))
    errors = calibration_errors(system, trajectory, horizon=3, washout=4, disturbance=DisturbanceFilter(0.3))
    np.testing.assert_allclose(errors, 0, atol=1e-14)


def test_split_of_the_prediction_error_is_exact(system, predictor):
    """First bracket + second bracket = realised error, for the controller's own disturbance estimate."""
    trajectory, observer, disturbance = record(system, 3, wobble=0.1), Washout(predictor, 7), DisturbanceFilter(0.4)
    realised = prediction_errors(observer, trajectory, horizon=4, disturbance=disturbance)
    first = calibration_errors(system, trajectory, horizon=4, washout=7, disturbance=disturbance, observer=observer)
    x = system.simulate(trajectory.u)[1]
    estimates = observer.estimates(trajectory.u, trajectory.y)
    for i, t in enumerate(range(7, 60 - 4)):
        window = trajectory.u[t : t + 5]
        second = system.simulate(window, x[t])[0] - system.simulate(window, estimates[t])[0]
        np.testing.assert_allclose(realised[i], first[i] + second, atol=1e-13)


def test_filter_skips_missing_channels():
    disturbance = DisturbanceFilter(0.5)
    d = disturbance.update(None, np.array([2.0, 4.0]))
    np.testing.assert_array_equal(disturbance.update(d, np.array([np.nan, 0.0])), [2.0, 2.0])
    rows = disturbance.run(np.array([[np.nan, 1.0], [1.0, 1.0], [3.0, np.nan]]))
    np.testing.assert_array_equal(rows, [[np.nan, np.nan], [1.0, 1.0], [2.0, 1.0]])


@pytest.mark.parametrize("gain", [0.0, -1.0, 1.5, np.nan])
def test_bad_gain_is_refused(gain):
    with pytest.raises(SettingError):
        DisturbanceFilter(gain)


def test_bad_records_are_refused(system, predictor):
    with pytest.raises(DataError, match="at least"):
        calibration_errors(system, record(system, 0, steps=14), horizon=5, washout=10)
    with pytest.raises(DataError, match="at least"):
        prediction_errors(Washout(predictor, 10), record(system, 0, steps=14), horizon=5)
    with pytest.raises(ShapeError):
        calibration_errors(elman(nu=1), record(system, 0), horizon=5, washout=10)
    odd = Trajectory(np.zeros((50, 2)), np.zeros((50, 2)), 0.5)
    with pytest.raises(DataError, match="dt"):
        calibration_errors(system, odd, horizon=5, washout=10)
