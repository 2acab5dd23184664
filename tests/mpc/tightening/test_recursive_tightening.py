"""Tightenings that grow along the horizon, and what verifying one compares; certificates follow from norms alone."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from mpc_networks import NormContraction, NormHorizon, declared_error, elman, signals

from controlrnn.data import Signal
from controlrnn.errors import CertificationError, SettingError, ShapeError
from mpc import Predictor, StateError, Tightening, Washout, make_recursive, no_tightening, tighten
from mpc.observers.state_error import ROUNDING
from mpc.tightening.terminal_set import jump_digest
from mpc.tightening.tightening import counted, growth_per_step

N, W, INPUT = 5, 6, np.array([0.01, 0.02])
BUMPS = np.array([0.05, 0.02, 0.2, 0.03, 0.04, 0.5])[:, None] * np.array([1.0, 2.0])


@dataclass(frozen=True)
class Case:
    observer: Washout
    size: object
    joint: NormHorizon
    growth: NormHorizon

    def room(self, **arguments):
        return tighten(self.size, self.joint, observer=self.observer, **arguments)


@pytest.fixture(scope="module")
def case(predictor):
    system = predictor.system
    observer = Washout(predictor, W, contraction=NormContraction.of(system), input_error=INPUT)
    joint = NormHorizon.of(system, W + N, observer.restart.radius, INPUT)
    growth = replace(NormHorizon.of(system, N, observer.jump.radius), digest=64 * "9")
    return Case(observer, declared_error(system, BUMPS), joint, growth)


def grown(c, jumps, first):
    """The least c' >= c with c'[k + 1] >= c'[k] + l[k] from the first limited step on."""
    least = np.array(c)
    for k in range(first, len(c) - 1):
        least[k + 1] = np.maximum(c[k + 1], least[k] + jumps[k])
    return least


def test_growth_is_the_least_that_the_theorem_asks_for(case):
    room = case.room()
    made = make_recursive(room, case.growth, observer=case.observer)
    least = grown(room.predictive, case.growth.bounds, 1)
    assert (made.total >= least * (1 - 1e-15)).all()
    np.testing.assert_allclose(made.total, least, rtol=1e-8)
    assert not made.growth[:2].any()
    np.testing.assert_array_equal(made.predictive, room.total)
    assert made.digests == room.digests | {"jump": jump_digest(case.observer.jump), "growth": 64 * "9"}
    most = case.observer.jump.euclidean
    assert made.promise == (
        f"{room.promise}; plans stay feasible while the estimate jumps by at most {most:.3g} (2-norm)"
    )
    assert made.verified
    for name in ("model_error", "reinitialisation", "input_error", "execution"):
        assert (getattr(made, name) == getattr(room, name)).all()


def test_growth_lends_no_premises_to_a_promise_that_states_none(case):
    silent = replace(case.room(), premises=None)
    assert make_recursive(silent, case.growth, observer=case.observer).premises is None


def test_with_feedthrough_the_present_is_limited_too():
    plain = elman()
    system = replace(plain, D22=0.1 * np.ones((2, 2)))
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 0.6))
    observer = Washout(predictor, W, contraction=NormContraction.of(predictor.system), input_error=INPUT)
    size = declared_error(predictor.system, BUMPS)
    room = tighten(size, None, observer=observer)
    growth = NormHorizon.of(predictor.system, N, observer.jump.radius)
    made = make_recursive(room, growth, observer=observer)
    first = int(not predictor.answers)
    np.testing.assert_allclose(made.total, grown(room.predictive, growth.bounds, first), rtol=1e-8)


def test_a_jump_may_be_given(case):
    small = StateError(0.5 * case.observer.jump.radius, case.observer.jump.metric)
    half = replace(case.growth, initial_radius=small.radius, bounds=0.5 * case.growth.bounds)
    made = make_recursive(case.room(), half, observer=case.observer, jump=small)
    np.testing.assert_allclose(made.total, grown(case.room().predictive, half.bounds, 1), rtol=1e-8)
    assert made.digests["jump"] == jump_digest(small)
    still = make_recursive(case.room(), None, observer=case.observer, jump=StateError(0.0, small.metric))
    np.testing.assert_allclose(still.total, grown(case.room().predictive, 0 * half.bounds, 1), rtol=1e-8)
    assert "growth" not in still.digests


