"""What nobody knows about inputs and time starts bounds anew; what readings do to an estimate does not go unseen."""

from dataclasses import replace

import numpy as np
import pytest
from one_tank import RESIDUAL, innovating, running, tank
from premise_cases import Loop, washing

from controlrnn.certification import certify_contraction
from mpc import Premise, RunningOn

MAKERS = {"running on": lambda: running(False)[0], "washout": washing, "innovation": innovating}


def fresh(name, **options):
    make = MAKERS[name]
    return Loop(make(), make().predictor.system, **options)


def goes_on(loop, samples=220, **options):
    """What becomes of it: nowhere certified beside a broken bound, and certified in the end."""
    before = len(loop.steps)
    for _ in range(samples):
        loop.step(0.0, **options)
    assert loop.sound()
    assert loop.steps[-1].certified
    return loop.steps[before:]


@pytest.mark.parametrize("name", MAKERS)
def test_clearing_forgets_the_estimate_and_not_where_the_plant_may_be(name):
    loop = fresh(name)
    for _ in range(30):
        loop.record(60.0)
    loop.controller.clear_estimate()
    steps = goes_on(loop)
    ready = next(i for i, step in enumerate(steps) if step.status.value != "warming_up")
    assert max(loop.errors[ready:]) > 1 or name == "innovation"  # what used to be certified by then
    assert not steps[ready].certified


@pytest.mark.parametrize("name", MAKERS)
def test_a_long_gap_after_inputs_out_of_range_forgets_no_more(name):
    loop = fresh(name)
    loop.step(0.3, time=0.0)
    for _ in range(30):
        loop.record(60.0)
    held = loop.step(0.3, time=31.0).u
    loop.step(0.3, time=1500.0)  # nobody can know what acted; the loop's plant stands still
    assert loop.steps[-1].status.value == "warming_up"
    np.testing.assert_array_equal(loop.steps[-1].u, held)  # no jump to the safe input
    assert loop.controller.observer.strayed > 0
    goes_on(loop)


def test_recorded_samples_come_when_they_are_due():
    loop = fresh("running on")
    loop.step(0.3, time=0.0)
    for _ in range(3):
        loop.record(0.1)
    assert loop.step(0.3, time=4.0).broken == ()
    assert loop.step(0.3, time=6.0).broken == (Premise.TIME,)


def test_a_sample_that_comes_twice_is_no_sample_more():
    """An estimate that was moved on once too often is off by more than one unknown input accounts for."""
    system = tank(a=-0.9)
    predictor = replace(running()[0].predictor, system=system)
    observer = RunningOn(predictor, 20, contraction=certify_contraction(system))
    x, radius, seen = np.zeros(1), observer.error.radius, []
    for t in range(160):
        u = np.array([(-1.0) ** t])
        observer.update(u, [np.nan], doubt=[2.0] if t == 60 else None)
        if t != 60:
            x = system.step(x, u)
        away = float(np.sqrt((x - observer.state) @ observer.error.metric @ (x - observer.state)))
        seen.append((observer.certified, away <= radius))
    assert all(holds for certified, holds in seen if certified)
    assert not seen[60][1]
    assert seen[59][0]
    assert seen[-1] == (True, True)


@pytest.mark.parametrize("name", MAKERS)
def test_a_wrong_read_back_is_believed_and_not_vouched_for(name):
    loop = fresh(name)
    goes_on(loop, 10)
    loop.step(0.0, applied=np.array([0.9]))
    assert loop.steps[-1].broken == (Premise.ACTUATORS,)
    goes_on(loop)
    assert max(loop.errors) > 1


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", [1e308, -1e6])
def test_inputs_that_no_actuator_can_have_leave_nothing_behind(name, value):
    loop = fresh(name)
    goes_on(loop, 5)
    loop.controller.record(loop.reading(), [value])
    loop.x = loop.system.step(loop.x, np.array([0.2]))  # what truly acted
    assert Premise.INPUTS in loop.step(0.0).broken
    loop.step(0.0, applied=np.array([value]))
    assert np.isfinite(loop.controller.observer.state).all()
    goes_on(loop)


@pytest.mark.parametrize("pace", [0.1, 0.5, 3.0])
def test_readings_that_creep_away_are_found_before_the_bound_breaks(pace):
    loop = fresh("innovation")
    goes_on(loop, 60)
    for t in range(60):
        loop.step(0.0, off=pace * RESIDUAL * (t + 1))
    assert max(loop.errors) > 1 or pace == 3.0  # that one is not used at all
    assert any(Premise.INNOVATION in step.broken for step in loop.steps)
    goes_on(loop)


def test_taking_over_in_the_middle_starts_anew():
    loop = fresh("running on")
    goes_on(loop, 10)
    for _ in range(20):  # somebody else acts, and nobody says so
        loop.x = loop.system.step(loop.x, np.array([0.8]))
    loop.u = np.array([0.8])
    loop.controller.start_from(loop.u)
    assert loop.step(0.0).status.value == "warming_up"
    goes_on(loop)


@pytest.mark.parametrize("name", ["running on", "washout", "innovation"])
def test_read_back_is_taken_in_after_restoring_as_well(name):
    loop, other = fresh(name), MAKERS[name]()
    goes_on(loop, 12)
    other.restore(loop.controller.state())
    applied = loop.u + 0.05
    mine, theirs = (c.step(loop.reading(), [0.0], applied=applied) for c in (loop.controller, other))
    np.testing.assert_array_equal(mine.u, theirs.u)
    np.testing.assert_array_equal(mine.x, theirs.x)
    assert mine.broken == theirs.broken
