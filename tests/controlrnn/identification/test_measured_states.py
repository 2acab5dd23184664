"""Training from measured states: the system's states are those of the plant, in physical units."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman

from controlrnn.certification import certify_by_construction
from controlrnn.data import Dataset, Scaler, Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError, TrainingError
from controlrnn.identification import FitResult, SimulationError, identify
from controlrnn.models import LSTM, LTI, ContractingREN
from controlrnn.systems import LureSystem

A = np.array([[0.8, 0.15], [-0.05, 0.6]])
B = np.array([[0.2], [0.4]])
UNITS = np.array([40.0, 0.002]), np.array([320.0, 0.01])  # kelvin and bar: scale and shift of the two states
SETTINGS = {"loss": SimulationError(washout=0), "initial_state": "measured", "window": 2, "batch_size": 64, "seed": 0}


def plant_records(count=6, T=60, seed=0, *, outputs=2):
    """Records of x+ = A x + B u in other units, from states all over; only some of the states may be outputs."""
    rng, records = np.random.default_rng(seed), []
    for _ in range(count):
        u, x = rng.standard_normal((T, 1)), [2 * rng.standard_normal(2)]
        for now in u[:-1]:
            x.append(A @ x[-1] + B @ now)
        states = np.array(x) * UNITS[0] + UNITS[1]
        y = states[:, :outputs]
        records.append(Trajectory(u=u, y=y, dt=1.0, x=None if outputs == 2 else states))
    return tuple(records)


def plant_data(**more):
    records = plant_records(**more)
    return Dataset(records[:4], records[4:5], records[5:])


@pytest.fixture(scope="module", params=[2, 1], ids=["outputs are states", "records know x"])
def fit(request):
    ny = request.param
    # One step is enough where all states are scored; a state that is seen through the others needs more.
    options = SETTINGS | {"window": 2 if ny == 2 else 6, "steps": 1500, "learning_rate": 0.02, "validate_every": 250}
    return identify(LTI(nu=1, ny=ny, nx=2, seed=0), plant_data(outputs=ny), **options)


def test_the_states_are_those_of_the_plant_in_physical_units(fit):
    """Every matrix is the plant's own: no other coordinates fit."""
    scale = UNITS[0]
    system = fit.system
    np.testing.assert_allclose(system.A / (scale[:, None] / scale), A, atol=5e-3)
    np.testing.assert_allclose(system.B2 / scale[:, None], B, atol=5e-3)
    record = plant_records(seed=7)[0]
    states = system.simulate(record.u, record.y[0])[1][:-1]
    assert np.abs((states - record.y) / scale).max() < 0.05
    assert fit.scores["test"].fit_percent.min() > 97
    known = plant_records(seed=7, outputs=system.ny)[0]
    np.testing.assert_allclose(fit.simulate(known), system.simulate(record.u, record.y[0])[0])


def test_it_is_saved_and_loaded_with_its_units(fit, tmp_path):
    file = tmp_path / "fit.npz"
    fit.save(file)
    again = FitResult.load(file, LTI(nu=1, ny=fit.system.ny, nx=2))
    assert again.system.digest == fit.system.digest == again.model.freeze().digest
    assert again.model.state_scaler is not None


def test_a_training_that_continues_keeps_the_states(fit):
    data = plant_data(outputs=fit.system.ny)
    more = identify(fit.model, data, **SETTINGS, steps=2, learning_rate=1e-9, start="continue")
    np.testing.assert_allclose(more.system.A, fit.system.A, rtol=1e-5)
    np.testing.assert_allclose(more.system.bx, fit.system.bx, rtol=1e-5)
    with pytest.raises(SettingError, match="measured"):
        identify(fit.model, data, steps=2, start="continue", loss=SimulationError(washout=0))


@pytest.mark.parametrize(("refine", "iterations"), [("lbfgs", 250), ("levenberg_marquardt", 40)])
def test_a_refinement_keeps_the_measured_starts(refine, iterations):
    data = plant_data()
    options = SETTINGS | {"steps": 100, "learning_rate": 0.02, "refine": refine, "refine_steps": iterations}
    found = identify(LTI(nu=1, ny=2, nx=2, seed=0), data, **options)
    # Had it moved the starts, or taken zero, it would have learnt other matrices.
    ratio = UNITS[0][:, None] / UNITS[0]
    np.testing.assert_allclose(found.system.A / ratio, A, atol=1e-3)
    with pytest.raises(SettingError, match="more than nx = 2 training records, got 2"):
        identify(LTI(nu=1, ny=2, nx=2), replace(data, train=data.train[:2]), **options)


def test_a_guarantee_holds_in_the_units_of_the_states():
    model = ContractingREN(nu=1, ny=2, nx=2, nv=3, rate=0.95, seed=0)
    found = identify(model, plant_data(), **SETTINGS, steps=5)
    made = certify_by_construction(found.model)
    assert made.system.digest == found.system.digest
    made.contraction.verify(found.system)
    assert made.contraction.rate == 0.95


@pytest.mark.parametrize("seed", range(3))
def test_states_in_other_units_pass_through_the_same_points(seed):
    system, rng = random_elman(seed, nx=3), np.random.default_rng(seed)
    scaler = Scaler(rng.normal(size=3) * 10, rng.uniform(0.01, 100, 3))
    other = system.with_states_in(scaler)
    assert isinstance(other, LureSystem)
    u, x0 = rng.standard_normal((20, system.nu)), rng.standard_normal(3)
    y, x = system.simulate(u, x0)
    seen, states = other.simulate(u, scaler.invert(x0))
    np.testing.assert_allclose(seen, y, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(scaler.apply(states), x, rtol=1e-9, atol=1e-8)


def test_what_does_not_fit_measured_states_is_refused_in_words():
    data, options = plant_data(), SETTINGS | {"steps": 1}
    with pytest.raises(DataError, match=r"all nx = 3 states.*2 outputs and no x.*as many states"):
        identify(LTI(nu=1, ny=2, nx=3), data, **options)
    with pytest.raises(DataError, match="2 states x"):
        identify(LTI(nu=1, ny=1, nx=1), plant_data(outputs=1), **options)
    y = data.train[0].y.copy()
    y[5, 0] = np.nan
    holed = replace(data, train=(replace(data.train[0], y=y),))
    with pytest.raises(DataError, match="misses 1"):
        identify(LTI(nu=1, ny=2, nx=2), holed, **options)
    with pytest.raises(SettingError, match="subspace model"):
        identify(LTI(nu=1, ny=2, nx=2), data, **options, start="linear")
    with pytest.raises(SettingError, match="gates"):
        identify(LSTM(nu=1, ny=2, nx=1), data, **options)
    with pytest.raises(ShapeError, match="states"):
        LTI(nu=1, ny=2, nx=2).set_units(Scaler.identity(1), Scaler.identity(2), 1.0, Scaler.identity(3))


def test_a_checkpoint_belongs_to_its_measured_states(tmp_path):
    data = plant_data(outputs=1)
    file, options = tmp_path / "checkpoint", SETTINGS | {"steps": 2}
    identify(LTI(nu=1, ny=1, nx=2, seed=0), data, checkpoint=file, **options)
    first = data.train[0]
    moved = replace(data, train=(replace(first, x=first.x + 1.0), *data.train[1:]))
    with pytest.raises(TrainingError, match="data"):
        identify(LTI(nu=1, ny=1, nx=2, seed=0), moved, checkpoint=file, **options)
