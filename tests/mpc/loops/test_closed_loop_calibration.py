"""Calibration in closed loop: the theorem against exact sums, the rounds on loops whose answer is known."""

from dataclasses import replace

import numpy as np
import pytest
from loop_cases import LIMIT, MODEL, N, loop
from mpc_networks import LurePlant, elman, signals
from scipy.stats import binom

from controlrnn.errors import CertificationError, DataError, FileFormatError, SettingError
from mpc import (
    ClosedLoopCalibration,
    ClosedLoopSetup,
    Limits,
    LoopEffort,
    LoopTarget,
    Mode,
    Predictor,
    Premises,
    RunningOn,
    SimulatedLoops,
    TightenedMPC,
    Tracking,
    back_off,
    calibrate_closed_loop,
    no_tightening,
    run_closed_loop,
)
from mpc.control.settings import grouped
from mpc.loops.calibration import UNDECLARED
from mpc.loops.settings import loop_settings

START = no_tightening(MODEL, N, 2)
TRACKING = Tracking(output_weight=1.0, input_move_weight=1.0)


class Loops:
    """Counts what was asked for."""

    def __init__(self, **options):
        self.options, self.calls, self.seeds = options, [], []

    def __call__(self, tightening, seeds):
        self.calls.append(tightening)
        self.seeds += seeds
        return [loop(tightening, seed, **self.options) for seed in seeds]


@pytest.mark.parametrize("attempts", [1, 2, 3])
@pytest.mark.parametrize("coverage", [0.8, 0.9])
def test_rank_is_the_least_that_the_theorem_allows(coverage, attempts):
    """(n + 1 - r) / (n + 1) <= (1 - c) / J, and with confidence P(Bin(n, c) >= r) <= (1 - g) / J, no r less."""
    for loops in (None, 60, 101):
        effort = LoopEffort(loops=loops, attempts=attempts)
        n, r = effort.rank(coverage, None)
        fails = [(n + 1 - k) / (n + 1) for k in (r, r - 1)]
        assert fails[0] <= (1 - coverage) / attempts + 1e-12 < fails[1] + 1e-12
        n, r = effort.rank(coverage, 0.9)
        wrong = [binom.sf(k - 1, n, coverage) for k in (r, r - 1)]
        assert wrong[0] <= 0.1 / attempts + 1e-12 < wrong[1]
    needed = LoopEffort(attempts=attempts).rank(coverage, None)[0]
    assert needed == 2 * (round(attempts / (1 - coverage)) - 1)


def test_accepted_and_failing_is_as_rare_as_promised():
    """Exact for loops that fail independently with any probability, in all attempts: over calibration and operation."""
    effort = LoopEffort(attempts=2)
    n, r = effort.rank(0.9, None)
    for p in np.linspace(0.001, 0.5, 40):
        accepted = binom.sf(r - 1, n, 1 - p)
        either = accepted + (1 - accepted) * accepted
        assert either * p <= 0.1
    n, r = effort.rank(0.9, 0.95)
    for p in np.linspace(0.1001, 0.5, 40):  # a controller that keeps less often than 0.9
        accepted = binom.sf(r - 1, n, 1 - p)
        assert accepted + (1 - accepted) * accepted <= 0.05


def test_limits_are_kept_by_the_tightening_that_fresh_loops_confirmed():
    loops = Loops()
    found = calibrate_closed_loop(loops, START, seed=3)
    first, second, last = found.rounds
    assert [r.attempt for r in found.rounds] == [False, False, True]
    assert (first.kept, first.total.max()) == (0, 0.0)
    np.testing.assert_allclose(first.wanted[:, 0], first.excess[:, 0].max())  # with no back-off yet
    np.testing.assert_allclose(second.total, 1.1 * first.wanted)
    np.testing.assert_allclose(second.wanted[:, 0], second.excess[:, 0].max() + second.total[1, 0])
    np.testing.assert_allclose(last.total, 1.1 * np.maximum(first.wanted, second.wanted))
    assert (last.total[:, 1] == 0).all()  # output 2 needs nothing
    assert last.kept == len(last.excess) == found.n == 38
    assert len(set(loops.seeds)) == 3 * 38  # every loop is fresh
    np.testing.assert_array_equal(found.tightening.total, last.total)
    assert set(found.tightening.digests) == {"system", "closed_loop"}
    assert (found.coverage, found.rank, found.attempts, found.starts, found.missing) == (0.9, 38, 2, 12, 0.0)
    assert (found.loop, found.unit, found.length) == ("closed", "record", 12)
    assert found.coverage_over(12) == pytest.approx(0.9)
    assert found.coverage_over(13) == pytest.approx(0.8)
    for words in ("0.9", "38 calibration loops", "12 steps", "2 attempts", "limits", "another controller"):
        assert words in found.promise
    again = calibrate_closed_loop(Loops(), START, seed=3)
    np.testing.assert_array_equal(again.tightening.total, found.tightening.total)


