"""Premises broken one at a time: named, not certified from then on until the theory allows it again."""

import numpy as np
import pytest
from one_tank import RESIDUAL, N, W, error, innovating, running, tank
from premise_cases import CONTRACTION, STEPS, SYSTEM, Loop, parts, predictor, washing, washout

from controlrnn.data import Signal
from controlrnn.errors import SettingError
from mpc import Fallback, PlausibilityLimits, Premise, Reaction, TightenedMPC, Watching, no_tightening, tighten
from mpc.control.settings import grouped
from mpc.observers.straying import astray, followed


def test_manual_operation_out_of_range_is_forgotten_before_anything_is_certified():
    loop = Loop(washing())
    for u in [3.0] * 60 + [0.0] * STEPS:
        loop.record(u)
    first = loop.step(-5.0)
    assert loop.errors[0] > 1  # the error that was certified does not hold
    assert not first.certified
    assert first.broken == (Premise.INPUTS,)
    for _ in range(300):
        loop.step(0.0)
    assert loop.sound()
    certified = [s.certified for s in loop.steps]
    back = certified.index(True)
    assert back <= STEPS + 40
    assert all(certified[back:])
    assert loop.steps[-1].broken == ()


@pytest.mark.parametrize("amount", [1.1, 3.0, 30.0, -8.0])
@pytest.mark.parametrize("samples", [1, 7, 80])
def test_estimates_are_certified_again_no_sooner_than_their_bound_holds(amount, samples):
    """Whatever acts before and after, within the range; x* is run from far before."""
    rng, observer = np.random.default_rng(3), washout(STEPS)
    x, radius, seen = np.zeros(1), observer.error.euclidean, []
    for t in range(400):
        u = np.array([amount]) if 60 <= t < 60 + samples else np.sign(rng.standard_normal(1)) * (t < 120 or t > 200)
        observer.update(u, np.zeros(1))
        x = SYSTEM.step(x, u)
        seen.append((observer.certified, abs(x - observer.state)[0] <= radius))
    assert all(holds for certified, holds in seen if certified)
    assert seen[59][0]
    assert not any(c for c, _ in seen[60 : 60 + samples + STEPS - 1])
    assert seen[-1][0]


def test_what_strays_is_followed():
    observer = washout(STEPS)
    reach, gain, rate = observer.c_table().reach, CONTRACTION.input_gain[0], float(CONTRACTION.rate)
    observer.update([1.0 + 2.0], [np.nan])
    assert observer.strayed == pytest.approx(2.0 * gain)
    run = astray(observer)
    assert run[1] == pytest.approx(reach + 2.0 * gain)
    observer.update([0.5], [np.nan])
    assert observer.strayed == pytest.approx(2.0 * gain * rate)
    run = followed(observer, run, np.full(1, 0.5))
    assert run[0] == pytest.approx(SYSTEM.step(np.zeros(1), np.full(1, 0.5)))
    assert run[1] == pytest.approx(rate * (reach + 2.0 * gain))
    observer.update([0.5], [np.nan], doubt=[2.0])
    assert observer.strayed == pytest.approx(2.0 * gain * rate)  # nobody knows for how long
    observer.start_over()
    assert observer.strayed == pytest.approx(2.0 * gain * rate)
    assert astray(observer)[1] == pytest.approx(reach + 2.0 * gain * rate)
    observer.start()
    assert (observer.strayed, astray(observer)) == (0.0, None)
    for _ in range(STEPS):
        assert not observer.certified
        observer.update([0.5], [np.nan])
    assert observer.certified


def test_inputs_that_nobody_knows_are_doubted():
    for make in (lambda: running()[0], washing, innovating):
        observer = make().observer
        for _ in range(observer.steps + 5):
            observer.update([0.0], observer.system.output(observer.state, np.zeros(1)))
        assert observer.certified
        observer.update([0.0], [np.nan], doubt=[2.0])
        assert not observer.certified
        for _ in range(200):
            observer.update([0.0], observer.system.output(observer.state, np.zeros(1)))
        assert observer.certified


