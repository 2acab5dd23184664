"""Files, time stamps and grids: what was written is read, and sample times are the ones that were meant."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlrnn.data import Reading, Signal, Trajectory, read_records
from controlrnn.data.reading.numbers import suspects
from controlrnn.data.reading.resampling import resampled
from controlrnn.data.sampling import all_same_dt, same_dt, sample_time
from controlrnn.errors import DataError, SettingError

MEANT = [0.1, 0.05, 0.3, 1 / 3, 1 / 60, 2.0**-13, 1e-6, 4.0, 60.0, 1 / 610.35, 86400.0, 0.0125]


@given(st.sampled_from(MEANT), st.integers(20, 400), st.floats(0, 1e5), st.integers(0, 2**31), st.floats(0, 0.1))
def test_sample_time_is_the_number_that_was_meant(dt, n, start, seed, jitter):
    rng = np.random.default_rng(seed)
    steps = np.cumsum(rng.choice([1, 1, 1, 1, 2, 7], n)).astype(float)
    t = start * dt + dt * steps
    found = sample_time(t, steps, 4 * np.spacing(t[-1]))
    assert same_dt(found, dt)
    late = t + jitter * dt * rng.uniform(-1, 1, n)
    assert sample_time(late, steps, 0.0) == pytest.approx(dt, rel=jitter + 1e-12)


def test_sample_times_are_equal_up_to_rounding_and_no_further():
    t = 0.1 * np.arange(2000)
    assert all_same_dt(t[1:] - t[:-1])
    assert not same_dt(0.1, 0.10001)
    assert all_same_dt([])


@given(st.integers(2, 10), st.floats(0.02, 0.39), st.floats(0, 6))
def test_resampling_keeps_what_is_slow_and_stops_what_would_be_mirrored(factor, slow, phase):
    """Frequencies in cycles per new sample: below 0.4 they pass, from 0.6 on nothing of them is left."""
    n = np.arange(60 * factor)
    fast = np.clip(0.6 + 2 * slow, 0.6, factor / 2)
    for frequency, passes in ((slow * 0.75, True), (fast, False)):
        y = np.sin(2 * np.pi * frequency * n / factor + phase)[:, None]
        u, found = resampled(n * 1.0, n[:, None] * 1.0, y, float(factor), 1.0, 0)
        known = ~np.isnan(found[:, 0])
        wanted = y[::factor] if passes else 0 * y[::factor]
        assert known.sum() >= len(found) - 17
        np.testing.assert_allclose(found[known], wanted[known], atol=0.02)
        np.testing.assert_array_equal(u[:, 0], n[::factor])


def test_nothing_is_made_up_in_gaps():
    t = np.r_[np.arange(50.0), np.arange(80.0, 130.0)]
    y, u = np.sin(0.1 * t)[:, None], t[:, None]
    held, found = resampled(t, u, y, 1.0, 1.0, 0)
    assert np.isnan(found[50:80]).all()
    assert np.isnan(held[51:80]).all()
    np.testing.assert_allclose(found[:50], y[:50])


def test_placeholders_are_told_from_readings():
    assert suspects(np.array([1.0, 2.0, -9999.0])) == (-9999.0,)
    assert suspects(np.array([9990.0, 9999.0, 9985.0])) == ()
    assert suspects(np.array([-9999.0, -9999.0])) == ()
    assert suspects(np.linspace(-2e4, 2e4, 9999)) == ()
    assert suspects(np.r_[np.zeros(5), 1e30]) == (1e30,)


def test_signals_keep_their_limits_and_take_the_unit_of_the_file(tmp_path):
    (tmp_path / "log.csv").write_text("pump [V],level [m]\n" + "1,2\n3,4\n" * 5)
    pump = Signal("pump", lower=0.0, upper=10.0)
    (record,) = read_records(tmp_path / "log.csv", inputs=[pump], outputs=["level [m]"], dt=2)
    assert record.inputs == (Signal("pump", "V", 0.0, 10.0),)
    assert record.name == "log.csv"
    (record,) = read_records(tmp_path / "log.csv", inputs=[], outputs=["level", "pump"], dt=2, name="lab")
    assert (record.nu, record.ny, record.name) == (0, 2, "lab")


def test_records_with_missing_samples_are_saved(tmp_path):
    y = np.arange(20.0)[:, None]
    y[3] = np.nan
    record = Trajectory(np.zeros((20, 1)), y, 1.0)[1:]
    record.save(tmp_path / "r.npz")
    again = Trajectory.load(tmp_path / "r.npz")
    np.testing.assert_array_equal(again.y, record.y)
    assert again.part_of == record.part_of != ""
    assert not again.is_complete
    assert np.flatnonzero(again.missing).tolist() == [2]


def test_pieces_name_the_record_that_they_are_of():
    rng = np.random.default_rng(0)
    record = Trajectory(rng.normal(size=(30, 1)), rng.normal(size=(30, 1)), 1.0)
    assert record.part_of == record[:].part_of == ""
    assert record[:10].part_of == record[10:][5:].part_of != ""
    with pytest.raises(DataError, match="number in every channel"):
        Trajectory(np.zeros((9, 1)), np.full((9, 1), np.nan), 1.0)


@pytest.mark.parametrize(("module", "name"), [("h5py", "log.h5"), ("pyarrow", "log.parquet")])
def test_a_missing_package_is_named_with_its_extra(module, name, tmp_path, monkeypatch):
    (tmp_path / name).write_bytes(b"PAR1" + b"\0" * 99 if module == "pyarrow" else b"\x89HDF\r\n\x1a\n" + b"\0" * 99)
    for loaded in [m for m in sys.modules if m.split(".")[0] == module]:
        monkeypatch.setitem(sys.modules, loaded, None)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SettingError, match=r"controlrnn\[data\]"):
        read_records(tmp_path / name, inputs=["u"], outputs=["y"], dt=1.0)


def test_reading_text_needs_numpy_alone(tmp_path):
    (tmp_path / "log.csv").write_text(
        "t;u;y\n" + "".join(f"{0.1 * i:.1f};1,5;{i}\n".replace(".", ",") for i in range(9))
    )
    code = (
        "import sys; from controlrnn.data import read_records; "
        f"r, = read_records({str(tmp_path / 'log.csv')!r}, inputs=['u'], outputs=['y'], time='t'); "
        "print(r.dt, *sorted({'pandas', 'scipy', 'pyarrow', 'h5py', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["0.1"]


def test_options_without_a_meaning_are_refused():
    for bad in ({"separator": ";;"}, {"decimal": "x"}, {"decimal": ",", "separator": ","}, {"time_unit": "years"}):
        with pytest.raises(SettingError):
            Reading(**bad)
    with pytest.raises(SettingError, match="time zone"):
        Trajectory.from_frame(_dates(), inputs=["u"], outputs=["y"], time="t", reading=Reading(zone="Mars/Olympus"))


def _dates():
    pd = pytest.importorskip("pandas")
    return pd.DataFrame(
        {"t": pd.date_range("2024-01-01", periods=9, freq="s"), "u": np.arange(9.0), "y": np.arange(9.0)}
    )