def test_too_much_back_off_is_given_back():
    found = calibrate_closed_loop(Loops(), back_off(MODEL, N, np.array([0.7, 0.0])), seed=3)
    assert found.rounds[0].kept == 38
    assert 0.3 <= found.tightening.total[1, 0] <= 1.1 * 0.31


def test_a_back_off_keeps_the_disturbance_filter():
    assert back_off(MODEL, N, np.array([0.7, 0.0]), disturbance_gain=0.5).disturbance_gain == 0.5
    assert back_off(MODEL, N, np.array([0.7, 0.0])).promise == "nothing: a constant back-off, nothing calibrated"


def test_confidence_asks_for_its_own_number_of_loops():
    found = calibrate_closed_loop(Loops(), START, seed=0, confidence=0.95)
    assert (found.n, found.rank) == LoopEffort().rank(0.9, 0.95) == (72, 70)
    assert "confidence 0.95" in found.promise
    assert found.confidence == 0.95
    assert found.tightening.verified
    read = calibrate_closed_loop(Loops(), replace(START), seed=0, confidence=0.95)
    assert read.tightening.digest == found.tightening.digest


def test_predictions_are_calibrated_with_the_shape_of_their_errors():
    found = calibrate_closed_loop(Loops(), START, seed=3, target="predictions")
    total = found.tightening.total
    assert set(found.tightening.digests) == {"system", "closed_loop_predictions"}
    assert (np.diff(total, axis=0) > 0).all()
    np.testing.assert_allclose(total[-1] / total[0], N + 1, rtol=0.2)
    fresh = [loop(found.tightening, s) for s in range(10_000, 10_200)]
    inside = np.mean([r.inside == 1.0 for r in fresh])
    assert inside >= 0.9
    assert "prediction error" in found.promise
    tight = [loop(back_off(MODEL, N, 0.9 * total[1] / 2), s) for s in range(50)]
    assert all(r.inside < 1 for r in tight)  # the loops that this test rests on do have errors


def test_a_loop_that_runs_away_from_its_tightening_is_never_accepted():
    """What is asked for grows with what is given: nothing settles, no attempt is accepted, nothing is promised."""
    with pytest.raises(CertificationError, match=r"no controller was accepted: of 38 loops .* 38 are needed"):
        calibrate_closed_loop(Loops(slope=1.2), START, seed=0)


class Unlucky(Loops):
    """Attempt 1 meets a worse loop than any before."""

    def __call__(self, tightening, seeds):
        made = super().__call__(tightening, seeds)
        if len(self.calls) == 3:
            y = np.array(made[0].y)
            y[5, 0] = LIMIT + 0.05
            made[0] = replace(made[0], y=y)
        return made


def test_a_refused_attempt_tightens_further_and_only_so_many_are_paid_for():
    found = calibrate_closed_loop(Unlucky(), START, seed=3)
    assert [r.attempt for r in found.rounds] == [False, False, True, True]
    refused, accepted = found.rounds[2:]
    assert refused.kept == 37
    assert accepted.total[1, 0] == pytest.approx(1.1 * (refused.total[1, 0] + 0.05))
    with pytest.raises(CertificationError, match="17 kept"):
        calibrate_closed_loop(Unlucky(), START, seed=3, effort=LoopEffort(attempts=1, loops=18))


def test_stopped_calibration_goes_on_where_it_was(tmp_path):
    path = tmp_path / "rounds.npz"

    class Stopped(Loops):
        def __call__(self, tightening, seeds):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().__call__(tightening, seeds)

    with pytest.raises(KeyboardInterrupt):
        calibrate_closed_loop(Stopped(), START, seed=3, checkpoint=path)
    rest = Loops()
    found = calibrate_closed_loop(rest, START, seed=3, checkpoint=path)
    assert len(rest.calls) == 1
    whole = calibrate_closed_loop(Loops(), START, seed=3)
    np.testing.assert_array_equal(found.tightening.total, whole.tightening.total)
    assert found.promise == whole.promise
    assert whole.tightening.verified
    assert not found.tightening.verified  # a file could say that any loops kept their limits
    with pytest.raises(SettingError, match="another calibration"):
        calibrate_closed_loop(Loops(), START, seed=4, checkpoint=path)