def test_a_reading_too_far_from_the_estimate_is_not_used_and_named():
    loop = Loop(innovating(), tank(0.3))
    for t in range(60):
        loop.step(off=-1.5 if t == 12 else -RESIDUAL)
    odd = loop.steps[12]
    assert odd.broken == (Premise.INNOVATION,)
    assert not odd.certified
    assert "measured" in odd.outside
    assert loop.sound()
    assert all(s.certified for s in loop.steps[30:])
    assert max(loop.true) <= 1.0


@pytest.mark.parametrize("make", [lambda: running(False)[0], washing, innovating])
@pytest.mark.parametrize("value", [1e300, -1e30, 1e5, 1e308])
def test_absurd_readings_leave_nothing_behind(make, value):
    loop, other = Loop(make()), Loop(make())
    for t in range(40):
        wrong = loop.step(0.5, off=value if t == 20 else 0.0)
        right = other.step(0.5, off=np.nan if t == 20 else 0.0)
        assert wrong.u == right.u, t
        assert wrong.status is right.status
        assert (Premise.READINGS in wrong.broken) is (t == 20), t
        assert wrong.certified is (right.certified and t != 20)


def test_a_model_error_beyond_the_tightening_is_named():
    loop = Loop(washing())
    bound = parts()[0].predictive[0, 0]
    for t in range(30):
        loop.step(0.2, off=1.5 * bound if 10 <= t < 13 else 0.0)
    told = [s.broken for s in loop.steps]
    assert told[10:13] == [(Premise.MODEL_ERROR,)] * 3
    assert not any(told[:10] + told[13:])
    assert [s.certified for s in loop.steps] == [not b for b in told]


def test_drift_and_certified_go_together():
    controller = running()[0]
    loop = Loop(controller, tank())
    loop.step(0.5)
    loop.step(0.5, off=0.5)
    assert loop.steps[-1].broken[-1] is Premise.DRIFT
    assert not loop.steps[-1].certified


@pytest.mark.parametrize("make", [lambda: running(False)[0], washing, innovating])
def test_read_back_tells_of_actuators_that_do_something_else(make):
    loop = Loop(make(), make().predictor.system)
    for t in range(120):
        stuck = 10 <= t < 40
        applied = None if t == 0 else loop.u
        loop.step(-0.9 if stuck else 0.5, acted=0.4 if stuck else None, applied=applied)
    assert loop.sound()
    assert max(loop.errors[5:]) <= 1  # the estimate follows what acted
    assert loop.steps[11].broken == (Premise.ACTUATORS,)
    assert "acted as 0.4" in loop.steps[11].outside
    assert not loop.steps[11].certified
    assert all(s.certified for s in loop.steps[100:])
    blind = Loop(make(), make().predictor.system)
    for _ in range(40):
        blind.step(-0.9, acted=0.4)
    assert max(blind.errors) > 1  # nobody tells: nothing is noticed (docs/premises.md)


@pytest.mark.parametrize("make", [lambda: running(False)[0], washing, innovating])
def test_missed_and_late_samples_are_caught_up_with(make):
    loop = Loop(make(), make().predictor.system)
    for t in range(10):
        loop.step(0.5, time=float(t))
    for _ in range(3):  # nobody calls the controller; the input is held
        loop.x = loop.system.step(loop.x, loop.u)
    late = loop.step(0.5, time=13.0)
    assert late.broken == (Premise.TIME,)
    assert not late.certified
    assert "4 sample times" in late.outside
    assert loop.errors[-1] <= 1  # it was held
    for t in range(14, 200):
        loop.step(0.5, time=float(t))
    assert loop.sound()
    assert loop.steps[-1].certified
    assert loop.step(0.5, time=200.005).certified
    assert loop.step(0.5, time=200.7).broken == (Premise.TIME,)
    assert loop.step(0.5, time=1e9).status.value == "warming_up"


