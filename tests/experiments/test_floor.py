"""The controller that knows the plant, its state and the declared sets: what it assumes holds, and is needed."""

from dataclasses import replace
from functools import cache
from itertools import product

import numpy as np
import pytest
from mpc_networks import declared_error

from controlrnn.certification import certify_contraction
from controlrnn.data import Signal
from controlrnn.greybox import beyond_ranges
from controlrnn.systems import LureSystem
from experiments import guaranteed_tanks
from experiments.shared.floor import Known, KnownState, declared_parts, physical_parts
from mpc import Disturbances, Predictor, Start, TightenedMPC, run_closed_loop
from mpc.control.settings import grouped
from plants import MultiTank


@cache
def tanks():
    _, case = guaranteed_tanks.settings(False)
    case = replace(case, iterations=30)
    push = np.full(2, case.actuator)
    return case, physical_parts(case.physics, case.inputs, case.plant.outputs, push, case.horizon, iterations=30)


def operation(count, seed=0):
    """States and inputs in the ranges of the laws, below the limit."""
    _, parts = tanks()
    rng, system = np.random.default_rng(seed), parts.observer.system
    x = rng.uniform([30, 20, 12], [60, 50, 40], (40 * count, 3))
    u = np.hstack([rng.uniform(1.0, 2.4, (len(x), 2)), np.zeros((len(x), 3))])
    inside = beyond_ranges(system, x, u).max(axis=1) == 0
    assert inside.sum() > count
    return x[inside][:count], u[inside][:count]


def test_traced_physics_are_the_plant_within_a_fifth_of_the_room():
    case, parts = tanks()
    x, u = operation(3000)
    w = np.random.default_rng(1).choice([-1.0, 1.0], (len(x), 3)) * case.physics.bound
    apart = np.abs(parts.observer.system.step(x, u + np.pad(w, ((0, 0), (2, 0)))) - case.plant.step(x, u[:, :2], w))
    room = case.physics.integration * case.plant.dt / case.plant.capacities[0]
    assert apart.max() < room / 5


def test_one_samples_unknowns_stay_within_its_room():
    case, parts = tanks()
    x, u = operation(60)
    expected, plant = parts.observer.system.step(x, u), MultiTank()
    largest, metric, jumps = np.zeros(3), parts.observer.jump.metric, []
    for corner in product((-1.0, 1.0), repeat=5):
        push, w = np.array(corner[:2]) * case.actuator, np.array(corner[2:]) * case.physics.bound
        away = plant.step(x, u[:, :2] + push, np.tile(w, (len(x), 1))) - expected
        largest = np.maximum(largest, np.abs(away).max(axis=0))
        jumps.append(np.sqrt(np.einsum("ti,ij,tj->t", away, metric, away)).max())
    assert (largest <= parts.tightening.total[1]).all()
    assert (largest > 0.8 * parts.tightening.total[1]).all()  # and it is no larger than it has to be
    assert 0.5 * parts.observer.jump.radius < max(jumps) <= parts.observer.jump.radius


class Enemy:
    """The plant under the corner of the declared sets that pushes a level towards the limit, times a factor."""

    restarts = False

    def __init__(self, factor):
        case, _ = tanks()
        self.plant, self.inputs, self.outputs, self.dt = case.plant, case.inputs, case.plant.outputs, case.plant.dt
        self.nx, self.nw, self.held = 3, 1, np.array(case.held)
        self.push, self.w = factor * case.actuator, factor * np.array(case.physics.bound)

    def initial_state(self):
        return self.plant.equilibrium(self.held)

    def step(self, x, u, w=None):
        return self.plant.step(x, np.clip(u + self.push * w[0], 0.0, 4.0), self.w * w[0])

    def output(self, x, u):
        return self.plant.output(x, u)


def against(signs, factor=1.0):
    case, parts = tanks()
    observer = parts.observer
    settings = {
        "output_weight": case.output_weight, "input_move_weight": case.move_weight, "soft": False,
        "control_horizon": case.moves, "safe_input": np.concatenate([case.held, np.zeros(3)]),
    }  # fmt: skip
    made = TightenedMPC(observer.predictor, observer, parts.tightening, terminal=parts.terminal, **grouped(settings))
    plant = Known(Enemy(factor), made.observer)
    reference = np.array(MultiTank().equilibrium(np.array([2.05, 1.6])))
    reference[0] = 63.0
    start = Start(warm_up=2, warm_up_input=np.concatenate([case.held, np.zeros(3)]))
    acting = Disturbances(disturbance=np.asarray(signs, dtype=float)[:, None])
    return run_closed_loop(plant, made, reference=reference, steps=len(signs), seed=0, start=start, disturbances=acting)


LOW_THEN_HIGH = np.where(np.arange(60) < 50, -1.0, 1.0)
TURNS = {"up": np.ones(45), "at random": np.random.default_rng(0).choice([-1.0, 1.0], 45), "surge": LOW_THEN_HIGH}


@pytest.mark.parametrize("kind", TURNS)
def test_the_limits_hold_against_corners_that_push_outwards(kind):
    found = against(TURNS[kind])
    assert found.violations == 0
    assert found.y[:, 0].max() > 58.0
    assert all(f == "none" for f in found.fallback)
    assert found.certified.all()


def test_unknowns_beyond_their_sets_break_it():
    assert against(LOW_THEN_HIGH, factor=2.0).violations > 0


def test_residuals_are_known_as_far_as_they_may_change():
    """On the declared sets: the next room is a residual's change and one sample's input error, not all of both."""
    none = np.zeros
    system = LureSystem(
        A=np.array([[0.9]]), B1=none((1, 0)), B2=np.array([[0.3]]), bx=none(1), C1=none((0, 1)), D11=none((0, 0)),
        D12=none((0, 1)), bv=none(0), C2=np.eye(1), D21=none((1, 0)), D22=none((1, 1)), by=none(1), layers=(), dt=1.0,
    )  # fmt: skip
    predictor = Predictor(system, (Signal("u", "", -1, 1),), (Signal("y", "", -1, 1),))
    contraction = certify_contraction(system)

    def declared(bounds, gain=None):
        return declared_error(system, np.reshape(bounds, (-1, 1)), gain, washout=0)

    drift = np.r_[0.0, np.full(10, 0.03)]
    made = declared_parts(
        predictor, contraction, np.array([0.1]), declared(np.full(11, 0.2)), declared(drift, 1.0), 3, iterations=20
    )
    assert made.tightening.total[1] == pytest.approx(0.2 + 0.1 * 0.3, rel=0.02)
    np.testing.assert_allclose(made.memory.spread[0], 0.03 + 0.1 * 0.3, rtol=0.05)
    assert isinstance(made.observer, KnownState)