def test_growth_has_to_cover_the_jump(case):
    jump, like = case.observer.jump, np.zeros((N + 1, 2))
    assert growth_per_step(case.growth, jump, case.observer, like).tolist() == case.growth.bounds[:N].tolist()
    shorter = replace(case.growth, horizon=N - 1, bounds=case.growth.bounds[:-1])
    assert growth_per_step(shorter, jump, case.observer, like).shape == (N, 2)
    with pytest.raises(SettingError, match=rf"over at least {N - 1} steps, got {N - 2} steps"):
        growth_per_step(replace(case.growth, horizon=N - 2), jump, case.observer, like)
    with pytest.raises(SettingError, match="for system eeeeeeeeeeee"):
        growth_per_step(replace(case.growth, system_digest=64 * "e"), jump, case.observer, like)
    with pytest.raises(SettingError, match="boxes"):
        growth_per_step(replace(case.growth, input_range=np.zeros((2, 2))), jump, case.observer, like)
    needed = jump.needed_in(case.growth.metric)
    growth_per_step(replace(case.growth, initial_radius=needed), jump, case.observer, like)
    with pytest.raises(CertificationError, match="initial radius of growth must cover the jump") as refused:
        growth_per_step(replace(case.growth, initial_radius=needed * (1 - 1e-6)), jump, case.observer, like)
    assert refused.value.margin == pytest.approx(-1e-6 * needed, rel=1e-3)
    with pytest.raises(SettingError, match="needs a certificate, got growth=None"):
        growth_per_step(None, jump, case.observer, like)
    none = growth_per_step(None, StateError(0.0, jump.metric), case.observer, like)
    assert none.tolist() == np.zeros((N, 2)).tolist()

    class Refusing(NormHorizon):
        def verify(self, system):  # noqa: ARG002
            raise CertificationError("not proven")

    fields = {n: getattr(case.growth, n) for n in NormHorizon.__dataclass_fields__}
    with pytest.raises(CertificationError, match="not proven"):
        growth_per_step(Refusing(**fields), jump, case.observer, like)


def test_parts_that_make_no_recursive_tightening(case, predictor):
    room = case.room()
    silent = Washout(predictor, W)
    other = Washout(predictor, W + 1, contraction=case.observer.contraction, input_error=INPUT)
    for tightening, observer, match in (
        (replace(room, disturbance_gain=0.5), case.observer, "disturbance feedback moves the limits"),
        (replace(room, digests=room.digests | {"system": 64 * "e"}), case.observer, "different models"),
        (replace(room, digests={}), case.observer, "different models"),
        (room, other, "made for another observer"),
        (no_tightening(predictor.system.digest, N, 2), silent, "states no jump"),
    ):
        with pytest.raises(SettingError, match=match):
            make_recursive(tightening, case.growth, observer=observer)
    nameless = replace(room, digests={"system": room.digests["system"]})
    assert make_recursive(nameless, case.growth, observer=case.observer).growth.any()


def test_verification_recomputes_everything(case):
    room = case.room()
    made = make_recursive(room, case.growth, observer=case.observer)
    for one, more in (
        (room, {}),
        (made, {"growth": case.growth}),
        (made, {"growth": case.growth, "jump": case.observer.jump}),
    ):
        read = replace(one)
        assert not read.verified
        read.verify(case.size, case.joint, observer=case.observer, **more)
        assert read.verified
    more = {"growth": case.growth}
    moved = replace(
        made, reinitialisation=made.reinitialisation + made.input_error, input_error=np.zeros_like(made.input_error)
    )
    moved.verify(case.size, case.joint, observer=case.observer, **more)  # one part or two: the same
    for name, what in (
        ("model_error", "model_error"), ("reinitialisation", "certified part"), ("input_error", "certified part"),
        ("execution", "execution"), ("growth", "total"),
    ):  # fmt: skip
        forged = replace(made, **{name: getattr(made, name) + 0.01})
        with pytest.raises(CertificationError, match=f"the tightening claims {what}"):
            forged.verify(case.size, case.joint, observer=case.observer, **more)
    for fields, what in (
        ({"promise": "anything"}, "promise"), ({"premises": None}, "premises"),
        ({"disturbance_gain": 0.5}, "disturbance_gain"),
        ({"digests": made.digests | {"certificate": 64 * "e"}}, "certificate"),
        ({"digests": {n: d for n, d in made.digests.items() if n != "growth"}}, "growth"),
    ):  # fmt: skip
        with pytest.raises(CertificationError, match=f"the tightening names another {what}"):
            replace(made, **fields).verify(case.size, case.joint, observer=case.observer, **more)
    with pytest.raises(CertificationError, match="the tightening"):
        made.verify(case.size, None, observer=case.observer, **more)
    with pytest.raises(SettingError, match="growth=None"):
        made.verify(case.size, case.joint, observer=case.observer)
    calm = StateError(0.0, case.observer.jump.metric)
    still = make_recursive(room, None, observer=case.observer, jump=calm)
    replace(still).verify(case.size, case.joint, observer=case.observer, jump=calm)


def test_what_rests_on_a_file_is_not_verified(case):
    room = case.room()
    assert make_recursive(room, case.growth, observer=case.observer).verified
    read = make_recursive(replace(room), case.growth, observer=case.observer)
    assert not read.verified
    assert not read.usable
    trusted = make_recursive(replace(room).on_trust(), case.growth, observer=case.observer)
    assert not trusted.verified
    assert trusted.usable
    for read in (replace(room), replace(room).on_trust()):
        without = counted(read, None, case.observer)
        assert not without.verified
        assert without.usable is read.usable
        copied = replace(room)
        copied.agrees_with(read)
        assert not copied.verified
        assert copied.usable is read.usable