def test_saved_calibration_is_restored_and_a_changed_file_refused(tmp_path):
    found = calibrate_closed_loop(Loops(), START, seed=3)
    found.save(tmp_path / "loops.npz")
    again = ClosedLoopCalibration.load(tmp_path / "loops.npz")
    assert again.tightening.digest == found.tightening.digest
    assert (again.target, again.coverage, again.rank) == (LoopTarget.LIMITS, 0.9, 38)
    assert type(again.target) is LoopTarget
    np.testing.assert_array_equal(again.rounds[1].excess, found.rounds[1].excess)
    assert len(again.plot().axes) == 2
    content = bytearray((tmp_path / "loops.npz").read_bytes())
    content[content.index(found.rounds[0].excess.tobytes())] ^= 1
    (tmp_path / "loops.npz").write_bytes(bytes(content))
    with pytest.raises(FileFormatError):
        ClosedLoopCalibration.load(tmp_path / "loops.npz")


def test_loops_that_are_not_what_was_asked_for_are_refused():
    for wrong, words in (
        (lambda c, seeds: [loop(c, s) for s in seeds[1:]], "one result per seed"),
        (lambda c, seeds: [loop(c, 0) for _ in seeds], "two loops are equal"),
        (lambda c, seeds: [loop(c, s, steps=12 + (s == seeds[0])) for s in seeds], "same number of steps"),
        (lambda _, seeds: [loop(back_off(MODEL, N, np.ones(2)), s) for s in seeds], "not tightened"),
        (lambda c, seeds: [replace(loop(c, s), y=np.full((13, 2), np.nan)) for s in seeds], "finite"),
    ):
        with pytest.raises(DataError, match=words):
            calibrate_closed_loop(wrong, START, seed=0)
    with pytest.raises(DataError, match="at least 19"):
        calibrate_closed_loop(Loops(), START, seed=0, effort=LoopEffort(loops=10))
    ends = np.zeros((12, 2, N + 1, 2))
    with pytest.raises(SettingError, match="limits that learn"):
        calibrate_closed_loop(
            lambda c, seeds: [replace(loop(c, s), intervals=ends) for s in seeds], START, seed=0, target="predictions"
        )
    for wrong in ({"inflation": 0.9}, {"attempts": 0}, {"rounds": 0}, {"loops": 0}, {"settled": 0.0}):
        with pytest.raises(SettingError):
            LoopEffort(**wrong)


def test_tightening_says_what_mode_it_allows():
    """Limits calibrated with a controller of either mode stay open to it; prediction errors belong to one."""
    system = elman(2, 1, 2)
    predictor = Predictor(system, signals("u", 1, 1.0), signals("y", 2, 1.0))
    observer = RunningOn(predictor, 5)
    start = no_tightening(system.digest, N, 2)
    settings = {"output_weight": 1.0, "input_move_weight": 1.0}
    limits = calibrate_closed_loop(Loops(), start, seed=3).tightening
    for mode in Mode:
        assert TightenedMPC(predictor, observer, limits, **grouped(dict(mode=mode, **settings))).mode is mode
    own = TightenedMPC(predictor, observer, start, **grouped(settings)).premises
    errors = calibrate_closed_loop(Loops(), start, seed=3, target="predictions", premises=own).tightening
    assert TightenedMPC(predictor, observer, errors, **grouped(settings)).mode is Mode.GUARANTEED
    with pytest.raises(SettingError, match="guaranteed"):
        TightenedMPC(predictor, observer, errors, **grouped(dict(mode=Mode.PRACTICAL, **settings)))
    fed = back_off(system.digest, N, np.zeros(2), disturbance_gain=0.3)
    fed = calibrate_closed_loop(Loops(), fed, seed=3, target="predictions", premises=own).tightening
    assert TightenedMPC(predictor, observer, fed, **grouped(settings)).mode is Mode.PRACTICAL


