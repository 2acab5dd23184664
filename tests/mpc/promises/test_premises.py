"""Parts that rest on different premises are refused, with the difference named; so is the plant."""

import copy
from dataclasses import replace

import numpy as np
import pytest
from one_tank import RESIDUAL, N, W, error, running
from premise_cases import CONTRACTION, SYSTEM, predictor, road, washout

from controlrnn.certification import certify_contraction
from controlrnn.data import Signal, Trajectory
from controlrnn.errors import DataError, SettingError
from mpc import (
    Premises,
    RunningOn,
    TightenedMPC,
    Tracking,
    Washout,
    controller_to_c,
    premises_of,
    run_closed_loop,
    tighten,
)
from mpc.loops.plant import held_to
from mpc.loops.settings import loop_settings
from mpc.promises.premises import record_premises


@pytest.fixture(scope="module")
def parts():
    return road(washout())


OTHERS = {
    "shorter washout": (lambda: washout(5), "steps 60 against 5"),
    "wider actuators": (lambda: washout(of=predictor(reach=4.0)), "input upper of valve 1 against 4"),
    "inputs recorded worse": (lambda: washout(input_error=0.5), "input error of valve 0 against 0.5"),
    "inputs commanded worse": (lambda: washout(command_error=0.2), "command error of valve 0 against 0.2"),
    "other unit": (lambda: washout(of=predictor(unit="cm")), "output units 'm' against 'cm'"),
    "other channel": (lambda: washout(of=predictor(name="flow")), "outputs 'level' against 'flow'"),
    "other kind": (lambda: RunningOn(predictor(), 60, contraction=CONTRACTION), "kind Washout against RunningOn"),
    "other start": (lambda: washout(initial_state=[0.1]), "initial_state none against 0.1"),
    "other proof": (
        lambda: Washout(predictor(), 60, contraction=certify_contraction(SYSTEM, 0.95)), "contraction ",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", OTHERS)
def test_a_controller_refuses_an_observer_that_its_tightening_was_not_made_for(name, parts):
    make, named = OTHERS[name]
    observer = make()
    with pytest.raises(SettingError) as caught:
        TightenedMPC(
            observer.predictor,
            observer,
            parts[0],
            Tracking(output_weight=1.0, input_move_weight=1e-3),
            terminal=parts[1],
        )
    assert named in str(caught.value)
    made = TightenedMPC(
        predictor(), washout(), parts[0], Tracking(output_weight=1.0, input_move_weight=1e-3), terminal=parts[1]
    )
    assert made.premises.horizon == N


def test_a_controller_refuses_a_predictor_of_other_actuators(parts):
    with pytest.raises(SettingError, match="input upper of valve 4 against 1"):
        TightenedMPC(predictor(reach=4.0), washout(), parts[0], Tracking(output_weight=1.0, input_move_weight=1e-3))


def test_parts_exchanged_by_hand_have_no_c_code(parts, tmp_path):
    """Nothing keeps an attribute from being set; what is written for a plant is compared once more."""
    settings = Tracking(output_weight=1.0, input_move_weight=1e-3)
    made = TightenedMPC(predictor(), washout(), parts[0], settings, terminal=parts[1])
    controller_to_c(made, tmp_path / "right")
    for part, other, named in (
        ("observer", washout(5), "steps 60 against 5"),
        ("tightening", road(washout(5))[0], "steps 5 against 60"),
        ("predictor", predictor(reach=4.0), "input upper of valve 4 against 1"),
    ):
        wrong = copy.copy(made)
        setattr(wrong, part, other)
        with pytest.raises(SettingError, match=named):
            controller_to_c(wrong, tmp_path / "wrong")
    assert not (tmp_path / "wrong").exists()


def test_what_is_the_same_is_accepted_and_saved(parts, tmp_path):
    tightening = parts[0]
    tightening.save(tmp_path / "room.npz")
    again = type(tightening).load(tmp_path / "room.npz")
    assert again.digest == tightening.digest
    assert (
        again.premises.digest
        == tightening.premises.digest
        == washout().premises.also(horizon=N, length=100, loop="open").digest
    )
    assert not again.premises.differences(tightening.premises)
    changed = replace(tightening, premises=tightening.premises.also(dt=2.0))
    assert changed.digest != tightening.digest
    assert changed.premises.differences(tightening.premises) == ("dt 2.0 against 1.0",)


def test_what_is_not_said_is_not_compared():
    said, silent = washout().premises, Premises(system=SYSTEM.digest, dt=1.0)
    assert not said.differences(silent) + silent.differences(said)
    assert said.also(missing=0.1).differences(said.also(missing=0.2)) == ("missing 0.1 against 0.2",)
    assert said.also(length=10).differences(said.also(length=20)) == ("length 10 against 20",)
    assert said.also(region="0" * 64).differences(said.also(region="1" * 64))
    assert premises_of(predictor()).input_upper == 1.0


def test_records_say_which_plant_they_are_of():
    def record(name, unit=""):
        return Trajectory(np.zeros((3, 1)), np.zeros((3, 1)), 1.0, outputs=(Signal(name, unit),), name=name + unit)

    assert record_premises(SYSTEM, [record("y1")]).outputs == ()
    assert record_premises(SYSTEM, [record("y1"), record("level", "m")]).output_units == ("m",)
    with pytest.raises(DataError, match="one plant"):
        record_premises(SYSTEM, [record("level", "m"), record("level", "cm")])
    tightening = error(SYSTEM, np.full(N + 1, RESIDUAL))
    tightening = replace(tightening, premises=record_premises(SYSTEM, [record("level", "cm")]))
    with pytest.raises(SettingError, match="output units 'cm' against 'm'"):
        tighten(tightening, None, observer=washout())


class Plant:
    """The tank itself, in channels of its own."""

    dt, nx = 1.0, 1

    def __init__(self, like):
        self.inputs, self.outputs = like.inputs, like.outputs

    def initial_state(self):
        return np.zeros(1)

    def step(self, x, u, w=None):  # noqa: ARG002
        return SYSTEM.step(x, u)

    def output(self, x, u):
        return SYSTEM.output(x, u)


def test_the_plant_and_the_loop_are_held_to_the_premises(parts):
    made = TightenedMPC(
        predictor(), washout(), parts[0], Tracking(output_weight=1.0, input_move_weight=1e-3), terminal=parts[1]
    )
    for plant, options, named in (
        (Plant(predictor(unit="cm")), {}, "output units 'cm' against 'm'"),
        (Plant(predictor(name="flow")), {}, "outputs 'flow' against 'level'"),
        (Plant(predictor(reach=0.5)), {}, "must reach the controller's range [-1, 1]"),
        (Plant(predictor()), {"input_error": 0.1}, "input_error must stay within"),
    ):
        with pytest.raises(SettingError) as caught:
            run_closed_loop(plant, made, reference=[0.5], steps=2, seed=0, **loop_settings(options))
        assert named in str(caught.value)
    held_to(made, Plant(predictor(reach=2.0)))
    result = run_closed_loop(Plant(predictor()), made, reference=[0.5], steps=3, seed=0)
    assert result.certified.all()
    assert running()[0].premises.observer["steps"] == str(W)


def test_premises_that_differ_by_a_unit_in_the_last_place_are_told_apart():
    one, other = (Premises(system=SYSTEM.digest, dt=1.0, move_limit=[limit]) for limit in (0.3, 0.1 + 0.2))
    assert one.differences(other) == ("move limit of input 1 0.3 against 0.30000000000000004",)
