"""Operation that leaves a law's declared range: named, not certified from then on until it is forgotten."""

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from premise_cases import STEPS, Loop
from range_cases import CONTRACTION, HIGH, LOW, RANGED, physics, ranged, system, washout

from controlrnn.greybox import beyond_ranges
from controlrnn.systems import Law, Laws, Neuron
from mpc import Premise, RunningOn, Watching
from mpc.safety.range_watch import RangeWatch


class Plant:
    """The physics, which are another system than the model outside of the range."""

    output = staticmethod(RANGED.output)
    step = staticmethod(physics)


class Bent(Plant):
    step = staticmethod(partial(physics, bend=3.0))


def test_operation_beyond_the_range_is_named_and_forgotten_after_a_window():
    loop = Loop(ranged(), Plant)
    for reference in [0.3] * 20 + [0.9] * 15 + [0.0] * (STEPS + 15):
        loop.step(reference)
    x, u = np.array([s.x for s in loop.steps]), np.array([s.u for s in loop.steps])
    out = beyond_ranges(RANGED, x, u)[:, 0] > 0
    assert 5 < out.sum() < 40
    assert [Premise.RANGES in s.broken for s in loop.steps][: out.argmax() + 1] == list(out[: out.argmax() + 1])
    last = int(np.flatnonzero(out)[-1])
    told = loop.steps[int(out.argmax())]
    assert "signed_root of neuron 0" in told.outside
    assert "-0.8 to 0.6" in told.outside
    assert not any(s.certified for s, o in zip(loop.steps, out, strict=True) if o)
    assert not any(s.certified for s in loop.steps[last : last + STEPS])
    assert all(s.certified for s in loop.steps[last + STEPS + 1 :])
    assert loop.steps[-1].broken == ()


@pytest.mark.parametrize("make", [washout, lambda: RunningOn(washout().predictor, STEPS, contraction=CONTRACTION)])
@pytest.mark.parametrize("bend", [-0.05, 0.25, 0.6])
@pytest.mark.parametrize("seed", range(4))
def test_the_plants_own_state_is_within_the_certified_error_wherever_it_is_certified(make, bend, seed):
    """Set points anywhere, physics that bend away outside; the plant starts where the model may be."""
    made, rng = ranged(make()), np.random.default_rng(seed)
    x, bound, seen, left = np.zeros(1), made.observer.error.euclidean, [], 0
    for t in range(400):
        step = made.step(x, [1.5 * float(np.sign(np.sin(t / rng.uniform(7, 40)))) * (t % 150 < 60)])
        seen.append((step.certified, abs(x - step.x)[0]))
        left += Premise.RANGES in step.broken
        x = physics(x, step.u, bend)
    assert left
    assert sum(c for c, _ in seen) > 20
    assert max(e for c, e in seen if c) <= bound
    assert max(e for c, e in seen if not c) > bound  # which is why they are not certified


def test_what_is_read_back_counts():
    """A command that stays inside, and an actuator that does not."""
    loop = Loop(ranged(washout(command_error=0.5)), RANGED)
    for t in range(40):
        loop.step(0.54, applied=loop.u if t else None)
    steady = loop.steps[-1]
    assert steady.certified
    room = (HIGH - steady.x[0]) / 0.1 - steady.u[0]
    assert 0 < room < 0.45
    acted = loop.u + room + 0.02
    told = loop.controller.step(loop.reading(), [0.2], applied=acted)
    assert Premise.RANGES in told.broken
    assert not told.certified
    other = ranged(washout(command_error=0.5))
    again = Loop(other, RANGED)
    for t in range(40):
        again.step(0.54, applied=again.u if t else None)
    assert other.step(again.reading(), [0.2], applied=again.u + room - 0.02).certified


def test_missed_samples_and_recorded_ones_are_looked_at():
    loop = Loop(ranged(), RANGED)
    for _ in range(5):
        loop.record(1.0)
    assert loop.step(0.0).broken == (Premise.RANGES,)  # what was recorded has an effect still
    held = Loop(ranged(), RANGED)
    for t in range(30):
        held.step(0.52, time=float(t))
    assert held.steps[-1].certified
    assert Premise.RANGES not in held.steps[-1].broken
    held.controller.step(held.reading(), [0.52], time=29.0 + 40)
    assert held.controller.range_watch.check(held.controller.observer.state, np.ones(1))


@pytest.mark.parametrize("make", [washout, lambda n: RunningOn(washout().predictor, n, contraction=CONTRACTION)])
@pytest.mark.parametrize("recorded", [True, False])
def test_ranges_are_watched_while_the_observer_warms_up(make, recorded):
    """A plant that bends away among the samples that the first estimate rests on; recorded, or read back later."""
    loop = Loop(ranged(make(8)), Bent, warm_up=0)
    for u in [1.0] * 6 + [-1.0, -0.5]:
        if recorded:
            loop.record(u)
        else:  # the controller itself commands the safe input
            loop.step(0.0, acted=u, applied=loop.u)
    for _ in range(20):
        loop.step(0.0, applied=loop.u)
    first = loop.steps[-20]
    assert loop.errors[-20] > 1.5
    assert Premise.RANGES in first.broken
    assert not first.certified
    assert loop.sound()
    assert loop.steps[-1].certified


def test_reactions_are_as_to_every_premise():
    back = ranged(watching=Watching(reactions={Premise.RANGES: "back_off"}, safe_reference=[-0.3]))
    loop = Loop(back, Plant)
    for _ in range(60):
        loop.step(0.9)
    assert Premise.RANGES in loop.steps[10].broken
    assert min(loop.true[15:40]) < 0.4  # it went back, and tries again once it is certified


def test_the_end_of_a_range_is_inside_and_flat_continuations_are_told_apart():
    watch = RangeWatch(RANGED)
    for end, out in ((LOW, -1e-6), (HIGH, 1e-6)):
        assert watch.check(np.full(1, end), np.zeros(1)) == ""
        assert watch.check(np.full(1, end + out), np.zeros(1))
    assert watch.check(np.full(1, np.nan), np.zeros(1))
    # A parabola from its vertex on goes on flat: values say nothing about the argument.
    flat = RangeWatch(replace(RANGED, activation=Laws([Neuron(Law.SQUARE, 0.0, 0.5)])))
    assert flat.check(np.full(1, -0.1), np.zeros(1))
    exact = RangeWatch(replace(RANGED, activation=Laws([Neuron(Law.SATURATION, 0.0, 0.5)])))
    assert exact.check(np.full(1, 7.0), np.zeros(1)) == ""
    assert exact.c_table() is None
    assert RangeWatch(system(-5.0, 5.0)).check(np.full(1, 4.0), np.zeros(1)) == ""