def test_the_certified_part_may_be_one_or_two(case):
    first = NormHorizon.of(case.observer.system, W + N, case.observer.restart.radius)
    two = case.room(initial_only=first)
    assert two.input_error.any()
    one = replace(two, reinitialisation=two.reinitialisation + two.input_error, input_error=0 * two.input_error)
    for made in (two, one):
        replace(made).verify(case.size, case.joint, observer=case.observer)
    for sign in (1, -1):  # the parts are shown apart, their sum is what holds
        other = replace(
            two, reinitialisation=two.reinitialisation + 0.01, input_error=two.input_error + 0.01 * sign + 0.01
        )
        with pytest.raises(CertificationError, match="claims certified part"):
            other.verify(case.size, case.joint, observer=case.observer)
    turned = replace(two, reinitialisation=two.input_error, input_error=two.reinitialisation)
    turned.verify(case.size, case.joint, observer=case.observer)


def test_a_tightening_without_growth_does_not_follow_from_a_certificate_of_growth(case):
    with pytest.raises(CertificationError, match="the tightening"):
        case.room().verify(case.size, case.joint, observer=case.observer, growth=case.growth)


def test_parts_are_kept_as_they_were_given():
    bounds = np.full((N + 1, 2), 0.5)
    made = replace(no_tightening(64 * "a", N, 2), model_error=bounds)
    bounds[:] = 9.0
    assert made.total.max() == 0.5
    for name in ("model_error", "reinitialisation", "input_error", "growth", "execution"):
        assert not getattr(made, name).flags.writeable


def test_parts_add_up_row_by_row():
    parts = {n: np.full((3, 2), 10.0**-i) for i, n in enumerate(("model_error", "reinitialisation", "input_error"))}
    one = Tightening(
        **parts, disturbance_gain=None, promise="", growth=np.full((3, 2), 1e-3), execution=np.full((3, 2), 1e-4)
    )
    np.testing.assert_allclose(one.total, 1.1111)
    np.testing.assert_allclose(one.predictive, 1.1101)
    assert one.horizon == 2
    assert not one.total.flags.writeable
    assert not one.predictive.flags.writeable
    bare = Tightening(**parts, disturbance_gain=0.5, promise="")
    assert not bare.growth.any()
    assert bare.execution.shape == bare.growth.shape == (3, 2)
    for name in ("reinitialisation", "input_error", "growth", "execution"):
        for wrong in (np.zeros((2, 2)), np.zeros((3, 1)), np.zeros(3)):
            with pytest.raises(ShapeError, match=name):
                replace(one, **{name: wrong})
        with pytest.raises(SettingError, match=name):
            replace(one, **{name: np.full((3, 2), -1e-9)})
    for gain in (0.0, 1.5):
        with pytest.raises(SettingError, match="gain"):
            replace(one, disturbance_gain=gain)


@pytest.mark.parametrize(("step", "output"), [(1, 0), (1, 1), (2, 0), (2, 1)])
def test_nothing_left_of_an_output_names_all_its_parts(step, output):
    outputs = (Signal("a", unit="m", lower=-1.0, upper=2.0), Signal("b", lower=-1.0, upper=2.0))
    parts = {
        n: np.full((3, 2), 0.1 * (i + 1)) for i, n in enumerate(("model_error", "reinitialisation", "input_error"))
    }
    grow = np.full((3, 2), 0.05)
    one = Tightening(**parts, disturbance_gain=None, promise="", growth=grow, execution=np.full((3, 2), 0.04))
    lower, upper = one.limits(outputs)
    np.testing.assert_allclose(lower, -0.31)
    np.testing.assert_allclose(upper, 1.31)
    wide = np.array(grow)
    wide[step, output] = 1.5 - 0.64
    name = "ab"[output]
    text = (
        rf"nothing of output '{name}' at step {step}: limits \[-1, 2\] {outputs[output].unit} minus 1.5 on either side "
        r"\(model error 0.1, re-initialisation 0.2, input error 0.3, execution 0.04, growth 0.86\)"
    )
    with pytest.raises(Exception, match=text):
        replace(one, growth=wide).limits(outputs)
    wide[step, output] -= 1e-9
    replace(one, growth=wide).limits(outputs)
    with pytest.raises(ShapeError, match="must name 2 channels, got 1"):
        one.limits(outputs[:1])


def test_nothing_is_taken_by_a_tightening_for_comparison(predictor):
    one = no_tightening(predictor.system.digest, 1, 3)
    assert one.total.tolist() == [[0.0, 0.0, 0.0]] * 2
    assert one.promise == "nothing: constraints are not tightened"
    assert one.digests == {"system": predictor.system.digest}
    assert one.disturbance_gain is None
    assert one.verified
    for horizon, ny in ((-1, 2), (0, 2), (3, 0)):
        with pytest.raises(SettingError):
            no_tightening(predictor.system.digest, horizon, ny)


def test_rounding_is_counted_in_every_step_of_growth(case):
    made = make_recursive(case.room(), case.growth, observer=case.observer)
    total, c = made.total, case.room().predictive
    for k in range(1, N):
        step = total[k] + case.growth.bounds[k]
        rising = total[k + 1] > c[k + 1] * (1 + 1e-12)
        assert (total[k + 1][rising] >= step[rising] * (1 + 0.9 * (ROUNDING - 1))).all()
