"""Errors of the simulated plant are those that the model made on records in which every output was measured."""

from dataclasses import replace

import numpy as np
import pytest

from controlrnn.data import Dataset
from controlrnn.errors import DataError
from controlrnn.road import open_road
from controlrnn.road.loop_plants import recorded_errors


def silent(record, washout):
    """A record whose readings end with the washout."""
    y = record.y.copy()
    y[washout:] = np.nan
    return replace(record, y=y)


def made_by_hand(road, record, washout):
    """Errors of a free run from the observer's state, step by step."""
    system, x, y = road.system, road.observer.initial_state, []
    for u in record.u:
        y.append(system.output(x, u))
        x = system.step(x, u)
    return (record.y - np.array(y))[washout:]


def test_records_without_readings_give_way_to_others(finished):
    road = open_road(finished / "road")
    washout, start = road.file.promise.washout, road.observer.initial_state
    test, calibration = road.data.test[0], road.data.calibration[0]
    errors, origin = recorded_errors(road.file, Dataset(road.data.train, test=test), road.predictor, start)
    np.testing.assert_allclose(errors, made_by_hand(road, test, washout), rtol=1e-9, atol=1e-9)
    assert origin == "1 test record(s)"
    data = Dataset(road.data.train, test=silent(test, washout), calibration=calibration)
    errors, origin = recorded_errors(road.file, data, road.predictor, start)
    np.testing.assert_allclose(errors, made_by_hand(road, calibration, washout), rtol=1e-9, atol=1e-9)
    assert origin == "1 calibration record(s)"


def test_missing_errors_are_those_before_them(finished):
    road = open_road(finished / "road")
    washout, test = road.file.promise.washout, road.data.test[0]
    y = test.y.copy()
    y[washout] = y[washout + 5 : washout + 8] = np.nan
    data = Dataset(road.data.train, test=replace(test, y=y))
    errors, _ = recorded_errors(road.file, data, road.predictor, road.observer.initial_state)
    expected = made_by_hand(road, test, washout)
    expected[0], expected[5:8] = expected[1], expected[4]
    np.testing.assert_allclose(errors, expected, rtol=1e-9, atol=1e-9)


def test_data_without_readings_are_refused(finished):
    road = open_road(finished / "road")
    washout = road.file.promise.washout
    data = Dataset(silent(road.data.train[0], washout), test=silent(road.data.test[0], washout))
    with pytest.raises(DataError, match=r"readings of every output: record more, or name a plant"):
        recorded_errors(road.file, data, road.predictor, road.observer.initial_state)
