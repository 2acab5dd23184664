"""Guaranteed closed loops a second: Python, compiled code, compiled code in two processes; then as many as asked.

Plant, model, proofs and controller are those of `experiments.guaranteed_tanks` (the controller with a terminal set and
hard limits, horizon 40); half of the loops are on the physical plant, half on the declared sets with their adversaries.
Other programs on the machine slow down wall time: rates are also given for processor time.

The many loops run in chunks, of which only sums are kept: the driver's memory has to stay flat. Violations are of true
outputs, infeasible steps are those without a plan that keeps all limits.
"""

from __future__ import annotations

import argparse
import functools
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from experiments import guaranteed_tanks
from experiments.shared.guaranteed import TRUTHS, Case, Controller, build, prove
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from mpc import ClosedLoopSetup, LoopEngine, MonteCarloResult, Status, monte_carlo

CHUNK = 500  # loops whose results are in memory together
FASTER, MINUTES = 30.0, 10.0
FEW, SOME = 3, 40  # loops of each truth that are timed, in Python and compiled


@dataclass(frozen=True)
class Used:
    """Time that something took [s]: of the clock, and of all processors."""

    wall: float
    cpu: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the bench; returns the exit status."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--loops", type=int, help="number of the many loops (default 10000, quick 8)")
    parser.add_argument("--proofs", type=Path, help="folder of a run of guaranteed_tanks, instead of new proofs")
    own, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    study = Study.from_command_line("bench_loops", f"{__doc__}\n{parser.format_help()}", rest)
    config, case = guaranteed_tanks.settings(study.quick)
    folder = own.proofs or study.out
    if own.proofs is None:
        with study.stage("experiments on the plant"):
            dataset = stages.experiments(config, study.seed)
        guaranteed_tanks.identified(study, config, dataset)
        prove(study, case, dataset)
    makers = {truth: functools.partial(build, folder, case, Controller.GUARANTEED, truth) for truth in TRUTHS}
    _speed(study, makers)
    many = 8 if study.quick else 10000
    _many(study, case, makers, many if own.loops is None else own.loops)
    return study.finish()


def _speed(study: Study, makers: Mapping[str, Callable[[], ClosedLoopSetup]]) -> None:
    """Rates of the two engines, and how far apart their loops are."""
    few, some = (1, 2) if study.quick else (FEW, SOME)
    rates: dict[str, Row] = {}
    found: dict[str, list[MonteCarloResult]] = {}
    for name, engine, workers, runs in (
        ("Python, 1 process", LoopEngine.PYTHON, 1, few),
        ("compiled, 1 process", LoopEngine.COMPILED, 1, some),
        ("compiled, 2 processes", LoopEngine.COMPILED, 2, 2 * some),
    ):

        def compute(engine: LoopEngine = engine, workers: int = workers, runs: int = runs, name: str = name) -> Row:
            found[name], walls, cpus = [], [], []
            for make in makers.values():
                ends: list[Used] = []

                def note(_done: int, _all: int, ends: list[Used] = ends) -> None:
                    ends.append(_now())

                settings: dict[str, Any] = {"engine": engine, "compiled_in": study.path("code"), "progress": note}
                found[name].append(monte_carlo(make, range(runs + 1), workers=workers, **settings))
                # From the end of the first loop on: a long run does not notice what was compiled and imported before.
                walls.append(ends[-1].wall - ends[0].wall)
                cpus.append(ends[-1].cpu - ends[0].cpu)
            loops = runs * len(makers)
            alone = workers == 1  # the processor time of others is known after their end, with all that they imported
            rates = {"loops_a_second": loops / sum(walls), "loops_a_cpu_second": loops / sum(cpus) if alone else None}
            return {"loops": loops} | rates

        rates[name] = study.row(name, compute, needs={"runs": runs})
    python, compiled, both = rates.values()
    ratio = compiled["loops_a_cpu_second"] / python["loops_a_cpu_second"]
    study.target("compiled against Python, processor time", f">= {FASTER:g} times", ratio, ratio >= FASTER)
    study.target(
        "compiled against Python, clock", f">= {FASTER:g} times",
        compiled["loops_a_second"] / python["loops_a_second"],
        compiled["loops_a_second"] >= FASTER * python["loops_a_second"],
    )  # fmt: skip
    gain = both["loops_a_second"] / compiled["loops_a_second"]
    study.target("2 processes against 1, clock", ">= 1.8 times", gain, gain >= 1.8)
    if {"Python, 1 process", "compiled, 1 process"} <= found.keys():  # not where both rows are of an earlier run
        apart = max(
            float(np.abs(one.y - other.y).max())
            for slow, fast in zip(found["Python, 1 process"], found["compiled, 1 process"], strict=True)
            for one, other in zip(slow.results, fast.results, strict=False)
        )
        study.target("outputs of both engines apart", "<= 1e-9 cm", apart, apart <= 1e-9)


