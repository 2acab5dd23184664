"""The comparison's sums and verdict, and a short run of one candidate."""

import json

import numpy as np
import pytest
import torch

from controlrnn.identification import NoiseUpperBound
from controlrnn.identification.losses.base import Batch
from experiments import predictor_choice as study


def row(**changes):
    base = {
        "case": "x #0", "seconds": 1.0, "parameters": 10, "fit_free": 90.0, "fit_last": 91.0, "rate": 0.95,
        "certified": 1.0, "bound_first": [1.0, 2.0], "bound_last": [0.5, 1.0], "model_error_last": [2.0, 2.0],
        "tightening_last": [2.5, 3.0], "runs": 10, "runs_with_violation": 0, "max_violation": 0.0, "cost": 100.0,
        "failed_solves": 0, "nominal_cost": 50.0, "nominal_runs_with_violation": 10, "back_off": 0.5,
        "backed_off_cost": 70.0, "backed_off_runs_with_violation": 1,
    }  # fmt: skip
    return base | changes


def test_means_sum_counts_and_keep_what_is_unknown():
    rows = [row(cost=100.0, runs_with_violation=1, bound_last=[1.0, 3.0]), row(cost=300.0, max_violation=0.4)]
    mean = study.mean(rows)
    assert (mean["cost"], mean["cost_lowest"], mean["cost_highest"]) == (200.0, 100.0, 300.0)
    assert (mean["runs"], mean["runs_with_violation"], mean["max_violation"], mean["seeds"]) == (20, 1, 0.4, 2)
    np.testing.assert_allclose(mean["bound_last"], [0.75, 2.0])
    assert (mean["back_off"], mean["backed_off_runs_with_violation"]) == (0.5, 2)
    unknown = study.mean([row(), row(back_off=None, backed_off_cost=None, backed_off_runs_with_violation=None)])
    assert unknown["backed_off_cost"] is unknown["backed_off_runs_with_violation"] is None
    assert len(study.figure({"a": unknown}).axes) == 3
    assert study.mean([row(), row(rate=None)])["rate"] is None
    assert study.mean([row(), row(certified=0.0)])["certified"] == 0.5


def test_the_cheapest_of_the_safe_and_certified_wins():
    means = {
        "unproven": study.mean([row(cost=10.0, rate=None, certified=0.0)]),
        "too loose": study.mean([row(cost=20.0, certified=0.0)]),
        "violating": study.mean([row(cost=30.0, runs_with_violation=2)]),
        "winner": study.mean([row(cost=40.0)]),
        "second": study.mean([row(cost=50.0, fit_free=95.0)]),
    }
    text = study.summary(means)
    assert text.startswith("winner wins")
    assert "next second, 50" in text
    assert "best: second, 95.0 %" in text
    assert "spread" not in text
    means["winner"]["cost_highest"] = 51.0
    assert "spread it from 40 to 51, which reaches second as well" in study.summary(means)
    assert "unproven (contraction not proven" in text
    assert "too loose (certified bound leaves nothing" in text
    assert "violating (2 of 10 runs violated a limit)" in text
    assert study.summary({"a": means["violating"]}).startswith("No model was certified")
    assert len(study.figure(means).axes) == 3


def test_the_noise_bound_on_the_first_samples_is_the_bound_of_a_shorter_window():
    model, _ = study.candidates(study.settings(True)[0])["stable RNN, noise bound"](0)
    system, bound = model.system(), NoiseUpperBound(input_std=0.2)
    batch = Batch(torch.zeros(2, 50, 2), torch.zeros(2, 50, 3), torch.zeros(2, 12), 0)
    short = Batch(batch.u[:, :20], batch.y[:, :20], batch.x0, 0)
    first = study.FirstSamples(bound, 20)(system, batch, None)
    torch.testing.assert_close(first, bound(system, short, None))
    assert first < bound(system, batch, None)


@pytest.mark.slow
def test_quick_study_compares_all_candidates(tmp_path):
    assert study.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {r["case"]: r for r in results["rows"]}
    names = list(study.candidates(study.settings(True)[0]))
    assert set(rows) == {*names, *(f"{n} #0" for n in names)}
    assert rows["LTI"]["certified"] == rows["contracting R2DN"]["certified"] == 1
    for name in names:
        r = rows[name]
        assert r["runs"] == 2
        assert r["failed_solves"] == 0
        assert r["back_off"] is None or r["backed_off_runs_with_violation"] <= r["runs"]
        parts = np.array(r["model_error_last"])
        assert (np.array(r["tightening_last"]) >= parts - 1e-9).all()
        if r["certified"] == 1:
            np.testing.assert_allclose(r["tightening_last"], parts + r["bound_last"], rtol=1e-6)
    assert results["verdict"].split(" wins")[0] in names
    assert (tmp_path / "predictors.png").exists()
