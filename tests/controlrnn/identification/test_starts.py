import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from controlrnn.data import Dataset, Timing, Trajectory
from controlrnn.errors import SettingError, TrainingError
from controlrnn.identification import SimulationError, average, identify, identify_starts, score
from controlrnn.models import ContractingR2DN, Elman, ResidualRNN

OPTIONS = {"loss": SimulationError(10), "steps": 20, "validate_every": 10, "window": 50, "batch_size": 2}


def record(T, seed):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(T, 1))
    y = np.convolve(np.tanh(u[:, 0]), 0.8 ** np.arange(20))[:T, None] + 1.0
    return Trajectory(u, y, 0.5)


@pytest.fixture(scope="module")
def data():
    return Dataset((record(150, 0),), (record(100, 1),), (record(100, 2),))


def build(seed):
    return ResidualRNN(nu=1, ny=1, nx=2, nv=3, seed=seed)


def test_starts_are_fits_with_successive_seeds_and_the_best_is_chosen_by_validation(data, tmp_path):
    starts = identify_starts(build, data, starts=3, seed=4, folder=tmp_path, **OPTIONS)
    alone = identify(build(5), data, seed=5, **OPTIONS)
    assert starts.fits[1].system.digest == alone.system.digest == starts.fits[1].model.freeze().digest
    assert starts.best.best_validation == min(fit.best_validation for fit in starts.fits)
    assert len({fit.system.digest for fit in starts.fits}) == 3
    again = identify_starts(build, data, starts=4, seed=4, folder=tmp_path, **OPTIONS)
    assert [f.system.digest for f in again.fits[:3]] == [f.system.digest for f in starts.fits]
    with pytest.raises(TrainingError, match="different settings"):
        identify_starts(build, data, starts=1, seed=4, folder=tmp_path, **OPTIONS | {"steps": 30})


@pytest.mark.slow
def test_processes_give_the_same_fits(data):
    make = partial(ContractingR2DN, nu=1, ny=1, nx=2, nv=2, layers=(3,))
    one, two = (identify_starts(_Seeded(make), data, starts=2, jobs=jobs, **OPTIONS) for jobs in (1, 2))
    assert [f.system.digest for f in one.fits] == [f.system.digest for f in two.fits]


@pytest.mark.slow
def test_a_cluster_gives_the_same_fits_and_finds_them_again(cluster_client, data, tmp_path):
    here = identify_starts(build, data, starts=2, **OPTIONS)
    there = identify_starts(build, data, starts=2, client=cluster_client, folder=tmp_path, **OPTIONS)
    assert [f.system.digest for f in there.fits] == [f.system.digest for f in here.fits]
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"{k}_{n}.npz" for k in ("checkpoint", "fit") for n in "01"]
    again = identify_starts(build, data, starts=2, client=cluster_client, folder=tmp_path, **OPTIONS)
    assert [f.system.digest for f in again.fits] == [f.system.digest for f in here.fits]
    with pytest.raises(TrainingError, match="different settings"):
        identify_starts(build, data, starts=1, client=cluster_client, folder=tmp_path, **OPTIONS | {"steps": 30})
    with pytest.raises(SettingError, match="workers of its client"):
        identify_starts(build, data, starts=1, client=cluster_client, jobs=2, **OPTIONS)


class _Seeded:
    def __init__(self, make):
        self.make = make

    def __call__(self, seed):
        return self.make(seed=seed)


def test_the_average_is_one_system_with_the_mean_output(data):
    models = [build(0), build(1), ContractingR2DN(nu=1, ny=1, nx=3, nv=2, layers=(2, 2), feedthrough=True)]
    parts = (data.train, data.validation, data.test)
    early = Dataset(*(tuple(replace(r, timing=Timing.INPUT_FIRST) for r in part) for part in parts))
    systems = [identify(m, early, **OPTIONS).system for m in models]
    mean = average(systems)
    assert (mean.nx, mean.nv) == (7, 10)
    u, rng = data.test[0].u, np.random.default_rng(0)
    x0 = [rng.normal(size=s.nx) for s in systems]
    expected = np.mean([s.simulate(u, x)[0] for s, x in zip(systems, x0, strict=True)], axis=0)
    np.testing.assert_allclose(mean.simulate(u, np.concatenate(x0))[0], expected, atol=1e-12)
    # Its squared error is at most the mean of theirs, whatever they are.
    errors = [score(s, data.test, skip=10).rmse[0] ** 2 for s in systems]
    assert score(mean, data.test, skip=10).rmse[0] ** 2 <= np.mean(errors) * (1 + 1e-12)


def test_bad_input_is_refused(data):
    with pytest.raises(SettingError, match="same channels"):
        average([])
    with pytest.raises(SettingError, match="same channels"):
        average([build(0).freeze(), Elman(nu=2, ny=1, nx=2).freeze()])
    with pytest.raises(SettingError, match="pass folder"):
        identify_starts(build, data, checkpoint="x")
    with pytest.raises(SettingError, match="starts"):
        identify_starts(build, data, starts=0)


SCRIPT = """
import sys, time
import numpy as np
from controlrnn.data import Dataset, Trajectory
from controlrnn.identification import SimulationError, identify_starts
from controlrnn.models import Elman

def build(seed):
    return Elman(nu=1, ny=1, nx=3, seed=seed)

if __name__ == "__main__":
    draw = np.random.default_rng(0).standard_normal
    data = Dataset((Trajectory(draw((400, 1)), draw((400, 1)), 1.0),), (Trajectory(draw((90, 1)), draw((90, 1)), 1.0),))
    found = identify_starts(build, data, starts=2, jobs=2, folder=sys.argv[1], loss=SimulationError(washout=5),
                            steps=10**7, validate_every=20)
    print(len(found.fits), *{str(fit.status) for fit in found.fits})
"""


@pytest.mark.slow
def test_ctrl_c_gives_the_best_so_far_of_every_start_within_seconds(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, tmp_path / "script.py", tmp_path / "fits"],
        start_new_session=True,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])},
    )
    while len(list(tmp_path.glob("fits/checkpoint_*.npz"))) < 2:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    began = time.monotonic()
    os.killpg(process.pid, signal.SIGINT)
    said, errors = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert said.split() == ["2", "interrupted"], errors
