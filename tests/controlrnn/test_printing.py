"""What results print: short, whatever they hold, and exact where they are short."""

import ast
from dataclasses import dataclass

import numpy as np
import pytest

from controlrnn.data import Dataset, Trajectory
from controlrnn.identification import L2, Settings, SimulationError, identify
from controlrnn.models import GRU, ContractingR2DN
from controlrnn.printing import LINES, brief
from controlrnn.typed import typed
from experiments.bench_files.every_record import samples


@dataclass(frozen=True)
@typed()
class Point:
    """A short one."""

    x: int
    name: str
    values: tuple[float, ...] = ()


@dataclass(frozen=True, eq=False)
@typed(infinite=("array",))
class Long:
    """One with an array."""

    array: np.ndarray
    text: str


def test_short_ones_print_as_dataclasses_do():
    assert repr(Point(1, "a", (0.5,))) == "Point(x=1, name='a', values=(0.5,))"
    loss = SimulationError(20) + 1e-3 * L2()
    assert "washout=20" in repr(loss)
    assert "0.001" in repr(loss)
    assert ast.literal_eval(repr(Settings(steps=7)).partition("steps=")[2].partition(",")[0]) == 7


def test_long_arrays_print_shape_and_range():
    text = repr(Long(np.array([[1.0, np.nan], [3.0, -2.0]] * 50), "t" * 500))
    assert "shape (100, 2), -2 to 3, 50 not finite" in text
    assert max(map(len, text.splitlines())) <= 125
    assert "array([1., 2.])" in repr(Long(np.array([1.0, 2.0]), ""))


def test_every_result_prints_on_one_screen(tmp_path):
    for name, sample in samples(0).items():
        path = tmp_path / "one.npz"
        path.write_bytes(sample.content)
        result = sample.load(path)
        lines = repr(result).splitlines()
        assert len(lines) <= LINES, name
        assert max(map(len, lines)) <= 130, name
        assert "object at 0x" not in repr(result), name


@pytest.mark.parametrize("model", [ContractingR2DN(nu=2, ny=1, nx=2, nv=2, layers=(4,)), GRU(nu=2, ny=1, nx=2)])
def test_a_fit_prints_what_it_is_and_how_good(model):
    rng = np.random.default_rng(0)
    records = [Trajectory(rng.normal(size=(80, 2)), rng.normal(size=(80, 1)), 0.5) for _ in range(2)]
    fit = identify(model, Dataset((records[0],), (records[1],)), steps=2, validate_every=2)
    text = str(fit)
    assert len(text.splitlines()) <= LINES
    inside = "2 units" if isinstance(model, GRU) else f"{model.system().nv} neurons"
    for word in (type(model).__name__, "2 states", inside, "finished", "validation", "RMSE", "fit %", "20 samples"):
        assert word in text
    assert str(fit.system).count("\n") < LINES
    assert brief(fit).count("\n") < LINES
