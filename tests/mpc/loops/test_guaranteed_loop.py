"""The whole chain: calibrated model error, certified observer, growth, terminal set; true outputs keep their limits."""

import numpy as np
import pytest
from mpc_networks import LurePlant, declared_error, elman, signals

from controlrnn.certification import certify_contraction, certify_horizon
from mpc import (
    Disturbances,
    Predictor,
    RunningOn,
    Start,
    StateObserver,
    Status,
    TightenedMPC,
    Tracking,
    Washout,
    kalman_gain,
    make_recursive,
    no_tightening,
    observer_system,
    run_closed_loop,
    terminal_set,
    tighten,
)

N, WANDER, LIMIT, STEPS = 14, 0.03, 0.4, 200


@pytest.fixture(scope="module")
def parts():
    system = elman()
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, LIMIT))
    return system, predictor, certify_contraction(system)


def observer_of(kind, parts):
    system, predictor, contraction = parts
    if kind == "washout":
        return Washout(predictor, 6, contraction=contraction)
    if kind == "running on":
        return RunningOn(predictor, 20, contraction=contraction)
    gain = 0.1 * kalman_gain(predictor, output_noise_std=0.03, state_noise_std=0.02)
    return StateObserver(
        predictor,
        gain,
        20,
        contraction=contraction,
        observer_contraction=certify_contraction(observer_system(system, gain)),
        residual_bound=WANDER,
    )


def controller_of(observer, parts):
    system, predictor, contraction = parts
    error = declared_error(system, np.full((N + 1, 2), WANDER))
    start, jump = observer.error, observer.jump
    certificate = certify_horizon(system, N, initial_radius=start.radius, metric=start.metric)
    growth = certify_horizon(system, N, initial_radius=jump.radius, metric=jump.metric) if jump.radius else None
    return TightenedMPC(
        predictor,
        observer,
        make_recursive(tighten(error, certificate, observer=observer), growth, observer=observer),
        Tracking(output_weight=1.0, input_move_weight=0.02),
        terminal=terminal_set(predictor, contraction, horizon=N, jump=jump),
    )


def loop(controller, parts, kind):
    """References far outside; the outputs wander to the edges of the declared set, at random or where it hurts."""
    plant = LurePlant(parts[0], parts[1].inputs, parts[1].outputs)
    t = np.arange(STEPS)
    corners = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])[4 * t // STEPS]
    rng = np.random.default_rng(2)
    wander = corners if kind == "edge" else rng.choice([-1.0, 1.0], corners.shape)
    return run_closed_loop(
        plant,
        controller,
        reference=2.0 * corners,
        steps=STEPS,
        seed=1,
        disturbances=Disturbances(disturbance=WANDER * wander),
        start=Start(warm_up=30),
    )


@pytest.mark.parametrize("kind", ["edge", "random"])
@pytest.mark.parametrize("observer", ["washout", "running on", "innovation"])
def test_true_outputs_keep_their_limits_and_no_solve_is_infeasible(observer, kind, parts):
    controller = controller_of(observer_of(observer, parts), parts)
    result = loop(controller, parts, kind)
    assert set(result.status) == {Status.SOLVED}
    assert result.certified.all()
    assert result.max_violation <= 0
    assert np.nanmax(np.abs(result.errors[:, 1:]) - controller.tightening.predictive[1:]) <= 0
    # The limits are used: what is left is what the declared set may take, and a little.
    assert np.abs(result.y[1:]).max() > LIMIT - 2.2 * WANDER - 0.05


def test_a_nominal_controller_breaks_the_limits(parts):
    system, predictor, _ = parts
    controller = TightenedMPC(
        predictor,
        RunningOn(predictor, 20),
        no_tightening(system.digest, N, 2),
        Tracking(output_weight=1.0, input_move_weight=0.02),
    )
    assert loop(controller, parts, "edge").violations > STEPS // 4
