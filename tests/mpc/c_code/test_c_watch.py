"""The C code watches premises as Python does: loops with premises broken one at a time, sanitised."""

import shutil
import subprocess

import numpy as np
import pytest
from one_tank import N, error, innovating, running
from premise_cases import STEPS, SYSTEM, predictor, washing, washout
from range_cases import CONTRACTION, ranged
from range_cases import washout as ranged_washout
from slow_cases import slow, slow_corrected, slow_recalling

from controlrnn.data import Signal
from controlrnn.errors import SettingError
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    CoveragePromise,
    OperatingRegion,
    PlausibilityLimits,
    Premise,
    RegionShape,
    RunningOn,
    Safety,
    TightenedMPC,
    Tracking,
    Watching,
    controller_to_c,
    tighten,
)

CC = compiler()
pytestmark = pytest.mark.skipif(CC is None, reason="no C compiler (cc or gcc) on the path")
SANITISED = ("-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover=all")


def reacting(**options):
    observer = washout(STEPS)
    rooms = [tighten(error(SYSTEM, np.full(N + 1, r)), None, observer=observer) for r in (0.02, 0.3)]
    watching = Watching(wider=rooms[1], safe_reference=[-0.5], **options)
    return TightenedMPC(
        predictor(),
        washout(STEPS),
        rooms[0],
        Tracking(output_weight=1.0, input_move_weight=1e-3),
        safety=Safety(watching=watching),
    )


def regional():
    made = washing()
    region = OperatingRegion(
        shape=RegionShape.BOX,
        centres=(np.zeros(1), np.zeros(1), np.zeros(1)),
        covariances=(np.full((1, 1), 0.04),) * 3,
        limits=(3.0, 2.0, 0.09),
        labels=("valve [%]", "level [m]"),
        coverage=0.9,
        n=20,
        observer_digest=made.observer.digest,
        data_digest="0" * 64,
    )
    return washing(region=region)


CONTROLLERS = {
    "running": lambda: running(False)[0],
    "recalling": lambda: running()[0],
    "washout": washing,
    "innovation": innovating,
    "region": regional,
    "ranges": ranged,
    "ranges, running": lambda: ranged(RunningOn(ranged_washout().predictor, STEPS, contraction=CONTRACTION)),
    "slow": slow,
    "slow, promised": lambda: slow(watching=Watching(promised=CoveragePromise(coverage=0.9, stretch=5, patience=5.0))),
    "slow, recalling": slow_recalling,
    "slow, corrected": slow_corrected,
    "widening": lambda: reacting(reactions=dict.fromkeys(Premise, "widen")),
    "backing off": lambda: reacting(reactions=dict.fromkeys(Premise, "back_off")),
    "holding": lambda: reacting(reactions=dict.fromkeys(("inputs", "actuators", "time"), "hold")),
}
BROKEN = (
    "nothing", "manual", "actuator", "missed", "late", "absurd", "overflow", "outlier", "gap", "long gap", "drift",
    "cleared", "twice", "creeping", "wrong read-back", "no input",
    "warming up",
)  # fmt: skip


def programme(kind, t):
    """What is different at a sample: reading's error, manual input, actuator, samples missed, time stamp's error."""
    now = {"off": 0.005 * np.sin(t), "manual": None, "acted": None, "missed": 0, "late": 0.0}
    at = 40 <= t < 44
    now |= {"manual": 3.0} if kind == "manual" and at else {}
    now |= {"manual": 1.0} if kind == "warming up" and 10 <= t < 15 else {}
    now |= {"acted": 0.3} if kind == "actuator" and 40 <= t < 55 else {}
    now |= {"missed": 3 if t == 40 else 0} if kind == "missed" else {}
    now |= {"missed": 1500 if t == 40 else 0} if kind == "long gap" else {}
    now |= {"manual": 3.0} if kind == "cleared" and at else {}
    now |= {"manual": 1e308} if kind == "no input" and at else {}
    now |= {"clear": kind == "cleared" and t == 44, "twice": kind == "twice" and t == 40, "told": None}
    now |= {"told": 0.9} if kind == "wrong read-back" and at else {}
    now["off"] += 0.004 * (t - 39) * (kind == "creeping" and 40 <= t < 80)
    now |= {"late": 0.3} if kind == "late" and t == 40 else {}
    size = {"absurd": 1e30, "overflow": 1e308, "outlier": -1.5, "gap": np.nan, "drift": 0.2}.get(kind, 0.0)
    now["off"] += size if at else 0.0
    return now


