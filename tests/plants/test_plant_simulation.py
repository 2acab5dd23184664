"""`simulate`, the integrator and the package's imports."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.errors import DataError, SettingError, ShapeError
from plants import MassSpringDamperChain, MultiTank, simulate
from plants.integrate import integrate

PLANT = MultiTank()
U = np.tile([2.0, 2.0], (5, 1))


def test_importing_plants_stays_light():
    heavy = ("torch", "casadi", "cvxpy", "do_mpc", "matplotlib")
    code = f"import sys, plants; print([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"u": U[0]}, ShapeError, "add the time axis"),
        ({"u": U[:1]}, DataError, "at least 2 samples"),
        ({"u": U[None, None]}, ShapeError, "add the time axis"),
        ({"u": [[1.0, 2.0], [1.0]]}, DataError, "array of numbers"),
        ({"u": "pump"}, DataError, "array of numbers"),
        ({"u": np.where(np.arange(10).reshape(5, 2) == 7, np.nan, U)}, DataError, r"first at \(3, 1\)"),
        ({"u": U, "x0": [1.0, 2.0]}, ShapeError, "x0 must have shape"),
        ({"u": U, "x0": [1.0, 2.0, 70.0]}, DataError, r"x0\[2\] must lie in \[0, 65\]"),
        ({"u": U, "x0": [1.0, -2.0, 7.0]}, DataError, r"x0\[1\] must lie in"),
        ({"u": np.stack([U, U]), "x0": np.ones((3, 3))}, ShapeError, "one state per experiment"),
        ({"u": U, "noise_std": -0.1}, SettingError, "noise_std must be >= 0"),
        ({"u": U, "noise_std": [0.1, 0.2]}, ShapeError, "noise_std must have shape"),
        ({"u": U, "disturbance": np.zeros((4, 3))}, ShapeError, "one row per sample"),
        ({"u": U, "disturbance": np.zeros((5, 2))}, ShapeError, "disturbance must have shape"),
    ],
)
def test_bad_experiments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        simulate(PLANT, **arguments)


@settings(max_examples=30)
@given(st.lists(st.integers(0, 4), min_size=0, max_size=4))
def test_every_wrong_shape_of_u_is_an_error_with_the_expected_shape(shape):
    u = np.zeros(shape)
    if len(shape) in (2, 3) and shape[-1] == 2 and shape[-2] >= 2 and shape[0]:
        records = simulate(PLANT, u)
        assert len(records) == shape[0]
    else:
        with pytest.raises((ShapeError, DataError), match=r"expected|must have shape|at least") as caught:
            simulate(PLANT, u)
        assert isinstance(caught.value, ValueError)


def test_overshoot_by_a_solvers_rounding_is_clipped_not_refused():
    record = simulate(PLANT, U * 0 + [4.0 + 1e-7, -1e-7])
    np.testing.assert_array_equal(record.u, np.tile([4.0, 0.0], (5, 1)))


def test_a_leak_lowers_the_levels():
    leaky = simulate(PLANT, U, disturbance=np.tile([0.0, -1.0, 0.0], (5, 1)))
    assert (leaky.x[1:] < simulate(PLANT, U).x[1:]).all()


def test_integrator_is_accurate_across_corners():
    # A single cart shot through both corners of its spring; reference: the same steps cut into 64.
    coarse, fine = MassSpringDamperChain(1), MassSpringDamperChain(1, dt=0.5 / 64)
    x = np.column_stack([np.linspace(-3, 3, 40), np.linspace(8, -8, 40)])
    reference = x
    for _ in range(64):
        reference = fine.step(reference, np.zeros(1))
    np.testing.assert_allclose(coarse.step(x, np.zeros(1)), reference, atol=1e-5)


def test_integrator_names_the_experiment_it_cannot_continue():
    x = np.ones((3, 2))
    x[1] = np.inf
    with np.errstate(all="ignore"), pytest.raises(DataError, match="experiment 1"):
        integrate(MassSpringDamperChain(1), x, np.zeros((3, 1)))


@pytest.mark.slow
def test_a_hundred_experiments_are_far_cheaper_than_one_by_one():
    import time

    u = np.random.default_rng(0).uniform(1.0, 3.0, (100, 60, 2)).round()
    start = time.perf_counter()
    records = simulate(PLANT, u)
    together = time.perf_counter() - start
    start = time.perf_counter()
    for i in range(10):
        np.testing.assert_allclose(simulate(PLANT, u[i]).x, records[i].x, atol=1e-8)
    assert together < 5 * (time.perf_counter() - start)  # one by one would be 10


@pytest.mark.parametrize("inflow", [-1e3, 1e6])
def test_large_inflows_fill_and_empty_the_tanks(inflow):
    x = PLANT.step(PLANT.initial_state(), PLANT.nominal_input, np.full(PLANT.nw, inflow))
    np.testing.assert_allclose(x, PLANT.height if inflow > 0 else 0.0, atol=1e-3)


@pytest.mark.parametrize("inflow", [-1e12, -1e7, 1e12, 1e300])
def test_absurd_inflows_are_refused_soon(inflow):
    """A leak of 1e7 L/min would need some hundred thousand steps a sample."""
    with pytest.raises(DataError, match="MultiTank"):
        PLANT.step(PLANT.initial_state(), PLANT.nominal_input, np.full(PLANT.nw, inflow))
