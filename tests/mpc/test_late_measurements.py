"""Late measurements: the controller passes them to its observer, and closed loops deliver them."""

import numpy as np
import pytest

from controlrnn.errors import SettingError, ShapeError
from mpc import StateObserver, TightenedMPC, nominal

N = 6


def make(gentle, **options):
    predictor, gain, model, own = gentle
    observer = StateObserver(
        predictor, gain, 12, residual_bound=0.05, contraction=model, observer_contraction=own, **options
    )
    tightening = nominal(predictor.system.digest, N, predictor.ny)
    return TightenedMPC(predictor, observer, tightening, output_weight=1.0, input_move_weight=0.01)


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
        controller._disturbance = np.zeros(2)
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
