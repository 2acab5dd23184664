"""Loops in C are those of Python: the same numbers, decisions, faults and errors."""

from __future__ import annotations

import logging
import multiprocessing
import os
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from compiled_plants import CompiledLure, Tank
from mpc_networks import LurePlant, NormContraction, elman, signals
from one_tank import innovating, running, tank

from controlrnn.certification import certify_contraction
from controlrnn.errors import DataError, SettingError
from mpc import (
    ActuatorOffset,
    ClosedLoopSetup,
    DelayedPlant,
    DropOut,
    FrozenSensor,
    Late,
    LoopEngine,
    Outlier,
    Predictor,
    RandomFaults,
    RandomSteps,
    RunningOn,
    SaturatedActuator,
    SaturatedSensor,
    SensorFault,
    SimulatedLoops,
    Solver,
    SolverOptions,
    StateObserver,
    StuckActuator,
    TightenedMPC,
    TimeOut,
    Tracking,
    Washout,
    back_off,
    kalman_gain,
    make_recursive,
    monte_carlo,
    no_tightening,
    run_closed_loop,
    terminal_set,
)
from mpc.loops.compiled import library
from mpc.loops.compiled.engine import CompiledLoops
from mpc.loops.compiled.library import compiler
from mpc.loops.settings import loop_settings
from mpc.solvers.condensed import CondensedBackend
from plants import MultiTank

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc, gcc or clang) on the path")
QUICKLY = ("-std=c99", "-O1", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
STEPS, N, LIMIT = 60, 10, 0.4
EVERY = (
    DropOut(channel=0), Outlier(size=0.3), FrozenSensor(), SaturatedSensor(lower=-0.1, upper=0.2), Late(delay=2),
    StuckActuator(channel=1), SaturatedActuator(lower=-0.2, upper=0.2), ActuatorOffset(size=0.1), TimeOut(),
)  # fmt: skip


@pytest.fixture(scope="module")
def code(tmp_path_factory):
    """Where these tests keep compiled code."""
    return tmp_path_factory.mktemp("code")


@pytest.fixture(autouse=True)
def compiled_quickly(monkeypatch):
    monkeypatch.setattr(library, "FLAGS", QUICKLY)


def equal(found: Any, expected: Any, *, atol: float = 1e-9) -> None:
    """Everything that a result holds but times, and the words of what lies outside."""
    for name in expected.SCHEMA.arrays:
        if name not in ("solve_time", "outside_at", "outside_text", "status", "fallback"):
            mine, theirs = (np.asarray(getattr(r, name), dtype=float) for r in (expected, found))
            np.testing.assert_allclose(theirs, mine, rtol=0, atol=atol, err_msg=name)
    for name in ("status", "fallback", "names", "fault_kinds", "seed", "dt"):
        assert getattr(found, name) == getattr(expected, name), name
    assert [bool(text) for text in found.outside] == [bool(text) for text in expected.outside]


def references(rng):
    return RandomSteps(lower=(-0.8, -0.8), upper=(0.8, 0.8), hold=(4, 15), steps=STEPS)(rng)


def wander(rng):
    return 0.02 * rng.choice([-1.0, 1.0], (STEPS, 2))


def networked(kind: str, **options: Any) -> ClosedLoopSetup:
    """A network as the plant, controlled by itself."""
    system = elman()
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, LIMIT))
    contraction = certify_contraction(system)
    settings: dict[str, Any] = {"solver": Solver(options=SolverOptions(rti=2))}
    observer: Any = Washout(predictor, 12, contraction=contraction)
    room = no_tightening(system.digest, N, 2)
    if kind == "innovation":
        gain = 0.1 * kalman_gain(predictor, output_noise_std=0.03, state_noise_std=0.02)
        observer = StateObserver(predictor, gain, 12)
    if kind == "terminal":
        observer = RunningOn(predictor, 20, contraction=contraction)
        settings["terminal"] = terminal_set(predictor, contraction, horizon=N, jump=observer.jump)
        room = make_recursive(room, None, observer=observer)
    if kind == "nominal":
        observer = Washout(predictor, 12)
    made = TightenedMPC(
        predictor,
        observer,
        room,
        Tracking(output_weight=1.0, input_move_weight=0.02, control_horizon=6),
        **settings,
    )
    plant = CompiledLure(system, predictor.inputs, predictor.outputs)
    usual = {"reference": references, "steps": STEPS, "disturbance": wander, "noise_std": 0.005, "missing": 0.03}
    return ClosedLoopSetup(plant, made, usual | options)


