"""The l2 gain: exact for linear systems, never below what an attack reaches, no worse than by construction."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system
from scipy.optimize import minimize_scalar

from controlrnn import models
from controlrnn.certification import attack_l2_gain, certify_by_construction, certify_l2_gain
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.search import sdp
from controlrnn.errors import CertificationError, SettingError, ShapeError

RANGE = (np.full(2, -2.0), np.full(2, 2.0))


def h_infinity(system, input_scale, output_scale):
    """The largest gain over all frequencies: a grid, then the best peak refined."""

    def gain(w):
        inner = np.linalg.solve(np.exp(1j * w) * np.eye(system.nx) - system.A, system.B2)
        return np.linalg.norm((system.C2 @ inner + system.D22) * input_scale / output_scale[:, None], 2)

    grid = np.linspace(0, np.pi, 2001)
    peak = grid[int(np.argmax([gain(w) for w in grid]))]
    best = minimize_scalar(lambda w: -gain(w), bounds=(peak - 0.002, peak + 0.002), method="bounded")
    return max(gain(peak), -best.fun)


@pytest.mark.parametrize("seed", range(8))
def test_the_gain_of_a_linear_system_is_its_h_infinity_norm(seed):
    system = random_system(seed, nx=2 + seed % 4, layers=(), norm=(0.5, 0.9, 0.98)[seed % 3], feedthrough=seed % 2 == 0)
    scale = np.array([2.0, 0.1]), np.array([5.0, 0.3])
    exact = h_infinity(system, *scale)
    certificate = certify_l2_gain(system, input_scale=scale[0], output_scale=scale[1])
    assert exact * (1 - 1e-9) <= certificate.gamma <= exact * 1.001
    attack = attack_l2_gain(
        system, 200, input_range=RANGE, input_scale=scale[0], output_scale=scale[1], starts=2, steps=20, seed=0
    )
    assert 0.98 * exact <= attack.gain <= exact * (1 + 1e-9)


def test_states_that_nothing_reaches_or_sees_do_no_harm():
    system = random_system(0, nx=4, layers=(), norm=0.9)
    A, B2, C2 = (np.array(m) for m in (system.A, system.B2, system.C2))
    A[2, :], A[:, 2], B2[2] = 0, 0, 0  # reached by nothing, seen by the output
    A[:, 3], C2[:, 3] = 0, 0  # seen by nothing
    A[2, 2], A[3, 3] = 0.7, 0.8
    system = replace(system, A=A, B2=B2, C2=C2)
    exact = h_infinity(system, np.ones(2), np.ones(2))
    assert exact * (1 - 1e-9) <= certify_l2_gain(system).gamma <= exact * 1.001


def test_an_output_that_sees_nothing_has_almost_no_gain():
    system = random_elman(0)
    assert certify_l2_gain(replace(system, C2=0 * system.C2)).gamma < 1e-3


@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "leaky_relu"])
@pytest.mark.parametrize("seed", range(3))
def test_no_attack_exceeds_the_certified_gain(activation, seed):
    system = random_system(
        seed, nx=2 + seed, layers=[(4,), (2, 2), (1, 2, 3)][seed], coupling=0.2, activation=activation
    )
    scales = {"input_scale": np.array([1.0, 0.2]), "output_scale": np.array([3.0, 1.0])}
    certificate = certify_l2_gain(system, **scales)
    attack = attack_l2_gain(system, 40, input_range=RANGE, starts=16, steps=20, seed=seed, **scales)
    assert attack.random <= attack.gain <= certificate.gamma
    assert attack.gain > 0.5 * certificate.gamma


@pytest.mark.slow
def test_no_attack_exceeds_the_certified_gain_of_any_of_many_systems():
    rng, refused = np.random.default_rng(0), []
    for seed in range(100):
        elman = seed % 2
        system = (
            random_elman(seed, nx=int(rng.integers(1, 8)), norm=float(rng.uniform(0.5, 1.6)))
            if elman
            else random_system(
                seed,
                nx=int(rng.integers(1, 6)),
                layers=tuple(rng.integers(1, 4, rng.integers(0, 4))),
                coupling=float(rng.uniform(0.05, 0.4)),
                activation=str(rng.choice(["tanh", "relu", "sigmoid", "leaky_relu"])),
            )
        )
        try:
            gamma = certify_l2_gain(system).gamma
        except CertificationError as error:
            refused.append(str(error))
            continue
        assert attack_l2_gain(system, 30, input_range=RANGE, starts=8, steps=15, seed=seed).gain <= gamma
    assert len(refused) < 40
    assert all("no l2 gain can be proven" in message for message in refused)


@pytest.mark.parametrize("seed", range(3))
def test_the_bound_agrees_with_a_general_solver(seed):
    system = random_system(seed, layers=(2, 2), coupling=0.2)
    assert certify_l2_gain(system).gamma == pytest.approx(sdp.smallest_l2_gain(IncrementalForm.of(system)), rel=2e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: models.LipschitzREN(nu=2, ny=2, nx=3, nv=5, gamma=2.0, dt=1.0, seed=0),
        lambda: models.LipschitzR2DN(nu=2, ny=2, nx=3, nv=3, layers=(3, 2), gamma=0.7, dt=1.0, seed=1),
    ],
)
def test_no_worse_than_by_construction(make):
    own = certify_by_construction(make())
    assert own.dissipation is not None
    scales = {"input_scale": own.dissipation.input_scale, "output_scale": own.dissipation.output_scale}
    assert certify_l2_gain(own.system, **scales).gamma <= own.dissipation.gamma


def test_freely_trained_networks_are_certified_or_clearly_refused():
    assert certify_l2_gain(random_elman(0, norm=1.2)).gamma < 1.1  # contracts, though its norm exceeds one
    with pytest.raises(CertificationError, match=r"no l2 gain can be proven.*finite-horizon"):
        certify_l2_gain(random_elman(0, nx=3, norm=1.5, activation="relu"))


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"input_scale": 0.0}, SettingError),
        ({"output_scale": np.ones(3)}, ShapeError),
        ({"input_scale": [1, -1]}, SettingError),
    ],
)
def test_bad_arguments_are_refused(arguments, error):
    with pytest.raises(error):
        certify_l2_gain(random_elman(0), **arguments)
    with pytest.raises(error):
        attack_l2_gain(random_elman(0), 5, input_range=RANGE, seed=0, **arguments)


def test_attacks_are_reproducible():
    one, two = (attack_l2_gain(random_elman(1), 20, input_range=RANGE, starts=4, steps=5, seed=3) for _ in range(2))
    assert (one.gain, one.random, one.pairs) == (two.gain, two.random, 24)
