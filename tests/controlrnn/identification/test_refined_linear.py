"""Refined linear models: never worse than their start, found by default for lightly damped plants, start networks."""

import numpy as np
import pytest

from controlrnn.data import Dataset, Trajectory
from controlrnn.identification import Family, free_run, identify, identify_best, identify_subspace, initial_states
from controlrnn.identification.losses.base import SimulationError
from controlrnn.identification.selection.baselines import settling_oscillation
from controlrnn.identification.selection.candidates import Candidate
from controlrnn.identification.selection.linear import start_at
from controlrnn.models import LTI
from controlrnn.systems import LureSystem

MODES = ((0.9985, 0.15), (0.998, 0.4))  # radius and angle of pairs of poles: 42 and 16 samples a period
NOISE = 0.02


def plant(modes=MODES, nu=1, ny=1, seed=0):
    """Sum of lightly damped oscillators, each driven by all inputs."""
    rng, n = np.random.default_rng(seed), 2 * len(modes)
    A = np.zeros((n, n))
    for k, (radius, angle) in enumerate(modes):
        c, s = radius * np.cos(angle), radius * np.sin(angle)
        A[2 * k : 2 * k + 2, 2 * k : 2 * k + 2] = [[c, s], [-s, c]]
    B, C = 0.1 * rng.normal(size=(n, nu)), rng.normal(size=(ny, n))
    zero = np.zeros
    return LureSystem(
        A=A, B1=zero((n, 0)), B2=B, bx=zero(n), C1=zero((0, n)), D11=zero((0, 0)), D12=zero((0, nu)), bv=zero(0),
        C2=C, D21=zero((ny, 0)), D22=zero((ny, nu)), by=1.0 + zero(ny), activation="tanh", layers=(), dt=0.01,
    )  # fmt: skip


def record(system, T, seed, noise=NOISE):
    rng = np.random.default_rng(seed)
    u = rng.normal(size=(T, system.nu))
    y, _ = system.simulate(u, np.zeros(system.nx))
    return Trajectory(u, y + noise * rng.normal(size=y.shape), system.dt, name=f"record {seed}")


def cost(system, records):
    """Mean square of the free run over whole records, each from the initial state that fits all of it best."""
    runs, _ = free_run(system, records, initial_states(system, records, min(map(len, records))))
    return float(np.mean([np.mean((y - r.y) ** 2) for y, r in zip(runs, records, strict=True)]))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("nx", [2, 3, 4])
def test_refinement_never_makes_the_training_records_worse(nx, seed):
    records = (
        record(plant(ny=2, seed=seed), 400, seed, noise=0.3),
        record(plant(ny=2, seed=seed), 400, 10 + seed, 0.3),
    )
    start = identify_subspace(records, nx, strictly_proper=True, max_radius=0.9995)
    fit = identify(
        LTI(nu=1, ny=2, nx=nx),
        Dataset(records),
        loss=SimulationError(),
        steps=0,
        skip=20,
        window=400,
        initial_state="estimated",
        refine="levenberg_marquardt",
        refine_steps=15,
        keep="last",
    )
    losses = fit.history["loss"][1:]
    assert (np.diff(losses) <= 0).all()
    assert cost(fit.system, records) <= cost(start.system, records) * (1 + 1e-9)


@pytest.fixture(scope="module")
def found():
    system = plant()
    data = Dataset((record(system, 2000, 0), record(system, 1500, 1)), (), (record(system, 1500, 2),))
    return identify_best(data, budget=20, families=["linear"])


def test_a_lightly_damped_plant_of_known_order_is_found_by_default(found):
    """The slower mode takes 42 samples a period and 1500 to settle: the usual horizon of 15 shows little of it."""
    entry = found.entry("linear")
    assert entry.system.nx == 4
    # The initial state is estimated from noisy samples, and rings on.
    assert entry.error < 2 * NOISE
    assert entry.test.rmse[0] < 2 * NOISE
    poles = np.linalg.eigvals(entry.system.A)
    for radius, angle in MODES:
        nearest = poles[np.argmin(np.abs(poles - radius * np.exp(1j * angle)))]
        assert abs(nearest) == pytest.approx(radius, abs=5e-4)
        assert np.angle(nearest) == pytest.approx(angle, abs=5e-4)


def test_a_longer_horizon_than_usual_is_chosen_where_oscillations_are_slow(found):
    systems = {e.name: e for e in found.entries}
    assert "horizon" in systems["subspace"].what
    assert systems["subspace"].error < 0.5 * systems["arx"].error
    assert systems["linear"].error <= systems["subspace"].error
    assert all(t.candidate.family is Family.LINEAR for t in found.trials)


@pytest.mark.parametrize(("radius", "angle"), [(0.99, 0.3), (0.9, 1.0), (0.999, 0.01)])
def test_the_slowest_oscillation_settles_in_as_many_samples_as_it_takes(radius, angle):
    system = plant(((radius, angle), (0.5, 2.0)))
    n = settling_oscillation(system)
    states = system.simulate(np.zeros((n + 2, 1)), np.array([1.0, 0.0, 0.0, 0.0]))[1]
    size = np.linalg.norm(states, axis=1)
    assert size[n + 1] < 0.1 <= size[n] * (1 + 1e-9)


@pytest.mark.parametrize("poles", [[0.5, 0.9], [1.0, 0.2]])
def test_what_does_not_oscillate_needs_no_longer_horizon(poles):
    system = plant(((0.5, 0.3),))
    rest = {n: getattr(system, n) for n in ("B1", "B2", "bx", "C1", "D11", "D12", "bv", "C2", "D21", "D22", "by")}
    diagonal = LureSystem(A=np.diag(poles), **rest, activation="tanh", layers=(), dt=0.01)
    assert settling_oscillation(diagonal) == 0


@pytest.mark.parametrize("family", [Family.FREE, Family.CONTRACTING])
def test_networks_start_at_the_refined_linear_model(family):
    data = Dataset((record(plant(), 600, 3),))
    options = {"loss": SimulationError(), "steps": 0, "skip": 30, "window": 600, "initial_state": "estimated"}
    linear = identify(LTI(nu=1, ny=1, nx=4), data, refine="levenberg_marquardt", refine_steps=6, **options)
    network = Candidate(family, 4, 6).build(1, 1, False, 0).double()
    start_at(network, linear.model)
    runs = [
        free_run(s, data.train, initial_states(s, data.train, 600))[0][0] for s in (linear.system, network.freeze())
    ]
    np.testing.assert_allclose(runs[1], runs[0], atol=1e-6)