def one_tank(kind: str, **options: Any) -> ClosedLoopSetup:
    """The tank x+ = 0.9 x + u: with a terminal set and limits that learn; with feedthrough; with a delay."""
    made = innovating(0.5) if kind == "feedthrough" else running()[0]
    # One step solves the problems of a linear model; of a second one rounding would decide whether it is taken.
    made.backend = CondensedBackend(made.problem, SolverOptions(rti=1))
    plant: Any = Tank()
    if kind == "feedthrough":
        plant = CompiledLure(tank(0.3, 0.5), *(signals(letter, 1, 1.0) for letter in "uy"))
    if kind == "delayed":
        predictor = Predictor.delayed(tank(), signals("u", 1, 1.0), signals("y", 1, 1.0))
        plant = DelayedPlant(plant)
        made = TightenedMPC(
            predictor,
            RunningOn(predictor, 30),
            no_tightening(predictor.system.digest, N, 1),
            Tracking(output_weight=1.0, input_move_weight=0.01),
            solver=Solver(options=SolverOptions(rti=2)),
        )
    wanted = RandomSteps(lower=(-1.2,), upper=(1.2,), hold=(4, 15), steps=STEPS)
    return ClosedLoopSetup(plant, made, {"reference": wanted, "steps": STEPS, "noise_std": 0.001} | options)


def tanks(**options: Any) -> ClosedLoopSetup:
    """Three tanks, whose levels a network of no merit predicts: what counts is that both do the same."""
    plant = MultiTank()
    system = replace(elman(3, 2, 3), dt=plant.dt)
    system = replace(system, C2=40.0 * system.C2)
    predictor = Predictor(system, plant.inputs, plant.outputs)
    made = TightenedMPC(
        predictor,
        RunningOn(predictor, 5),
        no_tightening(predictor.system.digest, N, 3),
        Tracking(output_weight=1.0, input_move_weight=0.02),
        solver=Solver(options=SolverOptions(rti=2)),
    )
    usual = {"reference": [40.0, 30.0, 20.0], "steps": 30, "noise_std": 0.05, "input_error": 0.02}
    usual["disturbance"] = lambda rng: 0.1 * rng.standard_normal((30, 3))
    return ClosedLoopSetup(plant, made, usual | options)


def both(setup: ClosedLoopSetup, folder: Any, seeds: Any = (0, 1), **more: Any) -> tuple[list[Any], list[Any]]:
    options = loop_settings(dict(setup.options) | more)
    loops = CompiledLoops(setup.plant, setup.controller, folder)
    expected = [run_closed_loop(setup.plant, setup.controller, seed=seed, **options) for seed in seeds]
    return [loops.run(seed, options) for seed in seeds], expected


@needs_compiler
@pytest.mark.parametrize(
    "kind", ["nominal", "tightened", "innovation", "terminal", "learning", "feedthrough", "delayed"]
)
def test_every_kind_of_controller_runs_the_same_loop(kind, code):
    setup = (one_tank if kind in ("learning", "feedthrough", "delayed") else networked)(kind)
    found, expected = both(setup, code)
    for mine, theirs in zip(expected, found, strict=True):
        equal(theirs, mine)
    assert np.ptp(expected[0].u) > 0.1  # the loops do something, and differ
    assert np.abs(expected[0].y - expected[1].y).max() > 0.05
    assert (expected[0].solve_time > 3 * found[0].solve_time).mean() > 0.5


@needs_compiler
def test_faults_reach_readings_commands_and_the_solver_alike(code):
    """All kinds at random times, several at once; time stamps, for which Python has to run the loop."""
    setup = networked("terminal", faults=RandomFaults(choices=EVERY, rate=0.3, duration=(1, 6), steps=STEPS))
    found, expected = both(setup, code, seeds=range(5))
    for mine, theirs in zip(expected, found, strict=True):
        equal(theirs, mine)
    assert {kind for run in expected for kind in run.fault_kinds} == {fault.kind for fault in EVERY}
    assert sum(run.status_counts.get("time_limit", 0) for run in expected) > 5
    found, expected = both(setup, code, faults=(Late(delay=2, stamped=True, probability=0.3),))
    for mine, theirs in zip(expected, found, strict=True):
        equal(theirs, mine, atol=0.0)


