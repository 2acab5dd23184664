"""What certificates must survive: searches and solvers stopped early, vanishing gains, unstable and float32 models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from feedforward import W0, W1, feedforward
from random_systems import random_elman, random_pairs, random_system

from controlrnn.certification import (
    attack_horizon,
    certify_contraction,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
)
from controlrnn.errors import CertificationError
from controlrnn.models import ContractingREN, Elman

BOX = (-np.ones(2), np.ones(2))
SYSTEMS = [
    pytest.param(random_elman(1, nx=3), id="elman"),
    pytest.param(random_system(2, layers=(2, 2)), id="layered"),
    pytest.param(random_system(8, nx=2, layers=(3,), norm=1.3, coupling=1.0), id="unstable"),
]


def above(bounds, system, steps, radius=0.5, b=0.1):
    one, two = random_pairs(system, steps, radius=radius, input_radius=b)
    return bool((np.abs(one - two) <= bounds * (1 + 1e-9) + 1e-13 * np.maximum(np.abs(one), np.abs(two))).all())


@pytest.mark.parametrize("system", SYSTEMS)
def test_our_own_search_stopped_after_one_iteration_still_gives_a_bound(system):
    good, hasty = (certify_horizon(system, 4, initial_radius=0.5, input_radius=0.1, iterations=n) for n in (300, 1))
    assert hasty.verify(system) > 0
    assert (hasty.bounds[-1] >= good.bounds[-1] * (1 - 1e-6)).all()
    assert above(hasty.bounds, system, 5)
    gains, constant = certify_gains(system, 4, iterations=1), certify_lipschitz(system, 4, iterations=1)
    assert above(gains.bounds(0.5, 0.1), system, 5)
    assert constant.verify(system) > 0
    assert constant.constant >= certify_lipschitz(system, 4).constant * (1 - 1e-6)


@pytest.mark.parametrize(
    ("solver", "options"),
    [("CLARABEL", {"max_iter": n}) for n in (2, 5, 9)] + [("SCS", {"eps": 1e-1, "max_iters": n}) for n in (1, 20)],
)
@pytest.mark.parametrize("system", SYSTEMS[:2])
def test_a_solver_stopped_early_is_repaired_or_refused(system, solver, options):
    settings = {"initial_radius": 0.5, "input_radius": 0.1, "focus": [2]}
    best = certify_horizon(system, 2, method="sdp", **settings)
    try:
        hasty = certify_horizon(system, 2, method="sdp", solver=solver, solver_options=options, **settings)
    except CertificationError:
        return
    assert hasty.verify(system) > 0
    assert hasty.solver_status
    assert (hasty.bounds[-1] >= best.bounds[-1] * (1 - 1e-5)).all()
    assert above(hasty.bounds, system, 3)


@pytest.mark.parametrize("norm", [0.0, 1e-8, 1e-3])
def test_gains_near_zero_are_near_zero(norm):
    system = random_elman(0, nx=3, norm=norm)
    rate = certify_contraction(system).rate
    assert norm * 0.1 <= rate < max(30 * norm, 0.05)
    push = np.linalg.norm(system.C2, 2) * np.linalg.norm(system.D12, 2)
    assert certify_l2_gain(system).gamma <= 1.05 * push + 1e-3
    assert (certify_gains(system, 5).initial[2:] <= max(norm, 1e-30) * 10).all()
    assert certify_lipschitz(system, 5).constant <= 1.05 * push + norm
    # Outputs in other units: bounds in those units, up to where the search stops.
    tiny, plain = (
        certify_horizon(s, 3, initial_radius=0.5, input_radius=0.1, iterations=100).bounds[-1]
        for s in (replace(system, C2=1e-9 * system.C2), system)
    )
    assert (tiny <= 1.3e-9 * plain).all()
    assert (tiny >= 0.7e-9 * plain).all()


def test_an_unstable_model_has_a_finite_bound_and_no_infinite_one():
    system = random_elman(0, nx=3, norm=1.6, activation="relu")
    assert above(certify_horizon(system, 8, initial_radius=0.5, input_radius=0.1, iterations=100).bounds, system, 9)
    assert np.isfinite(certify_gains(system, 8, iterations=60).initial).all()
    assert np.isfinite(certify_lipschitz(system, 8, iterations=60).constant)
    with pytest.raises(CertificationError, match=r"cannot be shown to contract.*finite-horizon.*contracts by design"):
        certify_contraction(system)
    with pytest.raises(CertificationError, match=r"no contraction at rate 0\.90000 was found: allow a larger rate"):
        certify_contraction(system, 0.9)
    with pytest.raises(CertificationError, match=r"no l2 gain can be proven.*finite-horizon"):
        certify_l2_gain(system)
    with pytest.raises(CertificationError, match="cannot be shown to contract"):
        certify_reinitialisation(system, washout=3, horizon=2, input_range=BOX)


@pytest.mark.parametrize("make", [Elman, ContractingREN])
def test_float32_models_are_certified_as_they_are_deployed(make):
    model = make(nu=2, ny=2, nx=3, dt=1.0, seed=0).to(torch.float32)
    system = model.freeze()
    certificate = certify_horizon(system, 3, initial_radius=0.5, input_radius=0.1, iterations=60)
    assert certificate.verify(model.freeze()) > 0
    assert above(certificate.bounds, system, 4)
    if make is Elman:  # its weights are parameters, so that they are float32 numbers
        np.testing.assert_array_equal(system.C1, np.asarray(system.C1, np.float32))
    changed = np.array(system.C1)
    changed[0, 0] = np.nextafter(np.float32(changed[0, 0]), np.float32(np.inf))
    with pytest.raises(CertificationError, match="weights differ"):
        certificate.verify(replace(system, C1=changed))


def test_the_claim_of_coupled_multipliers_cannot_be_forged():
    """LipSDP-Network's 0.5230 for a network whose slope reaches 1.3219: no multipliers of ours prove it."""
    system = feedforward([W0, W1], [np.array([-1.0, 1.0, 1.0])], "relu")
    certificate = certify_horizon(system, 0, initial_radius=1.0)
    for bound in (0.5230, 1.3219283):
        with pytest.raises(CertificationError, match="not proven"):
            replace(certificate, bounds=np.array([[bound]])).verify(system)
    for factor in (1e-3, 0.1, 0.5, 0.9):
        scaled = tuple(replace(f, multipliers=factor * f.multipliers) for f in certificate.families)
        with pytest.raises(CertificationError):
            replace(certificate, families=scaled).verify(system)


