"""A hundred thousand control steps of the three tanks under random faults: crashes, leaks, missed deadlines.

The controller of `experiments.three_tank`, on its default solver, follows random steady states near the limits while
sensors drop out, freeze, saturate, jump and are late, pumps stick, saturate and are off, and the solver runs out of
time. The run comes in chunks; a stopped study goes on with the next one. An exception ends it with an error. The first
chunk is repeated by the nominal controller a constant away from its limits, chosen on trial loops without faults.

A step is measured in wall time and in processor time: on a machine that others use, the first also counts their work.
As in any process that has to be in time, what exists before the first step is kept from the garbage collector.

Memory is measured twice: resident memory after each chunk, whose slope over the second half of the chunks of one
process is printed, and what Python's allocator holds after one and after two stretches of steps without any reset.
"""

from __future__ import annotations

import functools
import gc
import logging
import os
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from controlrnn.checks import Array
from controlrnn.data import Signal
from controlrnn.records import Numbers, Schema, load_record, save_record
from experiments.shared.back_off import backed_off, trial_seeds
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import (
    ActuatorOffset,
    ClosedLoopResult,
    ClosedLoopSetup,
    Disturbances,
    DropOut,
    Fault,
    FrozenSensor,
    Late,
    MpcStep,
    Outlier,
    PlausibilityLimits,
    RandomFaults,
    SaturatedActuator,
    SaturatedSensor,
    Start,
    StuckActuator,
    TightenedMPC,
    Tightening,
    TimeOut,
    Wandering,
    Washout,
    Watching,
    run_closed_loop,
    staircase,
)
from mpc.loops.result import times_of
from plants import MultiTank

CHOSEN = "contracting R2DN"
DEADLINE = 5e-3  # [s], beside the sample time
FAULTS: tuple[Fault, ...] = (
    DropOut(), DropOut(probability=0.5), DropOut(channel=0), Outlier(size=15.0, probability=0.3),
    Outlier(size=4.0, probability=0.3, channel=0), *(FrozenSensor(channel=i) for i in range(3)),
    SaturatedSensor(upper=50.0, channel=0), Late(delay=3), Late(delay=2, stamped=True, probability=0.5),
    *(StuckActuator(channel=i) for i in range(2)), SaturatedActuator(upper=1.8), ActuatorOffset(size=0.3, channel=0),
    ActuatorOffset(size=-0.3), TimeOut(), TimeOut(probability=0.5),
)  # fmt: skip
_TIMES = Schema("times", 2, arrays={"wall": Numbers("n", least=0.0), "cpu": Numbers("n", least=0.0)})


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("soak", __doc__, arguments)
    config = Config.of(study.quick)
    chunks, steps = (4, 250) if study.quick else (20, 5000)
    setup = prepare(study, config)
    logging.getLogger("mpc").setLevel(logging.ERROR)  # each forced time-out would be a line
    needs = {"steps": steps, "config": asdict(config), "faults": repr(FAULTS), "frozen_heap": True}
    rows = []
    with frozen_heap():
        for i in study.progress(range(chunks), "chunks"):
            compute = functools.partial(chunk, study, setup, config, i, steps)
            rows.append(study.row(f"chunk {i}", compute, needs=needs, files=[f"times_{i}.npz"]))
    baseline(study, setup, config, steps)
    heap = study.row("heap", functools.partial(heap_growth, setup, config, 100 if study.quick else 2000))
    kept = [load_record(study.path(f"times_{i}.npz"), _TIMES)[0] for i in range(chunks)]
    times = {name: np.concatenate([k[name] for k in kept]) for name in ("wall", "cpu")}
    total = study.row("all chunks", functools.partial(together, rows, times), needs=rows)
    study.figure("soak", figure(rows))
    targets(study, total, heap)
    return study.finish(
        statuses=_sum(rows, "status "),
        fallbacks=_sum(rows, "fallback "),
        faults=_sum(rows, "fault "),
        rejected=_sum(rows, "rejected "),
    )


