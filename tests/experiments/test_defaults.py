"""The study of `identify_best` without options: rows, targets, and what was tuned by hand."""

import json

import numpy as np
import pytest

from controlrnn.data import Dataset, Trajectory
from experiments import defaults
from experiments.shared.study import Study


def small(_):
    records = []
    for seed in range(3):
        rng = np.random.default_rng(seed)
        u = np.repeat(rng.uniform(-2, 2, 60), 5)[:, None]
        x = np.zeros(300)
        for t in range(299):
            x[t + 1] = 0.8 * x[t] + 0.2 * u[t, 0]
        records.append(Trajectory(u, np.tanh(2 * x)[:, None] + 0.02 * rng.normal(size=(300, 1)), 1.0))
    return Dataset(tuple(records[:2]), (), (records[2],))


@pytest.mark.slow
def test_the_study_runs_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(defaults, "DATA", {"small": small})
    for _ in range(2):
        assert defaults.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["rows"]
    assert row["chosen_rmse"] == row[f"{row['chosen']}_rmse"]
    assert {"arx_rmse", "subspace_rmse"} <= set(row)
    assert set(results["targets"]) == {"small_as_good", "small_arx"}
    assert (tmp_path / "small_test.png").exists()


def test_targets_compare_with_the_best_that_is_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = Study("defaults", quick=True, seed=0, out=tmp_path / "out")
    row = {"arx_rmse": 2.0, "subspace_rmse": 1.0, "chosen_rmse": 1.05}
    defaults.judge(study, "silverbox", row)
    targets = dict(study.targets)
    assert targets["silverbox_as_good"]["met"] is True
    assert targets["silverbox_arx"]["met"] is True
    folder = tmp_path / "runs" / "silverbox"
    folder.mkdir(parents=True)
    columns = {f"test{i}_rmse": 0.5 for i in (1, 2, 3)}
    rows = [{"model": "residual", **columns}, {"model": "arx", **columns}, {"model": "contracting_r2dn"}]
    (folder / "results.json").write_text(json.dumps({"rows": rows}))
    assert defaults.by_hand("silverbox") == 0.5
    assert defaults.by_hand("three_tanks") is None
    defaults.judge(study, "silverbox", row)
    assert dict(study.targets)["silverbox_as_good"]["met"] is False
