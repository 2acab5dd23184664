"""Quadruple tank and four carts: equations with physical parameters beside a network, on a tenth of the records each.

The quadruple tank's equations are those of its four levels with eight parameters, of which records of the two lower
levels have to tell. The carts' springs harden fourfold at an elongation of 1 m: piecewise linear, so that their
equations are exact with relu neurons, in twelve parameters. Lightly damped, they cannot be shown to contract in a
quadratic metric; what is certified of them is a finite horizon.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from controlrnn.certification import certify_horizon
from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal
from controlrnn.greybox import Equations, FitOptions, Method, Parameter, fit_equations
from controlrnn.identification import SimulationError, identify, score
from controlrnn.models import ContractingREN
from controlrnn.systems import LureSystem
from experiments.grey_box.fits import described
from experiments.guaranteed_carts import FORCE, ramps
from experiments.shared.identification import certified_rate
from experiments.shared.study import Row, Study
from plants import MassSpringDamperChain, QuadrupleTank, simulate

HORIZON = 20


@dataclass(frozen=True)
class Other:
    """One plant.

    Args:
        name: Its name.
        plant: The plant.
        equations: Its equations, parameters believed to within a factor of two.
        truth: The plant's own parameters.
        excite: Draws the inputs (T, nu) of an experiment.
        deviation: Standard deviation of the measurements.
        skip: Samples that scores leave out.
        states: Of the network.
        rate: Prescribed to the network.
    """

    name: str
    plant: Any
    equations: Equations
    truth: dict[str, float]
    excite: Callable[[np.random.Generator, int], Array]
    deviation: float
    skip: int
    states: int
    rate: float


def quadruple() -> Other:
    """The quadruple tank near its nominal point, minimum phase."""
    plant = QuadrupleTank()
    areas, outlets = plant.areas, plant._coefficients
    direct = {f"direct {j + 1}": g * k for j, (g, k) in enumerate(zip(plant.split, plant.gains, strict=True))}
    upper = {f"upper {j + 1}": (1 - g) * k for j, (g, k) in enumerate(zip(plant.split, plant.gains, strict=True))}
    truth = {f"outlet {i + 1}": float(c) for i, c in enumerate(outlets)} | direct | upper

    def balance(x: Any, u: Any, p: Any, ops: Any) -> Any:
        q = [p[f"outlet {i + 1}"] * ops.sqrt(ops.columns(x, i, i + 1)) for i in range(4)]
        v = [ops.columns(u, j, j + 1) for j in range(2)]
        net = [
            q[2] - q[0] + p["direct 1"] * v[0], q[3] - q[1] + p["direct 2"] * v[1],
            p["upper 2"] * v[1] - q[2], p["upper 1"] * v[0] - q[3],
        ]  # fmt: skip
        return ops.join([one * (1.0 / area) for one, area in zip(net, areas, strict=True)])

    boxes = ((4.0, 19.0), (4.0, 19.0), (0.5, 4.0), (0.5, 4.0))  # [cm]
    equations = Equations(
        dynamics=balance,
        output=lambda x, u, p, ops: ops.columns(x, 0, 2),  # noqa: ARG005
        states=[Signal(s.name, s.unit, *ends) for s, ends in zip(plant.states, boxes, strict=True)],
        inputs=plant.inputs,
        parameters=_believed(truth),
        dt=plant.dt,
        substeps=2,
        method=Method.MIDPOINT,
    )

    def excite(rng: np.random.Generator, length: int) -> Array:
        levels = rng.uniform(2.4, 3.5, (length, 2))
        return np.column_stack([np.repeat(levels[:, j], rng.integers(5, 40, length))[:length] for j in range(2)])

    return Other("quadruple tank", plant, equations, truth, excite, 0.05, 60, 4, 0.97)


def carts() -> Other:
    """Four carts on springs that harden, as `experiments.guaranteed_carts` excites them."""
    plant = MassSpringDamperChain(position_limit=1e3)
    n = plant.n_masses
    truth = {f"spring {i + 1}": 0.25 * float(k) for i, k in enumerate(plant.springs)}
    truth |= {f"stiffer {i + 1}": 0.75 * float(k) for i, k in enumerate(plant.springs)}
    truth |= {f"damper {i + 1}": float(c) for i, c in enumerate(plant.dampers)}

    def newton(x: Any, u: Any, p: Any, ops: Any) -> Any:
        at, speed = ([ops.columns(x, i + j, i + j + 1) for i in range(n)] for j in (0, n))
        force = []
        for i in range(n):
            d, v = (row[i] - row[i - 1] if i else row[i] for row in (at, speed))
            beyond = ops.fmax(d - 1.0, 0.0) + ops.fmin(d + 1.0, 0.0)
            force.append(p[f"spring {i + 1}"] * d + p[f"stiffer {i + 1}"] * beyond + p[f"damper {i + 1}"] * v)
        net = [(force[i + 1] if i + 1 < n else 0.0 * u) - force[i] + (u if i == 0 else 0.0 * u) for i in range(n)]
        return ops.join([*speed, *(one * (1.0 / float(m)) for one, m in zip(net, plant.masses, strict=True))])

    states = [Signal(s.name, s.unit, -5.0, 5.0) for s in plant.states]
    equations = Equations(
        dynamics=newton,
        output=lambda x, u, p, ops: ops.columns(x, n - 1, n),  # noqa: ARG005
        states=states,
        inputs=[Signal("force", "N", -FORCE, FORCE)],
        parameters=_believed(truth),
        dt=plant.dt,
        substeps=2,
        method=Method.RK4,
    )

    return Other("four carts", plant, equations, truth, ramps, 0.01, 100, 8, 0.975)


def _believed(truth: dict[str, float]) -> list[Parameter]:
    """Parameters, believed to be a third more or less than they are."""
    return [
        Parameter(name, value * (4 / 3 if i % 2 else 3 / 4), 0.2 * value, 5 * value)
        for i, (name, value) in enumerate(truth.items())
    ]


def run(study: Study, other: Other) -> dict[str, Row]:
    """Identify, score and certify physics on a tenth of the records, and a network on all and on a tenth."""
    counts, length = ((4, 2, 2), 200) if study.quick else ((20, 6, 6), 500)
    rng = np.random.default_rng(study.seed)
    u = np.stack([other.excite(rng, length) for _ in range(sum(counts))])
    start = other.plant.equilibrium(u[0, 0]) if other.name == "quadruple tank" else np.zeros(other.plant.nx)
    records: Any = simulate(other.plant, u, start, noise_std=other.deviation, seed=study.seed + 1)
    data = Dataset.split(records, counts, seed=study.seed)
    few = Dataset(train=data.train[: max(len(data.train) // 10, 1)], validation=data.validation, test=data.test)
    makers: dict[str, Callable[[], tuple[LureSystem, Row]]] = {
        "physics, a tenth": lambda: _physics(other, few),
        "REN, a tenth": lambda: _network(study, other, few),
        "REN": lambda: _network(study, other, data),
    }
    rows = {}
    for name, make in makers.items():

        def compute(make: Callable[[], tuple[LureSystem, Row]] = make, name: str = name) -> Row:
            system, more = make()
            found = score(system, data.test, skip=other.skip, estimate=True)
            plain: Row = {"plant": other.name, "model": name, "fit_percent": found.fit_percent, "rmse": found.rmse}
            return plain | more | _certified(system)

        rows[name] = study.row(f"{other.name}: {name}", compute)
        study.say(f"{other.name}, {name}: fit {np.round(rows[name]['fit_percent'], 2)} %")
    return rows


def _physics(other: Other, data: Dataset) -> tuple[LureSystem, Row]:
    options = FitOptions(deviation=[other.deviation] * len(data.train[0].y[0]), iterations=60)
    fit = fit_equations(other.equations, data.train, options)
    off = max(abs(fit.values[n] - v) / max(fit.deviations[n], 1e-9) for n, v in other.truth.items())
    return fit.system, described(fit, data.train) | {"deviations_off": off}


def _network(study: Study, other: Other, data: Dataset) -> tuple[LureSystem, Row]:
    nu, ny = data.train[0].u.shape[1], data.train[0].y.shape[1]
    model = ContractingREN(nu=nu, ny=ny, nx=other.states, nv=12, rate=other.rate, activation="tanh", seed=study.seed)
    fit = identify(
        model,
        data,
        loss=SimulationError(washout=other.skip),
        window=min(200, len(data.train[0])),
        batch_size=8,
        steps=60 if study.quick else 600,
        learning_rate=5e-3,
        validate_every=30,
        seed=study.seed,
    )
    return fit.system, {"records": len(data.train), "parameters": model.n_parameters}


def _certified(system: LureSystem) -> Row:
    """Rate of contraction, if there is one, and how far outputs can be apart after states 0.01 apart."""
    bounds = certify_horizon(system, HORIZON, initial_radius=0.01, iterations=40, focus=[HORIZON]).bounds
    return {
        "certified_rate": certified_rate(system),
        "certified_first": bounds[0],
        f"certified_after_{HORIZON}": bounds[-1],
    }
