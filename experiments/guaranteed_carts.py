"""Trial of a guarantee: four carts on springs near their position limit, a thousand closed loops a controller.

The plant is that of `experiments.four_carts`: lightly damped (slowest mode 0.973 per sample), with springs that harden
fourfold. Here its experiments are those of a controller: the force wanders between random levels within +-1.5 N at
0.1 N per sample or slower, positions are measured to 0.01 m, and unmeasured forces of 0.001 N wander on every cart (on
the last one, 0.001 N held moves it by 23 mm). The model is a contracting REN with the prescribed rate 0.975.

Declared are the residual that the calibration records show, inflated by a fifth, forces that differ from the commands
by up to 0.005 N, and a washout of 600 samples (a millionth is left) that may start at every sample from any state that
can be reached.

The reference was chosen before any closed loop was run, and kept: the last cart at 0.8, 1.6, 1.9 (near its limit of
2 m), 2.15 (not to be reached) and -1.2 m, 48 samples each. So were weights and sizes of disturbances. The controllers
are those of `experiments.shared.guaranteed`; half of the runs are on the physical plant, half on the declared sets.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal
from controlrnn.export import save_system
from controlrnn.identification import SimulationError, TqdmProgress, identify
from controlrnn.models import ContractingREN
from experiments.shared import guaranteed_report as report
from experiments.shared.declared_sets import wandering
from experiments.shared.guaranteed import Case
from experiments.shared.study import Row, Study
from plants import MassSpringDamperChain, simulate

POSITIONS = (0.8, 1.6, 1.9, 2.15, -1.2)  # [m]
FORCE, RATE = 1.5, 0.975  # [N], per sample
RAMP = 0.1  # [N] per sample, in the experiments
NOISE, UNMEASURED = 0.01, 0.001  # [m], [N]
SETTLE = 150


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("guaranteed_carts", __doc__, arguments)
    case = settings(study.quick)
    with study.stage("experiments on the plant"):
        dataset = experiments(study.seed, study.quick)
    identified(study, dataset)
    return report.run(study, case, dataset)


def settings(quick: bool) -> Case:
    """Settings of the case."""
    plant = MassSpringDamperChain(position_limit=2.0)
    wanted = np.array([plant.equilibrium(plant.equilibrium_input(np.array([q])))[3] for q in POSITIONS])
    case = Case(
        plant=plant,
        inputs=(Signal("force", "N", -FORCE, FORCE),),
        washout=600,
        settle=SETTLE,
        horizon=100,
        moves=25,
        memory=16,
        actuator=0.005,
        noise=NOISE,
        unmeasured=forces,
        output_weight=(1.0,),
        move_weight=2.0,
        reference=np.repeat(wanted, 12 if quick else 48)[:, None],
        held=tuple(plant.equilibrium_input(np.array([POSITIONS[0]]))),
    )
    return replace(case, runs=4, removals=2, iterations=40) if quick else case


def forces(rng: np.random.Generator, steps: int) -> Array:
    """Unmeasured forces on the carts, shape (steps, 4) [N]."""
    return wandering(rng, steps, UNMEASURED, 4)


def experiments(seed: int, quick: bool) -> Dataset:
    """Excite the plant and divide the records by purpose."""
    counts, length = ((8, 4, 4, 12), 500) if quick else ((40, 10, 10, 40), 600)
    plant, rng = MassSpringDamperChain(position_limit=1e3), np.random.default_rng(seed)
    u = np.stack([ramps(rng, length) for _ in range(sum(counts))])
    w = np.stack([forces(rng, length) for _ in range(sum(counts))])
    records: Any = simulate(plant, u, np.zeros(plant.nx), noise_std=NOISE, disturbance=w, seed=seed + 1)
    return Dataset.split(records, counts, seed=seed)


def ramps(rng: np.random.Generator, length: int) -> Array:
    """A force that ramps to random levels and holds them, shape (length, 1) [N]."""
    force, rows = 0.0, np.empty((length, 1))
    levels = np.repeat(rng.uniform(-FORCE, FORCE, length), rng.integers(5, 80, length))[:length]
    for t, level in enumerate(levels):
        force += float(np.clip(level - force, -RAMP, RAMP))
        rows[t] = force
    return rows


def identified(study: Study, dataset: Dataset) -> Row:
    """Train the model and save it in ``model.npz``."""
    adam, refine = (200, 10) if study.quick else (1000, 60)

    def compute() -> Row:
        model = ContractingREN(nu=1, ny=1, nx=8, nv=12, rate=RATE, activation="tanh", seed=study.seed)
        fit = identify(
            model,
            dataset,
            loss=SimulationError(washout=100),
            window=300,
            batch_size=16,
            steps=adam,
            learning_rate=5e-3,
            validate_every=100,
            refine="levenberg_marquardt",
            refine_steps=refine,
            start_horizon=40,
            seed=study.seed,
            callbacks=[TqdmProgress("contracting REN")],
        )
        save_system(fit.system, study.path("model.npz"))
        test = fit.scores["test"]
        return {"model": "contracting REN", "fit_percent": test.fit_percent, "rmse": test.rmse}

    return study.row("model", compute, needs=[adam, refine], files=["model.npz"])


if __name__ == "__main__":
    sys.exit(main())