def prepare(study: Study, config: Config) -> ClosedLoopSetup:
    """Prepare the demo's controller, whose plausibility limits are from its validation records."""
    dataset = stages.experiments(config, study.seed)

    def compute() -> Row:
        model = stages.candidates(study.seed)[CHOSEN]
        fit = stages.train(model, dataset, config, study.path("checkpoint.npz"), CHOSEN, study.seed)
        system: Any = fit.system
        stages.save_model(system, study.out)
        contraction = stages.contraction(system, dataset, config)
        contraction.save(study.path("contraction.npz"))
        observer = stages.make_observer(system, contraction, config)
        for certificate, name in zip(
            stages.horizon_certificates(observer, config), ("certificate", "certificate_initial"), strict=True
        ):
            certificate.save(study.path(f"{name}.npz"))
        tightening = stages.tightening(stages.model_error(system, observer, dataset, config), study.out, observer)
        tightening.save(study.path("tightening.npz"))
        return {"fit_percent": fit.scores["test"].fit_percent, "tightening_last": tightening.total[-1]}

    study.row("controller", compute, needs=asdict(config), files=["model.npz", "contraction.npz", "tightening.npz"])
    observer = stages.make_observer(
        stages.model_of(study.out), stages.contraction_of(study.path("contraction.npz")), config
    )
    setup = stages.setup(observer, Tightening.load(study.path("tightening.npz")).on_trust(), config)
    plant = MultiTank()
    sensors = tuple(Signal(s.name, s.unit, 0.0, 1.2 * plant.height) for s in plant.outputs)
    limits = PlausibilityLimits.calibrated(sensors, observer, dataset.validation, disturbance=setup.controller.filter)
    setup.controller.change(watching=Watching(plausibility=limits))
    return setup


def chunk(study: Study, setup: ClosedLoopSetup, config: Config, i: int, steps: int) -> Row:
    """Run one stretch of steps, and summarise its times and failures."""
    seed = seed_of(study, i)
    with processor_times(setup.controller) as cpu:
        result = run(setup, config, seed, steps)
    save_record(study.path(f"times_{i}.npz"), _TIMES, {"wall": result.solve_time, "cpu": np.array(cpu)}, {})
    row = describe(result, setup, np.array(cpu))
    if i == 0:
        result.save(study.path("first_chunk.npz"))
    del result
    gc.collect()
    return row | {"resident_mb": resident() / 1e6, "process": f"{os.getpid()} {_STARTED}"}


def seed_of(study: Study, i: int) -> int:
    """Seed of one chunk."""
    return int(np.random.SeedSequence([study.seed, i]).generate_state(1)[0])


def baseline(study: Study, setup: ClosedLoopSetup, config: Config, steps: int) -> Row:
    """The nominal controller a constant away from its limits, chosen on trial loops without faults, in chunk 0."""
    made, observer = setup.controller, setup.controller.observer
    assert isinstance(observer, Washout)

    def build(room: Tightening) -> ClosedLoopSetup:
        other = stages.setup(observer, room, config)
        other.controller.change(watching=made.premise_watch.watching)
        return other

    def compute() -> Row:
        seeds = trial_seeds(study.seed, config.runs)
        room, used = backed_off(build, made.predictor.system, config.horizon, config.back_off_step, seeds)
        result = run(build(room), config, seed_of(study, 0), steps)
        return {
            "distance_cm": float(room.total[0, 0]), "trial_loops": used, "steps": result.steps,
            "violations": result.violations, "max_violation": result.max_violation, "cost": result.cost,
            "failed_solves": result.failed_solves,
        }  # fmt: skip

    return study.row("chunk 0, backed off", compute, needs={"steps": steps, "config": asdict(config)})


