"""The chain with the real certifiers instead of norms: contraction and horizon certificates from LMIs, verified."""

import numpy as np
import pytest
from mpc_networks import NormContraction, elman, signals, switching

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Trajectory
from mpc import (
    CalibrationMethod,
    Predictor,
    RunningOn,
    StateObserver,
    Washout,
    calibrate,
    kalman_gain,
    observer_system,
    prediction_errors,
    tighten,
)

N = 5


@pytest.fixture(scope="module")
def chain():
    system = elman()
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 0.6))
    return system, predictor, certify_contraction(system)


def runs(system, steps=300):
    rng = np.random.default_rng(3)
    u = switching(rng, steps, 2)
    y = system.simulate(u)[0] + 0.03 * rng.uniform(-1, 1, (steps, 2))
    recorded = np.clip(u + 0.01 * rng.choice([-1, 1], u.shape), -1, 1)
    return Trajectory(u, y, 1.0), Trajectory(recorded, y, 1.0)


def observers(system, predictor, contraction):
    L = 0.2 * kalman_gain(predictor, output_noise_std=0.03, state_noise_std=0.02)
    yield Washout(predictor, 25, contraction=contraction, input_error=0.01)
    yield RunningOn(predictor, 25, contraction=contraction, input_error=0.01)
    yield StateObserver(
        predictor,
        L,
        25,
        contraction=contraction,
        observer_contraction=certify_contraction(observer_system(system, L)),
        residual_bound=0.03,
        input_error=0.01,
    )


def test_each_observer_stays_within_its_certified_error_and_each_prediction_within_its_bound(chain):
    system, predictor, contraction = chain
    exact, recorded = runs(system)
    x = system.simulate(exact.u)[1]
    # Calibrated on exact inputs: the model error of this plant is its output noise, at most 0.03.
    error = calibrate(system, [exact], horizon=N, washout=50, method=CalibrationMethod.SET_MEMBERSHIP, inflation=1.05)
    for observer in observers(system, predictor, contraction):
        estimates = observer.estimates(recorded.u, recorded.y)
        e = (x - estimates)[100:]
        assert np.sqrt(np.einsum("ti,ij,tj->t", e, observer.error.metric, e)).max() <= observer.error.radius
        certificate = certify_horizon(
            system,
            N,
            initial_radius=observer.error.radius,
            metric=observer.error.metric,
            input_radius=observer.input_error,
        )
        tightening = tighten(error, certificate, observer=observer)
        realised = prediction_errors(observer, recorded[100:], horizon=N)
        assert (np.abs(realised) <= tightening.total).all()


def test_the_certified_rate_is_no_worse_than_norms(chain):
    system, _, contraction = chain
    assert contraction.rate <= NormContraction.of(system).rate + 1e-6
