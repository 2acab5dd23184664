import dataclasses
import logging
from dataclasses import replace

import numpy as np
import pytest
import torch

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import DataError, FileFormatError, SettingError, ShapeError, TrainingError
from controlrnn.identification import (
    FitResult,
    FitStatus,
    Options,
    Settings,
    SimulationError,
    Start,
    Term,
    TqdmProgress,
    identify,
    identify_subspace,
    score,
)
from controlrnn.identification.training import checkpoint
from controlrnn.models import LTI, ContractingR2DN, Elman

QUICK = {"steps": 60, "validate_every": 15, "window": 40, "batch_size": 4, "learning_rate": 5e-3, "seed": 3}
LOSS = SimulationError(washout=10)


def record(T, seed):
    """A Hammerstein system with offsets: y = 5 + 3 G(z) tanh(u)."""
    rng = np.random.default_rng(seed)
    u, y, x = rng.normal(size=(T, 1)) + 1, np.zeros((T, 1)), np.zeros(2)
    for t in range(T):
        y[t] = 5 + 3 * x[1]
        x = np.array([0.8 * x[0] + 0.4 * np.tanh(u[t, 0]), 0.7 * x[1] + 0.3 * x[0]])
    return Trajectory(u, y, 0.5, name=f"record {seed}")


@pytest.fixture(scope="module")
def dataset():
    return Dataset((record(150, 0), record(90, 1)), (record(100, 2),), (record(120, 4),))


def r2dn(**options):
    return ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(4,), **options)


class InterruptAt:
    def __init__(self, step):
        self.step, self.ended = step, None

    def on_step(self, progress):
        if progress.step == self.step:
            raise KeyboardInterrupt

    def on_end(self, status):
        self.ended = status


def same(a, b):
    assert a.system.digest == b.system.digest
    for name in a.history:
        np.testing.assert_array_equal(a.history[name], b.history[name])


def test_training_beats_its_linear_start_on_a_nonlinear_system(dataset):
    linear = identify(LTI(nu=1, ny=1, nx=2), dataset, loss=LOSS, **QUICK)
    result = identify(r2dn(), dataset, loss=LOSS, **QUICK | {"steps": 400, "validate_every": 50, "learning_rate": 2e-2})
    assert linear.scores["test"].fit_percent[0] > 30
    assert result.scores["test"].rmse[0] < 0.7 * linear.scores["test"].rmse[0]
    assert result.status is FitStatus.FINISHED
    assert result.history["step"].tolist() == list(range(0, 401, 50))
    # What is returned is the best of the history, and it is the deployed system that was judged.
    measured, scale = dataset.validation[0].y, result.model.output_scaler.scale
    error = (result.simulate(dataset.validation[0]) - measured)[10:] / scale
    np.testing.assert_allclose(np.sqrt(np.mean(error**2)), result.best_validation, rtol=1e-12)


def test_the_linear_start_reproduces_the_subspace_model_and_the_input_model_is_untouched(dataset):
    model = r2dn()
    before = {n: p.clone() for n, p in model.state_dict().items()}
    result = identify(model, dataset, loss=LOSS, **QUICK | {"start": Start.LINEAR})
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())
    assert model.dt == 1.0
    as_is = identify(model, dataset, loss=LOSS, **QUICK | {"start": "as_is"})
    linear = identify_subspace(dataset.train, 2, strictly_proper=True, max_radius=0.995)
    records, scale = dataset.validation, result.model.output_scaler.scale
    start = np.sqrt(np.mean((score(linear.system, records, skip=10).rmse / scale) ** 2))
    np.testing.assert_allclose(result.history["validation"][0], start, rtol=1e-3)  # parameters are float32
    assert as_is.history["validation"][0] > 1.2 * start
    longer = identify(model, dataset, loss=LOSS, **QUICK | {"start": "linear", "start_horizon": 25})
    linear = identify_subspace(dataset.train, 2, horizon=25, strictly_proper=True, max_radius=0.995)
    start = np.sqrt(np.mean((score(linear.system, records, skip=10).rmse / scale) ** 2))
    np.testing.assert_allclose(longer.history["validation"][0], start, rtol=1e-3)


def test_same_seed_same_bits_whatever_the_global_generator_does(dataset):
    torch.manual_seed(1)
    first = identify(Elman(nu=1, ny=1, nx=3), dataset, loss=LOSS, **QUICK)
    torch.manual_seed(2)
    same(first, identify(Elman(nu=1, ny=1, nx=3), dataset, loss=LOSS, **QUICK))
    other = identify(Elman(nu=1, ny=1, nx=3), dataset, loss=LOSS, **QUICK | {"seed": 4})
    assert other.system.digest != first.system.digest


