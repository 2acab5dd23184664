import json
from dataclasses import replace

import numpy as np
import pytest

from controlrnn.certification import certify_contraction
from controlrnn.data import Signal, Trajectory
from controlrnn.models import ContractingREN
from experiments.reinitialisation import cases as work
from experiments.reinitialisation.cases import Method
from experiments.reinitialisation.study import main
from experiments.three_tank.config import Config
from mpc import MovingHorizonObserver, Predictor, RunningOn, Washout

CONFIG = replace(Config(), washout=30, horizon=4)


@pytest.fixture(scope="module")
def model():
    system = ContractingREN(nu=1, ny=1, nx=3, nv=4, rate=0.8, seed=1).freeze()
    return Predictor(system, (Signal("u", lower=-1, upper=1),)), certify_contraction(system)


@pytest.fixture(scope="module")
def records(model):
    found = []
    for seed in range(3):
        u = np.repeat(np.random.default_rng(seed).uniform(-1, 1, (30, 1)), 4, axis=0)
        found.append(Trajectory(u=u, y=model[0].system.simulate(u)[0], dt=model[0].dt, name=str(seed)))
    return found


@pytest.mark.parametrize("washout", [0, 3, 12])
def test_the_edge_is_reached_and_never_beyond_the_certificate(model, records, washout):
    predictor, contraction = model
    observer = Washout(predictor, max(washout, 1), contraction=contraction, input_error=0.02)
    state, outputs = work.from_the_edge(washout, observer, contraction, records, CONFIG, 10, 0)
    bound = contraction.error_after(washout, observer.restart.radius, observer.input_error)
    assert 0.3 * bound < state <= bound * (1 + 1e-9)
    assert outputs.shape == (5, 1)
    if washout == 0:
        np.testing.assert_allclose(state, observer.restart.radius, rtol=1e-6)


def test_what_happens_stays_below_what_is_promised_and_is_not_nothing(model, records):
    predictor, contraction = model
    settings = {"contraction": contraction, "input_error": 0.02}
    guard = RunningOn(predictor, 30, **settings)
    moving = MovingHorizonObserver(predictor, 30, window=4, output_std=0.1, guard=guard, trust=0.3, **settings)
    for observer in (Washout(predictor, 8, **settings), guard, moving):
        method = Method("m", observer, 2)
        first, more = work.certify(method, CONFIG, 30)
        bounds = first.bounds[first.horizon - CONFIG.horizon :] + (0 if more is None else more.bounds)
        seen = work.realised(method, contraction, records, np.array([0.1]), CONFIG, 0)
        assert (more is not None) == (observer is moving)
        assert len(seen.state) == 4
        assert len(seen.alike) == 2
        assert 0 < max(s.max() for s in seen.state) <= observer.error.radius_in(contraction.metric)
        assert (seen.outputs > 0).all()
        assert (seen.outputs <= bounds).all()
        assert seen.jump <= observer.jump.radius_in(contraction.metric) + 1e-9


@pytest.mark.slow
def test_the_study_runs_and_its_certificates_hold(tmp_path):
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    proven = [name for name in results["targets"] if "certificate" in name]
    assert len(proven) >= 4
    assert all(results["targets"][name]["met"] for name in proven)
    assert results["best"]
    loops = {row["case"]: row for row in results["rows"] if row["case"].startswith("closed loop")}
    other = loops["closed loop, backed off"]
    assert "trial loops" in other["note"], loops
    assert other["cost"] > 0, loops
    assert (tmp_path / "reinitialisation.png").stat().st_size > 10_000
