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
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cloudpickle
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
    """Rates of compiled loops of one and of two workers, in turns: of Dask, and bare processes, once they are ready.

    The pace of a machine changes within minutes: gains are medians over rounds that follow each other. Two processes
    that share nothing but the machine show what there is to gain.
    """
    each, rounds = (2, 1) if study.quick else (EACH, ROUNDS)

    def compute() -> Row:
        with ExitStack() as stack:
            clients = [stack.enter_context(cluster.local_client(number)) for number in (1, 2)]
            bare = [stack.enter_context(_process(counted)) for _ in range(2)]
            ways = {"Dask": [partial(_on_cluster, client, counted) for client in clients]}
            ways["bare"] = [partial(_in_processes, bare[:number]) for number in (1, 2)]
            rates: dict[str, list[list[float]]] = {way: [[], []] for way in ways}
            for i in range(-1, rounds):  # the first round, which starts them, does not count
                for way, (one, two) in ways.items():
                    for number, run in ((1, one), (2, two)):
                        rate = run(range((1 + i) * each * number, (2 + i) * each * number))
                        rates[way][number - 1] += [rate] if i >= 0 else []
        row: Row = {}
        for way, (alone, both) in rates.items():
            gains = [b / a for a, b in zip(alone, both, strict=True)]
            row |= {f"{way}_loops_a_second_{n}": statistics.median(found) for n, found in ((1, alone), (2, both))}
            row |= {f"{way}_gain": statistics.median(gains), f"{way}_least_gain": min(gains)}
            row |= {f"{way}_largest_gain": max(gains)}
        return row

    found = study.row("compiled, workers: 1 and 2", compute, needs=needs)
    study.target("2 Dask workers against 1, clock", ">= 1.8 times", found["Dask_gain"], found["Dask_gain"] >= 1.8)


def _on_cluster(client: cluster.Client, counted: CountedLoops, seeds: range) -> float:
    """Loops a second of both truths with each seed, on Dask workers."""
    began, tasks = time.perf_counter(), itertools.product(TRUTHS, seeds)
    loops = sum(1 for _ in cluster.stream(client, cluster.constant(counted), tasks))
    return loops / (time.perf_counter() - began)


def _in_processes(processes: Sequence[ProcessPoolExecutor], seeds: range) -> float:
    """The same, each process with a share of the seeds."""
    began = time.perf_counter()
    waiting = [process.submit(_run, seeds[k :: len(processes)]) for k, process in enumerate(processes)]
    return sum(each.result() for each in waiting) / (time.perf_counter() - began)


def _process(counted: CountedLoops) -> ProcessPoolExecutor:
    """A process that runs closed loops."""
    given = cloudpickle.dumps(counted)  # as a cluster sends it
    return ProcessPoolExecutor(1, get_context("spawn"), initializer=_take, initargs=(given,))


_taken: list[CountedLoops] = []  # of a bare process


def _take(given: bytes) -> None:
    _taken.append(cloudpickle.loads(given))


def _run(seeds: range) -> int:
    return sum(1 for truth, seed in itertools.product(TRUTHS, seeds) if _taken[0](truth, seed))


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
