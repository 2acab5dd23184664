"""Calls of the methods of `mpc`."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np

import mpc
from experiments.bench_calls.hostile.call import Call, call, first
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.parts import NU, NX, NY, WASHOUT, N


def control_methods(kit: Kit) -> Iterator[Call]:
    """Yield calls of methods of predictors, observers, controllers and results."""
    p, x, u, plan = kit.predictor, np.full(NX, 0.1), np.full(NU, 0.2), np.zeros((N, NU))
    yield call("mpc.Predictor.states", p.states, x=x, u=plan, _infinite=("",))
    yield call("mpc.Predictor.predict", p.predict, x=x, u=plan, _infinite=("",))
    yield call("mpc.Predictor.rollout", p.rollout, x=x, u=plan, _infinite=("",))
    yield call("mpc.Predictor.linearise", p.linearise, x=x, u=u)
    yield call("mpc.Predictor.equilibrium", p.equilibrium, u=u, guess=x)
    yield call("mpc.Predictor.steady_output", p.steady_output, u=u)
    yield call("mpc.steady_input", mpc.steady_input, predictor=p, target=np.zeros(NY), scale=np.ones(NY),
                given=np.array([np.nan, 0.1]))  # fmt: skip
    for name, observer in kit.observers.items():
        common = {"predictor": p, "steps": WASHOUT, "initial_state": np.zeros(NX)}
        errors = {"input_error": 0.01, "command_error": np.full(NU, 0.01)}
        more: dict[str, Any] = {
            "StateObserver": {"gain": np.full((NX, NY), 0.01), "residual_bound": 0.2, **errors},
            "MovingHorizonObserver": {"window": 3, "output_std": 0.1, "start_std": np.ones(NX), "offset_std": 0.1,
                                      "state_limits": (-9 * np.ones(NX), 9 * np.ones(NX)), "iterations": 2,
                                      "time_limit": 9.0, "tolerance": 1e-6, "input_error": 0.01},
            "EncoderObserver": {"encoder": kit.encoder, "trust": 0.5, "jump_limit": 9.0},
        }.get(name, errors)  # fmt: skip
        yield call(f"mpc.{name}", first(type(observer), _seen), 0.5, **common, **more)
        record = kit.records[0]
        yield call(f"mpc.{name}.update", partial(_on_a_copy, observer, "update"), u=record.u[9], y=record.y[9])
        yield call(f"mpc.{name}.correct", partial(_on_a_copy, observer, "correct"), age=1, y=record.y[9])
        yield call(f"mpc.{name}.estimates", observer.estimates, 0.2, u=record.u[:12], y=record.y[:12], _infinite=("",))
    yield call("mpc.TightenedMPC.step", partial(_controller, kit, "step"), y=np.zeros(NY), reference=np.ones((3, NY)),
                _infinite=("cost",), _varies=("solve_time",))  # fmt: skip
    yield call("mpc.TightenedMPC.record", partial(_controller, kit, "record"), y=np.zeros(NY), u=np.zeros(NU),
                _infinite=("cost",), _varies=("solve_time",))  # fmt: skip
    yield call("mpc.TightenedMPC.correct", partial(_controller, kit, "correct"), age=1, y=np.zeros(NY),
                _infinite=("cost",), _varies=("solve_time",))  # fmt: skip
    yield call("mpc.Tightening.limits", kit.tightening.limits, outputs=p.outputs, _infinite=("",))
    yield call("mpc.ModelError.coverage_on", kit.model_error.coverage_on, system=kit.system, trajectories=kit.others)
    yield _region(kit, x, u)
    yield call("mpc.RegionWatch", lambda region, observer: mpc.RegionWatch(region, observer) and None,
                region=kit.region, observer=kit.observer)  # fmt: skip
    yield call("mpc.PlausibilityLimits.calibrated", mpc.PlausibilityLimits.calibrated, sensors=p.outputs,
                observer=kit.observer, trajectories=kit.records, disturbance=mpc.DisturbanceFilter(0.2), factor=1.5,
                patience=5, _infinite=("rate", "residual", "lower", "upper"))  # fmt: skip
    yield call("mpc.PlausibilityRun.check", lambda y, expected: kit.plausibility.start().check(y, expected),
                y=np.zeros(NY), expected=np.zeros(NY), _infinite=("",))  # fmt: skip
    yield call("mpc.PlausibilityRun", lambda limits: mpc.PlausibilityRun(limits) and None, limits=kit.plausibility)
    yield call("mpc.TerminalSet.radii", kit.at_rest[1].radii, gap=0.01 * x)
    yield call("mpc.ClosedLoopResult.deadline_misses", kit.loop.deadline_misses, deadline=0.5)
    problem = kit.controller.problem
    yield call("mpc.OptimalControlProblem.cost", problem.cost, y=np.zeros((N, NY)), reference=np.zeros((N, NY)),
                u=plan, before=u)  # fmt: skip


def _region(kit: Kit, x: Any, u: Any) -> Call:
    names = list(inspect.signature(kit.region.check).parameters)
    sizes = {"x": x, "u": u}
    return call("mpc.OperatingRegion.check", kit.region.check, **{n: sizes.get(n, np.zeros(NY)) for n in names},
                 _infinite=("ratios",))  # fmt: skip


def _seen(observer: mpc.Observer) -> Any:
    """Estimate of a fresh observer after two samples."""
    return [observer.update(np.zeros(NU), np.zeros(NY)) for _ in range(2)]


def _on_a_copy(observer: mpc.Observer, method: str, **given: Any) -> Any:
    worker = observer._copy()
    worker.start()
    for t in range(WASHOUT + 1):
        worker.update(np.full(NU, 0.1 * t), np.full(NY, 0.1))
    getattr(worker, method)(**given)
    return worker.update(np.zeros(NU), np.zeros(NY))


def _controller(kit: Kit, method: str, **given: Any) -> Any:
    """A step after a call of ``method``."""
    controller = kit.controller
    controller.reset()
    for t in range(WASHOUT):
        controller.record(kit.records[0].y[t], kit.records[0].u[t])
    result = getattr(controller, method)(**given)
    return result, controller.step(np.zeros(NY), np.zeros(NY))
