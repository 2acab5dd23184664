"""Speed and quality of several solvers of one tracking problem in the same closed loop.

Model: x+ = tanh(A x + B u + b), |A|_2 = 0.93, two inputs and outputs. Cost: sum 10 |y - r|^2 + 0.5 |move|^2; |u| <= 1;
outputs within limits tightened by 0.01 rising to 0.08, soft at an L1 price of 100. Plant: weights 3 % off, state and
output noise; Kalman gain, disturbance estimate. Three references, the second at a limit; `unreachable` asks for three
times what the limits allow. Solvers take turns at every sample, each in a loop of its own with the same noise, so that
the load of the machine meets them alike. `solve` is the solver's time, `step` that of the whole controller, wall time;
`cpu` is the solver's processor time. The deviation is the largest from the inputs that do-mpc with ipopt applies.

do_mpc is do-mpc's own `make_step` (SX, ipopt's defaults, parameters as one vector); do_mpc_warm our adapter, which
shifts the guess and starts warm; condensed our solver, converged; loose the same with tolerance 1e-2, which stops
after one iteration where that is enough; rti with one iteration always. c and c_rti are the C code that
`mpc.controller_to_c` writes of condensed and rti, where there is a compiler: their `solve` is the whole step, estimates
included. `p05` is what a quiet machine would show. The rows `speed` are ratios of medians, do-mpc over condensed: of
whole steps of the same controller around each solver, and of the solver's call alone, which for do_mpc is `make_step`
with its own Python, cold, and for ours the solve.
The rows of `busy` are ours beside two busy processes, with the environment as it is and with one thread for every
library: no step may wait for threads (`experiments.bench_mpc.busy`).
acados and acados_rti (Gauss-Newton, HPIPM; `inner_median` is acados without Python) take part where $CONTROLRNN_ACADOS
names the Python of an environment with `comma-deps-acados`, which must not share one with CasADi.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from controlrnn.checks import Array
from controlrnn.data import Signal
from controlrnn.systems import LureSystem
from experiments.bench_mpc import busy as _bench_mpc_busy
from experiments.bench_mpc import watch as _bench_mpc_watch
from experiments.bench_mpc.c_code import compiled_loop, compiler
from experiments.bench_mpc.engines import ACADOS, BASE, ENGINES, Peer, Timed
from experiments.shared.study import Row, Study
from mpc import (
    Limits,
    OptimalControlProblem,
    Predictor,
    Solver,
    SolverOptions,
    StateObserver,
    Status,
    TightenedMPC,
    Tracking,
    kalman_gain,
    no_tightening,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOISE = 0.01
PENALTY = 100.0
COMPILED = {"c": "condensed", "c_rti": "rti"}


@dataclass(frozen=True)
class Case:
    """Settings of one closed loop."""

    n: int
    horizon: int
    steps: int
    unreachable: bool = False
    engines: tuple[str, ...] = (BASE, "do_mpc_warm", "fatrop", "condensed", "loose", "rti")


CASES = {
    "n16_N20": Case(16, 20, 100),
    "n16_N20_unreachable": Case(16, 20, 100, unreachable=True),
    "n16_N40": Case(16, 40, 60),
    # do-mpc takes half a second a step here, and its construction as long as thirty of them.
    "n64_N20": Case(64, 20, 30, engines=(BASE, "fatrop", "condensed", "loose", "rti")),
}
BUSY, QUICK_BUSY = {"n": 16, "horizon": 20, "steps": 100}, {"n": 8, "horizon": 8, "steps": 12}
QUICK = {
    "n8_N8": Case(8, 8, 12),
    "n8_N8_unreachable": Case(8, 8, 12, unreachable=True, engines=(BASE, "condensed", "rti")),
}


def network(n: int, rng: np.random.Generator) -> LureSystem:
    """The model described in the module docstring."""
    A, zero = rng.standard_normal((n, n)), np.zeros
    return LureSystem(
        A=zero((n, n)), B1=np.eye(n), B2=zero((n, 2)), bx=zero(n),
        C1=0.93 * A / np.linalg.norm(A, 2), D11=zero((n, n)), D12=0.3 * rng.standard_normal((n, 2)),
        bv=0.1 * rng.standard_normal(n),
        C2=rng.standard_normal((2, n)) / np.sqrt(n), D21=zero((2, n)), D22=zero((2, 2)), by=zero(2),
        layers=(n,), dt=1.0,
    )  # fmt: skip


@dataclass
class Loop:
    """A plant and a controller that are run sample by sample."""

    plant: LureSystem
    controller: TightenedMPC
    timed: Timed
    limit: Array
    x: Array = field(init=False)
    u: Array = field(init=False)
    inputs: list[Array] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    iterations: list[int] = field(default_factory=list)
    failed: int = 0
    cost: float = 0.0

    def __post_init__(self) -> None:
        self.x = np.zeros(self.plant.nx)
        self.u = np.zeros(2)

    def step(self, reference: Array, state_noise: Array, output_noise: Array) -> None:
        """Run one sample; the cost is that of the true outputs."""
        started = time.perf_counter()
        step = self.controller.step(self.plant.output(self.x, self.u) + output_noise, reference)
        self.times.append(time.perf_counter() - started)
        y = self.plant.output(self.x, step.u)
        excess = np.maximum(np.abs(y) - self.limit, 0.0)
        self.cost += 10 * ((y - reference) ** 2).sum() + 0.5 * ((step.u - self.u) ** 2).sum() + PENALTY * excess.sum()
        self.failed += step.status is not Status.SOLVED
        self.x = self.plant.step(self.x, step.u) + state_noise
        self.u = step.u
        self.inputs.append(step.u)
        self.iterations.append(step.iterations)


def setting(case: Case, seed: int) -> tuple[Predictor, LureSystem, Array]:
    """Model with limits, plant, and the three references (3, 2)."""
    rng = np.random.default_rng([seed, case.n])
    model = network(case.n, rng)
    plant = replace(
        model,
        C1=model.C1 * (1 + 0.03 * rng.standard_normal(model.C1.shape)),
        D12=model.D12 * (1 + 0.03 * rng.standard_normal(model.D12.shape)),
    )
    inputs = tuple(Signal(f"u{i + 1}", lower=-1.0, upper=1.0) for i in range(2))
    free = Predictor(model, inputs)
    references = np.array([free.steady_output(np.array(u)) for u in ((0.3, -0.2), (0.6, 0.5), (-0.4, 0.3))])
    limits = np.maximum(np.abs(references).max(axis=0), 0.2)
    outputs = tuple(Signal(f"y{i + 1}", lower=-b, upper=b) for i, b in enumerate(limits))
    if case.unreachable:
        references[1] = 3.0 * limits * np.where(references[1] < 0, -1.0, 1.0)
    return Predictor(model, inputs, outputs), plant, references


def loop_of(engine: str, case: Case, predictor: Predictor, plant: LureSystem) -> Loop:
    """Build a loop with one of the engines, after one sample that is not recorded."""
    if engine in COMPILED:
        compiled: Loop = compiled_loop(loop_of(COMPILED[engine], case, predictor, plant))
        return compiled
    bounds = np.concatenate([[0.0], np.linspace(0.01, 0.08, case.horizon)])[:, None] * np.ones(2)
    tightening = replace(no_tightening(predictor.system.digest, case.horizon, 2), model_error=bounds)
    gain = kalman_gain(predictor, output_noise_std=NOISE, state_noise_std=NOISE)
    timed: list[Timed] = []

    def backend(problem: OptimalControlProblem, options: SolverOptions) -> Timed:
        timed.append(Timed(ENGINES[engine](problem, options)))
        return timed[0]

    controller = TightenedMPC(
        predictor,
        StateObserver(predictor, gain, 1),
        tightening,
        Tracking(output_weight=10.0, input_move_weight=0.5),
        limits=Limits(penalty=PENALTY),
        solver=Solver(backend=backend),
    )
    limit = np.array([signal.upper for signal in predictor.outputs])
    for _ in range(2):  # compiled code and libraries are loaded by then
        controller.record(np.zeros(2), np.zeros(2))
        controller.step(np.zeros(2), np.zeros(2))
    controller.reset()
    controller.record(plant.output(np.zeros(plant.nx), np.zeros(2)), np.zeros(2))
    return Loop(plant, controller, timed[0], limit)


def run(case: Case, seed: int, title: str) -> dict[str, Row]:
    """Run all engines of a case in turns."""
    predictor, plant, references = setting(case, seed)
    loops, built = {}, {}
    for engine in case.engines:
        began = time.perf_counter()
        loops[engine] = loop_of(engine, case, predictor, plant)
        built[engine] = time.perf_counter() - began
    rng = np.random.default_rng([seed, 1])
    state_noise = 0.3 * NOISE * rng.standard_normal((case.steps, case.n))
    output_noise = NOISE * rng.standard_normal((case.steps, 2))
    for t in tqdm(range(case.steps), desc=title, leave=False):
        reference = references[3 * t // case.steps]
        for loop in loops.values():
            loop.step(reference, state_noise[t], output_noise[t])
    base = np.array(loops[BASE].inputs)
    for loop in loops.values():
        if isinstance(loop.timed.inner, Peer):
            loop.timed.inner.close()
    return {engine: row(case, engine, loop, base) | {"setup_s": built[engine]} for engine, loop in loops.items()}


def row(case: Case, engine: str, loop: Loop, base: Array) -> Row:
    """Summarise a loop as a row; times in ms."""
    wall, cpu, steps = (1e3 * np.array(t) for t in (loop.timed.wall, loop.timed.cpu, loop.times))
    peer = loop.timed.inner if isinstance(loop.timed.inner, Peer) else None
    if peer:  # seen from here these two would hold the way to the other process
        cpu, steps = np.full((2, len(wall)), np.nan)
    return {
        "engine": engine, "n": case.n, "N": case.horizon, "unreachable": case.unreachable, "steps": case.steps,
        "solve_p05": np.percentile(wall, 5), "solve_median": np.median(wall), "solve_p95": np.percentile(wall, 95),
        "solve_max": wall.max(),
        "cpu_median": np.median(cpu), "step_median": np.median(steps), "step_p95": np.percentile(steps, 95),
        "iterations_median": np.median(loop.iterations), "iterations_max": max(loop.iterations),
        "inner_median": 1e3 * np.median(peer.inner) if peer else None,
        "deviation": np.abs(np.array(loop.inputs) - base).max(), "cost": loop.cost, "failed": loop.failed,
    }  # fmt: skip


def targets(study: Study, rows: dict[str, dict[str, Row]]) -> None:
    """Compare the rows with the study's targets."""
    for name, case in rows.items():
        base, ours, once = case[BASE], case["condensed"], case["rti"]
        least = 80 if ours["n"] == 64 else 10
        speed = study.row(f"{name}/speed", partial(speeds, case), needs=case)["step_cold"]
        study.target(f"{name}_step_faster_than_do_mpc", f">= {least} x", speed, speed >= least)
        study.target(f"{name}_deviation", "<= 1e-3", ours["deviation"], ours["deviation"] <= 1e-3)
        gap = abs(ours["cost"] / base["cost"] - 1.0)
        study.target(f"{name}_cost", "within 0.1 % of ipopt", gap, gap <= 1e-3)
        if ours["n"] == 16 and ours["N"] == 20:
            if "acados_rti" in case:
                peer = case["acados_rti"]["solve_median"]
                study.target(
                    f"{name}_rti_against_acados",
                    f"<= {peer:.3f} ms",
                    once["solve_median"],
                    once["solve_median"] <= peer,
                )
            study.target(f"{name}_rti_ms", "<= 0.35", once["solve_median"], once["solve_median"] <= 0.35)