def run(acting, model, kind, steps=160):
    """A loop of ``acting``; what it said and did."""
    system, x, u, clock, told, acted = model.predictor.system, np.zeros(1), np.zeros(1), 0.0, [], None
    for t in range(steps):
        now = programme(kind, t)
        y = system.output(x, u) + now["off"]
        if now["clear"]:
            acting.clear_estimate()
        if t < model.observer.steps + 2 or now["manual"] is not None:
            acting.record(y, u := np.full(1, now["manual"] or 0.0))
            acted, clock = None, clock + 1
        else:
            taken = acting.step(y, [0.9 if t // 40 % 2 else -0.4], applied=acted, time=clock + now["late"])
            u = taken.u if now["acted"] is None else np.full(1, now["acted"])
            acted, clock = u, clock + 1 + now["missed"] - now["twice"]
            acted = acted if now["told"] is None else np.full(1, now["told"])
            told.append(taken)
        for _ in range(1 + min(now["missed"], 50) - now["twice"]):
            x = system.step(x, np.clip(u, -3.0, 3.0))
    return told


@pytest.mark.parametrize("name", CONTROLLERS)
def test_c_decides_as_python_does_with_premises_broken(name, tmp_path):
    ours = CONTROLLERS[name]()
    theirs = CompiledController(ours, tmp_path, flags=SANITISED)
    named = set()
    for kind in BROKEN:
        ours.reset()
        theirs.reset()
        expected, found = run(ours, ours, kind), run(theirs, ours, kind)
        # Which stand-in for a failed solve is named depends on ties in the last digits; the input does not.
        for what in ("status", "certified", "feasible", "inside_after", "broken"):
            assert [getattr(s, what) for s in found] == [getattr(s, what) for s in expected], (kind, what)
        np.testing.assert_allclose([s.u for s in found], [s.u for s in expected], atol=2e-6, err_msg=kind)
        named |= {p for s in expected for p in s.broken}
        if kind not in ("nothing", "late", "gap"):
            assert any(s.broken for s in expected) or kind in ("outlier", "drift", "creeping", "warming up"), kind
        if kind == "warming up" and name.startswith("ranges"):  # left before there was an estimate
            assert not expected[0].certified
        assert kind != "nothing" or not any(s.broken for s in expected) or name.startswith(("region", "ranges"))
    assert {Premise.INPUTS, Premise.ACTUATORS, Premise.TIME, Premise.READINGS} <= named
    assert (Premise.REGION in named) is (name == "region")
    assert (Premise.RANGES in named) is name.startswith("ranges")
    assert (Premise.DRIFT in named) is name.endswith("recalling")
    assert (Premise.MOVES in named) is name.startswith("slow")
    assert (Premise.INNOVATION in named) is (name == "innovation")


@pytest.mark.parametrize("name", ["running", "washout", "slow"])
def test_an_input_that_nobody_knows_certifies_nothing(name, tmp_path):
    """C has no exceptions: an input that is recorded as NaN is not known, and is not taken for the one before."""
    made = CONTROLLERS[name]()
    theirs, y = CompiledController(made, tmp_path, flags=SANITISED), np.zeros(1)
    for recorded in (True, False):
        theirs.reset()
        for _ in range(made.observer.steps + 2):
            theirs.record(y, [0.0])
        assert theirs.step(y, [0.0]).certified
        if recorded:
            theirs.record(y, [np.nan])
        else:
            theirs.start_from([np.nan])
        later = [theirs.step(y, [0.0]) for _ in range(2 * made.observer.steps + 40)]
        assert not any(s.certified for s in later[:3])
        assert (Premise.INPUTS in later[0].broken) is recorded
        assert later[-1].certified
        assert np.isfinite([s.u for s in later]).all()


@pytest.mark.parametrize("name", ["recalling", "washout", "innovation", "region", "ranges", "slow, recalling"])
def test_sanitised_code_repeats_its_loop(name, tmp_path):
    source, _ = controller_to_c(CONTROLLERS[name](), tmp_path)
    target = tmp_path / "self_test"
    flags = ["-std=c99", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    command = [CC, *flags, "-DCONTROLRNN_MPC_SELF_TEST", str(source), "-o", str(target), "-lm"]
    built = subprocess.run(command, check=False, capture_output=True, text=True)
    if built.returncode and "asan" in built.stderr:
        pytest.skip("the compiler has no address sanitiser")
    assert not built.returncode, built.stderr
    done = subprocess.run([str(target)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert shutil.which(CC)


def test_what_c_does_not_watch_is_refused(tmp_path):
    limits = PlausibilityLimits(sensors=(Signal("level", "m", -2.0, 2.0),))
    with pytest.raises(SettingError, match="refuses absurd readings only"):
        controller_to_c(washing(watching=Watching(plausibility=limits)), tmp_path)


@pytest.mark.parametrize("name", ["washout", "slow"])
def test_stamps_and_read_backs_now_and_then_are_the_same(name, tmp_path):
    """A sample without a stamp came when it was due, whether or not its input is read back."""
    made = CONTROLLERS[name]()
    theirs = CompiledController(made, tmp_path, flags=SANITISED)
    for seed in range(6):
        rng, told, late = np.random.default_rng(seed), [], 0
        for acting in (made, theirs):
            acting.reset()
        for _ in range(made.observer.steps + 2):
            for acting in (made, theirs):
                acting.record([0.0], [0.0])
        x, both, seen = np.zeros(1), None, set()
        for t in range(60):
            missed = 2 * (rng.random() < 0.05)
            late += missed
            time = None if rng.random() < 0.5 or missed else float(t + late)
            seen |= set() if time is None else {late}
            read = both if both is not None and rng.random() < 0.5 else (None, None)
            both = [
                acting.step(x, [0.4], time=time, applied=None if last is None else last.u)
                for acting, last in zip((made, theirs), read, strict=True)
            ]
            x = SYSTEM.step(x, both[0].u)
            told.append(both)
        for ours, others in told:
            assert (ours.broken, ours.certified) == (others.broken, others.certified)
        named = {p for ours, _ in told for p in ours.broken}
        assert (Premise.TIME in named) is (len(seen) > 1)  # between two stamps
