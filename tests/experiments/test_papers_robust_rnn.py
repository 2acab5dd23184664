"""The robust RNN's study: sets inside each other, gains from below, and claims that follow from the rows."""

import json
from dataclasses import replace

import numpy as np
import pytest
from paper_claims import NO, OPEN, YES, decisions

from controlrnn.certification import certify_l2_gain
from controlrnn.models import GRU, LTI, ContractingImplicitRNN
from experiments.papers.page import COLUMNS
from experiments.papers.robust_rnn import inclusions, judging, study


@pytest.fixture(scope="module")
def sets():
    return inclusions.check(0)


def test_each_set_lies_in_the_next_and_scalings_pass_through_a_relu(sets):
    row = sets
    assert row["s_in_ci"]
    assert row["ci_in_star"]
    assert row["relu_ci_in_s"]
    assert row["tanh_norm"] > 1
    assert row["linear_in_star"]
    assert row["linear_low"] < 0 < row["linear_high"]
    assert row["one_state_signs"] == 1
    assert row["two_states_in_s"]
    assert row["two_states_gap"] < 1e-12


def test_two_networks_that_differ_are_told_apart():
    one, other = (inclusions.implicit(seed, "relu") for seed in (0, 1))
    u = np.random.default_rng(0).normal(size=(2, 50, 1))
    assert inclusions.gap(one.system(), other.system(), u) > 1e-2
    assert inclusions.gap(one.system(), one.system(), u) == 0


def test_the_ascent_finds_the_gain_of_a_linear_system_and_never_more():
    model = LTI(nu=1, ny=1, nx=2).double()
    model.start_linear(np.array([[0.9, 0.2], [-0.2, 0.9]]), np.array([[0.0], [1.0]]), np.array([[1.0, 0.0]]))
    system = model.freeze()
    w = np.exp(1j * np.linspace(0, np.pi, 20_001))
    transfer = [system.C2 @ np.linalg.solve(z * np.eye(2) - system.A, system.B2) for z in w]
    exact = float(np.abs(transfer).max())
    found = study.worst_gain(system, starts=2, steps=30, seed=0)
    assert 0.97 * exact < found <= exact * (1 + 1e-6)


def test_the_ascent_stays_below_a_proven_gain_and_takes_gated_systems():
    system = ContractingImplicitRNN(nu=1, ny=1, nx=4, activation="relu", seed=1).freeze()
    assert study.worst_gain(system, starts=2, steps=20, seed=0, horizon=100) <= certify_l2_gain(system).gamma
    assert study.worst_gain(GRU(nu=1, ny=1, nx=3).freeze(), starts=2, steps=5, seed=0, horizon=30) > 0


def rows_of(**changes):
    """Rows of three seeds a family, as published; ``changes`` are values by family."""
    rows = {}
    for family in study.FAMILIES:
        nse, gain = judging.PUBLISHED.get(family, (0.07, 10.0))
        growth = judging.GROWTH.get(family, 6.0) if family != "rnn" else 9.0
        medians = [nse * (1 + (growth - 1) * max(s - 3, 0) / 7 + 0.2 * max(3 - s, 0)) for s in judging.SIGMAS]
        stable = family in judging.STABLE
        row = {
            "nse_3": nse,
            "found": gain,
            "medians": medians,
            "searched": 2 * gain if stable else None,
            "by_construction": judging.BOUNDS.get(family),
            "spread": [[m] * 5 for m in medians],
        } | changes.get(family, {})
        rows[family] = [row | {"nse_3": row["nse_3"] * (1 + 0.01 * n)} for n in range(3)]
    return rows


def decided(rows, sets, short=False):
    return decisions(judging.claims(rows, sets, short=short))


def test_published_values_decide_the_papers_claims(sets):
    found = decided(rows_of(), sets)
    assert found["Theta_* is the most accurate of the stable sets"] is YES
    assert found["gain found <= certified <= prescribed (Theta_8, 6, 3)"] is YES
    assert found["every stable set has a smaller gain than LSTM"] is YES
    assert found["the error is least at the training level"] is YES
    assert found["from sigma 3 to 10 the error of LSTM grows more than that of Theta_*"] is YES
    assert found["NSE of LSTM at sigma = 3"] is YES
    assert found["ci-RNN lies in Theta_*"] is YES
    assert found["ci-RNN with ReLU holds what no s-RNN of as many states holds"] is NO
    assert found["ci-RNN with tanh holds what no s-RNN of as many states holds"] is YES


def test_a_short_training_refutes_nothing_but_a_certificate_that_fails_does(sets):
    worse = rows_of(theta_star={"nse_3": 0.3}, theta_3={"found": 3.5})
    assert decided(worse, sets)["Theta_* is the most accurate of the stable sets"] is NO
    short = decided(worse, sets, short=True)
    assert short["Theta_* is the most accurate of the stable sets"] is OPEN
    assert short["NSE of Theta_* at sigma = 3"] is OPEN
    assert short["gain found <= certified <= prescribed (Theta_8, 6, 3)"] is NO
    assert (
        decided(rows_of(theta_6={"by_construction": None, "searched": None}), sets)[
            "gain found <= certified <= prescribed (Theta_8, 6, 3)"
        ]
        is OPEN
    ), "what could not be proven refutes nothing"


@pytest.mark.slow
def test_quick_robust_rnn(tmp_path, monkeypatch):
    tiny = replace(study.QUICK, steps=50, samples=400, realisations=2, starts=2, ascent=5)
    monkeypatch.setattr(study, "QUICK", tiny)
    assert study.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    claims = {c["claim"]: c for c in results["claims"]}
    assert all(set(claim) == set(COLUMNS) for claim in claims.values())
    assert claims["gain found <= certified <= prescribed (Theta_8, 6, 3)"]["decided"] == "yes"
    for figure in ("trade_off", "generalisation", "examples"):
        assert (tmp_path / f"{figure}.png").exists()
