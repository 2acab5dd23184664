"""Tables and labelled arrays hold what the results hold, by name."""

import sys

import numpy as np
import pytest

from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.errors import SettingError
from controlrnn.exchange import to_frame, to_xarray
from tests.road_case import HORIZON, road

xarray = pytest.importorskip("xarray", reason="the extra frames is not installed")


def record(seed=0, **change):
    rng = np.random.default_rng(seed)
    given = {
        "u": rng.normal(size=(30, 2)), "y": rng.normal(size=(30, 1)), "dt": 0.5, "name": "first",
        "inputs": (Signal("pump", "V"), Signal("valve")), "outputs": (Signal("level", "m"),),
    }  # fmt: skip
    return Trajectory(**(given | change))


def test_a_record_becomes_a_table_and_comes_back():
    one = record()
    table = to_frame(one)
    assert list(table.columns) == ["pump [V]", "valve", "level [m]"]
    np.testing.assert_array_equal(table.index, one.time)
    assert table.index.name == "time"
    back = Trajectory.from_frame(table, inputs=["pump", "valve"], outputs=["level"], time="time", name="first")
    np.testing.assert_array_equal(back.u, one.u)
    np.testing.assert_array_equal(back.y, one.y)
    assert (back.dt, back.inputs, back.outputs) == (one.dt, one.inputs, one.outputs)


def test_channels_of_one_name_and_missing_samples_and_states_stay():
    y = np.full((30, 1), 2.0)
    y[3] = np.nan
    one = record(inputs=(Signal("a"), Signal("a")), outputs=(Signal("a"),), y=y, x=np.arange(30.0)[:, None])
    table = to_frame(one)
    assert list(table.columns) == ["a", "a (2)", "a (3)", "x1"]
    assert table["a (3)"].isna().sum() == 1
    assert table["x1"].iloc[-1] == 29


def test_a_data_set_is_indexed_by_part_record_and_time():
    data = Dataset((record(), record(1)), (), (record(2),))
    table = to_frame(data)
    assert table.index.names == ["part", "record", "time"]
    np.testing.assert_array_equal(table.loc["train", 1]["pump [V]"], data.train[1].u[:, 0])
    tree = to_xarray(data)
    np.testing.assert_array_equal(tree["/test/0"]["y"].sel(ny="level [m]"), data.test[0].y[:, 0])


def test_arrays_have_channels_and_time_as_coordinates():
    arrays = to_xarray(record())
    assert arrays["u"].dims == ("T", "nu")
    assert list(arrays["nu"].values) == ["pump [V]", "valve"]
    np.testing.assert_array_equal(arrays["T"], np.arange(30) * 0.5)
    assert arrays.attrs["dt"] == 0.5


def test_loops_hold_outputs_inputs_and_what_happened():
    r = road()
    loop = r.loops["nominal"]
    table = to_frame(loop)
    np.testing.assert_array_equal(table["level 1 [cm]"], loop.y[:-1, 0])
    np.testing.assert_array_equal(table["set point of level 1 [cm]"], loop.reference[:-1, 0])
    np.testing.assert_array_equal(table["pump 1 [L/min]"], loop.u[:, 0])
    np.testing.assert_array_equal(table["violation"], loop.excess[:-1].max(axis=1))
    assert set(table["status"]) == {"solved"}
    assert (table["violation"] > 0).any()
    arrays = to_xarray(loop)
    assert arrays["errors"].dims == ("K", "N + 1", "ny")
    np.testing.assert_array_equal(arrays["y"].isel(ny=0), loop.y[:, 0])
    np.testing.assert_array_equal(arrays["K + 1"], np.arange(loop.steps + 1) * loop.dt)
    many = r.loops["tightened"]
    np.testing.assert_array_equal(to_frame(many).loc[2]["level 1 [cm]"], many.results[2].y[:-1, 0])
    np.testing.assert_array_equal(to_xarray(many)["/results/1"]["u"], many.results[1].u)


def test_fits_bounds_and_certificates_have_tables_too():
    r = road()
    models = to_frame(r.fit)
    assert models.loc[r.fit.chosen, "chosen"]
    assert models.loc["arx", "test rmse 1"] == r.fit.entry("arx").test.rmse[0]
    assert to_xarray(r.fit)["/entries/0/system"]["A"].shape == r.fit.entries[0].system.A.shape
    parts = to_frame(r.tightening)
    np.testing.assert_array_equal(parts["model_error 1"], r.tightening.model_error[:, 0])
    assert len(parts) == HORIZON + 1
    np.testing.assert_array_equal(to_frame(r.predictions)["bounds 1"], r.predictions.bounds[:, 0])
    np.testing.assert_array_equal(to_xarray(r.predictions)["bounds"], r.predictions.bounds)
    assert to_xarray(r.fit.system)["A"].dims == ("nx", "nx'")


def test_the_history_of_a_training_is_indexed_by_step():
    from types import MappingProxyType, SimpleNamespace

    history = {"step": np.array([0, 5]), "loss": np.array([np.nan, 1.0]), "validation": np.array([3.0, 2.0])}
    fit = SimpleNamespace(history=MappingProxyType(history), settings=None, status="finished")
    assert to_frame(fit)["validation"].to_dict() == {0: 3.0, 5: 2.0}
    assert float(to_xarray(fit)["validation"].sel(step=5)) == 2.0


@pytest.mark.parametrize("wrong", [3, "text", None, np.zeros(3), object(), Trajectory])
def test_what_is_no_result_is_refused(wrong):
    for function in (to_frame, to_xarray):
        with pytest.raises(SettingError, match="can be saved"):
            function(wrong)


def test_what_is_missing_is_said(monkeypatch):
    for name, function in (("pandas", to_frame), ("xarray", to_xarray)):
        monkeypatch.setitem(sys.modules, name, None)
        with pytest.raises(SettingError, match=r"controlrnn\[frames\]"):
            function(record())
