"""First y[t] is measured, then u[t] acts (docs/timing.md): records, observers, limits where outputs answer at once."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from mpc_networks import signals
from one_tank import RESIDUAL, N, W, error, innovating, tank
from random_systems import random_system

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Dataset, Timing, Trajectory
from controlrnn.errors import DataError, InfeasibleError, SettingError
from controlrnn.identification import fit_encoder, identify, identify_arx, identify_subspace
from controlrnn.models import LTI
from controlrnn.systems import carry_input
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    EncoderObserver,
    MovingHorizonObserver,
    Predictor,
    RunningOn,
    Safety,
    StateObserver,
    TightenedMPC,
    Tracking,
    Washout,
    Watching,
    calibrate,
    learn_region,
    no_tightening,
    run_closed_loop,
    tighten,
)
from mpc.calibration.residuals import calibration_errors, measured_errors
from mpc.control.settings import grouped
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend
from plants import Plant, Signal, excitation, simulate

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")


@dataclass(frozen=True)
class Lead(Plant):
    """T dx/dt = u - x, y = x + k u: the output answers to the input at once."""

    dt: float = 1.0
    k: float = 0.5

    inputs = property(lambda _: (Signal("u", lower=-1.0, upper=1.0),))
    outputs = property(lambda _: (Signal("y", lower=-1.0, upper=1.0),))
    states = property(lambda _: (Signal("x", lower=-5.0, upper=5.0),))
    disturbances = property(lambda _: ())
    nominal_input = property(lambda _: np.zeros(1))

    def dynamics(self, x, u, ops=None, w=None):  # noqa: ARG002
        return (u - x) / 10.0

    def output(self, x, u, ops=None):  # noqa: ARG002
        return x + self.k * u

    def _equilibrium(self, u):
        return u

    def _equilibrium_input(self, y):
        return y / (1 + self.k)


def model(k):
    a = float(np.exp(-0.1))
    return tank(1 - a, k, a)


class Exact:
    """The model as a plant."""

    dt, nx = 1.0, 1

    def __init__(self, system, predictor):
        self.system, self.inputs, self.outputs = system, predictor.inputs, predictor.outputs

    def initial_state(self):
        return np.zeros(1)

    def step(self, x, u, w=None):  # noqa: ARG002
        return self.system.step(x, u)

    def output(self, x, u):
        return self.system.output(x, u)


def records(k=0.5, n=24, noise=0.0):
    plant = Lead(k=k)
    u = np.stack([excitation.random_steps(200, plant.inputs, hold=(3, 25), seed=s) for s in range(n)])
    return plant, simulate(plant, u, noise_std=noise, seed=0)


def test_simulated_readings_answer_to_the_input_before():
    plant, (record, *_) = records(n=2)
    acting = np.vstack([plant.nominal_input, record.u[:-1]])
    np.testing.assert_allclose(record.y, record.x + 0.5 * acting, rtol=0, atol=1e-14)
    assert record.timing is Timing.MEASURED_FIRST
    other = simulate(plant, record.u, seed=0, u_before=[0.7])
    assert other.y[0] == pytest.approx(0.35)
    np.testing.assert_allclose(other.y[1:], record.y[1:], rtol=0, atol=1e-14)


def test_what_has_not_acted_yet_moves_no_output_of_an_identified_model():
    _, made = records(noise=0.01)
    data = Dataset.split(made, (12, 6, 6), seed=0)
    found = identify_subspace(data.train, 2)
    assert not found.D.any()
    assert not identify_arx(data.train, 2, 2).system.has_feedthrough
    step = found.system.simulate(np.ones((60, 1)))[0] - found.system.simulate(np.zeros((60, 1)))[0]
    assert abs(step[0, 0]) < 1e-12
    assert step[1, 0] == pytest.approx(0.5 + 1 - np.exp(-0.1), abs=0.02)
    for ask in (
        lambda: identify_subspace(data.train, 1, strictly_proper=False),
        lambda: identify_arx(data.train, 1, 1, strictly_proper=False),
        lambda: identify(LTI(nu=1, ny=1, nx=1, feedthrough=True), data, steps=1),
    ):
        with pytest.raises(SettingError, match="acts after it was measured"):
            ask()


def test_records_of_the_other_convention_are_refused_or_converted(tmp_path):
    system, rng = random_system(3, layers=()), np.random.default_rng(0)
    u = rng.uniform(-1, 1, (400, 2))
    y, x = system.simulate(u)
    record = Trajectory(u, y, system.dt, x[:-1], timing=Timing.INPUT_FIRST)
    assert identify_subspace([record], 3).system.has_feedthrough
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 9.0))
    for use in (
        lambda r: calibration_errors(predictor.system, r, horizon=3, washout=5),
        lambda r: calibrate(system, [r], horizon=3, washout=5, method="set_membership"),
        lambda r: learn_region(Washout(predictor, 5), [r] * 9, scale_trajectories=[r], coverage=0.5),
    ):
        with pytest.raises(DataError, match=r"measured_first|serve once"):
            use(record)
    with pytest.raises(DataError, match="measured_first"):
        Dataset((record,), (record.measured_first(),))
    seen = record.measured_first()
    assert seen.timing is Timing.MEASURED_FIRST
    assert seen.measured_first() is seen
    np.testing.assert_array_equal(seen.u, u[1:])
    np.testing.assert_array_equal(seen.y, y[:-1])  # what the input before led to, at once
    np.testing.assert_array_equal(seen.x, x[1:-1])
    record.save(tmp_path / "r.npz")
    assert Trajectory.load(tmp_path / "r.npz").timing is Timing.INPUT_FIRST
    with pytest.raises(SettingError, match="timing must be one of"):
        Trajectory(u, y, 1.0, timing="later")


def test_a_model_that_answers_at_once_is_put_into_the_convention_at_one_place():
    system = model(0.5)
    predictor = Predictor(system, signals("u", 1, 1.0))
    assert predictor.system.digest == carry_input(system).digest
    assert replace(predictor, outputs=signals("y", 1, 1.0)).system.digest == predictor.system.digest
    with pytest.raises(SettingError, match="carry_input"):
        measured_errors(system, np.zeros((3, 1)), np.zeros((3, 1)), np.zeros((3, 1)))
    with pytest.raises(SettingError, match=r"predictor\.system"):
        TightenedMPC(
            predictor,
            RunningOn(predictor, 2),
            no_tightening(system.digest, 4, 1),
            Tracking(output_weight=1.0, input_move_weight=1.0),
        )
    bound = calibrate(system, records(n=6)[1], horizon=5, washout=100, method="set_membership")
    assert bound.system_digest == predictor.system.digest
    assert bound.bounds.max() < 1e-4  # the plant is the model


def test_every_observer_finds_the_state_and_the_input_before():
    plant, made = records(n=4)
    predictor = Predictor(model(0.5), plant.inputs, plant.outputs)
    for observer in (
        RunningOn(predictor, 80),
        Washout(predictor, 80),
        StateObserver(predictor, [[0.3]], 80),
        MovingHorizonObserver(predictor, 80, window=6, output_std=0.01),
        EncoderObserver(predictor, fit_encoder(predictor.system, made[:3], past=3, washout=80, hidden=0)),
    ):
        record = made[3]
        x = observer.estimates(record.u, record.y)[120:-1]
        np.testing.assert_allclose(
            x[:, 0], record.x[120:, 0], atol=0.02 if "Encoder" in type(observer).__name__ else 2e-3
        )
        np.testing.assert_allclose(x[:, 1], record.u[119:-1, 0], atol=1e-12)


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_compiler)])
def test_an_exact_plant_stays_within_what_is_certified(compiled, tmp_path):
    """The innovation observer compares with what the reading answers to: no residual, no error beyond the certified."""
    controller = innovating(0.5)
    theirs, system = CompiledController(controller, tmp_path) if compiled else controller, tank(0.3, 0.5)
    x, u, highest, errors = np.zeros(1), np.zeros(1), -np.inf, []
    for _ in range(W):
        theirs.record(system.output(x, u), u)
        x = system.step(x, u)
    for goal in np.repeat([0.9, -0.9, 0.9, -3.0, 3.0], 16):
        step = theirs.step(system.output(x, u), [goal])
        assert step.certified
        assert step.feasible
        if not compiled:
            errors.append(np.abs(step.x - [x[0], u[0]]))
        u = step.u
        highest = max(highest, *system.output(x, u), *system.output(system.step(x, u), u))
        x = system.step(x, u)
    assert 0.9 < highest <= 1.0
    if not compiled:
        assert np.linalg.norm(errors, axis=1).max() <= controller.observer.error.euclidean


def lead_controller(k, **options):
    system = model(k)
    predictor = Predictor(system, Lead(k=k).inputs, Lead(k=k).outputs)
    observer = Washout(predictor, 80, contraction=certify_contraction(predictor.system))
    start = observer.restart
    joint = certify_horizon(
        predictor.system, 80 + N, initial_radius=start.radius, metric=start.metric, focus=[80, 80 + N]
    )
    tightening = tighten(error(predictor.system, np.full(N + 1, 1e-6)), joint, observer=observer)
    return TightenedMPC(
        predictor, observer, tightening, **grouped(dict(output_weight=1.0, input_move_weight=0.01, **options))
    )


@pytest.mark.parametrize("k", [0.5, 1.5, -0.9])
@pytest.mark.parametrize("soft", [True, False])
def test_outputs_keep_their_limits_just_before_and_just_after_each_input(k, soft):
    goal = np.where(np.arange(180)[:, None] % 60 < 30, 1.3, -1.3)
    run = run_closed_loop(Lead(k=k), lead_controller(k, soft=soft), reference=goal, steps=180, seed=0)
    assert run.failed_solves == 0
    assert run.violations == 0
    assert max(run.after.max(), run.y.max()) > (0.98 if k > 0 else 0.85)
    np.testing.assert_allclose(run.after[1:] - run.y[1:-1], k * np.diff(run.u, axis=0), atol=1e-6)


def test_without_limits_just_after_they_would_be_passed(monkeypatch):
    """The case above is one where readings alone do not tell: the peak comes just after the input."""
    monkeypatch.setattr(Predictor, "with_answers", property(lambda self: self))
    goal = np.where(np.arange(180)[:, None] % 60 < 30, 1.3, -1.3)
    run = run_closed_loop(Lead(k=-0.9), lead_controller(-0.9), reference=goal, steps=180, seed=0)
    assert (np.abs(run.y[1:]) <= 1.0 + 1e-9).all()
    assert np.abs(run.after).max() > 1.01
    assert run.violations > 0


def test_the_whole_road_from_records_to_limits():
    """Identified from readings as they are, calibrated and tightened: no reading and no output beyond the limit."""
    plant, made = records()
    data = Dataset.split(made, (6, 4, 4, 10), seed=0)
    system = identify_subspace(data.train, 2, max_radius=0.95).system
    predictor = Predictor(system, plant.inputs, plant.outputs)
    assert not predictor.carries
    bound = calibrate(
        system, data.calibration, horizon=N, washout=100, coverage=0.9, scale_trajectories=data.validation
    )
    controller = TightenedMPC(
        predictor,
        RunningOn(predictor, 80),
        tighten(bound, None, observer=RunningOn(predictor, 80)),
        Tracking(output_weight=1.0, input_move_weight=0.01),
    )
    goal = np.where(np.arange(180)[:, None] % 60 < 30, 1.3, -0.6)
    run = run_closed_loop(plant, controller, reference=goal, steps=180, seed=0)
    assert run.violations == 0
    assert run.y.max() > 0.95


def test_readings_of_a_loop_are_those_before_the_input():
    controller = lead_controller(0.5)
    run = run_closed_loop(Lead(), controller, reference=[0.5], steps=20, seed=0)
    np.testing.assert_array_equal(run.readings, run.y[:-1])
    assert run.y[0] == pytest.approx(0.0, abs=1e-9)  # before the first input of the controller
    assert abs(run.after[0] - run.y[0]) > 0.05
    assert RESIDUAL > 0


def test_engines_keep_limits_at_step_0_or_refuse():
    goal = np.where(np.arange(40)[:, None] % 40 < 20, 1.3, -1.3)
    made = [lead_controller(-0.9, backend=backend) for backend in (CondensedBackend, FatropBackend)]
    runs = [run_closed_loop(Lead(k=-0.9), c, reference=goal, steps=40, seed=0) for c in made]
    assert [run.violations for run in runs] == [0, 0]
    np.testing.assert_allclose(runs[0].u, runs[1].u, atol=2e-3)
    with pytest.raises(SettingError, match="answer to the first input at once"):
        lead_controller(-0.9, backend=DoMpcBackend)


@pytest.mark.parametrize("wide", [True, False])
def test_a_tightening_that_leaves_nothing_just_after_an_input_is_refused(wide):
    """No input changes the reading of step 0, but the output just after it: crossing limits disabled the solver."""
    predictor = Predictor(tank(0.3, 0.5), signals("u", 1, 1.0), signals("y", 1, 1.0))
    observer = RunningOn(predictor, 5)
    rows = np.full((2, N + 1), 0.1)
    rows[1, 0] = 1.2
    usual, large = (tighten(error(predictor.system, r), None, observer=observer) for r in rows)
    safety = Safety(watching=Watching(wider=large)) if wide else None
    tracking = Tracking(output_weight=1.0, input_move_weight=1.0)
    with pytest.raises(InfeasibleError, match=r"'y1' just after an input at step 0: limits 0\.2 to -0\.2"):
        TightenedMPC(
            predictor,
            observer,
            usual if wide else large,
            Tracking(output_weight=1.0, input_move_weight=1.0),
            safety=safety,
        )
    plain = Predictor(tank(0.3), signals("u", 1, 1.0), signals("y", 1, 1.0))
    made = tighten(error(plain.system, rows[1]), None, observer=RunningOn(plain, 5))
    TightenedMPC(plain, RunningOn(plain, 5), made, tracking)
