"""What the float64 verifier accepts, the ball checker accepts: every kind, over systems, functions, sizes and units."""

import time
from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import (
    InputError,
    certify_around,
    certify_by_construction,
    certify_contraction,
    certify_delta_iss,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
)
from controlrnn.errors import SettingError
from controlrnn.models import ContractingREN, LipschitzR2DN
from controlrnn.systems import GatedSystem

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

SYSTEMS = {
    "tanh": random_elman(0, nx=3),
    "relu": random_elman(1, nx=3, activation="relu"),
    "sigmoid, one state": random_elman(2, nx=1, nu=1, ny=1, activation="sigmoid"),
    "leaky, layers": random_system(3, nx=2, layers=(2, 1), activation="leaky_relu", coupling=0.3),
    "linear": random_system(4, nx=3, layers=(), norm=0.9),
    "linear, strictly proper": random_system(5, nx=2, layers=(), feedthrough=False),
    "tanh, feedthrough": random_system(6, nx=3, layers=(1, 1, 1), coupling=0.2),
}
UNSTABLE = random_elman(7, nx=3, norm=1.5)
BOX = {"input_range": (-np.ones(2), np.ones(2)), "state_range": (-0.2 * np.ones(3), 0.2 * np.ones(3))}


def units(system, seed):
    """The same system with states in units from 1e-8 to 1e8."""
    s = 10.0 ** np.random.default_rng(seed).uniform(-8, 8, system.nx)
    return replace(
        system,
        A=system.A * s[:, None] / s,
        B1=system.B1 * s[:, None],
        B2=system.B2 * s[:, None],
        bx=system.bx * s,
        C1=system.C1 / s,
        C2=system.C2 / s,
    )


def agree(certificate, system):
    assert certificate.verify(system) > 0
    assert certificate.verify(system, rigour="ball") > 0


@pytest.mark.parametrize("name", SYSTEMS)
def test_horizons_gains_and_constants(name):
    system = SYSTEMS[name]
    gains = certify_gains(system, 4, iterations=10) if name != "linear, strictly proper" else None
    agree(certify_horizon(system, 4, initial_radius=0.5, input_radius=0.1, iterations=10, gains=gains), system)
    agree(certify_lipschitz(system, 4, iterations=10), system)
    if gains is not None:
        agree(gains, system)


@pytest.mark.parametrize("system", [SYSTEMS["tanh"], UNSTABLE, units(SYSTEMS["tanh"], 0)])
@pytest.mark.parametrize("boxes", [{}, BOX])
@pytest.mark.parametrize("error", [
    InputError(radius=0.1), InputError(kind="ball", radius=np.array([0.1, 0.0])),
    InputError(kind="few", radius=0.1, steps=2), InputError(kind="constant", radius=0.1),
    InputError(kind="rate_limited", radius=0.1, rate=np.array([0.01, 0.0])),
], ids=lambda e: str(e.kind))  # fmt: skip
def test_every_kind_of_wrong_inputs(system, boxes, error):
    agree(certify_horizon(system, 5, initial_radius=0.1, input_radius=error, iterations=5, **boxes), system)


@pytest.mark.parametrize("error", ["box", "constant"])
def test_equal_initial_states_and_a_metric(error):
    system = SYSTEMS["tanh"]
    metric = np.diag([1.0, 100.0, 1e-4])
    e = InputError(kind=error, radius=0.1)
    agree(certify_horizon(system, 3, initial_radius=0.0, input_radius=e, metric=metric, iterations=5), system)
    agree(certify_horizon(system, 3, initial_radius=1e-9, metric=metric, iterations=5), system)


@pytest.mark.parametrize("name", SYSTEMS)
def test_one_step_for_ever(name):
    system = SYSTEMS[name]
    agree(certify_contraction(system), system)
    agree(certify_l2_gain(system), system)


