"""Comparison of predictors for MPC, trained on the same records of the three tanks with the same budget.

Each candidate goes the whole road with three seeds: fit on the test records (free run, and ahead of a state estimated
from measurements), contraction and horizon certificates, calibrated model error, tightening, and closed loops near a
limit, tightened and nominal. Noise-robust training follows Amini, Liu, Motee (IEEE CDC 2021): `NoiseCovariance` on the
basic RNN, `NoiseUpperBound` on the one with a norm below one, without which that bound grows with the window.

A model whose contraction cannot be proven, or whose certified part leaves nothing of an output's range, has no
certified tightening. Its closed loops are then tightened by the calibrated model error alone and it cannot win. Every
model also gets what an engineer builds in an hour, and which promises nothing: the nominal controller a constant away
from its limits, the least at which trial loops keep them.
Classes that can start at a linear model of the records do so, as `identify` has it, the others at random parameters:
the column `start` says which, and part of a difference in fit is due to it. Training, certification and loops are
measured in CPU seconds, since wall time on a busy machine compares nothing.
"""

from __future__ import annotations

import dataclasses
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure

from controlrnn.certification import certify_horizon
from controlrnn.checks import Array
from controlrnn.data import Dataset
from controlrnn.errors import CertificationError, InfeasibleError
from controlrnn.identification import (
    Batch,
    FitResult,
    Loss,
    NoiseCovariance,
    NoiseUpperBound,
    Simulation,
    Term,
    score_predictions,
)
from controlrnn.models import LTI, ContractingR2DN, ContractingREN, Elman, Model, RobustRNN, StableRNN
from controlrnn.systems import LureSystem
from experiments.shared.back_off import backed_off, trial_seeds
from experiments.shared.identification import start_of
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import ClosedLoopSetup, ModelError, Tightening, Washout, monte_carlo, tighten

PROCESSORS = 2  # among which the time of the target is divided
PAST = 40  # samples that the state is estimated from for the fit ahead
NOISE = 0.2  # standard deviation of the noise that robust training prepares for, in standard deviations of the inputs
WEIGHTS = {"covariance": 1 / 3, "bound": 1e-2}  # a third: the simulation error is a mean over three outputs
AHEAD = 60  # samples that the noise bound looks ahead: its recursion is what training spends its time on
LIMIT = 1e6  # [cm]; a bound above that is printed as none

Make = Callable[[int], tuple[Model, Loss | None]]
_SIZES: dict[str, Any] = {"nu": 2, "ny": 3}


@dataclasses.dataclass(frozen=True)
class FirstSamples(Term):
    """Loss term without simulation, on the first samples of each window.

    Args:
        term: The term.
        samples: Number of first samples.
    """

    term: NoiseUpperBound
    samples: int
    washout = 0

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> torch.Tensor:
        """Value of the term on the first samples."""
        first = dataclasses.replace(batch, u=batch.u[:, : self.samples], y=batch.y[:, : self.samples])
        return self.term(system, first, simulation)


def candidates(config: Config) -> dict[str, Make]:
    """Builders of each model and its loss terms beside the simulation error; all but LTI have tanh neurons."""
    covariance = WEIGHTS["covariance"] * NoiseCovariance(input_std=NOISE, washout=config.washout, windows=1)
    bound = WEIGHTS["bound"] * FirstSamples(NoiseUpperBound(input_std=NOISE), AHEAD)
    return {
        "LTI": lambda seed: (LTI(nx=4, seed=seed, **_SIZES), None),
        "Elman": lambda seed: (Elman(nx=12, seed=seed, **_SIZES), None),
        "Elman, noise covariance": lambda seed: (Elman(nx=12, seed=seed, **_SIZES), covariance),
        "stable RNN": lambda seed: (StableRNN(nx=12, seed=seed, **_SIZES), None),
        "stable RNN, noise bound": lambda seed: (StableRNN(nx=12, seed=seed, **_SIZES), bound),
        "Robust RNN": lambda seed: (RobustRNN(nx=4, nv=16, activation="tanh", seed=seed, **_SIZES), None),
        "contracting REN": lambda seed: (ContractingREN(nx=4, nv=16, seed=seed, **_SIZES), None),
        "contracting R2DN": lambda seed: (ContractingR2DN(nx=4, nv=4, layers=(12,), seed=seed, **_SIZES), None),
    }


