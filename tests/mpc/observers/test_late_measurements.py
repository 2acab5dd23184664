"""Late measurements: the controller passes them to its observer, and closed loops deliver them."""

import numpy as np
import pytest
from mpc_networks import LurePlant, elman, signals

from controlrnn.errors import SettingError, ShapeError
from mpc import (
    ActuatorOffset,
    DropOut,
    Late,
    Outlier,
    PlausibilityLimits,
    Predictor,
    StateObserver,
    TightenedMPC,
    Tracking,
    Watching,
    kalman_gain,
    no_tightening,
    run_closed_loop,
)
from mpc.loops.fault_run import FaultRun
from mpc.loops.settings import loop_settings

N = 6


class Deaf(TightenedMPC):
    """Ignores what comes late."""

    def correct(self, age, y):
        pass


class Counting(TightenedMPC):
    """Notes what comes late."""

    def __init__(self, *args, **kwargs):
        self.heard = []
        super().__init__(*args, **kwargs)

    def correct(self, age, y):
        self.heard.append((age, y))
        super().correct(age, y)


def make(gentle, kind=TightenedMPC):
    predictor, gain, model, own = gentle
    observer = StateObserver(predictor, gain, 12, residual_bound=0.05, contraction=model, observer_contraction=own)
    tightening = no_tightening(predictor.system.digest, N, predictor.ny)
    return kind(predictor, observer, tightening, Tracking(output_weight=1.0, input_move_weight=0.01))


def run(controller, faults, **options):
    predictor = controller.predictor
    plant = LurePlant(predictor.system, predictor.inputs, predictor.outputs)
    settings = {"reference": np.repeat([[0.2, 0.1], [-0.1, 0.2]], 20, axis=0), "steps": 40, "seed": 3} | options
    return run_closed_loop(plant, controller, faults=faults, **loop_settings(settings))


def test_a_late_measurement_leads_to_the_plan_that_it_would_have_given_in_time(gentle, rng):
    late, punctual = make(gentle), make(gentle)
    readings = 0.05 * rng.standard_normal((20, 2))
    for t, y in enumerate(readings):
        u = 0.1 * rng.standard_normal(2)
        punctual.record(y, u)
        late.record(np.full(2, np.nan) if t in (14, 17) else y, u)
        if t == 17:
            late.correct(3, readings[14])
    before = late.observer.state
    assert late.correct(2, readings[17]) is None
    assert (late.observer.state != before).any()
    # The filter of the disturbance has seen less: without it the two plan alike.
    for controller in (late, punctual):
        controller.disturbance.reset()
    first, second = (c.step(readings[-1], [0.1, 0.1]) for c in (late, punctual))
    np.testing.assert_array_equal(first.x, second.x)
    np.testing.assert_array_equal(first.u, second.u)


def test_what_cannot_be_late_is_refused(gentle):
    controller = make(gentle)
    with pytest.raises(SettingError, match="age"):
        controller.correct(0, np.zeros(2))
    controller.record(np.zeros(2), np.zeros(2))
    state = controller.observer.state
    with pytest.raises(SettingError, match="age"):
        controller.correct(-1, np.zeros(2))
    with pytest.raises(ShapeError):
        controller.correct(0, np.zeros(3))
    assert controller.observer.state is state


def test_a_stamped_reading_comes_after_its_delay_as_earlier_faults_left_it():
    late = Late(delay=2, stamped=True, start=1, stop=3, channel=0)
    faults = [Outlier(size=1.0, start=2, stop=3), late, DropOut(start=3, stop=4), Late(stamped=True, start=3, stop=4)]
    carried = FaultRun(faults, 8, 2, 2, np.random.default_rng(0))
    seen, came = [], {}
    for t in range(-1, 8):
        came[t] = carried.arriving(t)
        seen.append(carried.measure(t, np.array([t, 10.0 + t])))
    np.testing.assert_array_equal(np.isnan(seen), [[t in (1, 2, 3), t == 3] for t in range(-1, 8)])
    assert {t: [delay for delay, _ in found] for t, found in came.items() if found} == {3: [2], 4: [2, 1]}
    np.testing.assert_array_equal(came[3][0][1], [1.0, np.nan])
    np.testing.assert_array_equal(np.abs(came[4][0][1] - [2.0, 0.0]), [1.0, np.nan])  # the outlier came before
    assert np.isnan(came[4][1][1]).all()  # a reading that has dropped out does not come at all
    assert carried.arriving(4) == []


def test_late_readings_are_delivered_for_their_own_sample(gentle):
    controller = make(gentle, Counting)
    punctual = run(controller, [], noise_std=0.01, reference=[0.1, 0.1])
    assert controller.heard == []
    for t in range(6):  # up to the first late sample both loops are the same
        controller.heard.clear()
        run(controller, [Late(delay=3, stamped=True, start=t, stop=t + 1)], noise_std=0.01, reference=[0.1, 0.1])
        ((age, y),) = controller.heard
        assert age == 2
        np.testing.assert_array_equal(y, punctual.readings[t])
    run(controller, [Late(delay=3, stamped=True, start=37)])  # the end of the run comes first
    assert len(controller.heard) == 1


def test_corrected_loops_estimate_better():
    """An input offset that nobody knows of: measurements tell, late ones still."""
    system = elman(rate=0.95, seed=2)
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 1.0))
    gain = kalman_gain(predictor, output_noise_std=0.02, input_noise_std=0.3)

    def looped(kind, *faults):
        observer, tightening = StateObserver(predictor, gain, 12), no_tightening(system.digest, N, 2)
        controller = kind(predictor, observer, tightening, Tracking(output_weight=1.0, input_move_weight=0.01))
        return run(controller, [ActuatorOffset(size=0.3), *faults], noise_std=0.005)

    late = Late(delay=2, stamped=True)
    deaf, corrected, punctual = looped(Deaf, late), looped(TightenedMPC, late), looped(TightenedMPC)
    error = [np.abs(r.errors[10:, 0]).mean() for r in (punctual, corrected, deaf)]
    assert error[0] < error[1] < 0.7 * error[2]
    assert punctual.cost < corrected.cost < deaf.cost
    np.testing.assert_array_equal(deaf.u, looped(TightenedMPC, DropOut()).u)  # without the correction, late is never


def test_late_readings_at_the_end_of_the_sensors_range_are_not_believed(gentle, monkeypatch):
    controller = make(gentle, Counting)
    limits = PlausibilityLimits(sensors=signals("y", 2, 1.0))
    # The second channel is off by more than the sensor's range.
    faults = [Outlier(size=3.0, channel=1), Late(delay=1, stamped=True, start=5, stop=7)]
    controller.change(watching=Watching(plausibility=limits))
    heard = []
    monkeypatch.setattr(controller.observer, "correct", lambda age, y: heard.append((age, y)))
    run(controller, faults, steps=10)
    assert [age for age, _ in heard] == [0, 0]
    np.testing.assert_array_equal(np.isnan([y for _, y in heard]), [[False, True]] * 2)
