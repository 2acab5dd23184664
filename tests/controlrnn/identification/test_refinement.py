import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import SettingError
from controlrnn.identification import FitStatus, SimulationError, identify
from controlrnn.models import GRU, ContractingR2DN, Elman, ResidualRNN, StableRNN

BASE = {
    "steps": 20,
    "learning_rate": 1e-2,
    "validate_every": 10,
    "window": 60,
    "batch_size": 2,
    "skip": 10,
    "initial_state": "estimated",
}
METHODS = {"lbfgs": 22, "levenberg_marquardt": 8}
STEPS = {"lbfgs": 120, "levenberg_marquardt": 15}


def truth(T, seed):
    """Two states, one of them driven through a saturation; starts away from rest."""
    rng = np.random.default_rng(seed)
    u, y, x = rng.normal(size=(T, 1)), np.zeros((T, 1)), rng.normal(size=2)
    for t in range(T):
        y[t] = 2 + x[1]
        x = np.array([0.9 * x[0] + 0.3 * np.tanh(2 * u[t, 0]), 0.8 * x[1] + 0.3 * x[0]])
    return Trajectory(u, y, 0.1)


@pytest.fixture(scope="module")
def data():
    return Dataset((truth(300, 0), truth(170, 1)), (truth(150, 2),), (truth(150, 3),))


def model(**options):
    return ResidualRNN(nu=1, ny=1, nx=2, nv=2, **options)


class InterruptAt:
    def __init__(self, step):
        self.step = step

    def on_step(self, progress):
        if progress.step == self.step:
            raise KeyboardInterrupt

    def on_end(self, status):
        pass


@pytest.mark.parametrize("refine", METHODS)
@pytest.mark.parametrize("shooting", [None, 50])
def test_a_refinement_finds_the_true_system(data, refine, shooting):
    adam = identify(model(seed=1), data, loss=SimulationError(), **BASE)
    options = {"refine": refine, "refine_steps": STEPS[refine], "shooting": shooting}
    fit = identify(model(seed=1), data, loss=SimulationError(), **BASE | options)
    assert fit.scores["test"].rmse[0] < 0.1 * adam.scores["test"].rmse[0]
    assert fit.status is FitStatus.FINISHED
    at = np.flatnonzero(fit.history["step"] >= 20)
    assert np.isnan(fit.history["learning_rate"][at[1:]]).all()


@pytest.mark.parametrize("refine", METHODS)
@pytest.mark.parametrize("stop", [7, 24])
def test_an_interrupted_refinement_goes_on_to_the_same_bits(data, tmp_path, refine, stop):
    options = BASE | {"refine": refine, "refine_steps": METHODS[refine], "shooting": 90}
    whole = identify(model(), data, loss=SimulationError(), **options)
    path = tmp_path / "run.npz"
    part = identify(model(), data, loss=SimulationError(), checkpoint=path, callbacks=[InterruptAt(stop)], **options)
    assert part.status is FitStatus.INTERRUPTED
    resumed = identify(model(), data, loss=SimulationError(), checkpoint=path, **options)
    assert resumed.system.digest == whole.system.digest
    for name in whole.history:
        np.testing.assert_array_equal(resumed.history[name], whole.history[name])
    again = identify(model(), data, loss=SimulationError(), checkpoint=path, callbacks=[InterruptAt(1)], **options)
    assert again.status is FitStatus.FINISHED
    assert again.system.digest == whole.system.digest


def test_a_trained_model_goes_on_as_the_same_system(data):
    first = identify(model(), data, loss=SimulationError(), **BASE)
    longer = Dataset(data.train + data.validation)
    options = BASE | {"steps": 0, "refine": "levenberg_marquardt", "refine_steps": 3}
    second = identify(first.model, longer, loss=SimulationError(), start="continue", **options)
    assert second.history["step"][0] == 0
    errors = np.concatenate([(first.simulate(r) - r.y)[10:] for r in longer.train]) / first.model.output_scaler.scale
    assert second.history["validation"][0] == pytest.approx(np.sqrt(np.mean(errors**2)), rel=1e-6)
    assert second.best_validation < second.history["validation"][0]