def settings(quick: bool) -> tuple[Config, int]:
    """Settings of the stages, and the number of seeds."""
    config = dataclasses.replace(Config.of(quick), steps=600, runs=10, certificate_iterations=60)
    return (dataclasses.replace(config, steps=60, runs=2, certificate_iterations=20), 1) if quick else (config, 3)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("predictor_choice", __doc__, arguments)
    config, n = settings(study.quick)
    names = list(candidates(config))
    cases = {f"{name} #{k}": (name, k, study.seed, config) for name in names for k in range(n)}
    study.each(case, cases, needs=dataclasses.asdict(config))
    rows = {name: [r for r in study.rows if r["case"].rpartition(" #")[0] == name] for name in names}
    means = {name: study.row(name, partial(mean, group), needs=group) for name, group in rows.items()}
    study.figure("predictors", figure(means))
    verdict = summary(means)
    certified = [m for m in means.values() if m["certified"] == 1]
    study.target("models certified with every seed", ">= 1", len(certified), len(certified) >= 1)
    broken = sum(m["runs_with_violation"] for m in certified)
    study.target("violating runs of models certified with every seed", 0, broken, broken == 0)
    failed = sum(m["failed_solves"] for m in means.values())
    study.target("failed solves", 0, failed, failed == 0)
    seconds = sum(row["all_cpu_s"] for group in rows.values() for row in group)  # stored with the rows of earlier runs
    limit = 900 * PROCESSORS
    study.target("processor minutes", f"<= {limit // 60}", seconds / 60, seconds <= limit)
    status = study.finish(verdict=verdict, config=dataclasses.asdict(config), workers=study.workers)
    study.say(verdict)
    return status


@cache
def data(config: Config, seed: int) -> Dataset:
    """Records of the study, the same for every candidate; made once per process."""
    return stages.experiments(config, seed)