@dataclass(frozen=True, kw_only=True)
class Liar(SensorFault):
    """A sensor that decides by looking: it shows the half of what it would show."""

    kind = "liar"

    def reading(self, now, past, last, sign):  # noqa: ARG002
        if self.probability == 0.25:
            raise DataError("the sensor is broken")
        return 0.5 * now


@needs_compiler
def test_faults_of_the_users_own_and_plants_without_code_are_called(code):
    setup = networked(
        "tightened", faults=(Liar(start=10, stop=30), Outlier(size=0.1, probability=0.2), StuckActuator(start=40))
    )
    hooked = replace(setup, plant=LurePlant(setup.plant.system, setup.plant.inputs, setup.plant.outputs))
    for case in (setup, hooked):
        found, expected = both(case, code)
        for mine, theirs in zip(expected, found, strict=True):
            equal(theirs, mine)
    with pytest.raises(DataError, match="the sensor is broken"):
        both(setup, code, faults=(Liar(probability=0.25),))


@needs_compiler
def test_physics_runs_in_c_and_says_what_python_says_where_it_ends(code):
    found, expected = both(tanks(), code)
    for mine, theirs in zip(expected, found, strict=True):
        equal(theirs, mine, atol=1e-8)
    assert np.ptp(expected[0].y[:, 0]) > 1.0
    broken = tanks(x0=np.array([70.0, 10.0, 10.0]))
    with pytest.raises(DataError, match="level 1"):
        CompiledLoops(broken.plant, broken.controller, code).run(0, loop_settings(broken.options))


def shared():
    """A set-up that worker processes can make."""
    return networked("tightened")


@needs_compiler
def test_monte_carlo_is_the_same_with_either_engine_and_any_number_of_processes(tmp_path, monkeypatch):
    monkeypatch.undo()  # the same flags here as in workers, on which last bits depend
    runs = [
        monte_carlo(shared, range(4), engine=engine, workers=workers, compiled_in=tmp_path)
        for engine, workers in ((LoopEngine.PYTHON, 1), ("compiled", 1), ("compiled", 2))
    ]
    for mine, theirs, other in zip(*(r.results for r in runs), strict=True):
        equal(theirs, mine)
        equal(other, theirs, atol=0.0)
    mine, theirs = (r.summary() for r in runs[:2])
    for name in mine.keys() - {n for n in mine if n.startswith("solve_time")}:
        assert theirs[name] == pytest.approx(mine[name], abs=1e-9), name
    assert len(list(tmp_path.glob("*.so"))) == 1
    assert {p.suffix for p in tmp_path.iterdir()} == {".so", ".sha256"}


@pytest.mark.slow
@needs_compiler
def test_compiled_code_travels_to_the_workers_of_a_cluster(cluster_client, tmp_path, monkeypatch):
    monkeypatch.undo()  # workers compile with the flags of the library: what came with them fits
    folder, setups = tmp_path / "code", {"engine": "compiled", "compiled_in": tmp_path / "code"}
    here = monte_carlo(shared, range(4), **setups)
    there = monte_carlo(partial(shared_where_nobody_compiles, str(tmp_path)), range(4), client=cluster_client, **setups)
    for mine, theirs in zip(here.results, there.results, strict=True):
        equal(theirs, mine, atol=0.0)
    assert len(list(folder.glob("*.so"))) == 1
    assert not (tmp_path / "compiled again").exists()


def shared_where_nobody_compiles(folder):
    """`shared`, in a process other than the tests' with a compiler that tells its version and notes any other call."""
    if multiprocessing.parent_process() is not None:
        script = Path(folder, "cc")
        if not script.exists():
            noted = f'case "$*" in *-dM*) ;; *) touch "{folder}/compiled again" ;; esac'
            text = f'#!/bin/sh\n{noted}\nexec {compiler()} "$@"\n'
            script.write_text(text)
            script.chmod(0o755)
        library.compiler = lambda: str(script)
    return shared()


