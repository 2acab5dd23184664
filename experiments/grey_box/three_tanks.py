"""Three tanks: the balance of each level with five parameters, beside networks, on the same road to a closed loop."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from controlrnn.data import Dataset, Signal
from controlrnn.export import load_system, save_system
from controlrnn.greybox import Equations, FitOptions, Parameter, fit_equations, trace
from controlrnn.identification import score
from controlrnn.models import ContractingR2DN, ContractingREN
from controlrnn.systems import LureSystem
from experiments.grey_box.fits import described
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import monte_carlo, tighten
from plants import MultiTank

# Heads and levels of the experiments with room; below the rims, so that nothing spills.
LEVELS = ((10.0, 70.0), (8.0, 55.0), (5.5, 38.0))  # [cm]
HEADS = (1.3, 21.0)  # [cm]
SHARE = 10  # grey boxes get one of so many training records
GREY = {"physics": 0, "physics + residual": 4}
BLACK = ("R2DN", "R2DN, a tenth", "REN, a tenth")


@dataclass(frozen=True)
class Case:
    """What all models share.

    Args:
        config: Settings of the three-tank study.
        dataset: Records.
        few: Training records of the models with a tenth.
    """

    config: Config
    dataset: Dataset
    few: Dataset

    @classmethod
    def of(cls, study: Study) -> Case:
        """Records of the guaranteed tanks: levels measured to 0.05 cm."""
        config = replace(Config.of(study.quick), noise=0.05)
        if study.quick:
            config = replace(config, runs=2, control_steps=20, steps=40)
        dataset = stages.experiments(config, study.seed)
        few = replace(dataset, train=dataset.train[: max(len(dataset.train) // SHARE, 1)])
        return cls(config, dataset, few)


def balance(x: Any, u: Any, p: Any, ops: Any) -> Any:
    """Change of the three levels [cm/s]: pumps in, joints between, drain out."""
    h = [ops.columns(x, i, i + 1) for i in range(3)]
    over = [p[f"joint {i + 1}{i + 2}"] * ops.sqrt(ops.within(h[i] - h[i + 1], *HEADS)) for i in range(2)]
    out = p["drain"] * ops.sqrt(h[2])
    fed = [p["pump 1"] * ops.columns(u, 0, 1), p["pump 2"] * ops.columns(u, 1, 2)]
    return ops.join([fed[0] - over[0], over[0] - over[1], fed[1] + over[1] - out])


def equations() -> Equations:
    """The balance with parameters that are believed to within a factor of two."""
    joints, pumps = "cm^0.5/s", "cm/s per L/min"
    parameters = [Parameter(name, 0.05, 0.0, 1.0, unit=joints) for name in ("joint 12", "joint 23", "drain")]
    parameters += [Parameter(name, 0.1, 0.0, 1.0, unit=pumps) for name in ("pump 1", "pump 2")]
    plant = MultiTank()
    return Equations(
        dynamics=balance,
        output=lambda x, u, p, ops: 1.0 * x,  # noqa: ARG005
        states=[Signal(s.name, s.unit, *ends) for s, ends in zip(plant.states, LEVELS, strict=True)],
        inputs=plant.inputs,
        parameters=parameters,
        dt=plant.dt,
        substeps=3,
    )


def truth() -> dict[str, float]:
    """The plant's own parameters."""
    joint, drain = MultiTank()._coefficients
    capacity = MultiTank().capacities[0]
    return {"joint 12": joint / capacity, "joint 23": joint / capacity, "drain": drain / capacity,
            "pump 1": 1 / capacity, "pump 2": 1 / capacity}  # fmt: skip


def identify_all(study: Study, case: Case) -> dict[str, Row]:
    """Identify and score every model; each is saved in a file."""
    makers: dict[str, Callable[[], tuple[LureSystem, Row]]] = {}
    makers |= {name: partial(_grey, case, neurons) for name, neurons in GREY.items()}
    makers |= {name: partial(_black, study, case, name) for name in BLACK}
    makers["plant, true parameters"] = lambda: (trace(equations(), truth()).system, {"records": 0})
    rows = {}
    for name, make in makers.items():

        def compute(make: Callable[[], tuple[LureSystem, Row]] = make, name: str = name) -> Row:
            system, more = make()
            save_system(system, study.path(file_of(name)))
            skip = case.config.washout
            scores = score(system, case.dataset.test, skip=skip, estimate=True)
            return {"model": name, "fit_percent": scores.fit_percent, "rmse": scores.rmse, "nv": system.nv} | more

        rows[name] = study.row(f"tanks: {name}", compute, files=[file_of(name)])
        study.say(f"{name}: fit {np.round(rows[name]['fit_percent'], 2)} %")
    return rows


def file_of(name: str) -> str:
    """File of a model."""
    return "tanks_" + name.replace(", ", "_").replace(" ", "_").replace("+", "and") + ".npz"


def _grey(case: Case, neurons: int) -> tuple[LureSystem, Row]:
    """Physics, with residual neurons where asked for, on a tenth of the records."""
    options = FitOptions(residual=neurons, penalty=100.0, deviation=[0.3, 0.3, 0.3], starts=2, iterations=60)
    fit = fit_equations(equations(), case.few.train, options)
    more = {"residual_share": fit.residual_share, "costs": fit.costs}
    return fit.system, described(fit, case.few.train) | more


def _black(study: Study, case: Case, name: str) -> tuple[LureSystem, Row]:
    """A contracting network."""
    data = case.few if "tenth" in name else case.dataset
    make = ContractingREN if name.startswith("REN") else ContractingR2DN
    sizes: dict[str, Any] = {"nv": 12} if make is ContractingREN else {"nv": 4, "layers": (12,)}
    model = make(nu=2, ny=3, nx=4, seed=study.seed, **sizes)
    fit = stages.train(model, data, case.config, None, name, study.seed)
    assert isinstance(fit.system, LureSystem)
    return fit.system, {"records": len(data.train), "parameters": model.n_parameters}


def promise(study: Study, case: Case, name: str) -> Row:
    """Certify, calibrate and tighten one model, and run its closed loops with soft limits."""

    def compute() -> Row:
        system = load_system(study.path(file_of(name)))
        assert isinstance(system, LureSystem)
        config = case.config
        contraction = stages.contraction(system, case.dataset, config)
        contraction.verify(system)
        observer = stages.make_observer(system, contraction, config)
        joint, initial = stages.horizon_certificates(observer, config)
        error = stages.model_error(system, observer, case.dataset, config)
        room = tighten(error, joint, observer=observer, initial_only=initial)
        loops = monte_carlo(lambda: stages.setup(observer, room, config), stages.loop_seeds(study.seed, config))
        said = loops.summary()
        return {
            "model": name, "certified_rate": contraction.rate, "certified": joint.bounds[-1],
            "model_error": error.bounds.max(axis=0), "tightening": room.total.max(axis=0),
            **{key: said[key] for key in ("runs", "runs_with_violation", "max_violation", "cost")},
        }  # fmt: skip

    return study.row(f"tanks: {name}, promise", compute)
