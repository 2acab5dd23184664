"""Four carts, the simulated example of the robust-RNN papers, identified by contracting and free models.

Protocol of Revay, Wang, Manchester, "A convex parameterization of robust recurrent neural networks", L-CSS 2021: force
held for 0 to 99 samples of 0.5 s at levels uniform in [-s/2, s/2], position of the last cart with noise of 0.05 m;
train on 100 records of 1000 samples at s = 3 from random states, validate on 5000 samples, test on 5000 samples each
at s = 1, 2, 3, 4 from rest; models of 10 states. Here the force is held between samples, there it is interpolated.

Score: NSE = |y - yhat| / |y - mean y| of the free run over the whole test record at s = 3, from the zero state. The
paper's best robust model has 0.061, its LSTM 0.053; the noise alone makes 0.028. What is chosen (a family, order and
horizon of the subspace baseline) is chosen by the validation record; a linear model is trained as the networks are. One
family has a bound of 8 m/N on its
incremental l2 gain from force to position (the paper's has NSE 0.099); every model's gain is bounded from above by what
can be verified, where anything can, and from below by an attack.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.certification import L2GainCertificate, attack_l2_gain, certify_by_construction, certify_l2_gain
from controlrnn.checks import Array
from controlrnn.data import Dataset, Scaler, Trajectory
from controlrnn.errors import CertificationError
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
from controlrnn.models import LTI, ContractingR2DN, ContractingREN, LipschitzREN, Model, ResidualRNN
from controlrnn.systems import LureSystem
from experiments.shared.identification import certified_rate, comparison, proven_rate
from experiments.shared.study import Row, Study
from plants import MassSpringDamperChain, simulate

NOISE = 0.05  # [m]
SIGMAS = (1, 2, 3, 4)
TARGET = 0.05
NX = 10
WASHOUT = 150  # samples until the random start of a record is forgotten
GAIN, GAIN_TARGET = 8.0, 0.08  # [m/N]; NSE of the models that keep it
FAMILIES = ("linear", "contracting_ren", "contracting_r2dn", "lipschitz_ren", "residual")
# A linear model of this gain has no room left for neurons, so the bounded family starts from its own random model.
OPTIONS: dict[str, dict[str, Any]] = {"lipschitz_ren": {"start": "as_is", "learning_rate": 1e-2}}
STEPS = {"lipschitz_ren": 1800}  # of Adam; the others have a head start


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("four_carts", __doc__, arguments)
    with study.stage("simulating the experiments"):
        data = experiments(study)
    linear, order, horizon = subspace(data)
    about = {"model": "subspace", "nv": 0, "nx": order, "horizon": horizon, "certified_rate": certified_rate(linear)}
    study.row("subspace", lambda: about | errors_of(linear, data))
    runs = {"subspace": run_of(linear, data.test[2])}
    for name in FAMILIES:
        for seed in range(study.seed, study.seed + (1 if study.quick else 3)):
            fit = trained(study, data, name, seed)
            runs[name] = run_of(fit.system, data.test[2])
            study.row(f"gain_{name}_{seed}", partial(gains, fit, name, study.seed), needs=name)
        values = scores(study, name)
        study.say(f"{name}: median NSE {np.median(values):.4f} ({min(values):.4f} to {max(values):.4f})")
    nse = {name: float(np.median(scores(study, name))) for name in FAMILIES}
    validated = {name: float(np.median(scores(study, name, "nse_validation"))) for name in FAMILIES}
    best = min((name for name in FAMILIES if name not in ("linear", "residual")), key=lambda name: validated[name])
    proven = all(row["certified_rate"] for row in study.rows if row["model"] == best and "nse_3" in row)
    study.say(f"lowest validation NSE of the contracting families: {best}")
    study.target("contracting_nse", f"<= {TARGET}", nse[best], nse[best] <= TARGET and proven)
    bounded = [row["certified_gain"] for row in study.rows if row["model"] == "lipschitz_ren" and "nse_3" not in row]
    kept = max(bounded) <= GAIN
    study.target("gain_8_nse", f"<= {GAIN_TARGET}", nse["lipschitz_ren"], nse["lipschitz_ren"] <= GAIN_TARGET and kept)
    study.target("certified_gain", f"<= {GAIN} m/N", max(bounded), kept)
    study.figure("test_record", comparison(data.test[2], runs, skip=0, most=600))
    floor = NOISE / float(data.test[2].y.std())
    return study.finish(noise_floor=floor)


def experiments(study: Study) -> Dataset:
    """Records of the protocol, kept in the study's folder."""
    plant = MassSpringDamperChain(position_limit=1e3)
    rng = np.random.default_rng(study.seed)
    records, length = (20, 600) if study.quick else (100, 1000)
    u: Any = np.stack([held_levels(length, 3.0, rng) for _ in range(records)])
    x0 = rng.uniform(-5, 5, (records, plant.nx))
    long: Any = np.stack([held_levels(5 * length, s, rng) for s in (3, *SIGMAS)])

    def simulated() -> dict[str, Array]:
        train = simulate(plant, u, x0, noise_std=NOISE, seed=study.seed + 1)
        rest = simulate(plant, long, np.zeros(plant.nx), noise_std=NOISE, seed=study.seed + 2)
        return {"train": np.stack([r.y for r in train]), "rest": np.stack([r.y for r in rest])}

    stored = study.arrays("experiments", simulated)
    outputs = [*stored["train"], *stored["rest"]]
    names = [*(f"train {i}" for i in range(records)), "validation", *(f"test at s = {s}" for s in SIGMAS)]
    every = [
        Trajectory(force, y, plant.dt, inputs=plant.inputs, outputs=plant.outputs, name=name)
        for force, y, name in zip([*u, *long], outputs, names, strict=True)
    ]
    return Dataset(tuple(every[:records]), (every[records],), tuple(every[records + 1 :]))


