"""Commands that are not what is recorded: predictions are made with commands, the estimate with records."""

from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import NormContraction, NormHorizon, declared_error, switching

from controlrnn.errors import CertificationError, SettingError
from mpc import (
    MovingHorizonObserver,
    RunningOn,
    Washout,
    certify_plan,
    tighten,
    tighten_around,
    tighten_guarded,
)

N, STEPS = 6, 40
RECORD, COMMAND = 0.01, np.array([0.15, 0.1])


def observer_of(kind, predictor, *, told=True):
    """An observer whose memory of its start has faded; it may not be told of command errors."""
    return kind(
        predictor,
        STEPS,
        contraction=NormContraction.of(predictor.system),
        input_error=RECORD,
        command_error=COMMAND if told else 0.0,
    )


def perfect(system):
    return declared_error(system, np.zeros((N + 1, system.ny)))


@pytest.mark.parametrize("kind", [Washout, RunningOn])
@pytest.mark.parametrize("from_restart", [False, True])
def test_predictions_leave_the_bound_of_recorded_inputs_and_keep_that_of_commands(
    system, predictor, rng, kind, from_restart
):
    ignorant, observer = observer_of(kind, predictor, told=False), observer_of(kind, predictor)
    ahead, radius = (STEPS, observer.restart.radius) if from_restart else (0, observer.error.radius)

    def tightened(watching):
        certificate = NormHorizon.of(system, ahead + N, radius, watching.prediction_input_error)
        return certificate, tighten(perfect(system), certificate, observer=watching).total

    small, blind = tightened(ignorant)
    _, covered = tightened(observer)
    with pytest.raises(CertificationError, match=r"command_error.*prediction_input_error"):
        tighten(perfect(system), small, observer=observer)

    true = 0.8 * switching(rng, 400, 2, hold=N)
    recorded = true + RECORD * rng.choice([-1, 1], true.shape)
    # Off by the same sign for some samples: what the model integrates.
    commanded = recorded + COMMAND * np.repeat(rng.choice([-1, 1], (400 // N + 1, 2)), N, axis=0)[:400]
    y, estimates = system.simulate(true, observer.initial_state)[0], observer.estimates(recorded, np.zeros((400, 2)))
    starts = range(STEPS, 400 - N)
    predicted = predictor.predict(estimates[starts], np.array([commanded[t : t + N] for t in starts]))
    error = np.max([np.abs(y[t : t + N + 1] - p) for t, p in zip(starts, predicted, strict=True)], axis=0)
    assert (error > blind)[1:].all()
    assert (error <= covered).all()


def test_one_plan_is_certified_for_its_commands(system, predictor, rng):
    ignorant, observer = observer_of(RunningOn, predictor, told=False), observer_of(RunningOn, predictor)
    x, plan = rng.uniform(-0.5, 0.5, system.nx), 0.8 * rng.uniform(-1, 1, (N, 2))
    settings = {"x": x, "plan": plan}
    small, covering = (certify_plan(**settings, observer=o) for o in (ignorant, observer))
    np.testing.assert_array_equal(covering.input_radius, RECORD + COMMAND)
    blind = tighten_around(perfect(system), small, observer=ignorant, **settings).total
    covered = tighten_around(perfect(system), covering, observer=observer, **settings).total
    off = (RECORD + COMMAND) * rng.choice([-1, 1], (2000, N, 2))
    error = np.abs(predictor.predict(np.tile(x, (2000, 1)), plan + off) - predictor.predict(x, plan)).max(axis=0)
    assert (error > blind)[1:].all()
    assert (error <= covered).all()
    with pytest.raises(CertificationError, match="command"):
        tighten_around(perfect(system), small, observer=observer, **settings)
    with pytest.raises(SettingError, match="command"):
        certify_plan(**settings, observer=observer, near=small)
    tighten_around(perfect(system), covering, observer=ignorant, **settings)  # more than is needed


def test_a_guard_has_to_know_of_the_command_errors(system, predictor):
    def guarded(guard):
        observer = MovingHorizonObserver(
            predictor,
            STEPS,
            window=5,
            output_std=0.01,
            guard=guard,
            trust=0.3,
            input_error=RECORD,
            command_error=COMMAND,
            contraction=NormContraction.of(system),
        )
        certificate = NormHorizon.of(system, N, guard.error.radius, guard.prediction_input_error)
        difference = NormHorizon.of(system, N, observer.guard_distance.radius)
        return tighten_guarded(perfect(system), certificate, difference, observer=observer), certificate

    with pytest.raises(SettingError, match="guard must allow for command errors"):
        guarded(observer_of(RunningOn, predictor, told=False))
    found, certificate = guarded(observer_of(RunningOn, predictor))
    assert (found.total >= certificate.bounds).all()


def test_outputs_that_answer_at_once_answer_to_wrong_commands_one_sample_later(system, predictor, rng):
    """The reading at hand answers to an input that is over, and was recorded; only predictions rest on commands."""
    predictor = replace(predictor, system=replace(system, D22=0.5 * np.ones((2, 2))))
    through = predictor.system
    observer = RunningOn(predictor, STEPS, contraction=NormContraction.of(through), command_error=COMMAND)
    certificate = NormHorizon.of(through, N, observer.error.radius, observer.prediction_input_error)
    bounds = certificate.bounds
    error = replace(perfect(through), disturbance_gain=1.0, observer_digest=observer.digest)
    total = tighten(error, certificate, observer=observer).total
    np.testing.assert_allclose(total, bounds + bounds[0])

    true = 0.8 * switching(rng, 300, 2)
    commanded = true + COMMAND * rng.choice([-1, 1], true.shape)
    y, x = through.simulate(true, observer.initial_state)
    errors = np.abs(
        [y[t : t + N + 1] - through.simulate(commanded[t : t + N + 1], x[t])[0] for t in range(STEPS, 300 - N - 1)]
    )
    assert not errors[:, 0].any()
    assert (errors.max(axis=0) <= bounds).all()
    assert (errors.max(axis=0)[1] > 0.1 * bounds[1]).all()
