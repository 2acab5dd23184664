"""The study of all models: its attack finds what is there, and the whole runs."""

import json
from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn import models
from controlrnn.certification import certify_contraction, certify_delta_iss
from controlrnn.data import Trajectory
from controlrnn.systems import GatedSystem
from experiments.model_zoo import SETTINGS, main, run_c, run_casadi, worst_stretch


def record(nu):
    u = np.random.default_rng(0).normal(size=(100, nu))
    return Trajectory(u, np.zeros((100, 1)), 1.0)


def gru():
    draw = np.random.default_rng(1).standard_normal
    return GatedSystem(
        W=0.3 * draw((9, 1)), U=0.1 * draw((9, 3)), b=draw(9), C=draw((1, 3)), by=draw(1), cell="gru", dt=1.0
    )


def test_attack_finds_the_largest_stretch_of_a_linear_system():
    system = random_system(0, layers=(), norm=0.8)
    proof = certify_contraction(system)
    root = np.linalg.cholesky(proof.metric).T
    exact = np.linalg.norm(root @ system.A @ np.linalg.inv(root), 2)
    found = worst_stretch(system, proof, record(2), seed=0, steps=300)
    assert exact * (1 - 1e-4) <= found <= exact * (1 + 1e-9)


@pytest.mark.parametrize("system", [random_elman(0), random_system(1, norm=0.3, coupling=0.2, layers=(2, 2))])
def test_attack_comes_near_the_certified_rate_and_not_above(system):
    proof = certify_contraction(system)
    found = worst_stretch(system, proof, record(system.nu), seed=0, steps=100, starts=64)
    assert 0.7 * proof.rate <= found <= proof.rate * (1 + 1e-9)
    wrong = replace(system, A=system.A + 0.8 * np.eye(system.nx))
    assert worst_stretch(wrong, proof, record(system.nu), seed=0, steps=100, starts=64) > proof.rate


def test_attack_on_gated_cells_stays_below_their_rate():
    system = gru()
    proof = certify_delta_iss(system, input_range=(np.array([-3.0]), np.array([3.0])))
    found = worst_stretch(system, proof, record(1), seed=0, steps=100, starts=64)
    assert 0.5 * proof.rate <= found <= proof.rate * (1 + 1e-9)


def test_runners_give_the_outputs_of_the_system():
    system, u = random_system(2, layers=(2, 3)), record(2).u
    expected = system.simulate(u)[0]
    np.testing.assert_allclose(run_casadi(system, u), expected, rtol=0, atol=1e-12)
    if (found := run_c(system, u)) is not None:
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


def test_every_model_has_its_settings():
    assert set(SETTINGS) == set(models.__all__) - {"Model"}


@pytest.mark.slow
def test_quick_study_keeps_all_promises(tmp_path):
    assert main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert {row["case"] for row in results["rows"]} == set(SETTINGS)
    assert all(results["targets"][name]["met"] for name in results["targets"] if name != "seconds")