def speeds(case: dict[str, Row]) -> Row:
    """Ratios of medians, do-mpc over ours: the same thing on both sides."""
    ours, cold, warm = case["condensed"], case[BASE], case.get("do_mpc_warm")
    return {
        "step_cold": cold["step_median"] / ours["step_median"],
        "step_warm": warm["step_median"] / ours["step_median"] if warm else None,
        "solver_cold": cold["solve_median"] / ours["solve_median"],
        "solver_warm": warm["solve_median"] / ours["solve_median"] if warm else None,
    }


def busy(study: Study, case: dict[str, int], rounds: int) -> None:
    """Rows and target of our solver beside busy processes."""
    compute = functools.cache(functools.partial(_bench_mpc_busy.rows, case, rounds, study.seed))
    found = {key: study.row(f"busy/{key}", lambda k=key: compute()[k]) for key in _bench_mpc_busy.KEYS}  # type: ignore[misc]
    for engine in _bench_mpc_busy.ENGINES:
        medians = [found[f"{engine}_{setting}"]["solve_median"] for setting in _bench_mpc_busy.SETTINGS]
        ratio = medians[0] / medians[1]
        study.target(f"busy_{engine}_without_thread_variables", "<= 1.5 x one thread", ratio, ratio <= 1.5)


def watching(study: Study, case: Case) -> None:
    """Rows and targets of what watching costs."""

    @functools.cache
    def found() -> dict[str, Row]:
        predictor, plant, references = setting(case, study.seed)
        wanted = np.array([references[3 * t // case.steps] for t in range(case.steps)])
        return _bench_mpc_watch.rows(loop_of("condensed", case, predictor, plant), wanted, case.steps)

    for language in ("python", "c") if compiler() else ("python",):
        row = study.row(f"watching/{language}", lambda k=language: found()[k])  # type: ignore[misc]
        share = row["share_percent"]
        study.target(f"watching_percent_of_a_step_{language}", "<= 10", share, share <= 10)


def figure(rows: Sequence[Row]) -> Figure:
    """Plot median solve times with their 95 % quantiles."""
    from matplotlib.figure import Figure

    names = list(dict.fromkeys(r["case"].partition("/")[0] for r in rows))
    engines = list(dict.fromkeys(r["engine"] for r in rows))
    drawing = Figure(figsize=(9, 4.5), layout="constrained")
    panel = drawing.subplots()
    width = 0.9 / len(engines)
    for i, engine in enumerate(engines):
        found = [(names.index(r["case"].partition("/")[0]), r) for r in rows if r["engine"] == engine]
        places = [k + width * (i - (len(engines) - 1) / 2) for k, _ in found]
        medians = np.array([r["solve_median"] for _, r in found])
        upper = np.array([r["solve_p95"] for _, r in found]) - medians
        panel.bar(
            places, medians, 0.9 * width, yerr=[np.zeros(len(found)), upper], label=engine.replace("_", " "), capsize=2
        )
    panel.set_yscale("log")
    panel.set_xticks(range(len(names)), [name.replace("_", " ") for name in names])
    panel.set_ylabel("solve time [ms], median and 95 %")
    drawing.legend(fontsize="small", loc="outside right upper")
    return drawing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("bench_mpc", __doc__, arguments)
    rows: dict[str, dict[str, Row]] = {}
    for name, case in (QUICK if study.quick else CASES).items():
        if os.environ.get(ACADOS):
            case = replace(case, engines=(*case.engines, "acados", "acados_rti"))
        if compiler():
            case = replace(case, engines=(*case.engines, *COMPILED))
        compute = functools.cache(functools.partial(run, case, study.seed, name))
        rows[name] = {
            engine: study.row(f"{name}/{engine}", lambda e=engine, c=compute: c()[e])  # type: ignore[misc]
            for engine in case.engines
        }
    targets(study, rows)
    study.figure("solve_times", figure([r for r in study.rows if "engine" in r]))
    busy(study, *((QUICK_BUSY, 1) if study.quick else (BUSY, 4)))
    watching(study, Case(8, 8, 60) if study.quick else Case(16, 20, 300))
    threads: dict[str, Any] = {k: os.environ.get(k) for k in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    return study.finish(threads=threads | {"load": os.getloadavg()})