def case(name: str, k: int, seed: int, config: Config) -> Row:
    """Compute one candidate with one seed: train, certify, calibrate, tighten, control."""
    dataset = data(config, seed)
    model, extra = candidates(config)[name](seed + k)
    clock = [time.process_time()]
    fit = stages.train(model, dataset, config, None, f"{name} #{k}", seed + k, extra=extra)
    clock.append(time.process_time())
    system = fit.system
    assert isinstance(system, LureSystem)
    proof = certify(system, dataset, config)
    clock.append(time.process_time())
    error = stages.model_error(system, proof.observer, dataset, config)
    tightening, certified = proof.tightened(error)
    row: Row = {"parameters": model.n_parameters, "start": start_of(model)} | _fits(fit, dataset, config)
    N, first = config.horizon, config.washout
    bounds = None if proof.bounds is None else np.where(proof.bounds < LIMIT, proof.bounds, np.nan)
    row |= {
        "rate": proof.rate, "certified": float(certified),
        "bound_first": None if bounds is None else bounds[first], "bound_last": None if bounds is None else bounds[-1],
        "model_error_last": error.bounds[N], "tightening_1": tightening.total[1],
        "tightening_half": tightening.total[N // 2], "tightening_last": tightening.total[N],
    }  # fmt: skip
    row |= loops(proof.observer, tightening, config, seed)
    plain = loops(proof.observer, None, config, seed)
    row |= {"nominal_cost": plain["cost"], "nominal_runs_with_violation": plain["runs_with_violation"]}
    row |= baseline(proof.observer, config, seed)
    clock.append(time.process_time())
    spent = {"training_cpu_s": clock[1] - clock[0], "certification_cpu_s": clock[2] - clock[1]}
    return row | spent | {"all_cpu_s": clock[3] - clock[0]}


@dataclasses.dataclass(frozen=True, eq=False)
class Proof:
    """Proven properties of a candidate.

    Args:
        observer: Washout of the candidate, with a contraction certificate where there is one.
        rate: Contraction rate per sample, or None.
        bounds: Certified effect of re-initialisation and input errors from the start of the washout on, shape
            (washout + horizon + 1, ny), or None.
        certificates: With and without input errors, if there are any that the washout can use.
    """

    observer: Washout
    rate: float | None
    bounds: Array | None
    certificates: tuple[Any, Any] | None

    def tightened(self, error: ModelError) -> tuple[Tightening, bool]:
        """Tightening of the candidate, and whether it is certified as well as calibrated."""
        if self.certificates is not None:
            joint, initial = self.certificates
            tightening = tighten(error, joint, observer=self.observer, initial_only=initial)
            try:
                tightening.limits(self.observer.predictor.outputs)
            except InfeasibleError:
                pass  # proven, but of no use: see the module docstring
            else:
                return tightening, True
        return tighten(error, None, observer=self.observer), False


def certify(system: LureSystem, dataset: Dataset, config: Config) -> Proof:
    """Certify contraction and horizon bounds; without contraction, bounds from tanh's box of states."""
    try:
        contraction = stages.contraction(system, dataset, config)
    except CertificationError:
        observer, total = stages.make_observer(system, None, config), config.washout + config.horizon
        reach = float(np.linalg.norm(1 + np.abs(observer.initial_state)))
        try:
            loose = certify_horizon(
                system,
                total,
                initial_radius=reach,
                input_radius=config.actuator,
                focus=[config.washout, total],
                iterations=config.certificate_iterations,
            )
        except CertificationError:
            return Proof(observer, None, None, None)
        return Proof(observer, None, loose.bounds, None)
    observer = stages.make_observer(system, contraction, config)
    try:
        both = stages.horizon_certificates(observer, config)
    except CertificationError:
        return Proof(observer, contraction.rate, None, None)
    return Proof(observer, contraction.rate, both[0].bounds, both)


def _fits(fit: FitResult, dataset: Dataset, config: Config) -> Row:
    """Fit [%] on the test records, mean over outputs: of the free run, and 1, N/2 and N steps ahead."""
    assert isinstance(fit.system, LureSystem)
    ahead = score_predictions(fit.system, dataset.test, config.horizon, past=PAST, stride=10)
    fits = 100 * (1 - ahead.nrmse.mean(axis=1))
    N = config.horizon
    return {
        "fit_free": float(np.mean(fit.scores["test"].fit_percent)), "fit_1": fits[0], "fit_half": fits[N // 2 - 1],
        "fit_last": fits[N - 1],
    }  # fmt: skip


def loops(observer: Washout, tightening: Tightening | None, config: Config, seed: int) -> Row:
    """Run closed loops with our own solver; every candidate sees the same noise and disturbances."""
    setup = stages.setup(observer, tightening, config)
    seeds = [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(config.runs)]
    began = time.process_time()
    found = monte_carlo(lambda: setup, seeds).summary()
    spent = time.process_time() - began
    kept: Row = {k: found[k] for k in ("runs", "runs_with_violation", "max_violation", "cost", "failed_solves")}
    return kept | {
        "step_ms": 1e3 * found["solve_time_median"], "step_p95_ms": 1e3 * found["solve_time_p95"],
        "loop_cpu_ms": 1e3 * spent / found["steps"],
    }  # fmt: skip


def baseline(observer: Washout, config: Config, seed: int) -> Row:
    """The nominal controller a constant away from its limits, chosen on trial loops; empty where none is enough."""

    def build(room: Tightening) -> ClosedLoopSetup:
        return stages.setup(observer, room, config)

    names = ("back_off", "backed_off_cost", "backed_off_runs_with_violation")
    seeds = trial_seeds(seed, config.runs)
    try:
        room, _ = backed_off(build, observer.system, config.horizon, config.back_off_step, seeds)
    except (RuntimeError, InfeasibleError):
        return dict.fromkeys(names)
    found = loops(observer, room, config, seed)
    return dict(zip(names, (float(room.total[0, 0]), found["cost"], found["runs_with_violation"]), strict=True))


def mean(rows: Sequence[Row]) -> Row:
    """Average rows over seeds; runs, violations and failures are summed, of largest violations the maximum is kept."""
    result: Row = {"seeds": len(rows)}
    for key in rows[0]:
        values = [r[key] for r in rows]
        if key in ("case", "seconds"):
            continue
        if key == "start":
            result[key] = values[0]
            continue
        if any(v is None for v in values):
            result[key] = None
        elif key.endswith("runs_with_violation") or key in ("runs", "failed_solves"):
            result[key] = sum(values)
        elif key == "max_violation":
            result[key] = max(values)
        else:
            lists = np.array(values, dtype=np.float64)  # None within a list becomes NaN
            result[key] = lists.mean(axis=0) if lists.ndim > 1 else float(lists.mean())
    costs = [r["cost"] for r in rows]
    return result | {"cost_lowest": min(costs), "cost_highest": max(costs)}


def summary(means: Mapping[str, Row]) -> str:
    """Name the best model: the lowest cost among those that are certified and never violated a limit."""
    safe = {n: m for n, m in means.items() if m["certified"] == 1 and m["runs_with_violation"] == 0}
    fitting = max(means, key=lambda n: means[n]["fit_free"])
    if not safe:
        return f"No model was certified with every seed and kept all limits; {fitting} fits best."
    best = min(safe, key=lambda n: safe[n]["cost"])
    won, others = safe[best], sorted((n for n in safe if n != best), key=lambda n: safe[n]["cost"])
    text = (
        f"{best} wins: of the {len(safe)} models (of {len(means)}) whose tightening is certified with every seed and "
        f"that kept all limits in every run, its closed loop is the cheapest (cost {won['cost']:.4g}"
    )
    text += f"; next {others[0]}, {safe[others[0]]['cost']:.4g})" if others else ")"
    level = [n for n in others if safe[n]["cost_lowest"] <= won["cost_highest"]]
    if level:
        spread = f"{won['cost_lowest']:.4g} to {won['cost_highest']:.4g}"
        text += f", though seeds alone spread it from {spread}, which reaches {', '.join(level)} as well"
    text += (
        f". It gives up {won['tightening_last'][0]:.3g} cm of output 1 at the end of the horizon, of which "
        f"{won['model_error_last'][0]:.3g} cm are model error and {won['bound_last'][0]:.3g} cm certified "
        f"re-initialisation and input errors; its free run fits {won['fit_free']:.1f} %"
    )
    text += ", the best." if fitting == best else f" (best: {fitting}, {means[fitting]['fit_free']:.1f} %)."
    out = [n for n in means if n not in safe]
    return text + (f" Not eligible: {'; '.join(f'{n} ({_reason(means[n])})' for n in out)}." if out else "")


def _reason(m: Row) -> str:
    if m["rate"] is None:
        return "contraction not proven with every seed"
    if m["certified"] < 1:
        return "certified bound leaves nothing of a range"
    return f"{m['runs_with_violation']} of {m['runs']} runs violated a limit"


def figure(means: Mapping[str, Row]) -> Figure:
    """Plot fit, tightening of output 1 and cost, one bar a model."""
    names = list(means)
    place = np.arange(len(names))
    drawn = Figure(figsize=(11, 0.45 * len(names) + 1.6), layout="constrained")
    fit, taken, cost = drawn.subplots(1, 3, sharey=True)
    for n, (key, label) in enumerate((("fit_free", "free run"), ("fit_last", "end of the horizon"))):
        fit.barh(place + 0.2 - 0.4 * n, [means[m][key] for m in names], height=0.38, label=label)
    fit.set(yticks=place, yticklabels=names, xlabel="fit on test records [%]")
    fit.set_xlim(max(0.0, min(means[m]["fit_free"] for m in names) - 10), 100)
    own = np.array([means[m]["model_error_last"][0] for m in names])
    total = np.array([means[m]["tightening_last"][0] for m in names])
    taken.barh(place, own, color="C0", label="model error (calibrated)")
    taken.barh(place, total - own, left=own, color="C1", label="re-initialisation, inputs (certified)")
    for n, m in enumerate(names):
        if means[m]["certified"] < 1:
            taken.annotate(" not certified", (own[n], n), va="center", fontsize="small", color="C3")
    taken.set_xlabel("tightening of output 1, last step [cm]")
    bars = (
        ("", "tightened", "C2", 0.27),
        ("backed_off_", "backed off", "C6", 0.0),
        ("nominal_", "nominal", "0.7", -0.27),
    )
    for key, label, colour, shift in bars:
        values = [np.nan if means[m][f"{key}cost"] is None else means[m][f"{key}cost"] for m in names]
        cost.barh(place + shift, values, height=0.25, color=colour, label=label)
        for n, (m, value) in enumerate(zip(names, values, strict=True)):
            if np.isfinite(value):
                text = f" {means[m][f'{key}runs_with_violation']}/{means[m]['runs']} violate"
                cost.annotate(text, (value, n + shift), va="center", fontsize="x-small")
    cost.set_xlabel("closed-loop cost")
    cost.margins(x=0.3)
    for panel in (fit, taken, cost):
        panel.legend(fontsize="x-small", loc="lower right")
    fit.invert_yaxis()
    return drawn


if __name__ == "__main__":
    sys.exit(main())
