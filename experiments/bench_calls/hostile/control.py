"""Calls of `mpc`: functions, and objects made of plain numbers."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import mpc
from experiments.bench_calls.hostile.call import Call, again, call, first
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.parts import NU, NX, NY, WASHOUT, N
from mpc.control.settings import grouped
from mpc.loops.settings import loop_settings
from mpc.solvers.condensed import CondensedBackend


def control_parts(kit: Kit) -> Iterator[Call]:
    """Yield calls of objects made of numbers, and of results."""
    p = kit.predictor
    window: dict[str, Any] = {"start": 1, "stop": 4, "probability": 0.5, "channel": 0}
    faults: dict[str, dict[str, Any]] = {
        "ActuatorOffset": {"size": 0.1}, "DropOut": {}, "FrozenSensor": {}, "Late": {"delay": 2, "stamped": True},
        "Outlier": {"size": 1.0}, "SaturatedActuator": {"lower": -1.0, "upper": 1.0},
        "SaturatedSensor": {"lower": -1.0, "upper": 1.0}, "StuckActuator": {},
    }  # fmt: skip
    for name, more in faults.items():
        yield call(f"mpc.{name}", getattr(mpc, name), **window, **more, _infinite=("lower", "upper"))
    yield call("mpc.Adaptation", mpc.Adaptation, coverage=0.9, gain=0.05)
    yield call("mpc.CoverageMet", mpc.CoverageMet, what="loops", inside=8, n=9, lower=0.5, upper=1.0, confidence=0.9,
               anytime=True)  # fmt: skip
    yield call("mpc.premises_of", mpc.premises_of, predictor=p)
    yield again("mpc.Premises", mpc.premises_of(p), _infinite=("move_limit",))
    yield call("mpc.Operation", mpc.Operation, loop="closed", missing=0.1, seed=3, move_limit=(0.1, 0.2),
               _infinite=("move_limit",))  # fmt: skip
    yield call("mpc.LoopEffort", mpc.LoopEffort, loops=30, rounds=2, attempts=2, inflation=1.1, settled=0.1)
    yield call("mpc.SimulatedLoops", mpc.SimulatedLoops, build=kit.setup, workers=1, progress=None)
    yield again("mpc.LoopRound", kit.rounds.rounds[-1], _infinite=("excess",))
    yield again("mpc.ClosedLoopCalibration", kit.rounds, _infinite=("excess", "move_limit"))
    yield call("mpc.TimeOut", mpc.TimeOut, start=1, stop=4, probability=0.5)
    yield call("mpc.RandomFaults", mpc.RandomFaults, choices=(mpc.DropOut(),), rate=0.1, duration=(1, 2), steps=9)
    yield call("mpc.RandomSteps", first(mpc.RandomSteps, lambda s: s(np.random.default_rng(0))), lower=(0.0, 1.0),
                upper=(1.0, 2.0), steps=9, hold=(1, 3), at_edge=True)  # fmt: skip
    yield call("mpc.Wandering", first(mpc.Wandering, lambda s: (s.bound, s(np.random.default_rng(0)))),
                std=(1.0, 2.0), memory=3.0, steps=9, cut=2.0)  # fmt: skip
    yield call("mpc.staircase", mpc.staircase, levels=np.ones((2, 2)), holds=(2, 3))
    yield call("mpc.StateError", first(mpc.StateError, lambda e: (e, e.euclidean)), radius=1.0, metric=np.eye(NX))
    yield call("mpc.StateError.radius_in", mpc.StateError(1.0, np.eye(NX)).radius_in, metric=2 * np.eye(NX))
    yield call("mpc.DisturbanceFilter", mpc.DisturbanceFilter, gain=0.2)
    yield call("mpc.DisturbanceFilter.run", mpc.DisturbanceFilter(0.2).run, errors=np.ones((5, 2)),
               _infinite=("",))  # fmt: skip
    yield call("mpc.DisturbanceFilter.update", mpc.DisturbanceFilter(0.2).update, estimate=np.ones(2),
                error=np.ones(2))  # fmt: skip
    yield call("mpc.Coverage", mpc.Coverage, trajectories=0.9, steps=0.9, n=5)
    yield call("mpc.RegionStatus", mpc.RegionStatus, ratios={"x": 0.5}, message="")
    yield call("mpc.SolverOptions", mpc.SolverOptions, max_iterations=9, max_wall_time=1.0, tolerance=1e-8, rti=1)
    for result in (kit.model_error, kit.tightening, kit.error_memory, kit.at_rest[1], kit.region, kit.estimate_error):
        yield again(f"mpc.{type(result).__name__}", result)
    yield again("mpc.PlausibilityLimits", kit.plausibility, _infinite=("rate", "residual", "lower", "upper"))
    nan = ("readings", "predicted", "errors", "intervals", "cost", "error_interval", "lower", "upper", "move_limit")
    yield again("mpc.ClosedLoopResult", kit.loop, _infinite=nan)
    yield call("mpc.MonteCarloResult", mpc.MonteCarloResult, results=(kit.loop,), _infinite=nan)
    problem = kit.controller.problem
    yield again("mpc.OptimalControlProblem", problem, _infinite=nan)
    yield call("mpc.Predictor", mpc.Predictor, system=kit.system, inputs=p.inputs, outputs=p.outputs, _infinite=nan)
    setup = {"plant": kit.plant, "controller": kit.controller, "options": {}}
    yield call("mpc.Watching", first(mpc.Watching, lambda made: made.jitter), reactions={"region": "report"},
                plausibility=kit.plausibility, safe_reference=np.zeros(NY), jitter=0.01)  # fmt: skip
    yield call("mpc.CoveragePromise", mpc.CoveragePromise, coverage=0.9, stretch=20, target="limits", patience=100.0)
    yield call("mpc.DelayedPlant", first(mpc.DelayedPlant, lambda made: made.initial_state()), plant=kit.plant)
    yield call("mpc.ClosedLoopSetup", mpc.ClosedLoopSetup, **setup, _varies=("plant", "controller"))


def control_functions(kit: Kit) -> Iterator[Call]:
    """Yield calls of functions."""
    s, r, o, p = kit.system, kit.records, kit.observer, kit.predictor
    conformal = {"horizon": N, "washout": WASHOUT, "scale_trajectories": kit.others, "coverage": 0.9}
    yield call("mpc.calibrate", mpc.calibrate, system=s, trajectories=r, **conformal,
                disturbance=mpc.DisturbanceFilter(0.5), observer=o, initial_state=np.zeros(NX), inflation=1.1,
                method="conformal")  # fmt: skip
    yield call("mpc.calibrate_estimates", mpc.calibrate_estimates, observer=o, trajectories=r, washout=WASHOUT,
                coverage=0.9, metric=np.eye(NX), seed=3)  # fmt: skip
    yield call("mpc.calibration_errors", mpc.calibration_errors, system=s, trajectory=r[0], horizon=N,
                washout=WASHOUT, initial_state=np.zeros(NX))  # fmt: skip
    yield call("mpc.OpcUaNodes", mpc.OpcUaNodes, outputs=("a", "b"), inputs=("c",), applied=("d",), reference=("e",),
                measured=(), oldest=3.0)  # fmt: skip
    yield call("mpc.Operated", mpc.Operated, samples=1, late=0, missing=0, unreached=0, unwritten=0, largest_delay=0.1)
    yield call("mpc.to_do_mpc", first(mpc.to_do_mpc, lambda model: int(model.n_x)), 0.1, predictor=p)
    yield call("mpc.prediction_errors", mpc.prediction_errors, observer=o, trajectory=r[0], horizon=N)
    yield call("mpc.estimate_errors", mpc.estimate_errors, observer=o, record=r[0], washout=WASHOUT, recorded=r[0].u)
    yield call("mpc.coverage_of", mpc.coverage_of, bounds=np.ones((N + 1, NY)), errors=[np.ones((3, N + 1, NY))])
    yield call("mpc.learn_region", mpc.learn_region, observer=o, trajectories=r, scale_trajectories=kit.others,
                coverage=0.9, shape="box")  # fmt: skip
    yield call("mpc.kalman_gain", mpc.kalman_gain, predictor=p, output_noise_std=0.1, input_noise_std=np.full(NU, 0.1),
                state_noise_std=0.1, u=np.zeros(NU))  # fmt: skip
    yield call("mpc.no_tightening", mpc.no_tightening, system_digest=s.digest, horizon=N, ny=NY)
    for name in ("conformal_rank", "confident_rank"):
        more = {"confidence": 0.9} if name == "confident_rank" else {}
        yield call(f"mpc.{name}", getattr(mpc, name), n=60, coverage=0.9, **more)
    for name in ("clopper_pearson", "anytime_interval"):
        yield call(f"mpc.{name}", getattr(mpc, name), successes=5, n=9, confidence=0.9)
    yield call(
        "mpc.back_off", mpc.back_off, system_digest=s.digest, horizon=N, amount=np.ones(NY), disturbance_gain=0.5
    )
    yield call("mpc.calibrate_closed_loop", mpc.calibrate_closed_loop, 0.02, loops=mpc.SimulatedLoops(kit.setup),
               start=mpc.no_tightening(s.digest, N, NY), seed=3, coverage=0.5, confidence=0.6, target="limits",
               effort=mpc.LoopEffort(loops=4, rounds=1), _spoils=("seed", "coverage", "confidence", "target"),
               _infinite=("excess", "move_limit"))  # fmt: skip
    yield call("mpc.plan_digest", mpc.plan_digest, x=np.zeros(NX), plan=np.zeros((N, NU)))
    yield call("mpc.certify_plan", mpc.certify_plan, 0.2, x=np.zeros(NX), plan=np.zeros((N, NU)), observer=o,
                near=kit.tube, iterations=1)  # fmt: skip
    yield call("mpc.tighten", mpc.tighten, 0.3, model_error=kit.model_error, certificate=kit.horizon, observer=o)
    yield call("mpc.tighten_around", mpc.tighten_around, 0.3, model_error=kit.model_error, certificate=kit.tube,
                observer=o, x=np.zeros(NX), plan=np.zeros((N, NU)))  # fmt: skip
    yield call("mpc.tighten_guarded", mpc.tighten_guarded, 0.3, model_error=kit.model_error, **kit.guarded)  # fmt: skip
    yield call("mpc.certify_predictions", mpc.certify_predictions, 0.1, observer=o, horizon=2, input_error=0.01,
                iterations=2)  # fmt: skip
    yield call("mpc.certify_jump", mpc.certify_jump, 0.1, observer=o, horizon=2, iterations=2)
    yield call("mpc.make_recursive", mpc.make_recursive, 0.3, tightening=kit.tightening, growth=kit.growth, observer=o,
                jump=kit.jump)  # fmt: skip
    yield call("mpc.certify_changes", mpc.certify_changes, 0.05, observer=o, steps=1, iterations=2)
    yield call("mpc.make_error_memory", mpc.make_error_memory, 0.2, tightening=kit.tightening, drift=kit.drift,
                changes=kit.changes, observer=o, growth=kit.growth)  # fmt: skip
    yield call("mpc.terminal_set", mpc.terminal_set, 0.2, predictor=p, contraction=kit.contraction, horizon=12,
                jump=kit.jump, share=0.01)  # fmt: skip
    yield call("mpc.chain", lambda a, b: [mpc.chain(a, b), None][1], a=CondensedBackend,
                b=CondensedBackend)  # fmt: skip
    yield call("mpc.controller_to_c", mpc.controller_to_c, 0.05, controller=kit.controller,
                path=str(kit.folder / "c.c"), name="c", _spoils=("controller", "name"))  # fmt: skip


def loop_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of closed loops and of the controller's constructor."""
    s, p = kit.system, kit.predictor
    nan = ("readings", "predicted", "errors", "intervals", "lower", "upper")
    varies = ("solve_time", "seconds")
    loop = {"reference": np.zeros(NY), "steps": 2, "seed": 5, "x0": np.zeros(NX), "warm_up": WASHOUT,
            "warm_up_input": np.zeros(NU), "noise_std": 0.01, "disturbance": np.zeros((2, NX)), "input_error": 0.01,
            "missing": 0.1, "preview": True, "faults": (mpc.DropOut(stop=1),)}  # fmt: skip
    yield call("mpc.run_closed_loop", _closed_loop, 0.5, plant=kit.plant, controller=kit.controller, **loop,
                _infinite=nan, _varies=varies)  # fmt: skip
    yield call("mpc.monte_carlo", mpc.monte_carlo, 0.2, build=partial(_setup, kit), seeds=[1, 2], workers=1,
                client=None, engine="python", _spoils=("seeds", "build", "client"), _infinite=nan,
                _varies=varies)  # fmt: skip
    weights = {"output_weight": 1.0, "input_move_weight": np.full(NU, 0.1), "horizon": N, "control_horizon": 2,
               "terminal_weight": 1.0, "input_price": 0.1, "output_price": np.zeros(NY), "input_weight": 0.1,
               "input_reference": 0.0, "measured_inputs": ("u2",), "move_limit": 0.5, "soft": (True,) * NY,
               "priority": (1,) * NY, "penalty": 10.0, "mode": "practical",
               "disturbance_gain": 0.3, "safe_input": np.zeros(NU)}  # fmt: skip
    yield call("mpc.animate", mpc.animate, 0.02, result=kit.loop, path=str(kit.folder / "loop.gif"), every=2,
               milliseconds=80, _spoils=("every", "milliseconds"))  # fmt: skip
    yield again("mpc.Tracking", mpc.Tracking(output_weight=1.0, input_move_weight=0.1, horizon=N))
    yield again("mpc.Prices", mpc.Prices(input_price=np.full(NU, 0.1)))
    yield again(
        "mpc.Limits", mpc.Limits(move_limit=0.5, soft=(True,) * NY, priority=(1,) * NY), _infinite=("move_limit",)
    )
    yield again("mpc.Safety", mpc.Safety(safe_input=np.zeros(NU)))
    yield again("mpc.Solver", mpc.Solver(backend=CondensedBackend, options=mpc.SolverOptions()))
    yield again("mpc.Start", mpc.Start(x0=np.zeros(NX), warm_up=WASHOUT, warm_up_input=np.zeros(NU)))
    yield again("mpc.Disturbances", mpc.Disturbances(noise_std=0.01, disturbance=np.zeros((2, NX))))
    yield call("mpc.TightenedMPC", first(_tightened, _first_step), 0.5, predictor=p,
                observer=kit.observer, tightening=mpc.no_tightening(s.digest, N, NY), **weights,
                _infinite=("cost",), _varies=("solve_time",))  # fmt: skip
    yield call("mpc.AdaptiveMPC", first(_adaptive, _first_step), 0.3, predictor=p, observer=kit.observer,
               tightening=mpc.back_off(s.digest, N, np.full(NY, 0.1)), adaptation=mpc.Adaptation(), output_weight=1.0,
               input_move_weight=0.1, _infinite=("cost",), _varies=("solve_time",))  # fmt: skip
    tightening, terminal = kit.at_rest
    yield call("mpc.TightenedMPC", first(_tightened, _first_step), 0.3, predictor=p, observer=kit.observer,
                tightening=tightening, terminal=terminal, output_weight=1.0, input_move_weight=0.1,
                _infinite=("cost",), _varies=("solve_time",))  # fmt: skip


def _closed_loop(**given: Any) -> Any:
    return mpc.run_closed_loop(**loop_settings(given))


def _tightened(**given: Any) -> Any:
    return mpc.TightenedMPC(**grouped(given))


def _adaptive(**given: Any) -> Any:
    tightening = given.pop("tightening")
    return mpc.AdaptiveMPC(given.pop("predictor"), given.pop("observer"), tightening, **grouped(given))


def _setup(kit: Kit) -> mpc.ClosedLoopSetup:
    return mpc.ClosedLoopSetup(kit.plant, kit.controller, {"reference": np.zeros(NY), "steps": 2})


def _first_step(controller: mpc.TightenedMPC) -> Any:
    """First step of a controller after its warm-up."""
    forecast = [0.1] if controller.problem.measured_inputs else None
    for _ in range(controller.observer.steps + 1):
        step = controller.step(np.zeros(NY), np.full(NY, 0.3), forecast)
    return step
