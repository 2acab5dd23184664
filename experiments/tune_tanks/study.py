"""Which controllers of the three tanks no other beats in cost, conservatism and solve time at once.

50 trials (`controlrnn.tune`) over the model, the washout, the horizon and the weight on moves of the pumps. Each goes
the whole road: contraction and horizon certificates, calibrated model error, tightening, closed loops near a limit. The
models are trained once. A setting without a certificate, whose tightening leaves no room, or which violates a limit in
a loop is refused.

The cost is the same for all trials, whatever weights they control with: squared errors of the levels, and 20 times
squared moves of the pumps, as the demo has it. The demo's own setting, chosen by hand, is held against the front.

Trials are kept in a database in the study's folder (or at ``--storage``, the URL of any database; several machines may
then run the study side by side). A study that was killed goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from controlrnn.data import Dataset
from controlrnn.errors import InfeasibleError
from controlrnn.export import load_system, save_system
from controlrnn.models import ContractingR2DN, ContractingREN, Model
from controlrnn.records import digest
from controlrnn.systems import LureSystem
from controlrnn.tune import Choice, Real, TradeOff, Whole, tune
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import ClosedLoopResult, monte_carlo, tighten

TRIALS, WORKERS = 50, 2
BY_HAND: dict[str, Any] = {"model": "R2DN", "washout": 140, "horizon": 20, "move_weight": 20.0}


def models(seed: int) -> dict[str, Model]:
    """Models to choose from."""
    sizes: dict[str, Any] = {"nu": 2, "ny": 3, "seed": seed}
    return {
        "R2DN": ContractingR2DN(nx=4, nv=4, layers=(12,), **sizes),
        "small R2DN": ContractingR2DN(nx=3, nv=2, layers=(6,), **sizes),
        "REN": ContractingREN(nx=4, nv=8, **sizes),
    }


def settings(quick: bool) -> Config:
    """Settings of the stages."""
    config = dataclasses.replace(Config.of(quick), runs=4, certificate_iterations=60)
    return (
        dataclasses.replace(config, steps=40, runs=1, control_steps=30, certificate_iterations=5) if quick else config
    )


def space(quick: bool) -> dict[str, Any]:
    """What each setting may be."""
    return {
        "model": Choice(tuple(models(0))), "washout": Whole(20, 60 if quick else 160),
        "horizon": Whole(5, 8 if quick else 40, log=True), "move_weight": Real(0.5, 200.0, log=True),
    }  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--storage", help="URL of a database for the trials (default: a file in the study's folder)")
    parser.add_argument("--trials", type=int, help=f"number of trials (default {TRIALS}, quick 3)")
    own, rest = parser.parse_known_args(sys.argv[1:] if arguments is None else arguments)
    study = Study.from_command_line("tune_tanks", f"{__doc__}\n{parser.format_help()}", rest)
    config = settings(study.quick)
    for name in models(0):
        study.row(name, partial(trained, study, name, config), needs=dataclasses.asdict(config), files=[f"{name}.npz"])
    wanted = own.trials or (3 if study.quick else TRIALS)
    evaluate = partial(worth, study.out.absolute(), config, study.seed)
    workers = 1 if study.quick else WORKERS
    with tqdm(total=wanted, desc="trials", leave=False) as bar:

        def advance(done: int, _all: int) -> None:
            bar.update(done - bar.n)

        systems = [load_system(study.path(f"{model}.npz")).digest for model in models(0)]
        name = f"tune_tanks {digest({}, {'config': dataclasses.asdict(config), 'models': systems})[:16]}"
        found = tune(
            evaluate,
            space(study.quick),
            trials=wanted,
            storage=own.storage or study.path("trials.db"),
            name=name,
            seed=study.seed,
            workers=workers,
            progress=advance,
        )
    for trial in found.front:
        assert trial.found is not None
        study.row(f"trial {trial.number}", partial(dict, trial.setting, **dataclasses.asdict(trial.found)), needs=name)
    study.figure("front", found.plot())
    study.target("trials that ended", f">= {wanted}", len(found.trials), len(found.trials) >= wanted)
    if not study.quick:
        by_hand = study.row("by hand", lambda: BY_HAND | dataclasses.asdict(evaluate(BY_HAND)), needs=name)
        hand = TradeOff(*(by_hand[f.name] for f in dataclasses.fields(TradeOff)))
        better = sum(t.found.beats(hand) for t in found.front if t.found is not None)
        study.target("trials that beat the setting chosen by hand", ">= 1", better, better >= 1)
    return study.finish(refused={t.number: t.refused for t in found.trials if t.refused}, summary=found.summary())


def trained(study: Study, name: str, config: Config) -> Row:
    """Train a model, and keep it."""
    fit = stages.train(models(study.seed)[name], data(config, study.seed), config, None, name, study.seed)
    assert isinstance(fit.system, LureSystem)
    save_system(fit.system, study.path(f"{name}.npz"))
    return {"fit_percent": fit.scores["test"].fit_percent}


@cache
def data(config: Config, seed: int) -> Dataset:
    """Records of the study, made once per process; their length does not depend on what is tuned."""
    return stages.experiments(config, seed)


def worth(folder: Path, config: Config, seed: int, setting: Mapping[str, Any]) -> TradeOff:
    """What a setting is worth; see the module docstring."""
    dataset = data(config, seed)
    config = dataclasses.replace(config, washout=setting["washout"], horizon=setting["horizon"])
    system = load_system(folder / f"{setting['model']}.npz")
    assert isinstance(system, LureSystem)
    observer = stages.make_observer(system, stages.contraction(system, dataset, config), config)
    joint, initial = stages.horizon_certificates(observer, config)
    error = stages.model_error(system, observer, dataset, config)
    room = tighten(error, joint, observer=observer, initial_only=initial)
    outputs = observer.predictor.outputs
    room.limits(outputs)
    ranges = np.array([s.upper - s.lower for s in outputs])
    setup = stages.setup(observer, room, config, move_weight=setting["move_weight"])
    runs = monte_carlo(lambda: setup, stages.loop_seeds(seed, config)).results
    if any(run.violations for run in runs):
        raise InfeasibleError(f"{sum(r.violations > 0 for r in runs)} of {len(runs)} loops violated a limit")
    return TradeOff(
        cost=float(np.mean([_cost(run) for run in runs])),
        conservatism=float((room.total[-1] / ranges).max()),
        solve_time=float(np.median(np.concatenate([run.solve_time for run in runs]))),
    )


def _cost(run: ClosedLoopResult) -> float:
    """Cost that does not depend on the controller's weights, a sample."""
    moves = np.diff(run.u, axis=0, prepend=run.u_before[None])
    errors = (run.y[1:] - run.reference[1:]) ** 2 @ np.array([1.0, 0.2, 0.2])
    return float(np.mean(errors + 20.0 * (moves**2).sum(axis=1)))