def test_tightening_carries_what_it_was_calibrated_with_and_refuses_another_controller():
    system = elman(2, 1, 2)
    predictor = Predictor(system, signals("u", 1, 1.0), signals("y", 2, 1.0))

    def build(tightening, steps=5):
        observer = RunningOn(predictor, steps)
        controller = TightenedMPC(predictor, observer, tightening, Tracking(output_weight=1.0, input_move_weight=1.0))
        return ClosedLoopSetup(LurePlant(system, predictor.inputs, predictor.outputs), controller)

    class Quick(SimulatedLoops):
        def __call__(self, tightening, seeds):
            return [loop(tightening, seed) for seed in seeds]

    found = calibrate_closed_loop(Quick(build), no_tightening(system.digest, N, 2), seed=3)
    own = found.tightening.premises
    assert (own.loop, own.length, own.missing, own.horizon) == ("closed", 12, 0.0, N)
    assert build(found.tightening).controller.premises.loop == "closed"
    with pytest.raises(SettingError, match="steps 5 against 6"):
        build(found.tightening, steps=6)
    slower = Limits(move_limit=0.1)
    with pytest.raises(SettingError, match=r"move limit of u1 inf against 0\.1"):
        TightenedMPC(predictor, RunningOn(predictor, 5), found.tightening, TRACKING, limits=slower)
    watched = replace(found.tightening, premises=own.also(region="a" * 64))
    with pytest.raises(SettingError, match="watches an operating region, got none"):
        TightenedMPC(predictor, RunningOn(predictor, 5), watched, TRACKING)


def of_a_user(**options):
    """Calibrated by loops of the user's own, for the network that they are said to run."""
    system = elman(2, 1, 2)
    return calibrate_closed_loop(Loops(), no_tightening(system.digest, N, 2), seed=3, **options).tightening


def theirs(steps=5):
    predictor = Predictor(elman(2, 1, 2), signals("u", 1, 1.0), signals("y", 2, 1.0))
    return predictor, RunningOn(predictor, steps)


def test_loops_of_a_user_say_what_they_rest_on_or_the_tightening_says_that_they_did_not(caplog):
    predictor, observer = theirs()
    own = TightenedMPC(predictor, observer, no_tightening(predictor.system.digest, N, 2), TRACKING).premises
    told = of_a_user(premises=own, target="predictions")
    assert not caplog.records
    assert (told.premises.loop, told.premises.length, told.premises.observer) == ("closed", 12, own.observer)
    assert "not stated" not in told.promise
    assert TightenedMPC(predictor, observer, told, TRACKING).mode is Mode.GUARANTEED
    with pytest.raises(SettingError, match="steps 5 against 6"):
        TightenedMPC(*theirs(6), told, TRACKING)
    # What nobody states about a calibrated controller, the observer still does.
    few = Premises(system=own.system, dt=own.dt, observer=own.observer)
    less = TightenedMPC(predictor, observer, of_a_user(premises=few, target="predictions"), TRACKING).premises
    assert (less.loop, less.inputs, less.outputs) == ("closed", own.inputs, own.outputs)
    np.testing.assert_array_equal(less.input_error, own.input_error)
    for target in LoopTarget:
        silent = of_a_user(target=target)
        assert silent.premises is None
        assert silent.promise.endswith(UNDECLARED)
        assert "premises=controller.premises" in caplog.records[-1].message
    with pytest.raises(SettingError, match="promises something about predictions, but not what that rests on"):
        TightenedMPC(predictor, observer, silent, TRACKING)


def test_premises_that_are_not_those_of_the_loops_are_refused():
    predictor, observer = theirs()
    start = no_tightening(predictor.system.digest, N, 2)
    own = TightenedMPC(predictor, observer, start, TRACKING).premises
    with pytest.raises(SettingError, match="got none of an observer"):
        calibrate_closed_loop(Loops(), start, seed=3, premises=own.also(observer={}))
    with pytest.raises(SettingError, match="of the start's model"):
        calibrate_closed_loop(Loops(), START, seed=3, premises=own)
    stated = replace(start, premises=theirs(6)[1].premises)
    with pytest.raises(SettingError, match=r"the premises and the start rest on different .* steps 5 against 6"):
        calibrate_closed_loop(Loops(), stated, seed=3, premises=own)

    def build(tightening):
        made = TightenedMPC(*theirs(7), tightening, TRACKING)
        return ClosedLoopSetup(LurePlant(predictor.system, predictor.inputs, predictor.outputs), made)

    with pytest.raises(SettingError, match=r"the premises and the loops rest on different .* steps 5 against 7"):
        calibrate_closed_loop(SimulatedLoops(build), start, seed=3, premises=own)


