"""Closed loops of the two studies of the guaranteed mode, and the numbers that are kept of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from controlrnn.checks import Array
from controlrnn.records import Numbers, Schema, save_record
from experiments.shared.back_off import least_distance
from experiments.shared.floor import Known, Parts, declared_parts, physical_parts
from experiments.shared.guaranteed import (
    SOLVER,
    TRUTHS,
    Case,
    Controller,
    build,
    loop_of,
    maker,
    needs,
    truth_of,
    watch_of,
)
from experiments.shared.study import Row, Study
from mpc import (
    ClosedLoopResult,
    ClosedLoopSetup,
    LoopEngine,
    LoopTarget,
    ModelError,
    Status,
    TightenedMPC,
    back_off,
    monte_carlo,
)
from mpc.control.settings import grouped
from mpc.promises.coverage_met import met

LOOPS = Schema(
    "guaranteed-loops", 2,
    arrays={
        "envelope": Numbers("quantiles", "K + 1", "ny"), "ratio": Numbers(3, "N", nan=True),
        "running": Numbers("K", nan=True), "cost": Numbers("R"),
        "violations": Numbers("R", dtype="<i8", least=0), "seeds": Numbers("R", dtype="<i8"),
    },
)  # fmt: skip
SLACK = 1e-3  # of an output's range: less is what few iterations a sample leave, no sign of infeasibility
FEW = 10  # runs for which no processes are started
TRIALS, TRIAL_STEP = 20, 0.0025  # loops for the back-off; share of the limited output's range
CHUNK = 250  # runs whose results are held in memory together
KNOWING = {
    "physical": "floor",
    "declared": "knowing",
}  # the controller that knows the state: `experiments.shared.floor`
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)


def seeds_of(study: Study, truth: str, runs: int) -> list[int]:
    """Seeds of the runs on one plant, the same for all controllers."""
    parent = np.random.SeedSequence([study.seed, list(TRUTHS).index(truth)])
    return [int(s.generate_state(1)[0]) for s in parent.spawn(runs)]


def trial(folder: Path, case: Case, distance: float) -> ClosedLoopSetup:
    """The nominal controller a constant away from its limits, on the physical plant."""
    observer = watch_of(case, folder)
    tightening = back_off(observer.system.digest, case.horizon, np.full(observer.predictor.ny, distance))
    tightening.save(folder / "backed_off.npz")
    return build(folder, case, Controller.BACKED_OFF, "physical")


def choose_back_off(study: Study, case: Case) -> Row:
    """Find the least constant at which trial loops keep their limits; saved in ``backed_off.npz``."""
    signal = case.plant.outputs[case.limited]
    step = TRIAL_STEP * (signal.upper - signal.lower)
    parent = np.random.SeedSequence([study.seed, len(TRUTHS)])
    seeds = [int(s.generate_state(1)[0]) for s in parent.spawn(min(TRIALS, case.runs))]

    def compute() -> Row:
        def make(distance: float) -> Callable[[], ClosedLoopSetup]:
            return functools.partial(trial, study.out, case, distance)

        distance, _, used = least_distance(make, seeds, step)
        return {"distance": distance, "trial_loops": len(seeds), "trial_loops_in_all": used}

    return study.row("back-off", compute, needs=needs(case, study.out), files=["backed_off.npz"])


def close(
    study: Study, case: Case, controller: Controller, truth: str, *, removed: str | None = None
) -> tuple[Row, str]:
    """Run all closed loops of one controller on one plant.

    Returns:
        The row, and the name of the file with its curves.
    """
    name = f"{truth}, {controller}" + (f" without {removed.replace('_', ' ')}" if removed else "")
    file = f"{name.replace(', ', '_').replace(' ', '_')}_loops.npz"
    seeds = seeds_of(study, truth, case.removals if removed else case.runs)

    def compute() -> Row:
        results: list[Row] = []
        client = None if len(seeds) < FEW else study.client
        make = maker(study.out, case, controller, truth, removed, travels=client is not None)
        with tqdm(total=len(seeds), desc=name, leave=False) as bar:

            def advance(_done: int, _total: int) -> None:
                bar.update()

            for start in range(0, len(seeds), CHUNK):
                found = monte_carlo(
                    make, seeds[start : start + CHUNK], client=client, progress=advance, engine=LoopEngine.COMPILED
                )
                results += [reduced(one, case) for one in found.results]
        row, arrays = gathered(results)
        if controller is Controller.BACKED_OFF:  # a distance is no bound on errors
            row |= dict.fromkeys(k for k in row if "inside" in k or "over_bound" in k or k == "outside_noticed")
        save_record(study.path(file), LOOPS, arrays | {"seeds": np.array(seeds)}, {})
        return {"truth": truth, "controller": str(controller), "removed": removed or ""} | row

    return study.row(name, compute, needs=needs(case, study.out) | {"runs": len(seeds)}, files=[file]), file


def knowing(folder: Path, case: Case, parts: Parts, truth: str) -> ClosedLoopSetup:
    """Build the floor: the plant that tells its state, and the controller that knows it.

    Args:
        folder: The study's folder.
        case: The case.
        parts: Of the controller, from `floor_parts`.
        truth: Which plant, a key of `TRUTHS`.
    """
    inner, observer = truth_of(folder, case, watch_of(case, folder), truth), parts.observer
    silent = np.zeros(observer.predictor.nu - len(case.held))
    settings: dict[str, Any] = {
        "output_weight": case.output_weight, "input_move_weight": case.move_weight,
        "safe_input": np.concatenate([case.held, silent]), "control_horizon": case.moves, "options": SOLVER,
        "error_memory": parts.memory, "soft": False,
    }  # fmt: skip
    controller = TightenedMPC(
        observer.predictor, observer, parts.tightening, terminal=parts.terminal, **grouped(settings)
    )
    plant = Known(inner, controller.observer)
    options = loop_of(case, inner) | {
        "warm_up": 2,
        "warm_up_input": np.concatenate([case.held, silent]),
        "noise_std": 0.0,
    }
    return ClosedLoopSetup(plant, controller, options)


def floor_parts(folder: Path, case: Case, truth: str) -> Parts | None:
    """Certify the floor's controller; None where the plant's equations cannot be shown to contract.

    Args:
        folder: The study's folder.
        case: The case.
        truth: Which plant, a key of `TRUTHS`.
    """
    push = np.full(len(case.inputs), case.actuator)
    options: dict[str, Any] = {"iterations": case.iterations}
    if truth == "physical":
        if case.physics is None:
            return None
        return physical_parts(case.physics, case.inputs, case.plant.outputs, push, case.horizon, **options)
    observer = watch_of(case, folder)
    assert observer.contraction is not None
    error, drift = (ModelError.load(folder / f"model_error_{name}.npz") for name in ("set_membership", "drift"))
    return declared_parts(observer.predictor, observer.contraction, push, error, drift, case.memory, **options)


def close_floor(study: Study, case: Case, truth: str) -> tuple[Row, str] | None:
    """Run the loops of the controller that knows the plant, its state and the declared sets, on one plant.

    They are as many as those with a part removed, with the same seeds. Returns what `close` does; None without
    equations that can be shown to contract.
    """
    controller = KNOWING[truth]
    name, file = f"{truth}, {controller}", f"{truth}_{controller}_loops.npz"
    seeds = seeds_of(study, truth, case.removals)
    if truth == "physical" and case.physics is None:
        return None

    def compute() -> Row:
        parts = floor_parts(study.out, case, truth)
        assert parts is not None
        setup = knowing(study.out, case, parts, truth)
        with tqdm(total=len(seeds), desc=name, leave=False) as bar:

            def advance(_done: int, _total: int) -> None:
                bar.update()

            found = monte_carlo(lambda: setup, seeds, progress=advance)
        row, arrays = gathered([reduced(one, case) for one in found.results])
        save_record(study.path(file), LOOPS, arrays | {"seeds": np.array(seeds)}, {})
        total = parts.tightening.total
        return {"truth": truth, "controller": controller, "removed": ""} | row | {
            "rate": parts.observer.contraction.rate if parts.observer.contraction else None,
            "room_first": total[1], "room_last": total[-1], "terminal_margin": parts.terminal.margin,
        }  # fmt: skip

    return study.row(name, compute, needs=needs(case, study.out) | {"runs": len(seeds)}, files=[file]), file


def reduced(result: ClosedLoopResult, case: Case) -> Row:
    """Reduce one run to the numbers that are kept."""
    scale = np.array([s.upper - s.lower for s in case.plant.outputs])
    ratio = result.error_use[:, 1:].max(axis=2)  # the present is no prediction
    moves = np.diff(result.u, axis=0, prepend=result.u_before[None])
    running = (result.y[1:] - result.reference[1:]) ** 2 @ np.array(case.output_weight)
    stuck = [s is Status.INFEASIBLE for s in result.status]
    return {
        "y": result.y, "u": result.u, "ratio": ratio.astype(np.float32), "cost": result.cost,
        "running": running + case.move_weight * (moves**2).sum(axis=1), "violations": result.violations,
        "excess": result.max_violation, "failed": result.failed_solves,
        "infeasible": int(np.sum((result.slack > SLACK * scale.min()) | stuck)), "solve_time": result.solve_time,
        "inside": bool(result.steps_kept(LoopTarget.PREDICTIONS).all()), "noticed": noticed(result),
        "fallback": sum(f != "none" for f in result.fallback), "outside": result.steps_outside,
    }  # fmt: skip


def noticed(result: ClosedLoopResult) -> bool:
    """Whether a controller's data contradict what was declared, at any step.

    The measurement differs from the estimate's output by the error at step 0, which is within its bound as declared.
    """
    low, high = result.error_ends
    seen = result.readings - result.predicted[:, 0]
    return bool(result.steps_outside or ((seen < low[:, 0]) | (seen > high[:, 0])).any())


def gathered(results: Sequence[Row]) -> tuple[Row, dict[str, Array]]:
    """Gather the row and the curves of many runs."""
    y, times = np.stack([r["y"] for r in results]), np.concatenate([r["solve_time"] for r in results])
    ratio = np.concatenate([r["ratio"] for r in results])
    ratio = ratio[:, ~np.isnan(ratio).all(axis=0)]  # a nominal controller has no bound, a short run no late steps
    tightened = ratio.size > 0
    measures = (np.nanmax, functools.partial(np.nanquantile, q=0.99), np.nanmedian)
    per_step = np.stack([f(ratio, axis=0) for f in measures]) if tightened else np.zeros((3, 1))
    kept = met("loops", np.array([r["inside"] for r in results]))
    row = {
        "runs": len(results), "steps": int(len(results) * (y.shape[1] - 1)),
        "runs_with_violation": sum(r["violations"] > 0 for r in results),
        "violations": sum(r["violations"] for r in results), "largest": max(r["excess"] for r in results),
        "infeasible": sum(r["infeasible"] for r in results), "failed": sum(r["failed"] for r in results),
        "fallbacks": sum(r["fallback"] for r in results), "contradictions": sum(r["outside"] for r in results),
        "cost": float(np.mean([r["cost"] for r in results])),
        "loops_inside": kept.inside if tightened else None, "loops_inside_lower": kept.lower if tightened else None,
        "loops_inside_upper": kept.upper if tightened else None,
        "outside_noticed": sum(r["noticed"] and not r["inside"] for r in results) if tightened else None,
        "error_over_bound": float(per_step[0].max()) if tightened else None,
        "error_over_bound_q99": float(per_step[1].max()) if tightened else None,
        "ms_median": 1e3 * float(np.median(times)), "ms_p95": 1e3 * float(np.quantile(times, 0.95)),
    }  # fmt: skip
    arrays = {
        "envelope": np.quantile(y, QUANTILES, axis=0), "ratio": np.asarray(per_step, dtype=np.float64),
        "running": np.mean([r["running"] for r in results], axis=0),
        "cost": np.array([r["cost"] for r in results]), "violations": np.array([r["violations"] for r in results]),
    }  # fmt: skip
    return row, arrays
