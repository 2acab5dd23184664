"""Practical mode: limits see predictions corrected by the disturbance estimate alone, as their bound was calibrated."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from mpc_networks import declared_error
from offset_cases import GOAL, OBSERVERS, PREDICTOR, SYSTEM, N, plant

from controlrnn.data import Trajectory
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import DisturbanceFilter, TightenedMPC, Tracking, calibration_errors, prediction_errors, tighten
from plants import excitation

T, GAIN = 70, 0.2


def controller(observer):
    error = declared_error(SYSTEM, np.full((N + 1, 2), 0.02), GAIN)
    room = tighten(error, None, observer=observer)
    return TightenedMPC(PREDICTOR, observer, room, Tracking(output_weight=1.0, input_move_weight=0.05))


def record(missing):
    """The plant with an inflow, excited and read with noise; and which readings are hidden."""
    rng, acting = np.random.default_rng(5), plant("inflow")
    u, x, y = excitation.random_steps(T, PREDICTOR.inputs, hold=(2, 9), seed=1), acting.initial_state(), []
    for row in u:
        y.append(acting.output(x, row))
        x = acting.step(x, row)
    return Trajectory(u=u, y=np.array(y) + 0.01 * rng.standard_normal((T, 2)), dt=1.0), rng.random((T, 2)) < missing


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("name", OBSERVERS)
def test_errors_of_its_predictions_are_those_that_were_calibrated(name, missing):
    made = controller(OBSERVERS[name]())
    first, (seen, gaps) = made.observer.steps, record(missing)
    found, between = [], []
    own_run = SYSTEM.simulate(seen.u, made.observer.initial_state)[0]
    for t in range(T - N):
        x = made.observer.state
        made.record(np.where(gaps[t], np.nan, seen.y[t]), seen.u[t])
        if t >= first:
            ahead = PREDICTOR.predict(x, seen.u[t : t + N])
            found.append(seen.y[t : t + N + 1] - (ahead + made.disturbance.in_limits))
            between.append(own_run[t : t + N + 1] - ahead)
    observer = copy.deepcopy(made.observer)
    calibrated = calibration_errors(
        SYSTEM,
        seen,
        horizon=N,
        washout=0,
        disturbance=DisturbanceFilter(GAIN),
        observer=observer,
        initial_state=observer.initial_state,
        gaps=gaps if missing else None,
    )
    # What remains is the estimate's error, for which there is a certificate.
    np.testing.assert_allclose(np.array(found), calibrated + between, rtol=0, atol=1e-9)
    if not missing:
        own = prediction_errors(observer, seen, horizon=N, disturbance=DisturbanceFilter(GAIN))
        np.testing.assert_allclose(np.array(found), own, rtol=0, atol=1e-9)
    if name == "innovation":  # the cost sees more than limits do
        assert np.abs(made.disturbance.rows - made.disturbance.in_limits).max() > 1e-3


@pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
@pytest.mark.parametrize("name", ["running on", "short washout", "innovation"])
def test_c_keeps_the_same_limits(name, tmp_path):
    """At a limit, with an inflow that nobody knows of, noise, and readings that are missing."""
    ours, acting = controller(OBSERVERS[name]()), plant("inflow")
    theirs, rng = CompiledController(ours, tmp_path), np.random.default_rng(2)
    noise = 0.005 * rng.standard_normal((120, 2))
    noise[rng.random((120, 2)) < 0.2] = np.nan
    taken = []
    for controls in (ours, theirs):
        controls.reset()
        x, u, said = acting.initial_state(), np.zeros(2), []
        for t in range(120):
            step = controls.step(acting.output(x, u) + noise[t], [2.0 if t > 40 else 0.2, GOAL[1]])
            u = step.u
            x = acting.step(x, u)
            said.append((*u, step.status == "solved", step.feasible))
        taken.append(np.array(said))
    np.testing.assert_allclose(taken[0], taken[1], rtol=0, atol=1e-6)