@needs_compiler
def test_loops_of_a_calibration_run_compiled_with_each_tightening(tmp_path):
    def build(tightening):
        setup = networked("tightened")
        made = setup.controller
        cost = Tracking(output_weight=1.0, input_move_weight=0.02, control_horizon=6)
        controller = TightenedMPC(
            made.predictor, made.observer, tightening, cost, solver=Solver(options=SolverOptions(rti=2))
        )
        return replace(setup, controller=controller)

    system = networked("tightened").controller.predictor.system
    slow, fast = (SimulatedLoops(build, engine=e, compiled_in=tmp_path) for e in ("python", "compiled"))
    for room in (no_tightening(system.digest, N, 2), back_off(system.digest, N, np.full(2, 0.05))):
        for mine, theirs in zip(slow(room, [0, 1]), fast(room, [0, 1]), strict=True):
            equal(theirs, mine)
    assert len(list(tmp_path.glob("*.so"))) == 2


@needs_compiler
def test_code_is_compiled_once_for_a_controller_and_anew_for_another(tmp_path, monkeypatch):
    setup, kept = networked("tightened"), partial(monte_carlo, seeds=[0], engine="compiled", compiled_in=tmp_path)
    kept(lambda: setup)
    made = {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()}
    kept(lambda: networked("tightened"))
    assert {p: p.stat().st_mtime_ns for p in tmp_path.iterdir()} == made
    kept(lambda: networked("nominal"))
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(library, "FLAGS", (*library.FLAGS, "-DOTHER"))
    kept(lambda: setup)
    assert len(list(tmp_path.iterdir())) == 6


@needs_compiler
@pytest.mark.parametrize("spoiled", ["library", "digest", "no digest"])
def test_what_is_in_the_folder_but_was_not_compiled_is_not_loaded(spoiled, tmp_path, caplog):
    setup, kept = networked("tightened"), partial(monte_carlo, seeds=[0], engine="compiled", compiled_in=tmp_path)
    expected = kept(lambda: setup)
    (library_file,), (digest_file,) = tmp_path.glob("*.so"), tmp_path.glob("*.sha256")
    good = library_file.read_bytes(), digest_file.read_text()
    if spoiled == "library":
        library_file.unlink()  # the old one is mapped into this process
        library_file.write_bytes(b"something that somebody else put there")
    if spoiled == "digest":
        digest_file.write_text("0" * 64)
    if spoiled == "no digest":
        digest_file.unlink()
    found = kept(lambda: setup)
    equal(found.results[0], expected.results[0], atol=0.0)
    assert "is not what was compiled" in caplog.text
    assert (library_file.read_bytes(), digest_file.read_text()) == good


@needs_compiler
@pytest.mark.skipif(not hasattr(os, "getuid"), reason="rights are no bits of a mode here")
@pytest.mark.parametrize("mode", [0o755, 0o770, 0o707])
def test_a_folder_that_others_may_access_is_refused(mode, tmp_path):
    folder = tmp_path / "code"
    folder.mkdir(mode=0o700)
    folder.chmod(mode)
    setup = networked("tightened")
    with pytest.raises(SettingError, match=f"for you alone .mode 700., got {folder} of user .* with mode {mode:o}"):
        monte_carlo(lambda: setup, [0], engine="compiled", compiled_in=folder)


@pytest.mark.parametrize("why", ["compiler", "observer", "broken compiler"])
def test_without_code_python_runs_the_loops_and_says_so(why, monkeypatch, caplog, tmp_path):
    setup = networked("tightened")
    if why == "compiler":
        monkeypatch.setattr(library, "compiler", lambda: None)
    if why == "broken compiler":
        script = tmp_path / "cc"
        script.write_text("#!/bin/sh\necho it is broken >&2\nexit 1\n")
        script.chmod(0o755)
        monkeypatch.setattr(library, "compiler", lambda: str(script))
    if why == "observer":
        made = setup.controller
        contraction = NormContraction.of(made.predictor.system)

        class Own(Washout):
            pass

        setup = replace(
            setup,
            controller=TightenedMPC(
                made.predictor,
                Own(made.predictor, 12, contraction=contraction),
                made.tightening,
                Tracking(output_weight=1.0, input_move_weight=0.02),
            ),
        )
    with caplog.at_level(logging.WARNING):
        found = monte_carlo(lambda: setup, [3], engine=LoopEngine.COMPILED)
    equal(found.results[0], monte_carlo(lambda: setup, [3]).results[0], atol=0.0)
    said = {"compiler": "no C compiler", "observer": "observer must be a Washout", "broken compiler": "it is broken"}
    assert f"loops run in Python, not compiled: {said[why][:4]}" in caplog.text or said[why] in caplog.text