@pytest.mark.slow
def test_a_controller_at_its_limit_is_calibrated_on_its_own_loops():
    """The model's plant with steps of an unmeasured push: the nominal controller fails, the calibrated one keeps."""
    system = elman(2, 1, 1)
    plant = LurePlant(system, signals("u", 1, 1.0), signals("y", 1, 0.2))
    predictor = Predictor(system, plant.inputs, plant.outputs)

    def build(tightening):
        controller = TightenedMPC(
            predictor, RunningOn(predictor, 5), tightening, Tracking(output_weight=1, input_move_weight=0.1)
        )
        push = {"disturbance": lambda rng: np.cumsum(0.004 * rng.standard_normal((30, 1)), axis=0)}
        return ClosedLoopSetup(plant, controller, {"reference": [0.2], "steps": 30, "noise_std": 0.002, **push})

    loops = SimulatedLoops(build)
    found = calibrate_closed_loop(loops, no_tightening(system.digest, N, 1), seed=0, effort=LoopEffort(loops=40))
    assert found.rounds[0].kept < 20
    setup = build(found.tightening)
    kept = [
        run_closed_loop(setup.plant, setup.controller, seed=s, **loop_settings(setup.options)).violations == 0
        for s in range(500, 560)
    ]
    assert np.mean(kept) >= 0.9


def simulated(move_limit=0.2, steps=5):
    """Loops of a small network behind a controller that moves slowly."""
    system = elman(2, 1, 2)
    predictor = Predictor(system, signals("u", 1, 1.0), signals("y", 2, 3.0))

    def build(tightening):
        made = TightenedMPC(
            predictor, RunningOn(predictor, steps), tightening, TRACKING, limits=Limits(move_limit=move_limit)
        )
        plant = LurePlant(system, predictor.inputs, predictor.outputs)
        return ClosedLoopSetup(plant, made, {"reference": [0.3, 0.1], "steps": 15, "noise_std": 0.02})

    return SimulatedLoops(build), system


def test_predictions_of_simulated_loops_are_calibrated_and_say_what_they_rest_on():
    """No controller takes a tightening about predictions without premises, those of the rounds included."""
    loops, system = simulated()
    found = calibrate_closed_loop(
        loops,
        no_tightening(system.digest, N, 2),
        seed=3,
        coverage=0.5,
        target="predictions",
        effort=LoopEffort(loops=8),
    )
    own = found.tightening.premises
    assert (own.loop, own.length, own.move_window) == ("closed", 15, None)
    assert own.move_limit.tolist() == [0.2]
    assert found.rounds[-1].kept >= found.rank


def test_all_errors_of_loops_count_also_where_those_of_the_start_did_after_slow_inputs_only():
    system = elman(2, 1, 2)
    predictor = Predictor(system, signals("u", 1, 1.0), signals("y", 2, 1.0))
    observer = RunningOn(predictor, 5)
    stated = observer.premises.also(move_limit=[0.1], move_window=7)
    start = replace(no_tightening(system.digest, N, 2), premises=stated)
    asked = Loops()
    found = calibrate_closed_loop(asked, start, seed=3).tightening
    assert (found.premises.move_window, found.premises.move_limit.tolist()) == (None, [0.1])
    later = TightenedMPC(predictor, observer, asked.calls[-1], TRACKING, limits=Limits(move_limit=0.1))
    final = TightenedMPC(predictor, observer, found, TRACKING, limits=Limits(move_limit=0.1))
    assert later.move_watch.limit is final.move_watch.limit is None  # the very controller that ran


def test_rounds_of_a_controller_with_other_move_limits_are_not_taken_over(tmp_path):
    path, settings = tmp_path / "rounds.npz", {"seed": 3, "coverage": 0.5, "effort": LoopEffort(loops=8)}
    for limit in (0.2, 0.2, 0.1):
        loops, system = simulated(limit)
        start = no_tightening(system.digest, N, 2)
        if limit == 0.1:
            with pytest.raises(SettingError, match="of another calibration"):
                calibrate_closed_loop(loops, start, checkpoint=path, **settings)
        else:
            calibrate_closed_loop(loops, start, checkpoint=path, **settings)
