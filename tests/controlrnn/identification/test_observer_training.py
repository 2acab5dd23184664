"""Observers by construction: they forget where they started, and find the states that nobody measures."""

import numpy as np
import pytest

from controlrnn.certification import certify_by_construction
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import DataError, ShapeError
from controlrnn.identification import SimulationError, estimate_states, identify, observer_dataset
from controlrnn.models import ContractingREN
from plants import QuadrupleTank, excitation, simulate

NOISE = 0.05  # cm


def record(seed):
    plant = QuadrupleTank()
    u = excitation.random_steps(400, plant.inputs, hold=(10, 40), seed=seed)
    return simulate(plant, u, noise_std=NOISE, seed=seed)


@pytest.fixture(scope="module")
def data():
    return Dataset(tuple(record(i) for i in range(4)), (record(5),), (record(6),))


@pytest.fixture(scope="module")
def trained(data):
    """Four levels, of which the two lower are measured."""
    model = ContractingREN(nu=4, ny=4, nx=6, nv=8, rate=0.97, feedthrough=True, seed=0)
    options = {"steps": 250, "window": 80, "batch_size": 16, "learning_rate": 5e-3, "seed": 0}
    return identify(model, observer_dataset(data), loss=SimulationError(20), **options)


def test_records_are_rearranged(data):
    seen, given = observer_dataset(data), data.train[0]
    assert [len(seen.train), len(seen.validation), len(seen.test)] == [4, 1, 1]
    first = seen.train[0]
    np.testing.assert_array_equal(first.u, np.hstack([given.u, given.y]))
    np.testing.assert_array_equal(first.y, given.x)
    assert [s.name for s in first.inputs] == [s.name for s in given.inputs + given.outputs]
    assert first.dt == given.dt


def test_estimates_from_any_two_states_converge_at_the_certified_rate(data, trained):
    certificate = certify_by_construction(trained.model).contraction
    assert certificate.rate <= 0.97
    test, start = data.test[0], 10 * np.random.default_rng(0).normal(size=(2, 6))
    one, two = (estimate_states(trained.system, test, x0) for x0 in start)
    difference = np.abs(one - two).max(axis=1)
    assert difference[0] > 1
    assert difference[300:].max() < 1e-3
    x = trained.system.simulate(np.stack([np.hstack([test.u, test.y])] * 2), start)[1]
    distance = np.linalg.norm((x[0] - x[1]) @ np.linalg.cholesky(certificate.metric), axis=1)
    assert (distance <= certificate.rate ** np.arange(len(test) + 1) * distance[0] + 1e-9).all()


def test_unmeasured_levels_are_found(data, trained):
    test = data.test[0]
    error = (estimate_states(trained.system, test, 3 * np.ones(6)) - test.x)[60:]
    found, spread = np.sqrt((error**2).mean(axis=0)), test.x[60:].std(axis=0)
    assert (found[:2] < 2 * NOISE).all()
    assert (found[2:] < 0.25 * spread[2:]).all()


def test_records_without_states_and_foreign_records_are_refused(data, trained):
    blind = Trajectory(data.test[0].u, data.test[0].y, 5.0, name="pump test")
    with pytest.raises(DataError, match="pump test"):
        observer_dataset(Dataset((blind,)))
    with pytest.raises(ShapeError, match="observer_dataset"):
        estimate_states(trained.system, Trajectory(np.zeros((5, 1)), np.zeros((5, 1)), 5.0))
