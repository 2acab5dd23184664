"""Guaranteed closed loops a second: Python, compiled code, compiled code on Dask workers; then as many as asked.

Plant, model, proofs and controller are those of `experiments.guaranteed_tanks` (the controller with a terminal set and
hard limits, horizon 40); half of the loops are on the physical plant, half on the declared sets with their adversaries.
Other programs on the machine slow down wall time: rates are also given for processor time.

Of the many loops only counts are kept, a stored row each: the driver's memory has to stay flat, and a bench that was
stopped goes on where it was. Violations are of true outputs, infeasible steps are those without a plan that keeps all
limits. Their minutes are those of the clock from the first loop's case to the last row, with all that happens between:
workers that start, rows that are stored; where a part of them was stored by an earlier run, of the others.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn import cluster
from experiments import guaranteed_tanks
from experiments.bench_loops.counted import CountedLoops, Makers
from experiments.shared.guaranteed import TRUTHS, Case, Controller, artefacts, maker, prove
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from mpc import LoopEngine, MonteCarloResult, monte_carlo

FASTER, MINUTES = 30.0, 10.0
FEW, SOME = 3, 40  # loops of each truth that are timed, in Python and compiled
EACH, ROUNDS = 60, 5  # loops of each truth and worker in a round, and rounds of one and of two workers in turn


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
    makers = {truth: maker(folder, case, Controller.GUARANTEED, truth, travels=True) for truth in TRUTHS}
    counted = CountedLoops.compiled(makers, study.path("code"))
    needs = {"proofs": artefacts(folder).digest}
    _speed(study, makers, needs)
    _workers(study, counted, needs)
    many = 8 if study.quick else 10000
    _many(study, case, counted, needs | {"loops": many if own.loops is None else own.loops})
    return study.finish()


def _speed(study: Study, makers: Makers, needs: Row) -> None:
    """Rates of the two engines, and how far apart their loops are."""
    rates: list[Row] = []
    found: dict[LoopEngine, list[MonteCarloResult]] = {}
    for engine, runs in (
        (LoopEngine.PYTHON, 1 if study.quick else FEW),
        (LoopEngine.COMPILED, 2 if study.quick else SOME),
    ):

        def compute(engine: LoopEngine = engine, runs: int = runs) -> Row:
            found[engine], used = [], []
            for make in makers.values():
                ends: list[Used] = []

                def note(_done: int, _all: int, ends: list[Used] = ends) -> None:
                    ends.append(_now())

                settings: dict[str, Any] = {"engine": engine, "compiled_in": study.path("code"), "progress": note}
                found[engine].append(monte_carlo(make, range(runs + 1), **settings))
                # From the end of the first loop on: a long run does not notice what was compiled and imported before.
                used.append(Used(ends[-1].wall - ends[0].wall, ends[-1].cpu - ends[0].cpu))
            loops = runs * len(makers)
            return {"loops": loops, "loops_a_second": loops / sum(u.wall for u in used)} | {
                "loops_a_cpu_second": loops / sum(u.cpu for u in used)
            }

        rates.append(study.row(f"{engine}, 1 process", compute, needs=needs | {"runs": runs}))
    for name, key in (("processor time", "loops_a_cpu_second"), ("clock", "loops_a_second")):
        ratio = rates[1][key] / rates[0][key]
        study.target(f"compiled against Python, {name}", f">= {FASTER:g} times", ratio, ratio >= FASTER)
    if len(found) == 2:  # not where both rows are of an earlier run
        apart = max(
            float(np.abs(one.y - other.y).max())
            for slow, fast in zip(*found.values(), strict=True)
            for one, other in zip(slow.results, fast.results, strict=False)
        )
        study.target("outputs of both engines apart", "<= 1e-9 cm", apart, apart <= 1e-9)


def _workers(study: Study, counted: CountedLoops, needs: Row) -> None:
    """Rates of compiled loops on clusters of one and of two workers, in turns, once they have everything.

    The pace of a machine changes within minutes: the gain is the median over rounds that follow each other.
    """
    each, rounds = (2, 1) if study.quick else (EACH, ROUNDS)

    def run(client: cluster.Client, first: int, runs: int) -> float:
        began, tasks = time.perf_counter(), itertools.product(TRUTHS, range(first, first + runs))
        loops = sum(1 for _ in cluster.stream(client, cluster.constant(counted), tasks))
        return loops / (time.perf_counter() - began)

    def compute() -> Row:
        rates: dict[int, list[float]] = {1: [], 2: []}
        with ExitStack() as stack:
            clients = {number: stack.enter_context(cluster.local_client(number)) for number in rates}
            for number, client in clients.items():
                run(client, 0, 8 * number)
            for i in range(rounds):
                for number, client in clients.items():
                    rates[number].append(run(client, (8 + i * each) * number, each * number))
        gains = [two / one for one, two in zip(*rates.values(), strict=True)]
        medians = {f"loops_a_second_{number}": statistics.median(found) for number, found in rates.items()}
        return medians | {"gain": statistics.median(gains), "least_gain": min(gains), "largest_gain": max(gains)}

    found = study.row("compiled, Dask, workers: 1 and 2", compute, needs=needs)
    study.target("2 Dask workers against 1, clock", ">= 1.8 times", found["gain"], found["gain"] >= 1.8)


def _many(study: Study, case: Case, counted: CountedLoops, needs: Row) -> None:
    """As many loops as asked, on the workers of the study: what they violated, and what they took."""
    loops: int = needs["loops"]
    parents = np.random.SeedSequence([study.seed, loops]).spawn(len(TRUTHS))

    def cases() -> Iterator[tuple[str, tuple[str, int]]]:
        for truth, parent in zip(TRUTHS, parents, strict=True):
            for i in range(loops // 2 if truth == "declared" else loops - loops // 2):
                yield f"{truth} loop {i}", (truth, int(parent.spawn(1)[0].generate_state(1)[0]))

    def compute() -> Row:
        sums = dict.fromkeys(("violations", "infeasible", "failed", "fallbacks", "seconds", "cpu_s"), 0.0)
        began, first, worst, most, times = time.perf_counter(), 0.0, -np.inf, 0, []
        before = study.computed
        rows = study.stream(counted, cases(), needs=needs, total=loops, title="many loops")
        for i, row in enumerate(rows):
            for name in sums:
                sums[name] += row[name]
            worst, most = max(worst, row["beyond_limit"]), max(most, row["most_iterations"])
            times.append(row["ms_median"])
            if i == loops // 10:
                first = _memory()
        wall = time.perf_counter() - began
        workers = 1 if study.client is None else len(study.client.nthreads())
        counts = {name: int(sums.pop(name)) for name in ("violations", "infeasible", "failed", "fallbacks")}
        return {"loops": loops, "steps": loops * case.steps} | counts | {
            "most_iterations": most, "nearest_to_a_limit_cm": -worst, "ms_median": float(np.median(times)),
            "workers": workers, "computed": study.computed - before,
            "wall_s": wall, "loops_wall_s": sums["seconds"], "loops_cpu_s": sums["cpu_s"],
            "driver_MB_after_a_tenth": first, "driver_MB_in_the_end": _memory(),
        }  # fmt: skip

    row = study.row(f"{loops} guaranteed loops", compute, needs=needs)
    for name in ("violations", "infeasible"):
        study.target(f"{name} in {loops} loops", "0", row[name], row[name] == 0)
    # Rows of an earlier run took none of the clock; more than two workers have to be as much faster, one is not allowed
    # to be slower.
    some = row["computed"]
    clock = row["wall_s"] / 60 * 10000 / some * max(row["workers"] / 2, 1) if some else None
    for name, minutes in (("clock", clock), ("processor time", row["loops_cpu_s"] / 60 / 2 * 10000 / loops)):
        met = minutes is not None and minutes <= MINUTES
        study.target(f"minutes for 10000 loops on two workers, {name}", f"<= {MINUTES:g}", minutes, met)
    grown = row["driver_MB_in_the_end"] / row["driver_MB_after_a_tenth"]
    study.target("memory of the driver, end against the first tenth", "<= 1.2 times", grown, grown <= 1.2)


def _now() -> Used:
    return Used(time.perf_counter(), _cpu())


def _cpu() -> float:
    """Processor time of this process and of those that it has waited for [s]."""
    uses = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(u.ru_utime + u.ru_stime for u in uses)


def _memory() -> float:
    """Present memory of this process [MB]."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
