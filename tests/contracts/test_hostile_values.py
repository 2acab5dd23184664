"""Values that once passed a check, or ended in an error of another library: refused with our errors, or right."""

import enum
import importlib
import pkgutil

import numpy as np
import pytest

import controlrnn
import mpc
import plants
from controlrnn.checks import Choice
from controlrnn.data import Signal, read_records
from controlrnn.errors import ControlRnnError, SettingError, StorageError
from controlrnn.identification import Decaying, SimulationError
from controlrnn.models import LSTM, LTI, Elman
from controlrnn.records.writing import exists
from mpc.quadratic import QuadraticProgram

LONG = 5000 * "x"


@pytest.mark.parametrize("package", [controlrnn, mpc, plants], ids=lambda p: p.__name__)
def test_every_setting_with_named_values_lists_them_when_it_is_given_another(package):
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
        if module.name.startswith("controlrnn.command"):  # the command line's parser refuses in its own words
            continue
        for name, kind in vars(importlib.import_module(module.name)).items():
            if isinstance(kind, type) and issubclass(kind, enum.StrEnum) and kind not in (Choice, enum.StrEnum):
                assert issubclass(kind, Choice), (module.name, name)


@pytest.mark.parametrize("value", [None, 1.0, np.zeros(3), np.zeros((0, 2)), "*/", {}, True])
def test_an_unknown_engine_is_refused(value):
    with pytest.raises(SettingError, match="loop_engine must be one of 'python', 'compiled'"):
        mpc.LoopEngine(value)


def test_a_path_that_cannot_be_is_said(tmp_path):
    for call in (exists, lambda path: read_records(path, inputs=["u"], outputs=["y"], dt=1.0)):
        with pytest.raises(StorageError, match="cannot read"):
            call(tmp_path / LONG)
    assert exists(tmp_path)
    assert not exists(tmp_path / "none")


@pytest.mark.parametrize("term", [np.nan, Signal("u"), "error", None])
def test_a_loss_that_fades_is_made_of_a_loss(term):
    with pytest.raises(SettingError, match="term must be a loss"):
        Decaying(term, 10)
    assert Decaying(SimulationError(5), 10).washout == 5


def test_systems_that_still_learn_are_not_stored():
    for model in (Elman(nu=1, ny=1, nx=2), LSTM(nu=1, ny=1, nx=2)):
        with pytest.raises(SettingError, match=r"call model.freeze\(\) first"):
            model.system().record()
        with pytest.raises(SettingError, match=r"call model.freeze\(\) first"):
            _ = model.system().digest
        assert len(model.freeze().digest) == 64


def test_a_start_beyond_float64_is_refused():
    for A in (np.full((2, 2), 1.7e308), np.diag([1.7e308, 1e-300]), np.array([[0.5, 1.7e308], [1.7e308, 0.5]])):
        with pytest.raises(SettingError, match=r"A must have entries up to 1e\+50, got 1.7e\+308"):
            LTI(nu=1, ny=1, nx=2).start_linear(A, np.ones((2, 1)), np.ones((1, 2)))


def test_radii_beyond_float64_are_refused():
    flat = mpc.StateError(1.0, np.diag([1.0, 5e-324]))
    with pytest.raises(SettingError, match="beyond float64"):
        _ = flat.euclidean
    assert mpc.StateError(1.0, np.diag([1.0, 1e-200])).euclidean == pytest.approx(1e100, rel=1e-6)


@pytest.mark.parametrize("price", [np.inf, np.nan, 0.0, -1.0])
def test_a_price_on_violations_is_a_positive_number(price):
    predictor = mpc.Predictor(
        Elman(nu=1, ny=1, nx=2, seed=0).freeze(), (Signal("u", "", -1, 1),), (Signal("y", "", -1, 1),)
    )
    one = np.ones(1)
    weights = dict.fromkeys(("output_weight", "terminal_weight", "input_move_weight", "move_limit"), one)
    settings = {"predictor": predictor, "horizon": 3, "output_scale": one, "soft": True} | weights
    assert mpc.OptimalControlProblem(penalty=one, **settings).horizon == 3
    with pytest.raises(ControlRnnError, match="penalty"):
        mpc.OptimalControlProblem(penalty=price * one, **settings)


@pytest.mark.parametrize("scale", [1e-25, 1e-35, 1e-60, 5e-324, 0.0])
def test_programs_in_other_units_are_solved_alike_or_left_unsolved(scale):
    """Solved as they are, those whose limits the solver cannot tell apart made it write beyond its memory."""
    rng = np.random.default_rng(0)
    H, g, C = np.diag([1.0, 3.0]), np.array([-2.0, -6.0]), rng.standard_normal((10, 2))
    lower, upper = np.full(12, -0.5), np.full(12, 0.5)
    program = QuadraticProgram(2, np.full(10, 10.0))
    known = program.solve(H, g, C, lower, upper)
    assert known is not None
    for cost in (1e-10, scale):  # the unit of the cost says nothing about where it is least
        found = program.solve(cost * H, cost * g, C, lower, upper)
        if not cost:
            assert found is None  # no cost at all
        else:
            np.testing.assert_allclose(found.z, known.z, atol=1e-9)
    with np.errstate(divide="ignore", over="ignore"):
        assert program.solve(H, g, C / max(scale, 1e-200), lower, upper) is None