@pytest.mark.slow
def test_no_attack_exceeds_any_bound_of_200_random_systems():
    rng, contracting = np.random.default_rng(0), 0
    kinds = ["tanh", "relu", "sigmoid", "leaky_relu"]
    for seed in range(200):
        system = (
            random_elman(seed, nx=int(rng.integers(1, 7)), norm=float(rng.uniform(0.3, 1.6)))
            if seed % 2
            else random_system(
                seed,
                nx=int(rng.integers(1, 5)),
                layers=tuple(rng.integers(1, 4, rng.integers(0, 4))),
                coupling=float(rng.uniform(0.05, 1.0)),
                norm=float(rng.uniform(0.3, 1.3)),
                activation=kinds[seed // 2 % 4],
            )
        )
        radius, b, N = float(rng.uniform(0, 1)), rng.uniform(0, 0.5, 2), int(rng.integers(0, 9))
        bounds = certify_horizon(system, N, initial_radius=radius, input_radius=b, iterations=40).bounds
        summed = certify_gains(system, N, iterations=40).bounds(radius, b)
        constant = certify_lipschitz(system, N, iterations=20).constant
        # Near zero: where an unstable system runs off to, differences are rounding.
        near = -np.ones(system.nx), np.ones(system.nx)
        attack = attack_horizon(
            system,
            N,
            initial_radius=radius,
            input_radius=b,
            input_range=(-3 * np.ones(2), 3 * np.ones(2)),
            state_range=near,
            starts=8,
            steps=15,
            seed=seed,
        ).differences
        room = 1 + 1e-9
        assert (attack <= np.minimum(bounds, summed) * room + 1e-12).all(), seed
        everything = np.sqrt(radius**2 + (N + 1) * float(b @ b))
        assert attack[-1].max() <= constant * everything * room + 1e-12, seed
        try:
            contraction = certify_contraction(system)
        except CertificationError:
            continue
        contracting += 1
        far = np.array([contraction.error_after(k, radius * np.linalg.norm(contraction.metric, 2) ** 0.5, b)
                        for k in range(N + 1)])  # fmt: skip
        x, du = rng.normal(size=(64, system.nx)), b * rng.choice([-1.0, 1.0], (64, N + 1, 2))
        dx = rng.normal(size=x.shape)
        dx *= radius / np.linalg.norm(dx, axis=1, keepdims=True)
        u = rng.uniform(-3, 3, du.shape)
        apart = (system.simulate(u + du, x + dx)[1] - system.simulate(u, x)[1])[:, : N + 1]
        distance = np.sqrt(np.einsum("bti,ij,btj->bt", apart, contraction.metric, apart))
        assert (distance <= far * room + 1e-12).all(), seed
    assert contracting > 60