def _many(study: Study, case: Case, makers: Mapping[str, Callable[[], ClosedLoopSetup]], loops: int) -> None:
    """As many loops as asked in two processes: what they violated, and what they took."""

    def compute() -> Row:
        sums = {"violations": 0, "infeasible": 0, "failed": 0, "fallbacks": 0, "most_iterations": 0}
        began, first, worst, times = _now(), 0.0, -np.inf, []
        parents = np.random.SeedSequence([study.seed, loops]).spawn(len(makers))
        with tqdm(total=loops, desc="many loops", leave=False) as bar:

            def advance(_done: int, _all: int) -> None:
                bar.update()

            for (truth, make), parent in zip(makers.items(), parents, strict=True):
                share = loops // 2 if truth == "declared" else loops - loops // 2
                seeds = [int(s.generate_state(1)[0]) for s in parent.spawn(share)]
                for start in range(0, share, CHUNK):
                    chunk = seeds[start : start + CHUNK]
                    runs = monte_carlo(
                        make, chunk, workers=2, engine=LoopEngine.COMPILED, compiled_in=study.path("code"),
                        progress=advance,
                    ).results  # fmt: skip
                    sums["violations"] += sum(r.violations for r in runs)
                    sums["infeasible"] += sum(s is Status.INFEASIBLE for r in runs for s in r.status)
                    sums["failed"] += sum(r.failed_solves for r in runs)
                    sums["fallbacks"] += sum(sum(r.fallback_counts.values()) for r in runs)
                    sums["most_iterations"] = max(sums["most_iterations"], *(int(r.iterations.max()) for r in runs))
                    worst = max(worst, *(float((r.y - r.upper).max()) for r in runs))
                    times.append(float(np.median(np.concatenate([r.solve_time for r in runs]))))
                    runs = ()  # before the next ones come
                    first = first or _memory()
        used = _since(began)
        return {"loops": loops, "steps": loops * case.steps} | sums | {
            "nearest_to_a_limit_cm": -worst, "ms_median": 1e3 * float(np.median(times)), "wall_s": used.wall,
            "cpu_s": used.cpu, "driver_MB_after_first_chunk": first, "driver_MB_in_the_end": _memory(),
        }  # fmt: skip

    row = study.row(f"{loops} guaranteed loops", compute, needs={"loops": loops})
    for name in ("violations", "infeasible"):
        study.target(f"{name} in {loops} loops", "0", row[name], row[name] == 0)
    minutes = row["wall_s"] / 60 * 10000 / loops
    study.target("minutes for 10000 loops, clock", f"<= {MINUTES:g}", minutes, minutes <= MINUTES)
    alone = row["cpu_s"] / 60 / 2 * 10000 / loops
    study.target("minutes for 10000 loops, two processors alone", f"<= {MINUTES:g}", alone, alone <= MINUTES)
    grown = row["driver_MB_in_the_end"] / row["driver_MB_after_first_chunk"]
    study.target("memory of the driver, end against first chunk", "<= 1.2 times", grown, grown <= 1.2)


def _now() -> Used:
    return Used(time.perf_counter(), _cpu())


def _since(began: Used) -> Used:
    return Used(time.perf_counter() - began.wall, _cpu() - began.cpu)


def _cpu() -> float:
    """Processor time of this process and of those that it has waited for [s]."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in uses)


def _memory() -> float:
    """Present memory of this process [MB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
