"""Trial of a guarantee: three tanks near the limit of a level, a thousand closed loops a controller.

Plant, model and experiments are those of `experiments.three_tank`, with levels measured to 0.05 cm (a level sensor's
readings averaged over the sample time of 30 s). Declared are the residual that the calibration records show, inflated
by a fifth, flows that differ from the commands by up to 0.02 L/min (0.5 % of the pumps' range), and a washout of 330
samples (a millionth is left) that may start at every sample from any state that can be reached.

The reference was chosen before any closed loop was run, and kept: tank 1 at 45, 55, 59 (near its limit of 60), 62 (not
to be reached) and 50 cm, 40 samples each, as steady states of the plant with the second pump at 1.6 L/min. So were the
weights (the demo's) and all sizes of disturbances (the demo's). The four controllers are those of
`experiments.shared.guaranteed`; half of the runs are on the physical plant, half on the declared sets.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal
from controlrnn.greybox import Equations, Method
from experiments.shared import guaranteed_report as report
from experiments.shared.declared_sets import wandering
from experiments.shared.floor import Physics
from experiments.shared.guaranteed import Case
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from plants import MultiTank
from plants.tanks import torricelli

LEVELS = (45.0, 55.0, 59.0, 62.0, 50.0)  # [cm]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("guaranteed_tanks", __doc__, arguments)
    config, case = settings(study.quick)
    with study.stage("experiments on the plant"):
        dataset = stages.experiments(config, study.seed)
    identified(study, config, dataset)
    return report.run(study, case, dataset)


def settings(quick: bool) -> tuple[Config, Case]:
    """The demo's settings, and those of the case."""
    config = replace(Config.of(quick), noise=0.05, steps=150 if quick else 1000)
    plant = MultiTank()
    inputs = tuple(
        Signal(s.name, s.unit, low, high) for s, (low, high) in zip(plant.inputs, config.excitation, strict=True)
    )
    case = Case(
        plant=plant,
        inputs=inputs,
        washout=330,
        settle=config.washout,
        horizon=40,
        moves=12,
        memory=12,
        actuator=config.actuator,
        noise=config.noise,
        unmeasured=functools.partial(inflows, config.inflow),
        output_weight=(1.0, 0.2, 0.2),
        move_weight=20.0,
        reference=reference(config, 12 if quick else 40),
        held=tuple(stages.steady_input(config, LEVELS[0])),
        physics=physics(config.inflow),
    )
    return config, replace(case, runs=4, removals=2, iterations=40) if quick else case


def physics(size: float) -> Physics:
    """The plant's own balance, with inflows of this standard deviation, cut at three, as further inputs."""
    plant, boxes = MultiTank(), ((25.0, 64.0), (15.0, 55.0), (8.0, 45.0))  # [cm]
    (joint, drain), capacity = plant._coefficients, plant.capacities[0]
    bound = (3 * size,) * 3

    def balance(x: Any, u: Any, _p: Any, ops: Any) -> Any:
        h, f = ([ops.columns(row, i, i + 1) for i in range(n)] for row, n in ((x, 3), (u, 5)))
        over = [joint * torricelli(ops.within(h[i] - h[i + 1], 1.3, 21.0), plant.eps, ops) for i in range(2)]
        out = drain * torricelli(h[2], plant.eps, ops)
        net = [f[0] + f[2] - over[0], f[3] + over[0] - over[1], f[1] + f[4] + over[1] - out]
        return ops.join([(1 / capacity) * one for one in net])

    disturbances = [Signal(s.name, s.unit, -2 * b, 2 * b) for s, b in zip(plant.disturbances, bound, strict=True)]
    equations = Equations(
        dynamics=balance,
        output=lambda x, u, p, ops: 1.0 * x,  # noqa: ARG005
        states=[Signal(s.name, s.unit, *ends) for s, ends in zip(plant.states, boxes, strict=True)],
        inputs=[*plant.inputs, *disturbances],
        dt=plant.dt,
        substeps=3,
        method=Method.RK4,
    )
    return Physics(equations=equations, bound=bound, integration=0.002)


def inflows(size: float, rng: np.random.Generator, steps: int) -> Array:
    """Unmeasured inflows, shape (steps, 3) [L/min]."""
    return wandering(rng, steps, size, 3)


def reference(config: Config, each: int) -> Array:
    """Steady states with tank 1 at `LEVELS`, ``each`` samples long."""
    wanted = [MultiTank().equilibrium(stages.steady_input(config, level)) for level in LEVELS]
    return np.repeat(wanted, each, axis=0)


def identified(study: Study, config: Config, dataset: Dataset) -> Row:
    """Train the demo's contracting R2DN and save it in ``model.npz``."""

    def compute() -> Row:
        model = stages.candidates(study.seed)["contracting R2DN"]
        fit = stages.train(model, dataset, config, None, "contracting R2DN", study.seed)
        stages.save_model(fit.system, study.out)
        test = fit.scores["test"]
        return {"model": "contracting R2DN", "fit_percent": test.fit_percent, "rmse": test.rmse}

    return study.row("model", compute, needs=asdict(config), files=["model.npz"])


if __name__ == "__main__":
    sys.exit(main())
