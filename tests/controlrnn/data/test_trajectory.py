"""Signals, trajectories, datasets and scalers."""

import dataclasses
import math

import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from controlrnn.data import Dataset, Scaler, Signal, Trajectory
from controlrnn.errors import DataError, FileFormatError, InfeasibleError, SettingError, ShapeError
from controlrnn.records import write_record


def record(T=10, nu=2, ny=1, dt=0.5, seed=0, **more):
    rng = np.random.default_rng(seed)
    return Trajectory(rng.normal(size=(T, nu)), rng.normal(size=(T, ny)), dt, **more)


def test_signal_limits():
    assert Signal("q", "m").label == "q [m]"
    assert Signal("q").label == "q"
    with pytest.raises(InfeasibleError, match="lower < upper"):
        Signal("q", lower=1.0, upper=1.0)
    with pytest.raises(SettingError, match="numbers"):
        Signal("q", lower=math.nan)


def test_trajectory_copies_and_protects_its_arrays():
    u, y = np.zeros((3, 1)), np.zeros((3, 2))
    one = Trajectory(u, y, 1.0, x=np.zeros((3, 4)))
    u[0] = 7
    assert one.u[0] == 0
    for array in (one.u, one.y, one.x):
        assert not array.flags.writeable
        assert array.dtype == np.float64
    with pytest.raises(dataclasses.FrozenInstanceError):
        one.dt = 2.0
    assert (len(one), one.nu, one.ny) == (3, 1, 2)
    assert [s.name for s in one.outputs] == ["y1", "y2"]
    np.testing.assert_array_equal(one.time, [0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"u": np.zeros(3)}, ShapeError),
        ({"u": np.zeros((4, 1))}, ShapeError),
        ({"u": np.zeros((1, 1)), "y": np.zeros((1, 1))}, DataError),
        ({"y": np.full((3, 1), np.nan)}, DataError),
        ({"dt": 0.0}, SettingError),
        ({"dt": None}, SettingError),
        ({"x": np.zeros((2, 1))}, ShapeError),
        ({"inputs": (Signal("a"), Signal("b"))}, ShapeError),
    ],
)
def test_bad_trajectories_are_refused(arguments, error):
    good = {"u": np.zeros((3, 1)), "y": np.zeros((3, 1)), "dt": 1.0}
    with pytest.raises(error):
        Trajectory(**(good | arguments))


def test_cutting():
    one = record(x=np.arange(10.0)[:, None], name="run")
    part = one[2:5]
    np.testing.assert_array_equal(part.u, one.u[2:5])
    np.testing.assert_array_equal(part.x[:, 0], [2, 3, 4])
    assert part.name == "run"
    for bad in (3, slice(0, 8, 2), slice(None, None, -1)):
        with pytest.raises(DataError, match="slice of step 1"):
            one[bad]
    with pytest.raises(DataError, match="at least 2"):
        one[3:4]


@settings(max_examples=20)
@given(
    u=hnp.arrays(np.float64, st.tuples(st.integers(2, 5), st.integers(1, 3)), elements=st.floats(-1e300, 1e300)),
    dt=st.floats(1e-9, 1e9),
    low=st.floats(max_value=0, allow_nan=False),
)
def test_saving_is_exact(tmp_path_factory, u, dt, low):
    path = tmp_path_factory.mktemp("t") / "t.npz"
    inputs = tuple(Signal(f"q{i}", "m", low, 1.0) for i in range(u.shape[1]))
    one = Trajectory(u, u[:, :1], dt, inputs=inputs, outputs=(Signal("h", upper=3.0),), name="tank ü")
    one.save(path)
    two = Trajectory.load(path)
    assert (two.inputs, two.outputs, two.dt, two.name, two.x) == (one.inputs, one.outputs, one.dt, one.name, None)
    assert two.u.tobytes() == one.u.tobytes()


def test_loading_another_kind_is_refused(tmp_path):
    write_record(tmp_path / "a.npz", "lure-system", 1, {}, {})
    with pytest.raises(FileFormatError, match="trajectory"):
        Trajectory.load(tmp_path / "a.npz")


def test_plot_has_a_labelled_panel_per_channel():
    figure = record(inputs=(Signal("a", "V"), Signal("b"))).plot()
    assert [axes.get_ylabel() for axes in figure.axes] == ["a [V]", "b", "y1"]


def test_dataset_refuses_what_does_not_belong_together():
    a, b = record(seed=1), record(seed=2)
    assert Dataset(a, [b]).validation == (b,)
    with pytest.raises(DataError, match="at least one training"):
        Dataset(())
    with pytest.raises(DataError, match="two parts"):
        Dataset((a,), (a,))
    with pytest.raises(ShapeError, match="nu, ny"):
        Dataset((a,), (record(nu=1),))
    with pytest.raises(DataError, match="dt"):
        Dataset((a,), (record(dt=0.6),))


def test_split_deals_whole_trajectories_once_and_by_seed():
    pool = [record(seed=i) for i in range(10)]
    one, same, other = (Dataset.split(pool, (5, 2, 2, 1), seed=s) for s in (3, 3, 4))
    assert [len(p) for p in (one.train, one.validation, one.test, one.calibration)] == [5, 2, 2, 1]
    assert {id(r) for r in one.all} == {id(r) for r in pool}
    assert one.all == same.all != other.all
    for bad in ((5, 2), (5, 2, 2, 1, 0), (11, -1)):
        with pytest.raises((DataError, SettingError)):
            Dataset.split(pool, bad, seed=0)


@settings(max_examples=50)
@given(
    samples=hnp.arrays(np.float64, (20, 2), elements=st.floats(-10, 10)),
    unit=st.sampled_from([1.0, 2.0**-60, 2.0**60]),
)
def test_scaler_standardises_in_any_unit(samples, unit):
    samples = unit * samples
    scaler = Scaler.fit([samples[:7], samples[7:]])
    scaled = scaler.apply(samples)
    for column, raw in zip(scaled.T, samples.T, strict=True):
        moves = raw.std() > 1e-9 * np.abs(raw).max()
        if moves:
            assert abs(column.mean()) < 1e-6
            assert abs(column.std() - 1) < 1e-6
    np.testing.assert_allclose(scaler.invert(scaled), samples, rtol=1e-9, atol=1e-9 * unit)


def test_constant_channel_keeps_scale_one():
    scaler = Scaler.fit([np.full((50, 1), 0.1)])
    assert scaler.scale[0] == 1.0
    with pytest.raises(SettingError, match="positive"):
        Scaler(np.zeros(1), np.zeros(1))
    with pytest.raises(ShapeError):
        Scaler(np.zeros(1), np.ones(2))