@contextmanager
def frozen_heap() -> Iterator[None]:
    """Exempt all present objects from garbage collection.

    A full pass over those of the imports takes 0.2 s.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def processor_times(controller: TightenedMPC) -> Iterator[list[float]]:
    """Collect the processor time of each control step [s], beside the wall time in the result."""
    times: list[float] = []
    step = controller.step

    def timed(*given: Any, **options: Any) -> MpcStep:
        began = time.thread_time()
        taken = step(*given, **options)
        times.append(time.thread_time() - began)
        return taken

    controller.step = timed  # type: ignore[method-assign]
    try:
        yield times
    finally:
        controller.step = step  # type: ignore[method-assign]


def run(setup: ClosedLoopSetup, config: Config, seed: int, steps: int) -> ClosedLoopResult:
    """Run one closed loop under all kinds of faults."""
    return run_closed_loop(
        setup.plant,
        setup.controller,
        steps=steps,
        seed=seed,
        reference=functools.partial(wanted, config, steps),
        faults=RandomFaults(choices=FAULTS, rate=0.01, duration=(1, 60), steps=steps),
        start=Start(x0=setup.options["x0"], warm_up=config.washout, warm_up_input=setup.options["warm_up_input"]),
        disturbances=Disturbances(
            noise_std=config.noise,
            input_error=config.actuator,
            missing=0.01,
            disturbance=Wandering(std=(config.inflow,) * 3, memory=20, steps=steps),
        ),
    )


def wanted(config: Config, steps: int, rng: np.random.Generator) -> Array:
    """Draw steady states with tank 1 between 45 cm and its limit, each held for 20 to 100 samples (steps, 3)."""
    plant = MultiTank()
    levels: list[Array] = []
    holds: list[int] = []
    while sum(holds) < steps:
        levels.append(plant.equilibrium(stages.steady_input(config, float(rng.uniform(45.0, plant.level_limit)))))
        holds.append(int(rng.integers(20, 101)))
    return staircase(levels, holds)[:steps]


def describe(result: ClosedLoopResult, setup: ClosedLoopSetup, cpu: Array) -> Row:
    """Count events and times of one chunk."""
    lower, upper = setup.controller.predictor.input_limits()
    sound = np.isfinite(result.u).all() and ((lower <= result.u) & (result.u <= upper)).all()
    forced = result.faults[:, result.fault_kinds.index(TimeOut.kind)].sum() if TimeOut.kind in result.fault_kinds else 0
    row: Row = {
        "steps": result.steps, "inputs_sound": bool(sound), "steps_with_fault": result.faults.any(axis=1).sum(),
        "failed_solves": result.failed_solves, "forced_time_outs": forced,
        "fallbacks": sum(result.fallback_counts.values()), "readings_rejected": sum(result.rejected.values()),
        "violations": result.violations, "max_violation": result.max_violation, "cost": result.cost,
        "misses_dt": result.deadline_misses(), "wall_over_5_ms": result.deadline_misses(DEADLINE),
        "cpu_over_5_ms": (cpu > DEADLINE).sum(),
    }  # fmt: skip
    row |= _times({"wall": result.solve_time, "cpu": cpu})
    row["counts"] = {f"status {k}": n for k, n in result.status_counts.items()}
    row["counts"] |= {f"fallback {k}": n for k, n in result.fallback_counts.items()}
    row["counts"] |= {f"rejected {k}": n for k, n in result.rejected.items()}
    seen = zip(result.fault_kinds, result.faults.sum(axis=0), strict=True)
    row["counts"] |= {f"fault {kind}": int(n) for kind, n in seen}
    return row


def heap_growth(setup: ClosedLoopSetup, config: Config, steps: int) -> Row:
    """Growth of Python's heap between two equal stretches of steps, in bytes per step."""
    controller, held = setup.controller, setup.options["warm_up_input"]
    goal, rng = setup.options["reference"], np.random.default_rng(0)
    controller.reset()
    for _ in range(config.washout):
        controller.record(goal[0], held)
    tracemalloc.start()
    sizes = []
    for _ in range(3):
        for t in range(steps):
            y = goal[t % len(goal)] + rng.normal(0, config.noise, 3)
            controller.step(np.where(rng.random(3) < 0.05, np.nan, y), goal[t % len(goal)])
        gc.collect()
        sizes.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    return {"heap_steps": steps, "heap_kb": sizes[-1] / 1e3, "heap_bytes_per_step": (sizes[2] - sizes[1]) / steps}


