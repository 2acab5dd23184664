"""Rounds of a calibration in closed loop by hand: what counts as kept, is asked for next, and is taken up again."""

from dataclasses import replace

import numpy as np
import pytest
from loop_cases import LIMIT, MODEL, N, loop
from mpc_networks import elman, signals

import mpc.loops.rounds
from controlrnn.errors import CertificationError, DataError, SettingError
from controlrnn.records import digest
from mpc import (
    LoopEffort,
    LoopEngine,
    Predictor,
    RunningOn,
    SimulatedLoops,
    back_off,
    calibrate_closed_loop,
    no_tightening,
)
from mpc.loops.calibration import UNDECLARED
from mpc.loops.rounds import Rounds, errors_wanted, excess_of, within_total
from mpc.promises.promise import LoopTarget

START = no_tightening(MODEL, N, 2)
SETTINGS = {"seed": 3}


class Loops:
    """Loops that lack ``push`` at every back-off, and what was asked of them."""

    def __init__(self, **options):
        self.options, self.calls = options, []

    def __call__(self, tightening, seeds):
        self.calls.append((tightening, seeds))
        return [loop(tightening, seed, **self.options) for seed in seeds]


def rounds(loops, start=START, target=LoopTarget.LIMITS, n=3, settings=SETTINGS, checkpoint=None):
    return Rounds(loops, start, target, n, settings, 1.1, checkpoint, None)


def test_simulated_loops_are_those_of_monte_carlo(monkeypatch):
    """The controller's own tightening, all seeds, the wanted number of workers, and who wants to know."""
    asked = {}

    def recorded(make, seeds, **options):
        asked.update(made=make(), seeds=seeds, **options)
        return type("Result", (), {"results": ("one", "two")})

    monkeypatch.setattr(mpc.loops.rounds, "monte_carlo", recorded)
    told = [].append
    options = {"workers": 2, "progress": told, "engine": LoopEngine.COMPILED, "compiled_in": "folder", "client": None}
    loops = SimulatedLoops(lambda tightening: ("setup", tightening), **options)
    assert loops(START, [5, 6]) == ("one", "two")
    assert asked == {"made": ("setup", START), "seeds": [5, 6], **options}


def test_excess_is_measured_on_either_side_and_where_an_output_answers_at_once():
    one = loop(START, 0, steps=3)
    y = np.array([[9.0, 9.0], [0.5, -1.2], [-1.3, 0.25], [0.0, 0.5]])
    np.testing.assert_allclose(excess_of(replace(one, y=y, after=y[:-1])), [0.3, 0.2])
    # An output that the input moves at once counts in its own sample too, and at the first one alone.
    answers = y[:-1].copy()
    answers[0] = [1.5, 0.0]
    np.testing.assert_allclose(excess_of(replace(one, y=y, after=answers)), [0.5, 0.2])
    answers[2] = y[0]
    np.testing.assert_allclose(excess_of(replace(one, y=y, after=answers)), [8.0, 8.0])
    calm = np.array([[9.0, 9.0], [1.75, 0.0], [0.5, 0.0], [0.25, 0.25]])  # the sample after the first one
    np.testing.assert_allclose(excess_of(replace(one, y=calm, after=calm[:-1])), [0.75, -0.75])
    narrow = replace(one, y=y / 10, after=y[:-1] / 10, lower=np.array([-2.0, -0.5]), upper=np.array([0.5, 2.0]))
    np.testing.assert_allclose(excess_of(narrow), [-0.45, -0.38])


def test_errors_are_within_a_tightening_up_to_its_very_edge():
    total = np.array([[0.1, 0.2], [0.3, 0.4], [0.5, 0.6]])
    assert within_total(np.stack([total, 0 * total]), total)
    over = np.stack([total, 0 * total])
    over[1, 2, 0] = np.nextafter(0.5, 1)
    assert not within_total(over, total)
    over[1, 2, 0] = np.nan
    assert within_total(over, total)
    assert within_total(total[None, :2], total)  # a controller with a shorter horizon


