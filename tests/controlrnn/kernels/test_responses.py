import numpy as np
import pytest

from controlrnn.kernels import propagate


@pytest.mark.parametrize(("steps", "nx", "nu"), [(1, 1, 1), (5, 3, 2), (4, 2, 3), (7, 20, 1)])
def test_responses_are_products_of_jacobians(steps, nx, nu):
    rng = np.random.default_rng(0)
    J = rng.standard_normal((steps + 1, nx, nx + nu))
    Z = np.zeros((steps + 1, steps * nu, nx + nu))
    for k in range(steps):
        Z[k, k * nu : (k + 1) * nu, nx:] = np.eye(nu)
    propagate(Z, J)
    for k in range(steps + 1):
        for j in range(steps):
            expected = np.zeros((nx, nu))
            if j < k:
                expected = J[j][:, nx:]
                for i in range(j + 1, k):
                    expected = J[i][:, :nx] @ expected
            np.testing.assert_allclose(Z[k, j * nu : (j + 1) * nu, :nx].T, expected, rtol=1e-10, atol=1e-12)
