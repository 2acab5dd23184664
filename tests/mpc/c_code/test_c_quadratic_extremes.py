"""The QP solver of the C code on numbers that no sane program has: nothing written beyond, nothing broken solved."""

import numpy as np
import pytest
from c_quadratic import KINDS, CQuadratic, program

from experiments.bench_mpc.c_code import compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
SCALES = (0.0, 1e-320, 1e-300, 1e-150, 1e-20, 1e20, 1e150, 1e300, np.nan, np.inf, -np.inf, -1.0)


@pytest.fixture(scope="module")
def solver(tmp_path_factory):
    return CQuadratic(compiler(), tmp_path_factory.mktemp("qp"))


def changed(rng, parts, scale):
    """A program of which something is multiplied by a scale, or repeated, or turned round."""
    H, g, C, lower, upper, price = (np.array(a) for a in parts)
    n, m = len(g), len(price)
    with np.errstate(all="ignore"):
        kind = rng.integers(0, 9)
        i = rng.integers(n)
        if kind == 0:
            H = H * scale
        elif kind == 1:
            H[i, :] = H[:, i] = H[i] * scale
        elif kind == 2:
            g = g * scale
        elif kind == 3 and m:
            C[rng.integers(m)] *= scale
        elif kind == 4 and m:
            C[:] = C[0] * np.where(rng.random(m) < 0.5, 1.0, scale)[:, None]
        elif kind == 5:
            lower[rng.integers(n + m)] *= scale
        elif kind == 6:
            upper[rng.integers(n + m)] *= scale
        elif kind == 7:
            H, g, price = H * scale, g * scale, price * scale
        elif kind == 8 and m:
            C, lower[n:], upper[n:] = C * scale, lower[n:] * scale, upper[n:] * scale
    return H, g, C, lower, upper, np.where(np.isnan(price), np.inf, np.abs(price))


@pytest.mark.parametrize("scale", SCALES)
def test_nothing_is_written_beyond_and_nothing_broken_is_solved(solver, scale):
    rng, solved = np.random.default_rng(0), 0
    for seed in range(40):
        for name in KINDS:
            H, g, C, lower, upper, price = parts = changed(rng, program(seed, name), scale)
            status, z, multipliers = solver.solve(*parts)
            assert not solver.library.beyond(len(g), len(price)), (seed, name)
            if status != "solved":
                continue
            solved += 1
            hard, n = np.isinf(price), len(g)
            assert np.isfinite(z).all()
            assert np.isfinite(multipliers).all()
            assert not np.isnan(np.concatenate([lower, upper, H.ravel(), g, C.ravel()])).any()
            assert (np.minimum(lower[:n], upper[:n]) <= z).all()
            assert (z <= upper[:n]).all()
            value, room = C @ z, 1e-3 * (np.linalg.norm(C, axis=1) + np.abs(C @ z))
            assert (np.maximum(value - upper[n:], lower[n:] - value) <= room)[hard].all(), (seed, name)
    assert solved >= 10


def test_limits_of_a_variable_that_cross_are_no_solution(solver):
    for low, high, found in ((-1.0, 1.0, "solved"), (1.0, 1.0, "solved"), (0.5, -0.5, "failed"), (2.0, 1.0, "failed")):
        one = np.array([high]), np.zeros(0)
        assert solver.solve(np.eye(1), np.ones(1), np.zeros((0, 1)), np.array([low]), *one)[0] == found