def test_wanted_bounds_have_the_shape_of_the_errors():
    small = np.array([[1.0, 1e-6], [3.0, 0.0]])  # steps 0 and 1 of outputs 1 and 2
    errors = [np.stack([small, small]), np.stack([0.5 * small, np.full((2, 2), np.nan)])]
    rms = np.sqrt((1 + 1 + 0.25) / 3) * np.array([[1.0, 1e-6], [3.0, 0.0]])
    scale = np.maximum(rms, 1e-3 * np.array([rms[1, 0], rms[0, 1]]))
    wanted = errors_wanted(errors)
    np.testing.assert_allclose(wanted, scale / np.sqrt(0.75), rtol=1e-12)
    assert all((e <= wanted * (1 + 1e-12))[~np.isnan(e)].all() for e in errors)
    # An output that never has an error asks for no bound, however large the errors of another one.
    none = errors_wanted([np.stack([small * [1.0, 0.0]])])
    np.testing.assert_allclose(none, [[1.0, 0.0], [3.0, 0.0]])
    assert not errors_wanted([np.zeros((3, 2, 2))]).any()


@pytest.mark.parametrize("most", [1, 2, 4])
def test_exploration_takes_no_more_rounds_than_it_may(most):
    loops = Loops(slope=1.2)
    with pytest.raises(CertificationError):
        calibrate_closed_loop(loops, START, seed=0, effort=LoopEffort(rounds=most, attempts=3))
    assert len(loops.calls) == most + 3


def test_a_single_loop_is_enough_where_it_is_enough_for_the_promise():
    found = calibrate_closed_loop(Loops(), START, seed=3, coverage=0.5, effort=LoopEffort(loops=1, attempts=1))
    assert (found.n, found.rank, found.starts) == (1, 1, 12)


def test_loops_keep_a_limit_that_they_touch_and_lack_what_step_one_needs():
    total = np.array([[0.0, 0.0], [0.25, 0.125], [0.5, 0.25], [0.75, 0.5]])
    start = replace(START, model_error=total)

    def touching(tightening, seeds):
        y = np.zeros((13, 2))
        ys = [y + 1e-3 * i for i in range(len(seeds))]
        ys[0][4], ys[1][4] = (LIMIT, 0.0), (0.0, -LIMIT)
        return [replace(loop(tightening, s), y=y, after=y[:-1]) for s, y in zip(seeds, ys, strict=True)]

    one = rounds(touching, start).round(total, attempt=False)
    assert one.kept == 3
    np.testing.assert_array_equal(one.excess, [[0.0, -1.0], [-0.999, 0.0], [-0.998, -0.998]])
    np.testing.assert_array_equal(one.wanted, np.tile(total[1], (N + 1, 1)))


def test_steps_and_missing_readings_are_those_of_the_loops():
    def half(tightening, seeds):
        made = [loop(tightening, s) for s in seeds]
        nan = np.where(np.arange(12)[:, None] < 6, np.nan, made[0].readings)
        return [replace(made[0], readings=nan), *made[1:]]

    run = rounds(half)
    run.round(np.array(START.total), attempt=False)
    assert (run.steps, run.missing) == (12, pytest.approx(0.5 / 3))
    run.loops = Loops(steps=13)
    with pytest.raises(DataError, match="same number of steps"):
        run.round(np.array(START.total), attempt=False)


def test_a_tightening_in_between_names_its_sources_and_promises_nothing_yet():
    start = back_off(MODEL, N, np.zeros(2), disturbance_gain=0.5)
    start = replace(start, digests=start.digests | {"observer": 64 * "b", "jump": 64 * "c"})
    loops = Loops()
    run = rounds(loops, start)
    run.round(np.array(start.total), attempt=False)
    assert loops.calls[0][0] is start
    total = np.full((N + 1, 2), 0.5)
    run.round(total, attempt=True)
    asked = loops.calls[1][0]
    assert asked.promise == "nothing yet: calibration goes on"
    assert asked.disturbance_gain == 0.5
    assert {k: asked.digests[k] for k in ("system", "observer")} == {"system": MODEL, "observer": 64 * "b"}
    assert set(asked.digests) == {"system", "observer", "closed_loop_limits"}  # the start claimed something
    # What it was calibrated with tells it from another of the same size.
    other = rounds(Loops(), start, settings={"seed": 4})
    other.round(np.array(start.total), attempt=False)
    assert other.tightening(total).digests["closed_loop_limits"] != asked.digests["closed_loop_limits"]
    assert digest({"total": total}, SETTINGS) == asked.digests["closed_loop_limits"]


@pytest.mark.parametrize("sources", [{}, {"observer": 64 * "b"}, {"observer": 64 * "b", "closed_loop": 64 * "c"}])
def test_a_start_without_a_claim_leaves_the_mode_open(sources):
    start = replace(START, digests={"system": MODEL} | sources)
    run = rounds(Loops(), start)
    run.round(np.array(start.total), attempt=False)
    assert "closed_loop" in run.tightening(np.ones((N + 1, 2))).digests
    run.target = LoopTarget.PREDICTIONS
    assert "closed_loop_predictions" in run.tightening(np.ones((N + 1, 2))).digests


