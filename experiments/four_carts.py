"""Four carts, the simulated example of the robust-RNN papers, identified by contracting and free models.

Protocol of Revay, Wang, Manchester, "A convex parameterization of robust recurrent neural networks", L-CSS 2021: force
held for 0 to 99 samples of 0.5 s at levels uniform in [-s/2, s/2], position of the last cart with noise of 0.05 m;
train on 100 records of 1000 samples at s = 3 from random states, validate on 5000 samples, test on 5000 samples each
at s = 1, 2, 3, 4 from rest; models of 10 states. Here the force is held between samples, there it is interpolated.

Score: NSE = |y - yhat| / |y - mean y| of the free run over the whole test record at s = 3, from the zero state. The
paper's best robust model has 0.061, its LSTM 0.053; the noise alone makes 0.028.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.identification import (
    FitResult,
    FitStatus,
    SimulationError,
    TqdmProgress,
    free_run,
    identify,
    identify_subspace,
    nrmse,
)
from controlrnn.models import ContractingR2DN, ContractingREN, Model, ResidualRNN
from controlrnn.systems import LureSystem
from experiments._identification import certified_rate, comparison, proven_rate
from experiments._study import Row, Study
from plants import MassSpringDamperChain, simulate

NOISE = 0.05  # [m]
SIGMAS = (1, 2, 3, 4)
TARGET = 0.05
NX = 10
WASHOUT = 150  # samples until the random start of a record is forgotten
BUILD: dict[str, Callable[[int], Model]] = {
    "contracting_ren": lambda s: ContractingREN(nu=1, ny=1, nx=NX, nv=20, activation="relu", seed=s),
    "contracting_r2dn": lambda s: ContractingR2DN(nu=1, ny=1, nx=NX, nv=8, layers=(20,), activation="relu", seed=s),
    "residual": lambda s: ResidualRNN(nu=1, ny=1, nx=NX, nv=20, activation="relu", seed=s),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("four_carts", __doc__, arguments)
    with study.stage("simulating the experiments"):
        data = experiments(study)
    linear = identify_subspace(data.train, NX, strictly_proper=True).system
    study.row(
        "subspace",
        lambda: {"model": "subspace", "nv": 0, "certified_rate": certified_rate(linear)} | errors_of(linear, data),
    )
    runs = {"subspace": run_of(linear, data.test[2])}
    for name in BUILD:
        for seed in range(study.seed, study.seed + (1 if study.quick else 3)):
            runs[name] = run_of(trained(study, data, name, seed), data.test[2])
        values = [row["nse_3"] for row in study.rows if row["model"] == name]
        study.say(f"{name}: median NSE {np.median(values):.4f} ({min(values):.4f} to {max(values):.4f})")
    nse = {name: float(np.median([r["nse_3"] for r in study.rows if r["model"] == name])) for name in BUILD}
    best = min((name for name in BUILD if name != "residual"), key=lambda name: nse[name])
    proven = all(row["certified_rate"] for row in study.rows if row["model"] == best)
    study.target("contracting_nse", f"<= {TARGET}", nse[best], nse[best] <= TARGET and proven)
    study.figure("test_record", comparison(data.test[2], runs, skip=0, most=600))
    floor = NOISE / float(data.test[2].y.std())
    return study.finish(noise_floor=floor)


def experiments(study: Study) -> Dataset:
    """The records of the protocol, kept in the study's folder."""
    plant = MassSpringDamperChain(position_limit=1e3)
    rng = np.random.default_rng(study.seed)
    records, length = (20, 600) if study.quick else (100, 1000)
    path = study.path(f"experiments_{study.seed}_{records}_{length}.npz")
    u: Any = np.stack([held_levels(length, 3.0, rng) for _ in range(records)])
    x0 = rng.uniform(-5, 5, (records, plant.nx))
    long: Any = np.stack([held_levels(5 * length, s, rng) for s in (3, *SIGMAS)])
    if not path.exists():
        train = simulate(plant, u, x0, noise_std=NOISE, seed=study.seed + 1)
        rest = simulate(plant, long, np.zeros(plant.nx), noise_std=NOISE, seed=study.seed + 2)
        np.savez(path, train=np.stack([r.y for r in train]), rest=np.stack([r.y for r in rest]))
    with np.load(path) as stored:
        outputs = [*stored["train"], *stored["rest"]]
    names = [*(f"train {i}" for i in range(records)), "validation", *(f"test at s = {s}" for s in SIGMAS)]
    every = [
        Trajectory(force, y, plant.dt, inputs=plant.inputs, outputs=plant.outputs, name=name)
        for force, y, name in zip([*u, *long], outputs, names, strict=True)
    ]
    return Dataset(tuple(every[:records]), (every[records],), tuple(every[records + 1 :]))


def held_levels(length: int, sigma: float, rng: np.random.Generator) -> Array:
    """Levels of the protocol, shape (T, 1); a hold of 0 samples is a level that never appears."""
    holds = rng.integers(0, 100, length)
    holds = holds[: int(np.searchsorted(np.cumsum(holds), length)) + 1]
    levels = sigma * (rng.random(len(holds)) - 0.5)
    return np.repeat(levels, holds)[:length, None]


def trained(study: Study, data: Dataset, name: str, seed: int) -> LureSystem:
    """One model from one seed."""
    case = f"{name}_{seed}"
    path: Path = study.path(f"{case}.npz")
    adam, lbfgs = (100, 20) if study.quick else (600, 60)

    def train() -> Row:
        fit = identify(
            BUILD[name](seed), data, loss=SimulationError(washout=WASHOUT), window=400, batch_size=16, steps=adam,
            learning_rate=5e-3, validate_every=100, refine="lbfgs", refine_steps=lbfgs, seed=seed,
            checkpoint=study.path(f"{case}.checkpoint.npz"), callbacks=[TqdmProgress(case)],
        )  # fmt: skip
        if fit.status is FitStatus.INTERRUPTED:
            raise KeyboardInterrupt
        fit.save(path)
        study.path(f"{case}.checkpoint.npz").unlink(missing_ok=True)
        row = {"model": name, "nv": fit.system.nv, "certified_rate": proven_rate(fit)}
        return row | errors_of(fit.system, data)

    study.row(case, train, files=[path.name])
    return FitResult.load(path).system


def errors_of(system: LureSystem, data: Dataset) -> Row:
    """NSE on the validation and test records."""
    records = (data.validation[0], *data.test)
    names = ("nse_validation", *(f"nse_{s}" for s in SIGMAS))
    return {n: float(nrmse(r.y, run_of(system, r))[0]) for n, r in zip(names, records, strict=True)}


def run_of(system: LureSystem, record: Trajectory) -> Array:
    """Free run from the zero state."""
    return free_run(system, [record])[0][0]


if __name__ == "__main__":
    sys.exit(main())