def test_reactions():
    bound = 1.5 * parts()[0].predictive[0, 0]
    held = Loop(washing(watching=Watching(reactions={"model_error": "hold"})))
    safe = Loop(washing(watching=Watching(reactions={"model_error": "back_off"}, safe_reference=[-0.2])))
    deaf = Loop(washing(watching=Watching(reactions={"model_error": "ignore"})))
    for t in range(150):
        off = bound if t >= 20 else 0.0
        for loop in (held, safe, deaf):
            loop.step(0.3, off=off)
    assert {float(s.u[0]) for s in held.steps[20:]} == {float(held.steps[19].u[0])}
    assert held.steps[25].fallback is Fallback.STEADY
    assert safe.true[-1] == pytest.approx(-0.2 - bound, abs=0.01)
    assert deaf.true[-1] == pytest.approx(0.3, abs=0.05)
    assert not any(s.certified for loop in (held, safe, deaf) for s in loop.steps[20:])


def test_a_wider_tightening_counts_while_it_is_needed():
    observer = washout(STEPS)
    plain = tighten(error(SYSTEM, np.full(N + 1, 0.02)), None, observer=observer)
    wide = tighten(error(SYSTEM, np.full(N + 1, 0.3)), None, observer=observer)

    def made(**options):
        return TightenedMPC(
            predictor(), washout(STEPS), plain, **grouped(dict(output_weight=1.0, input_move_weight=1e-3, **options))
        )

    loop = Loop(made(watching=Watching(reactions={"inputs": "widen"}, wider=wide)))
    for _ in range(40):
        loop.step(5.0)
    assert loop.steps[-1].y_predicted[1:].max() == pytest.approx(0.98, abs=1e-3)
    loop.record(1.5)
    wider = [loop.step(5.0) for _ in range(300)]
    assert wider[10].y_predicted[1:].max() == pytest.approx(0.7, abs=1e-3)
    assert wider[10].broken == (Premise.INPUTS,)
    assert wider[-1].y_predicted[1:].max() == pytest.approx(0.98, abs=1e-3)
    for bad, match in (
        ({"wider": no_tightening(SYSTEM.digest, N, 1)}, "at least the tightening"),
        ({"wider": no_tightening(SYSTEM.digest, N - 1, 1)}, "at least 10 steps"),
        ({"plausibility": PlausibilityLimits(sensors=(Signal("a"), Signal("b")))}, "1 sensors, got 2"),
    ):
        with pytest.raises(SettingError, match=match):
            made(watching=Watching(**bad))


def test_plausibility_limits_are_part_of_the_controller():
    limits = PlausibilityLimits(sensors=(Signal("level", "m", -2.0, 2.0),), repeats=5)
    loop = Loop(washing(watching=Watching(plausibility=limits)))
    for t in range(12):
        loop.step(0.5, off=[0.0, 3.0][t == 5])
    assert loop.steps[5].broken[0] is Premise.READINGS
    assert "out_of_range" in loop.steps[5].outside
    assert not loop.steps[5].certified


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"reactions": {"drift": "ignore"}}, "that is for readings"),
        ({"reactions": {"drift": "widen"}}, "needs wider"),
        ({"reactions": {"drift": "back_off"}}, "needs safe_reference"),
        ({"reactions": {"weather": "hold"}}, "premise must be one of"),
        ({"reactions": {"drift": "panic"}}, "reaction must be one of"),
        ({"jitter": 0.0}, "jitter"),
        ({"jitter": 0.5}, "jitter"),
    ],
)
def test_impossible_settings_are_refused(given, match):
    with pytest.raises(SettingError, match=match):
        Watching(**given)


def test_every_reaction_is_known():
    assert [str(r) for r in Reaction] == ["report", "ignore", "widen", "back_off", "hold"]
    assert W == 30


@pytest.mark.parametrize("applied", [True, False])
@pytest.mark.parametrize("missed", [0, 3])
def test_samples_between_two_stamps_came_when_they_were_due(applied, missed):
    """Whether or not something is read back with them: a gap is noticed at the next stamp, and nothing else."""
    loop = Loop(washing())
    for t in range(6):
        told = {"time": float(t)} if t in (0, 1, 5) else {}
        told |= {"time": float(t + missed)} if t == 5 else {}
        step = loop.step(0.5, applied=loop.u if applied else None, **told)
        assert (Premise.TIME in step.broken) is (t == 5 and missed > 0)