def subspace(data: Dataset) -> tuple[LureSystem, int, int]:
    """Subspace model with the order and horizon of the lowest validation NSE, its order, and its horizon."""
    found = []
    for order in (4, 6, 8, NX):
        for horizon in (21, 40, 60):
            system = identify_subspace(data.train, order, horizon=horizon, strictly_proper=True).system
            found.append((errors_of(system, data)["nse_validation"], order, horizon, system))
    _, order, horizon, system = min(found, key=lambda one: one[0])
    return system, order, horizon


def held_levels(length: int, sigma: float, rng: np.random.Generator) -> Array:
    """Draw levels of the protocol, shape (T, 1); a hold of 0 samples is a level that never appears."""
    holds = rng.integers(0, 100, length)
    holds = holds[: int(np.searchsorted(np.cumsum(holds), length)) + 1]
    levels = sigma * (rng.random(len(holds)) - 0.5)
    return np.repeat(levels, holds)[:length, None]


def build(name: str, seed: int, data: Dataset) -> Model:
    """Build an untrained model."""
    sizes: dict[str, Any] = {"nu": 1, "ny": 1, "nx": NX, "activation": "relu", "seed": seed}
    if name == "linear":
        return LTI(nu=1, ny=1, nx=NX, seed=seed)
    if name == "contracting_r2dn":
        return ContractingR2DN(nv=8, layers=(20,), **sizes)
    if name == "lipschitz_ren":
        u, y = (Scaler.fit([getattr(r, channel) for r in data.train]).scale for channel in "uy")
        # The model counts scaled signals; a hair less than the bound, for rounding.
        return LipschitzREN(nv=20, gamma=GAIN * float(u[0] / y[0]) * (1 - 1e-6), **sizes)
    if name == "contracting_ren":
        return ContractingREN(nv=20, **sizes)
    return ResidualRNN(nv=20, **sizes)


def trained(study: Study, data: Dataset, name: str, seed: int) -> FitResult:
    """Train one model from one seed."""
    case = f"{name}_{seed}"
    path: Path = study.path(f"{case}.npz")
    adam, lbfgs = (100, 20) if study.quick else (STEPS.get(name, 600), 60)

    def train() -> Row:
        fit = identify(
            build(name, seed, data),
            data,
            loss=SimulationError(washout=WASHOUT),
            window=400,
            batch_size=16,
            steps=adam,
            validate_every=100,
            refine="lbfgs",
            refine_steps=lbfgs,
            seed=seed,
            checkpoint=study.path(f"{case}.checkpoint.npz"),
            callbacks=[TqdmProgress(case)],
            **{"learning_rate": 5e-3} | OPTIONS.get(name, {}),
        )
        if fit.status is FitStatus.INTERRUPTED:
            raise KeyboardInterrupt
        fit.save(path)
        study.path(f"{case}.checkpoint.npz").unlink(missing_ok=True)
        row = {"model": name, "nv": fit.system.nv, "certified_rate": proven_rate(fit)}
        return row | errors_of(fit.system, data)

    study.row(case, train, files=[path.name])
    return FitResult.load(path, build(name, seed, data))


def gains(fit: FitResult, name: str, seed: int) -> Row:
    """Incremental l2 gain [m/N]: upper bounds by construction and by proof, and a lower bound."""
    proven = proven_gains(fit)
    limits = np.array([-max(SIGMAS) / 2]), np.array([max(SIGMAS) / 2])
    attack = attack_l2_gain(fit.system, 400, input_range=limits, starts=8, seed=seed)
    certified = min((g for g in proven.values() if g is not None), default=None)
    return {"model": name, "certified_gain": certified} | proven | {"attacked_gain": attack.gain}


def proven_gains(fit: FitResult) -> dict[str, float | None]:
    """Upper bounds of the incremental l2 gain [m/N], by construction and by search; None where there is none."""
    proven: dict[str, float | None] = {"by_construction": None, "searched": None}
    assert fit.model is not None
    guarantee = fit.model.guarantee()
    if guarantee is not None and guarantee.supply is not None:
        certificate = certify_by_construction(fit.model).dissipation
        assert isinstance(certificate, L2GainCertificate)
        certificate.verify(fit.system)
        proven["by_construction"] = certificate.gamma * float(certificate.output_scale[0] / certificate.input_scale[0])
    if isinstance(fit.system, LureSystem):
        try:
            found = certify_l2_gain(fit.system)
            found.verify(fit.system)
            proven["searched"] = found.gamma
        except CertificationError:
            pass
    return proven


def scores(study: Study, name: str, column: str = "nse_3") -> list[float]:
    """NSE of one family, over the seeds."""
    return [row[column] for row in study.rows if row["model"] == name and "nse_3" in row]


def errors_of(system: LureSystem, data: Dataset) -> Row:
    """NSE on the validation and test records."""
    records = (data.validation[0], *data.test)
    names = ("nse_validation", *(f"nse_{s}" for s in SIGMAS))
    return {n: nse(system, r) for n, r in zip(names, records, strict=True)}


def nse(system: Any, record: Trajectory) -> float:
    """The paper's NSE of a free run from the zero state."""
    return float(nrmse(record.y, run_of(system, record))[0])


def run_of(system: Any, record: Trajectory) -> Array:
    """Free run from the zero state."""
    return free_run(system, [record])[0][0]


if __name__ == "__main__":
    sys.exit(main())