@pytest.mark.parametrize("name", SYSTEMS)
def test_tubes_also_around_other_trajectories(name):
    system, rng = SYSTEMS[name], np.random.default_rng(0)
    x0, u = rng.standard_normal(system.nx), rng.standard_normal((7, system.nu))
    made = certify_around(system, x0, u, initial_radius=0.3, input_radius=0.1)
    agree(made, system)
    agree(made.around(system, x0 + 0.3, u - 0.2, iterations=0), system)
    agree(made.around(system, x0 + 1, u - 1, iterations=2), system)
    agree(certify_around(system, x0, u, initial_radius=0.0, input_radius=np.eye(system.nu)[0] * 0.1, focus=[]), system)
    agree(certify_around(system, x0, u, initial_radius=0.0), system)


@pytest.mark.parametrize(("name", "gain"), [("tanh", 0.02), ("sigmoid, one state", None), ("linear", 0.02)])
def test_reinitialisation(name, gain):
    system = SYSTEMS[name]
    ends = -np.ones(system.nu), np.ones(system.nu)
    gain = None if gain is None else np.full((system.nx, system.ny), gain)
    made = certify_reinitialisation(
        system,
        washout=4,
        horizon=3,
        input_range=ends,
        input_error=0.05,
        observer_gain=gain,
        residual_bound=0.1,
        iterations=5,
    )
    agree(made, system)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("seed", range(5))
def test_gated_networks(cell, seed):
    rows, draw = (3 if cell == "gru" else 4) * 3, np.random.default_rng(seed).standard_normal
    system = GatedSystem(
        W=0.5 * draw((rows, 2)), U=0.05 * draw((rows, 3)), b=0.5 * draw(rows), C=draw((1, 3)), by=draw(1), cell=cell,
        dt=1.0,
    )  # fmt: skip
    agree(certify_delta_iss(system, input_range=(-np.ones(2), 0.5 * np.ones(2))), system)


@pytest.mark.parametrize(("kind", "more"), [(ContractingREN, {}), (LipschitzR2DN, {"gamma": 2.0})])
def test_by_construction(kind, more):
    made = certify_by_construction(kind(nu=2, ny=2, nx=3, dt=1.0, seed=0, **more))
    agree(made.contraction, made.system)
    if made.dissipation is not None:
        agree(made.dissipation, made.system)


def test_another_rigour_or_system_is_refused():
    system = SYSTEMS["tanh"]
    made = certify_contraction(system)
    with pytest.raises(SettingError, match="rigour must be one of 'float64', 'ball'"):
        made.verify(system, rigour="prayer")


@pytest.mark.slow
def test_sixteen_states_and_fifty_steps_take_seconds():
    system = random_elman(0, nx=16, nu=3, ny=3, norm=0.98)
    made = certify_horizon(system, 50, initial_radius=0.5, input_radius=0.1, iterations=60)
    start = time.process_time()
    made.verify(system, rigour="ball")
    assert time.process_time() - start < 30


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(30))
def test_random_systems_of_all_sorts(seed):
    rng = np.random.default_rng(seed)
    activation = str(rng.choice(["tanh", "relu", "sigmoid", "leaky_relu"]))
    layers = [(3,), (2, 1), (1, 1, 1), (4, 2)][seed % 4]
    system = random_system(
        seed,
        nx=int(rng.integers(1, 5)),
        nu=int(rng.integers(1, 3)),
        ny=int(rng.integers(1, 3)),
        layers=layers,
        activation=activation,
        norm=rng.uniform(0.1, 1.2),
        coupling=rng.uniform(0.1, 1.0),
        feedthrough=seed % 2 == 0,
    )
    steps, radius = int(rng.integers(0, 12)), float(rng.choice([0.0, 1e-6, 1.0]))
    errors = rng.choice([0.0, 1e-3, 1.0], system.nu)
    agree(certify_horizon(system, steps, initial_radius=radius, input_radius=errors, iterations=10), system)
    x0, u = rng.standard_normal(system.nx), rng.standard_normal((steps + 1, system.nu))
    agree(certify_around(system, x0, u, initial_radius=radius, input_radius=errors), system)
    agree(certify_gains(system, steps, iterations=10), system)