@pytest.mark.parametrize("stop", [15, 37])
@pytest.mark.parametrize("initial_state", ["zero", "estimated"])
def test_an_interrupted_run_goes_on_to_the_same_bits(dataset, tmp_path, stop, initial_state):
    options = QUICK | {"initial_state": initial_state}
    whole = identify(r2dn(), dataset, loss=LOSS, **options)
    path, interrupt = tmp_path / "run.npz", InterruptAt(stop)
    part = identify(r2dn(), dataset, loss=LOSS, checkpoint=path, callbacks=[interrupt], **options)
    assert part.status is interrupt.ended is FitStatus.INTERRUPTED
    resumed = identify(r2dn(), dataset, loss=LOSS, checkpoint=path, **options)
    same(whole, resumed)
    again = identify(r2dn(), dataset, loss=LOSS, checkpoint=path, callbacks=[InterruptAt(1)], **options)
    assert again.status is FitStatus.FINISHED  # nothing left to do, so no step is taken
    same(whole, again)


def test_a_checkpoint_of_another_run_or_processor_is_refused(dataset, tmp_path, monkeypatch):
    path, whole = tmp_path / "run.npz", identify(r2dn(), dataset, loss=LOSS, **QUICK)
    identify(r2dn(), dataset, loss=LOSS, checkpoint=path, callbacks=[InterruptAt(20)], **QUICK)
    with pytest.raises(TrainingError, match="different settings"):
        identify(r2dn(), dataset, loss=LOSS, checkpoint=path, **QUICK | {"learning_rate": 1e-2})
    with pytest.raises(TrainingError, match="different model"):
        identify(r2dn(seed=1), dataset, loss=LOSS, checkpoint=path, **QUICK)
    here = checkpoint.arithmetic()
    with monkeypatch.context() as there:
        there.setattr(checkpoint, "arithmetic", lambda: here | {"processor": "Cray-1", "bits": "others"})
        with pytest.raises(TrainingError, match=r"another processor.*made on .*this is Cray-1"):
            identify(r2dn(), dataset, loss=LOSS, checkpoint=path, **QUICK)
        there.setattr(checkpoint, "arithmetic", lambda: here | {"processor": "a twin that computes the same"})
        same(whole, identify(r2dn(), dataset, loss=LOSS, checkpoint=path, **QUICK))
    assert dict(whole.arithmetic) == here
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(FileFormatError, match="damaged"):
        identify(r2dn(), dataset, loss=LOSS, checkpoint=path, **QUICK)


class Poison(Term):
    """A loss that turns NaN on some steps."""

    washout = 0

    def __init__(self, steps):
        self.steps = steps

    def __call__(self, system, batch, simulation):  # noqa: ARG002
        value = (simulation.y - batch.y).square().mean()
        return value * float("nan") if batch.step in self.steps else value

    def __repr__(self):
        return f"Poison({self.steps})"


def test_a_nan_step_is_taken_back_and_halves_the_learning_rate(dataset):
    result = identify(Elman(nu=1, ny=1, nx=3), dataset, loss=Poison({20, 40}), **QUICK | {"schedule": "constant"})
    assert result.status is FitStatus.FINISHED
    np.testing.assert_allclose(result.history["learning_rate"], 5e-3 * np.array([1, 1, 0.5, 0.25, 0.25]))
    assert np.isfinite(result.history["validation"]).all()


def test_training_that_keeps_diverging_gives_up_with_the_best_model(dataset):
    result = identify(Elman(nu=1, ny=1, nx=3), dataset, loss=Poison(set(range(31, 60))), **QUICK)
    assert result.status is FitStatus.DIVERGED
    clean = identify(Elman(nu=1, ny=1, nx=3), dataset, loss=Poison(set()), **QUICK)
    assert result.best_validation == clean.history["validation"][:3].min()


def test_a_loss_that_is_nan_from_the_start_is_an_error(dataset):
    with pytest.raises(TrainingError, match="first step"):
        identify(Elman(nu=1, ny=1, nx=3), dataset, loss=Poison({0}), **QUICK)


def test_early_stop_returns_the_best(dataset):
    result = identify(
        Elman(nu=1, ny=1, nx=3), dataset, loss=LOSS, **QUICK | {"learning_rate": 30.0, "clip": 1e3, "patience": 2}
    )
    assert result.status is FitStatus.STOPPED_EARLY
    best = int(np.argmin(result.history["validation"]))
    assert len(result.history["step"]) == best + 3


def test_windows_carried_along_the_record_need_no_washout():
    """A pure integrator never forgets its start, so zero initial states must fail where estimated ones succeed."""
    rng = np.random.default_rng(0)

    def drift(T):
        u = rng.normal(size=(T, 1))
        return Trajectory(u, 10 + np.concatenate([[0.0], np.cumsum(0.1 * u[:-1, 0])])[:, None], 1.0)

    data = Dataset((drift(300),), (drift(200),))
    options = QUICK | {"steps": 30, "start": "linear", "skip": 5}
    model = LTI(nu=1, ny=1, nx=1)
    carried = identify(model, data, loss=SimulationError(), initial_state="estimated", **options)
    from_zero = identify(model, data, loss=SimulationError(), initial_state="zero", **options)
    assert carried.best_validation < 0.5 * from_zero.best_validation


