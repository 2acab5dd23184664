"""R2DN's study: tasks of the paper's sizes, times of every path, and claims that follow from the rows."""

import json
import os
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest
import torch
from paper_claims import NO, OPEN, YES, decisions

from controlrnn.kernels import simulate
from controlrnn.systems import LureSystem
from experiments.bench_scan import equal_size
from experiments.papers.page import COLUMNS
from experiments.papers.r2dn import judging, study, tasks, timing

DATA = pytest.mark.skipif(
    "CONTROLRNN_DATA" not in os.environ, reason="set CONTROLRNN_DATA to the folder of measured data"
)


@pytest.fixture(scope="module")
def feedback():
    return tasks.feedback(quick=True)


def test_tasks_compare_models_of_as_many_parameters(feedback):
    numbers = [feedback.models[kind](seed=0).n_parameters for kind in tasks.KINDS]
    assert max(numbers) < 1.1 * min(numbers)


def test_the_policys_cost_is_that_of_the_loop(feedback):
    """Both scans against the difference equations of plant and policy, over two segments with the state carried on."""
    system, state = feedback.models["r2dn"](seed=0).system(), None
    for parameter in (system.D22, system.C2):
        parameter.data.add_(0.3)
    free, costs = [], []
    for batch, _ in zip(feedback.batches(0), range(2), strict=False):
        cost, state = feedback.loss(system, batch, state, simulate)
        free.append(batch[0])
        costs.append(float(cost.detach()))
    assert [bool(batch[1]) for batch in islice(feedback.batches(0), 5)] == [True, False, False, False, True]
    z0 = torch.cat(free, dim=1)[:, :, 0].double().numpy()
    u = LureSystem.simulate(system, torch.cat(free, dim=1) * -1)[0][:, :, 0].detach().double().numpy()
    z, pole = z0.copy(), 2 * 0.8 * np.cos(0.2 * np.pi)
    answer = np.zeros_like(z)
    for t in range(2, z.shape[1]):
        answer[:, t] = pole * answer[:, t - 1] - 0.64 * answer[:, t - 2] + 0.3 * np.clip(u[:, t - 2], -5, 5)
    z += answer
    for k, cost in enumerate(costs):
        part = slice(k * tasks.SEGMENT, (k + 1) * tasks.SEGMENT)
        assert cost == pytest.approx(np.abs(z[:, part]).mean() + 1e-4 * np.square(u[:, part]).mean(), rel=1e-3)


def test_a_trained_policy_costs_less_and_contracts(feedback):
    row = study.one_training(replace(feedback, steps=12), "r2dn", 0)
    untouched = feedback.loss(feedback.models["r2dn"](seed=0).system(), next(feedback.batches(0)), None, simulate)[0]
    assert row["test"] < float(untouched.detach())
    assert 0 < row["rate"] <= 1
    assert row["training_s"] > 0


def test_every_path_is_timed_and_both_agree():
    for kind in tasks.KINDS:
        system = timing.given(timing.moved(timing.scaled_model(kind, 20)))
        u = torch.randn(3, 12, 1)
        first, second = (run(system, u)[0] for run in timing.PATHS.values())
        torch.testing.assert_close(first, second, rtol=1e-4, atol=1e-5)
    row = timing.scaling({"fused": 2, "eager": 1}, {"fused": 8, "eager": 2}, every=4)
    assert np.shape(row["training_fused_ren"]) == (2, 2)
    assert np.shape(row["inference_eager_r2dn"]) == (1, 2)
    assert row["sizes"] == {"ren": [60, 200], "r2dn": [32, 96]}
    assert np.min(row["training_fused_r2dn"]) > 0
    backward = timing.eager_backward((6, 60))
    assert 2 < backward["ratio"] == backward["ms"][1] / backward["ms"][0]


