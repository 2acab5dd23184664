import numpy as np
import pytest
from scipy.optimize import rosen, rosen_der

from controlrnn.identification.optimisers.lbfgs import LBFGS
from controlrnn.identification.optimisers.levenberg_marquardt import LevenbergMarquardt


def run(optimiser, most=500):
    steps = 0
    while steps < most and optimiser.iterate():
        steps += 1
    return steps


def test_lbfgs_solves_rosenbrock_to_the_last_digits():
    optimiser = LBFGS(lambda x: (rosen(x), rosen_der(x)), np.array([-1.2, 1.0, -0.5, 2.0]))
    assert run(optimiser) < 150
    np.testing.assert_allclose(optimiser.x, 1.0, atol=1e-7)


def test_lbfgs_survives_a_cliff():
    """Where the simulation diverges the value is infinite: the search must come back from there."""

    def function(x):
        return (np.inf, np.zeros(2)) if x[0] > 1.5 else (float((x[0] - 1.4) ** 2 + 50 * x[1] ** 2), _gradient(x))

    def _gradient(x):
        return np.array([2 * (x[0] - 1.4), 100 * x[1]])

    optimiser = LBFGS(function, np.array([-30.0, 1.0]))
    run(optimiser)
    np.testing.assert_allclose(optimiser.x, [1.4, 0.0], atol=1e-6)


class Fit:
    """Squares of f(x) - b with f(x) = (10 (x2 - x1^2), 1 - x1), or of a linear map."""

    def __init__(self, matrix=None):
        self.matrix = matrix

    def _residual(self, x):
        if self.matrix is not None:
            return self.matrix @ x - 1.0, self.matrix
        return np.array([10 * (x[1] - x[0] ** 2), 1 - x[0]]), np.array([[-20 * x[0], 10.0], [-1.0, 0.0]])

    def value(self, x):
        return float(np.sum(self._residual(x)[0] ** 2))

    def gauss_newton(self, x):
        r, J = self._residual(x)
        return float(r @ r), 2 * J.T @ r, 2 * J.T @ J


def test_levenberg_marquardt_solves_a_valley_and_a_linear_problem_with_idle_unknowns():
    optimiser = LevenbergMarquardt(Fit(), np.array([-1.2, 1.0]))
    assert run(optimiser) < 60
    np.testing.assert_allclose(optimiser.x, 1.0, atol=1e-8)
    matrix = np.random.default_rng(0).normal(size=(20, 4)) * [1.0, 0.2, 5.0, 0.0]
    optimiser = LevenbergMarquardt(Fit(matrix), np.full(4, 0.5))
    assert run(optimiser) < 60
    expected = np.linalg.lstsq(matrix[:, :3], np.ones(20), rcond=None)[0]
    np.testing.assert_allclose(optimiser.x[:3], expected, rtol=1e-5)
    assert optimiser.x[3] == 0.5  # the cost does not depend on it


@pytest.mark.parametrize("make", [
    lambda x: LBFGS(lambda z: (rosen(z), rosen_der(z)), x), lambda x: LevenbergMarquardt(Fit(), x)
])  # fmt: skip
def test_an_optimiser_goes_on_to_the_same_bits(make):
    whole = make(np.array([-1.2, 1.0]))
    for _ in range(12):
        whole.iterate()
    part = make(np.array([-1.2, 1.0]))
    for _ in range(5):
        part.iterate()
    kept = {name: np.copy(value) for name, value in part.arrays().items()}
    resumed = make(np.array([3.0, 3.0]))
    resumed.restore(kept)
    for _ in range(7):
        resumed.iterate()
    np.testing.assert_array_equal(resumed.x, whole.x)
    assert resumed.value == whole.value