def test_float64_and_terms_that_add_up(dataset):
    loss = 0.5 * SimulationError(washout=10) + SimulationError(washout=10) * 0.5
    options = QUICK | {"precision": "float64"}
    a, b = (identify(Elman(nu=1, ny=1, nx=3), dataset, loss=x, **options) for x in (loss, LOSS))
    assert next(a.model.parameters()).dtype == torch.float64
    np.testing.assert_allclose(a.history["validation"], b.history["validation"], rtol=1e-9)


def test_a_result_survives_its_file(dataset, tmp_path):
    result = identify(r2dn(), dataset, loss=LOSS, **QUICK)
    result.save(tmp_path / "fit.npz")
    whole = dict(result.history)
    for history in ({}, {n: v for n, v in whole.items() if n != "step"}, whole | {"step": whole["step"][:-1]},
                    whole | {"extra": whole["step"]}):  # fmt: skip
        with pytest.raises(SettingError, match="history must have arrays"):
            replace(result, history=history)
    loaded = FitResult.load(tmp_path / "fit.npz", r2dn(seed=9))
    same(result, loaded)
    assert loaded.settings == result.settings
    assert loaded.model.freeze().digest == result.system.digest  # the units came along
    for part, scores in result.scores.items():
        np.testing.assert_array_equal(loaded.scores[part].rmse, scores.rmse)
    assert all(torch.equal(p, loaded.model.state_dict()[n]) for n, p in result.model.state_dict().items())
    with pytest.raises(FileFormatError, match="another model"):
        FitResult.load(tmp_path / "fit.npz", Elman(nu=1, ny=1, nx=3))
    assert len(loaded.plot(dataset.test[0]).axes) == 2


def test_bad_input_is_refused_before_any_work(dataset):
    model = Elman(nu=1, ny=1, nx=3)
    with pytest.raises(DataError, match=r"1 \('record 1', 90 samples\)"):
        identify(model, dataset, loss=LOSS, window=120)
    with pytest.raises(DataError, match="test record 0"):
        identify(model, Dataset(dataset.train, dataset.validation, (record(60, 7),)), loss=LOSS, skip=80)
    with pytest.raises(SettingError, match="washout must be shorter"):
        identify(model, dataset, loss=SimulationError(washout=40), window=40)
    with pytest.raises(ShapeError, match="same channels"):
        identify(Elman(nu=2, ny=1, nx=3), dataset)
    with pytest.raises(SettingError, match=r"unknown option\(s\) epochs: identify takes steps, "):
        identify(model, dataset, epochs=3)
    with pytest.raises(SettingError, match=r"must have parameters to train.*requires_grad_"):
        identify(Elman(nu=1, ny=1, nx=3).requires_grad_(False), dataset)
    with pytest.raises(SettingError, match="cannot start at a linear"):
        identify(model, dataset, start="linear")
    with pytest.raises(SettingError, match="initial_state='estimated' needs"):
        identify(model, dataset, initial_state="estimated", skip=2)
    for wrong in ({"steps": 0}, {"learning_rate": -1.0}, {"schedule": "linear"}, {"precision": "float16"}):
        with pytest.raises(SettingError):
            Settings(**wrong)


@pytest.mark.parametrize("refine", ["none", "lbfgs", "levenberg_marquardt"])
def test_parameters_that_ask_for_no_gradient_stay(dataset, refine):
    model = Elman(nu=1, ny=1, nx=3)
    model.W.requires_grad_(False)
    fit = identify(model, dataset, loss=LOSS, window=60, steps=10, refine=refine, refine_steps=3, start="as_is")
    changed = {n for n, p in fit.model.named_parameters() if not torch.equal(p, model.state_dict()[n])}
    assert changed == {"U", "b", "C", "d"}


def test_the_typed_keywords_are_the_settings():
    assert set(Options.__annotations__) == {f.name for f in dataclasses.fields(Settings)}
    for name, annotation in Options.__annotations__.items():
        own = str(Settings.__annotations__[name])
        assert annotation.__forward_arg__ in (own, f"{own} | str")


def test_every_validation_is_logged(caplog):
    rng = np.random.default_rng(0)
    one, two = (Trajectory(rng.normal(size=(80, 1)), rng.normal(size=(80, 1)), 1.0) for _ in range(2))
    with caplog.at_level(logging.INFO, "controlrnn"):
        fit = identify(Elman(nu=1, ny=1, nx=2), Dataset((one,), (two,)), steps=4, validate_every=2)
    told = [r.getMessage() for r in caplog.records if "validation NRMSE" in r.getMessage()]
    assert [t.partition(":")[0] for t in told] == ["step 0", "step 2", "step 4"]
    assert f"lowest {fit.best_validation:.4g}" in told[-1]


def test_a_progress_bar_without_its_package_names_the_extra(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"controlrnn\[progress\]"):
        TqdmProgress()