def everything(**changes):
    """Rows in which R2DN is twice as fast and grows half as much."""
    times, scaled = {}, {"sizes": {"ren": [20, 60, 200], "r2dn": [8, 32, 96]}}
    for what in ("training", "inference"):
        for path in ("fused", "eager"):
            for kind, factor in (("ren", 2.0), ("r2dn", 1.0)):
                name = f"{what}_{path}_{kind}"
                times[name] = [factor * t for t in (1.0, 1.1, 0.9)]
                scaled[name] = [[t, t * 2**factor, t * 4**factor] for t in (1.0, 1.1, 0.9)]
    row = {"loss": 1.0, "test": 1.0, "rate": 0.9}
    trained = {
        task: {kind: [row | changes.get(kind, {}) | {"loss": 1 + 0.01 * n} for n in range(3)] for kind in tasks.KINDS}
        for task in judging.SPEED_UP
    }
    sizes = {
        shape: {
            "ren_ms": [2.0 * shape[0] * shape[1] * t for t in (1.0, 1.02, 0.99)],
            "r2dn_ms": [shape[0] ** 0.5 * shape[1] * t for t in (1.0, 0.99, 1.02)],
            "ratio": {1: [2.0, 1.9, 2.1], 4: [1.0, 0.995, 1.005]}.get(shape[0], [0.9, 0.91, 0.9]),
        }
        for shape in {*equal_size.SIZES, *judging.GROWN["batch"], *judging.GROWN["length"]}
    }
    return dict.fromkeys(judging.SPEED_UP, times), trained, sizes, scaled


def test_claims_on_times_follow_from_the_turns():
    found = decisions(judging.claims(*everything(), short=False))
    assert found["F-16: training is faster than with REN (eager)"] is YES
    assert found["feedback: training is faster on a GPU"] is OPEN
    assert found["at least as fast as REN on the fused scan, F-16 size, 1 records of 256 samples"] is YES
    assert found["at least as fast as REN on the fused scan, F-16 size, 4 records of 256 samples"] is OPEN
    assert found["at least as fast as REN on the fused scan, F-16 size, 16 records of 256 samples"] is NO
    assert found["training time grows less with expressivity (fused)"] is YES
    assert found["time of a gradient grows less with batch than REN's (fused)"] is YES
    assert found["time of a gradient grows less with length than REN's (fused)"] is OPEN, "both in proportion"
    assert found["observer: training loss at most 20 % above REN's"] is YES
    assert found["every trained R2DN contracts"] is YES
    short = decisions(judging.claims(*everything(r2dn={"test": 2.0, "rate": None}), short=True))
    assert short["observer: training loss at most 20 % above REN's"] is OPEN
    assert short["observer: error on unseen data at most 20 % above REN's"] is OPEN
    assert short["every trained R2DN contracts"] is NO
    times, trained, sizes, scaled = everything()
    slow = {
        task: {n: v if n.endswith("_ren") else [9.0 * t for t in v] for n, v in row.items()}
        for task, row in times.items()
    }
    found = decisions(judging.claims(slow, trained, sizes, scaled, short=False))
    assert found["observer: inference is faster than with REN (fused)"] is NO


@DATA
def test_the_f16_is_read_in_windows_with_the_state_carried_on():
    task = tasks.identification(quick=True)
    first, second = islice(task.batches(0), 2)
    assert first[0].shape == (4, 256, 2)
    assert first[1].shape == (4, 256, 3)
    assert (first[2], second[2]) == (True, False)
    system = task.models["ren"](seed=0).system()
    _, state = task.loss(system, first, None, simulate)
    carried, _ = task.loss(system, second, state, simulate)
    u, y = (torch.cat([a, b], dim=1) for a, b in zip(first[:2], second[:2], strict=True))
    whole = (simulate(system, u)[0] - y)[:, 256:].square().mean(dim=1).sum()
    torch.testing.assert_close(carried, whole, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@DATA
def test_quick_r2dn(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "SEEDS", 1)
    monkeypatch.setattr(study, "ROUNDS", 1)
    made = {name: (lambda quick, make=make: replace(make(quick=quick), steps=6)) for name, make in study.TASKS.items()}
    monkeypatch.setattr(study, "TASKS", made)
    assert study.main(["--quick", "--out", str(tmp_path)]) == 0
    claims = {c["claim"]: c for c in json.loads((tmp_path / "results.json").read_text())["claims"]}
    assert all(set(claim) == set(COLUMNS) for claim in claims.values())
    assert claims["every trained R2DN contracts"]["decided"] == "yes"
    assert (tmp_path / "scaling.png").exists()
    targets = json.loads((tmp_path / "results.json").read_text())["targets"]
    assert targets["eager backward, 784 samples over 392"]["met"]
