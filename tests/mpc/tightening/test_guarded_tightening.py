import numpy as np
import pytest
from mpc_networks import NormContraction, NormHorizon, declared_error, elman, signals, switching

from controlrnn.errors import CertificationError, SettingError
from mpc import (
    MovingHorizonObserver,
    Predictor,
    RunningOn,
    tighten,
    tighten_guarded,
)

N, STEPS = 6, 12


@pytest.fixture(scope="module")
def parts(system):
    predictor, contraction = Predictor(system, signals("u", 2, 1.0)), NormContraction.of(system)
    settings = {"contraction": contraction, "input_error": 0.05}
    guard = RunningOn(predictor, STEPS, **settings)
    observer = MovingHorizonObserver(
        predictor, STEPS, window=5, output_std=0.005, offset_std=0.01, guard=guard, trust=0.3, **settings
    )
    error = declared_error(system, np.full((N + 1, 2), 0.1), washout=STEPS)
    certificate = NormHorizon.of(system, STEPS + N, guard.restart.radius, 0.05)
    return observer, error, certificate, NormHorizon.of(system, N, observer.guard_distance.radius)


def test_guarded_predictions_stay_inside(parts, rng):
    observer, error, certificate, difference = parts
    tightening = tighten_guarded(error, certificate, difference, observer=observer)
    system, true = observer.system, switching(rng, 200, 2)
    recorded = true + 0.05 * rng.choice([-1, 1], true.shape)
    y = system.simulate(true, observer.initial_state)[0]
    seen = y + rng.choice([0.0, 5.0, -5.0, 0.1], y.shape)  # whatever is measured
    estimates = observer.estimates(recorded, seen)
    worst = np.zeros((N + 1, 2))
    for t in range(STEPS, 200 - N - 1):
        predicted = system.simulate(recorded[t : t + N + 1], estimates[t])[0]
        worst = np.maximum(worst, np.abs(y[t : t + N + 1] - predicted))
    assert (worst <= tightening.reinitialisation).all()
    assert (worst > 0).all()
    np.testing.assert_array_equal(tightening.model_error, error.bounds)
    assert tightening.digests["observer"] == observer.digest


def test_it_is_tighter_than_one_ball_around_the_estimate(parts):
    observer, error, certificate, difference = parts
    ball = NormHorizon.of(observer.system, N, observer.error.radius, 0.05)
    split = tighten_guarded(error, certificate, difference, observer=observer)
    assert (split.total <= tighten(error, ball, observer=observer).total * (1 + 1e-9)).all()


def test_parts_that_do_not_fit_are_refused(parts, system):
    observer, error, certificate, difference = parts
    free = MovingHorizonObserver(observer.predictor, STEPS, window=5, output_std=0.1)
    with pytest.raises(SettingError, match="guard"):
        tighten_guarded(error, certificate, difference, observer=free)
    radius = observer.guard_distance.radius
    for wrong, kind, words in (
        (NormHorizon.of(system, N, 0.5 * radius), CertificationError, "radius"),
        (NormHorizon.of(system, N - 1, radius), SettingError, "steps"),
        (NormHorizon.of(elman(seed=9), N, radius), SettingError, "model"),
    ):
        with pytest.raises(kind, match=words):
            tighten_guarded(error, certificate, wrong, observer=observer)