def together(rows: Sequence[Row], times: Mapping[str, Array]) -> Row:
    """Summarise the whole run."""
    counted = ("steps", "steps_with_fault", "failed_solves", "forced_time_outs", "fallbacks", "readings_rejected",
               "violations", "misses_dt", "wall_over_5_ms", "cpu_over_5_ms")  # fmt: skip
    row: Row = {name: sum(r[name] for r in rows) for name in counted}
    row |= {
        "inputs_sound": all(r["inputs_sound"] for r in rows),
        "max_violation": max(r["max_violation"] for r in rows),
    }
    row |= _times(times)
    slope, seen = growth(rows)
    return row | {"mb_per_10000_steps": slope, "steps_behind_that": seen}


def growth(rows: Sequence[Row]) -> tuple[float | None, int]:
    """Slope of resident memory over the second half of the chunks of the process that ran most of them.

    Returns:
        Megabytes per 10 000 steps (None from fewer than two chunks), and the steps that it was measured over.
    """
    process = Counter(r["process"] for r in rows).most_common(1)[0][0]
    own = [r for r in rows if r["process"] == process]
    half = own[len(own) // 2 :]
    if len(half) < 2:
        return None, 0
    at = np.cumsum([r["steps"] for r in half]) / 1e4
    return float(np.polyfit(at, [r["resident_mb"] for r in half], 1)[0]), sum(r["steps"] for r in half)


def targets(study: Study, total: Row, heap: Row) -> None:
    """Compare the rows with the study's targets."""
    sound = total["inputs_sound"]
    study.target("all inputs finite and within limits", True, sound, sound)
    slope = total["mb_per_10000_steps"]
    study.target("resident memory, MB per 10000 steps", "< 1", slope, slope is not None and slope < 1)
    held = heap["heap_bytes_per_step"]
    study.target("Python heap, bytes per step", "< 10", held, held < 10)
    study.target("steps beyond the sample time", 0, total["misses_dt"], total["misses_dt"] == 0)
    for kind, name in (("wall", "wall"), ("cpu", "processor")):
        share = 100 * total[f"{kind}_over_5_ms"] / total["steps"]
        study.target(f"steps beyond 5 ms of {name} time [%]", "<= 0.1", share, share <= 0.1)
    own = total["failed_solves"] - total["forced_time_outs"]
    study.target("failed solves beside forced time-outs", 0, own, own == 0)


def figure(rows: Sequence[Row]) -> Figure:
    """Plot memory and times along the run."""
    done = np.cumsum([r["steps"] for r in rows])
    drawn = Figure(figsize=(9, 6), layout="constrained")
    memory, times, counts = drawn.subplots(3, 1, sharex=True)
    memory.plot(done, [r["resident_mb"] for r in rows], ".-")
    memory.set_ylabel("resident memory [MB]")
    for n, key in enumerate(("median", "p95", "p99.9", "max")):
        times.semilogy(done, [r[f"cpu_{key}_ms"] for r in rows], ".-", color=f"C{n}", label=key)
        times.semilogy(done, [r[f"wall_{key}_ms"] for r in rows], ":", color=f"C{n}")
    times.axhline(1e3 * DEADLINE, color="k", lw=0.8, label="5 ms")
    times.set_ylabel("processor (wall: dotted)\ntime per step [ms]")
    times.legend(fontsize="small", ncols=5)
    for key in ("fallbacks", "readings_rejected", "violations"):
        counts.plot(done, [100 * r[key] / r["steps"] for r in rows], ".-", label=key.replace("_", " "))
    counts.set(xlabel="control steps", ylabel="per 100 steps")
    counts.legend(fontsize="small")
    return drawn


def resident() -> int:
    """Resident memory of this process [bytes]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _times(times: Mapping[str, Array]) -> Row:
    return {f"{kind}_{k}_ms": 1e3 * v for kind, seconds in times.items() for k, v in times_of(seconds).items()}


def _sum(rows: Sequence[Row], prefix: str) -> dict[str, int]:
    total: Counter[str] = Counter()
    for row in rows:
        total.update({k.removeprefix(prefix): n for k, n in row["counts"].items() if k.startswith(prefix)})
    return dict(total)


_STARTED = time.time_ns()  # with the process number, names a process for good

if __name__ == "__main__":
    sys.exit(main())
