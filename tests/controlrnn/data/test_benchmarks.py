import os
from pathlib import Path

import numpy as np
import pytest

from controlrnn.data import Dataset, benchmarks
from controlrnn.errors import FileFormatError, MissingDataError, SettingError

measured = pytest.mark.skipif(
    "CONTROLRNN_DATA" not in os.environ, reason="measured data are not shipped: set CONTROLRNN_DATA to their folder"
)


@measured
@pytest.mark.parametrize(
    ("name", "train", "validation", "test", "dt", "ny"),
    [
        ("cascaded_tanks", [700], [324], [1024], 4.0, 1),
        ("silverbox", [54218], [10844], [21688, 40475, 32000], 2**14 / 1e7, 1),
        ("wiener_hammerstein", [80000], [20000], [78800], 1 / 51200, 1),
        ("f16", [65536, 65536], [8192, 8192], [73728], 1 / 400, 3),
        ("f16_two_inputs", [65536, 65536], [8192, 8192], [73728], 1 / 400, 3),
    ],
)
def test_official_splits(name, train, validation, test, dt, ny):
    data = benchmarks.load(name)
    assert isinstance(data, Dataset)
    lengths = [[len(r) for r in part] for part in (data.train, data.validation, data.test)]
    assert lengths == [train, validation, test]
    assert data.dt == dt
    assert data.ny == ny


@measured
def test_cascaded_tanks_have_the_published_spread_and_saturation():
    data = benchmarks.load("cascaded_tanks")
    assert data.test[0].y.std() == pytest.approx(2.099, abs=1e-3)
    assert data.test[0].y.max() == pytest.approx(10.0, abs=0.01)
    assert data.test[0].outputs[0].unit == "V"


@measured
def test_the_voltage_of_the_f16_is_its_second_input():
    """It drives the shaker that makes the force: both have the multisine's lines, and the level is in proportion."""
    one, two = benchmarks.load("f16"), benchmarks.load("f16_two_inputs")
    assert (one.nu, two.nu) == (1, 2)
    assert [s.unit for s in two.train[0].inputs] == ["N", "V"]
    for a, b in zip((*one.train, *one.test), (*two.train, *two.test), strict=True):
        np.testing.assert_array_equal(a.u, b.u[:, :1])
        np.testing.assert_array_equal(a.y, b.y)
    low, high = (r.u[:, 1].std() for r in two.train)
    assert high / low == pytest.approx(2.0, rel=0.01)


@measured
def test_mnist_has_the_usual_constants():
    images = benchmarks.load("mnist")
    assert images.train.shape == (60000, 28, 28)
    assert images.test.shape == (10000, 28, 28)
    assert images.train.mean() / 255 == pytest.approx(0.1307, abs=1e-4)
    assert np.bincount(images.train_labels)[:3].tolist() == [5923, 6742, 5958]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(
        SettingError, match="one of cascaded_tanks, silverbox, wiener_hammerstein, f16, f16_two_inputs, mnist"
    ):
        benchmarks.load("tanks")


@pytest.mark.parametrize("name", list(benchmarks.BENCHMARKS))
def test_a_missing_file_says_what_to_put_where(name, tmp_path):
    with pytest.raises(MissingDataError) as caught:
        benchmarks.load(name, tmp_path)
    benchmark = benchmarks.BENCHMARKS[name]
    for file, sha in benchmark.files.items():
        assert str(tmp_path / benchmark.folder / file) in str(caught.value)
        assert sha in str(caught.value)
    assert benchmark.source in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["cascaded_tanks", "mnist"])
def test_a_wrong_file_is_refused(name, tmp_path):
    benchmark = benchmarks.BENCHMARKS[name]
    (tmp_path / benchmark.folder).mkdir()
    for file in benchmark.files:
        (tmp_path / benchmark.folder / file).write_bytes(b"not the data")
    with pytest.raises(FileFormatError, match="fetch it again"):
        benchmarks.load(name, tmp_path)


def test_where_data_are_looked_for(monkeypatch):
    monkeypatch.setenv("CONTROLRNN_DATA", "/somewhere")
    assert benchmarks.data_root("/else") == Path("/else")
    assert benchmarks.data_root() == Path("/somewhere")
    monkeypatch.delenv("CONTROLRNN_DATA")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    assert benchmarks.data_root() == Path("/cache/controlrnn")
