from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import elman, signals

from controlrnn.data import Signal
from controlrnn.errors import DataError, SettingError, ShapeError
from mpc import Predictor, steady_input


def test_predictions_are_the_models_free_run(predictor, rng):
    x, u = rng.standard_normal(4), rng.uniform(-1, 1, (7, 2))
    y = predictor.predict(x, u)
    assert y.shape == (8, 2)
    for k in range(7):
        np.testing.assert_allclose(y[k], predictor.system.output(x, u[k]), atol=1e-14)
        x = predictor.system.step(x, u[k])
    np.testing.assert_allclose(y[7], predictor.system.output(x, u[6]), atol=1e-14)


def test_a_batch_is_predicted_row_by_row(predictor, rng):
    x, u = rng.standard_normal((3, 4)), rng.uniform(-1, 1, (3, 5, 2))
    one_by_one = np.stack([predictor.predict(a, b) for a, b in zip(x, u, strict=True)])
    np.testing.assert_allclose(predictor.predict(x, u), one_by_one, atol=1e-14)


def test_equilibrium_is_kept(predictor, rng):
    for u in rng.uniform(-1, 1, (5, 2)):
        x = predictor.equilibrium(u)
        np.testing.assert_allclose(predictor.system.step(x, u), x, atol=1e-12)


def test_jacobians_agree_with_differences(predictor, rng):
    x, u, h = rng.standard_normal(4), rng.uniform(-1, 1, 2), 1e-6
    A, B, C, _ = predictor.linearise(x, u)
    f, g = predictor.system.step, predictor.system.output
    for i, e in enumerate(np.eye(4) * h):
        np.testing.assert_allclose(A[:, i], (f(x + e, u) - f(x - e, u)) / (2 * h), atol=1e-8)
        np.testing.assert_allclose(C[:, i], (g(x + e, u) - g(x - e, u)) / (2 * h), atol=1e-8)
    for i, e in enumerate(np.eye(2) * h):
        np.testing.assert_allclose(B[:, i], (f(x, u + e) - f(x, u - e)) / (2 * h), atol=1e-8)


def test_steady_input_finds_a_reachable_output_and_stays_within_limits(predictor):
    target = predictor.steady_output(np.array([0.3, -0.5]))
    u = steady_input(predictor, target, np.ones(2))
    np.testing.assert_allclose(predictor.steady_output(u), target, atol=1e-6)
    far = steady_input(predictor, np.array([50.0, -50.0]), np.ones(2))
    assert (np.abs(far) <= 1).all()


def test_an_integrator_has_no_equilibrium():
    integrator = replace(elman(), A=np.eye(4), B1=np.zeros((4, 4)), bx=np.ones(4))
    with pytest.raises(SettingError, match="steady state"):
        Predictor(integrator).equilibrium(np.zeros(2))


@pytest.mark.parametrize(
    ("build", "error"),
    [
        (lambda s: Predictor(s, signals("u", 3, 1.0)), ShapeError),
        (lambda s: Predictor(s.A), SettingError),
        (lambda s: Predictor(s).input_limits(), SettingError),
        (lambda s: Predictor(s, (Signal("a", lower=0.0), Signal("b"))).input_limits(), SettingError),
        (lambda s: Predictor(s).predict(np.zeros(4), np.zeros((3, 5))), ShapeError),
        (lambda s: Predictor(s).predict(np.zeros(4), np.zeros(2)), ShapeError),
        (lambda s: Predictor(s).predict(np.zeros(3), np.zeros((3, 2))), ShapeError),
        (lambda s: Predictor(s).equilibrium(np.array([np.nan, 0])), DataError),
    ],
)
def test_bad_input_is_refused(system, build, error):
    with pytest.raises(error):
        build(system)