def test_a_finished_calibration_is_taken_up_as_it_was(tmp_path):
    path = tmp_path / "rounds.npz"

    def gaps(tightening, seeds):
        made = [loop(tightening, s) for s in seeds]
        return [replace(one, readings=np.where(np.arange(12)[:, None] < 3, np.nan, one.readings)) for one in made]

    def none(*_):
        raise AssertionError("all rounds are stored")

    first = calibrate_closed_loop(gaps, START, seed=3, checkpoint=path)
    again = calibrate_closed_loop(none, START, seed=3, checkpoint=path)
    assert (again.starts, again.missing) == (first.starts, first.missing) == (12, 0.25)
    assert again.promise == first.promise


def test_premises_of_records_are_replaced_by_those_of_the_loops():
    """Horizon, length, missing readings and loop of an earlier calibration contradict nothing."""
    predictor = Predictor(elman(2, 1, 2), signals("u", 1, 1.0), signals("y", 2, 1.0))
    start = no_tightening(predictor.system.digest, N, 2)
    own = RunningOn(predictor, 5).premises
    before = own.also(length=500, missing=0.5, loop="open", horizon=30)
    stated = replace(start, premises=own.also(length=40, missing=0.25, loop="closed", horizon=N))
    found = calibrate_closed_loop(Loops(), stated, seed=3, premises=before).tightening.premises
    assert (found.length, found.missing, found.loop, found.horizon) == (12, 0.0, "closed", N)


WORDS = (
    "with probability >= 0.9, a new closed loop of this very controller, of 12 steps or fewer, whose references, "
    "disturbances, noise and missing readings (0 of all) are drawn as in its {n} calibration loops, {keeps} ({sure}; 2 "
    "attempts are paid for); with any setting changed it is another controller, of which nothing is promised"
    f"; {UNDECLARED}"
)


def test_the_promise_word_by_word():
    words = {
        "n": 38,
        "keeps": "keeps all outputs within their limits",
        "sure": "over calibration and operation together",
    }
    assert calibrate_closed_loop(Loops(), START, seed=3).promise == WORDS.format_map(words)
    found = calibrate_closed_loop(Loops(), START, seed=3, target="predictions", confidence=0.95)
    assert found.promise == WORDS.format(
        n=72,
        keeps="keeps every prediction error within the tightening",
        sure="for this calibration, with confidence 0.95",
    )
    assert (found.target, found.confidence) == (LoopTarget.PREDICTIONS, 0.95)
    assert type(found.target) is LoopTarget
    assert UNDECLARED == "what that controller rests on was not stated, so that none is checked to be that controller"
    assert back_off(MODEL, N, np.ones(2)).promise == "nothing: a constant back-off, nothing calibrated"


def test_rounds_of_other_settings_are_not_taken_up(tmp_path):
    path = tmp_path / "rounds.npz"
    calibrate_closed_loop(Loops(), START, seed=3, checkpoint=path, effort=LoopEffort(loops=40))
    for other in (
        {"start": replace(START, promise="another")}, {"seed": 4}, {"target": "predictions"}, {"coverage": 0.8},
        {"effort": LoopEffort(loops=41)}, {"effort": LoopEffort(loops=40, inflation=1.2)},
        {"effort": LoopEffort(loops=40, settled=0.1)}, {"effort": LoopEffort(loops=40, rounds=3)},
    ):  # fmt: skip
        given = {"start": START, "seed": 3, "effort": LoopEffort(loops=40)} | other
        with pytest.raises(SettingError, match="another calibration"):
            calibrate_closed_loop(Loops(), checkpoint=path, **given)


@pytest.mark.parametrize(("coverage", "attempts", "n"), [(0.5, 1, 2), (0.01, 1, 2), (0.99, 1, 198), (0.9, 2, 38)])
def test_loops_are_twice_the_least_that_suffices(coverage, attempts, n):
    assert LoopEffort(attempts=attempts).rank(coverage, None)[0] == n
    for wrong in (0.0, 1.0):
        with pytest.raises(SettingError, match=r"^coverage must"):
            LoopEffort().rank(wrong, None)
        with pytest.raises(SettingError, match=r"^confidence must"):
            LoopEffort().rank(0.9, wrong)
    with pytest.raises(SettingError, match="loops must be"):
        LoopEffort().rank(1 - 1e-15, None)
    assert LoopEffort(inflation=1.0).inflation == 1.0