def test_contracting_models_are_refined_and_stay_contracting(data):
    r2dn = ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(3,))
    adam = identify(r2dn, data, loss=SimulationError(), **BASE)
    fit = identify(r2dn, data, loss=SimulationError(), **BASE | {"refine": "levenberg_marquardt", "refine_steps": 25})
    assert fit.scores["test"].rmse[0] < 0.5 * adam.scores["test"].rmse[0]
    u = np.random.default_rng(0).normal(size=(400, 1))
    a, b = (fit.system.simulate(u, x0)[0][-1] for x0 in (np.zeros(2), np.full(2, 5.0)))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_what_cannot_be_refined_is_refused(data):
    with pytest.raises(SettingError, match="2000 parameters"):
        identify(Elman(nu=1, ny=1, nx=50), data, refine="levenberg_marquardt")
    with pytest.raises(SettingError, match="Lur'e systems only"):
        identify(GRU(nu=1, ny=1, nx=2), data, refine="levenberg_marquardt")
    with pytest.raises(SettingError, match="brought back"):
        identify(StableRNN(nu=1, ny=1, nx=2), data, refine="lbfgs")
    with pytest.raises(SettingError, match="shooting needs"):
        identify(model(), data, refine="lbfgs", shooting=50)
    with pytest.raises(SettingError, match="steps"):
        identify(model(), data, steps=0)
    with pytest.raises(SettingError, match="refine must be one of"):
        identify(model(), data, refine="newton")


_SCRIPT = """
import sys
from tests.controlrnn.identification.test_refinement import BASE, data, model
from controlrnn.identification import SimulationError, identify
options = BASE | {"steps": 150, "refine": "levenberg_marquardt", "refine_steps": 150}
identify(model(), data.__wrapped__(), loss=SimulationError(), checkpoint=sys.argv[1], **options).save(sys.argv[2])
"""


@pytest.mark.slow
def test_a_killed_process_resumes_to_the_same_weights(tmp_path):
    """Kill -9 in both stages, several times, each at another moment."""

    def start(checkpoint, result):
        command = [sys.executable, "-c", _SCRIPT, str(checkpoint), str(result)]
        return subprocess.Popen(command, cwd=os.getcwd(), env=os.environ | {"PYTHONPATH": os.getcwd()})

    assert start(tmp_path / "a.npz", tmp_path / "whole.npz").wait() == 0
    kills, seen = 0, None
    while not (tmp_path / "killed.npz").exists():
        process = start(tmp_path / "b.npz", tmp_path / "killed.npz")
        while process.poll() is None:
            stamp = (tmp_path / "b.npz").stat().st_mtime_ns if (tmp_path / "b.npz").exists() else None
            if stamp != seen and kills < 4:
                time.sleep(0.05 * kills)  # somewhere between two checkpoints
                process.send_signal(signal.SIGKILL)
                seen, kills = stamp, kills + 1
            time.sleep(0.002)
        process.wait()
    assert kills >= 3
    from controlrnn.identification import FitResult

    whole, killed = FitResult.load(tmp_path / "whole.npz"), FitResult.load(tmp_path / "killed.npz")
    assert whole.system.digest == killed.system.digest
    np.testing.assert_array_equal(whole.history["validation"], killed.history["validation"])


def test_the_last_parameters_are_kept_on_request(data):
    options = BASE | {"steps": 60, "learning_rate": 0.3, "schedule": "constant"}
    best, last = (identify(model(), data, loss=SimulationError(), keep=keep, **options) for keep in ("best", "last"))
    np.testing.assert_array_equal(best.history["validation"], last.history["validation"])
    measured, scale = data.validation[0].y, last.model.output_scaler.scale
    error = ((last.simulate(data.validation[0]) - measured) / scale)[10:]
    assert last.history["validation"][-1] == pytest.approx(np.sqrt(np.mean(error**2)))
    assert last.system.digest != best.system.digest


def test_gated_models_are_refined_by_lbfgs(data):
    options = BASE | {"learning_rate": 1e-3}
    adam = identify(GRU(nu=1, ny=1, nx=3), data, loss=SimulationError(), **options)
    fit = identify(GRU(nu=1, ny=1, nx=3), data, loss=SimulationError(), refine="lbfgs", refine_steps=20, **options)
    assert fit.best_validation < adam.best_validation
