"""The parts of the certification studies: attacks stay below what is certified and reach what is known."""

import json

import numpy as np
import pytest
from random_systems import random_elman

from controlrnn.certification import certify_lipschitz
from experiments.bench_certify.stationary import by_construction, direct_models
from experiments.bench_certify.study import norm_product
from experiments.rnn_sdp_tanks import study as rnn_sdp_tanks
from experiments.rnn_sdp_tanks.lipschitz_attack import attack_lengths
from experiments.rnn_sdp_tanks.paper_tanks import inputs_alone, state_alone, tank_records
from experiments.shared.study import Study


def small(seed=0, norm=0.9):
    return random_elman(seed, nx=4, nu=2, ny=2, norm=norm)


@pytest.mark.parametrize("boxed", [True, False])
def test_the_attack_stays_below_the_certificate_and_above_sampling(boxed):
    system, lengths = small(), (1, 3, 8)
    found = attack_lengths(system, lengths, input_limit=1, state_limit=1, boxed=boxed, starts=8, steps=40, seed=0)
    certified = [certify_lipschitz(system, n, iterations=60).constant for n in lengths]
    assert (np.array(found.random) <= np.array(found.ascent)).all()
    assert (np.array(found.ascent) <= np.array(certified)).all()
    assert (np.array(found.ascent) > 0.8 * np.array(certified)).all()


def test_the_attack_finds_the_slopes_of_one_where_they_are_reached():
    """Small weights leave tanh its slope of one at rest, which the ascent has to find from random starts."""
    system = small(norm=0.3)
    lengths = (1, 4)
    exact = [np.linalg.norm(rnn_sdp_tanks.linear_response(system, n), 2) for n in lengths]
    found = attack_lengths(system, lengths, input_limit=2, state_limit=1, boxed=False, starts=8, steps=80, seed=1)
    np.testing.assert_allclose(found.ascent, exact, rtol=0.02)
    # Switching a neuron off can make a product of matrices larger: only the certificate is above everything.
    for length, reached in zip(lengths, found.ascent, strict=True):
        assert reached <= certify_lipschitz(system, length).constant


def test_shares_add_up_to_no_less_than_the_whole():
    system, n = small(), 4
    whole, state, inputs = (
        certify_lipschitz(s, n, iterations=100).constant
        for s in (system, state_alone(system), inputs_alone(system, 10.0))
    )
    assert max(state, inputs) <= whole * 1.01
    assert whole <= np.hypot(state, inputs) * 1.01


def test_the_units_of_the_inputs_share_change_no_output():
    system, rng = small(), np.random.default_rng(0)
    u, x = rng.normal(size=(20, 2)), rng.normal(size=4)
    np.testing.assert_allclose(inputs_alone(system, 10.0).simulate(u, 10 * x)[0], system.simulate(u, x)[0])


def test_tanks_keep_their_water():
    """What flows in stays in the first tank or leaves it at the rate of its level, unless it runs empty."""
    for record in tank_records(3, 50, seed=1):
        level, inflow = record.y[:, 0], record.u[:, 0]
        after = np.maximum(level + inflow - 0.5 * np.sqrt(level), 0)
        np.testing.assert_allclose(level[1:], after[:-1], atol=1e-12)
        assert (record.y >= 0).all()


def test_the_norm_product_is_above_the_certified_bound():
    system = small()
    bound = norm_product(system, 5, 0.5, 0.1)
    rng = np.random.default_rng(1)
    u, x = rng.normal(size=(200, 6, 2)), rng.normal(size=(200, 4))
    dx = rng.normal(size=x.shape)
    dx *= 0.5 / np.linalg.norm(dx, axis=1, keepdims=True)
    du = 0.1 * rng.choice([-1.0, 1.0], u.shape)
    apart = np.abs(system.simulate(u + du, x + dx)[0] - system.simulate(u, x)[0])[:, -1]
    assert (apart <= bound).all()


def test_no_direct_model_is_certified_slower_than_it_promises(tmp_path):
    study = Study("bench", quick=True, seed=3, out=tmp_path)
    by_construction(study)
    study.finish()
    targets = json.loads((tmp_path / "results.json").read_text())["targets"]
    assert len(study.rows) == len(direct_models(quick=True)) == 9
    assert all(target["met"] for target in targets.values())


@pytest.mark.slow
def test_forged_certificates_in_short(tmp_path):
    pytest.importorskip("flint")
    from experiments.bench_proof import study as bench_proof

    assert bench_proof.main(["--quick", "--out", str(tmp_path)]) == 0
    targets = json.loads((tmp_path / "results.json").read_text())["targets"]
    assert targets["accepted and false"]["value"] == 0
    assert targets["accepted, neither proven nor refuted"]["value"] == 0
    assert targets["forged certificates"]["met"]
