import importlib
import json
import os

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from controlrnn.data import Dataset, Trajectory
from controlrnn.identification import SimulationError, identify_starts
from controlrnn.models import ContractingR2DN, ResidualRNN
from experiments.shared.identification import average_rate, comparison, errors_of, proven_rate, run_of

BASE = {"loss": SimulationError(), "steps": 5, "window": 40, "skip": 5, "initial_state": "estimated"}


def data():
    rng = np.random.default_rng(0)
    u = rng.normal(size=(300, 1))
    y = np.convolve(np.tanh(u[:, 0]), 0.8 ** np.arange(30))[:300, None]
    return Dataset((Trajectory(u[:150], y[:150], 1.0),), (), (Trajectory(u[150:], y[150:], 1.0),))


def test_the_average_of_contracting_models_is_proven_to_contract_and_scored_from_its_own_states():
    records = data()
    starts = identify_starts(
        lambda s: ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(3,), seed=s), records, starts=2, **BASE
    )
    rate = average_rate(starts)
    assert max(proven_rate(fit) for fit in starts.fits) <= rate < 1
    (test,) = records.test
    mean = np.mean([run_of(fit.system, test, 5) for fit in starts.fits], axis=0)
    np.testing.assert_allclose(starts.simulate(test), mean)
    assert errors_of(starts.fits[0].system, records, 5)["test_rmse"] == starts.fits[0].scores["test"].rmse[0]
    assert isinstance(comparison(test, {"mean": mean}, skip=5), Figure)


def test_an_unstable_model_gets_no_rate():
    model = ResidualRNN(nu=1, ny=1, nx=2)
    model.A.data = 1.2 * torch.eye(2)
    from experiments.shared.identification import certified_rate

    assert certified_rate(model.freeze()) is None


@pytest.mark.slow
def test_quick_four_carts(tmp_path):
    from experiments import four_carts

    assert four_carts.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["model"] for row in results["rows"]} == {"subspace", *four_carts.FAMILIES}
    rows = {row["case"]: row for row in results["rows"]}
    # The network that validation chooses; a contracting one needs more steps than the quick study takes.
    networks = [row for row in rows.values() if row.get("nv")]
    assert min(networks, key=lambda row: row["nse_validation"])["nse_3"] < 0.8 * rows["subspace"]["nse_3"]
    assert 0.02 < results["noise_floor"] < 0.04


@pytest.mark.slow
@pytest.mark.skipif("CONTROLRNN_DATA" not in os.environ, reason="set CONTROLRNN_DATA to the folder of measured data")
@pytest.mark.parametrize("name", ["silverbox", "wiener_hammerstein", "f16"])
def test_quick_studies_of_measured_data_beat_their_linear_baseline(tmp_path, name):
    module = importlib.import_module(f"experiments.{name}")
    assert module.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {row["case"]: row for row in results["rows"]}
    column = "test1_rmse" if name == "silverbox" else "test_rmse"
    assert rows["residual_0"][column] < rows["subspace"][column]
    assert rows["contracting_r2dn_0"]["certified_rate"] < 1
    if name == "silverbox":  # physics is as good where the amplitude is larger than in training
        assert rows["physics_0"]["test2_rmse"] < 1.5 * rows["physics_0"]["train_rmse"] < 0.6
    assert list(tmp_path.glob("*.png"))
