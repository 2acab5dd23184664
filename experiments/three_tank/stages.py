"""Stages of the three-tank study; each writes its artefacts into the study's folder, from which a run resumes."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Any

import numpy as np
from scipy.optimize import brentq

from controlrnn.certification import (
    Attack,
    ContractionCertificate,
    HorizonCertificate,
    attack_horizon,
    certify_contraction,
    load_certificate,
)
from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.export import load_system, save_system
from controlrnn.identification import (
    Callback,
    FitResult,
    Loss,
    SimulationError,
    TqdmProgress,
    identify,
    identify_subspace,
    score,
)
from controlrnn.models import ContractingR2DN, Elman, Model
from controlrnn.systems import LureSystem
from experiments.three_tank.config import Config
from mpc import (
    ClosedLoopSetup,
    Coverage,
    DisturbanceFilter,
    ErrorMemory,
    ModelError,
    MonteCarloResult,
    Predictor,
    Safety,
    Solver,
    TightenedMPC,
    Tightening,
    Tracking,
    Washout,
    calibrate,
    certify_predictions,
    coverage_of,
    monte_carlo,
    no_tightening,
    prediction_errors,
    tighten,
)
from mpc.problem.ocp import BackendFactory
from mpc.problem.settings import Mode
from mpc.tightening.tightening import NO_CLAIM
from plants import MultiTank, excitation, simulate


class Controller(StrEnum):
    """The controllers that are compared; see `experiments.three_tank`."""

    NOMINAL = "nominal"
    BACKED_OFF = "backed off"
    CALIBRATED = "closed-loop calibrated"
    RECALLING = "recalling"

    @property
    def file(self) -> str:
        """Name of the controller in file names."""
        return self.value.replace(" ", "_").replace("-", "_")


def inflows(config: Config, rng: np.random.Generator, steps: int, tanks: int) -> Array:
    """Draw unmeasured inflows, shape (steps, tanks) [L/min]: AR(1) of the configured size, cut at 3 sigma."""
    memory = np.exp(-1 / 20)
    w = np.empty((steps, tanks))
    w[0] = rng.normal(size=tanks)
    for t in range(1, steps):
        w[t] = memory * w[t - 1] + np.sqrt(1 - memory**2) * rng.normal(size=tanks)
    return np.asarray(config.inflow * np.clip(w, -3, 3))


def experiments(config: Config, seed: int, move_limit: float | None = None) -> Dataset:
    """Excite the plant and divide the records by purpose; with a move limit, pumps go to new levels that slowly."""
    plant, n = MultiTank(), sum(config.records)
    seeds = np.random.SeedSequence(seed).spawn(n + 1)
    u = np.stack(
        [
            excitation.random_steps(config.samples, config.excitation, hold=(4, 40), seed=int(s.generate_state(1)[0]))
            for s in seeds[:-1]
        ]
    )
    if move_limit is not None:
        for before, after in zip(range(config.samples - 1), range(1, config.samples), strict=True):
            u[:, after] = np.clip(u[:, after], u[:, before] - move_limit, u[:, before] + move_limit)
    rng = np.random.default_rng(seeds[-1])
    w = np.stack([inflows(config, rng, config.samples, plant.nx) for _ in range(n)])
    records: Any = simulate(plant, u, noise_std=config.noise, disturbance=w, seed=int(rng.integers(2**31)))
    return Dataset.split(records, config.records, seed=seed)


def candidates(seed: int) -> dict[str, Model]:
    """Models that are compared."""
    return {
        "contracting R2DN": ContractingR2DN(nu=2, ny=3, nx=4, nv=4, layers=(12,), seed=seed),
        "Elman": Elman(nu=2, ny=3, nx=12, seed=seed),
    }


def train(
    model: Model,
    dataset: Dataset,
    config: Config,
    checkpoint: Path | None,
    label: str,
    seed: int,
    *,
    extra: Loss | None = None,
) -> FitResult:
    """Identify one model; ``extra`` is added to the simulation error."""
    bar: Callback = TqdmProgress(label)
    error = SimulationError(washout=config.washout)
    return identify(
        model,
        dataset,
        loss=error if extra is None else error + extra,
        steps=config.steps,
        window=config.washout + 150,
        batch_size=16,
        learning_rate=5e-3,
        seed=seed,
        checkpoint=checkpoint,
        callbacks=(bar,),
    )


def linear_baseline(dataset: Dataset, config: Config) -> Array:
    """Fit [%] per output of a subspace model of the same order on the test records."""
    system = identify_subspace(dataset.train, 4).system
    return np.asarray(score(system, dataset.test, skip=config.washout).fit_percent)


def predictor(system: LureSystem, config: Config) -> Predictor:
    """Predictor with the plant's channels; inputs stay within the excited range of the pumps, where data exist."""
    plant = MultiTank()
    inputs = tuple(
        Signal(s.name, s.unit, low, high) for s, (low, high) in zip(plant.inputs, config.excitation, strict=True)
    )
    return Predictor(system, inputs, plant.outputs)


def make_observer(system: LureSystem, contraction: ContractionCertificate | None, config: Config) -> Washout:
    """Washout observer, which runs the model over the recorded inputs at every sample."""
    return Washout(predictor(system, config), config.washout, contraction=contraction, input_error=config.actuator)


def contraction(system: LureSystem, dataset: Dataset, config: Config) -> ContractionCertificate:
    """Certify contraction a little slower than possible: at the best rate the metric is ill conditioned."""
    sizes = np.std(np.concatenate([r.y for r in dataset.train]), axis=0)
    return certify_contraction(system, slower=0.1, input_scale=config.half_range, output_scale=sizes)


def horizon_certificates(observer: Washout, config: Config) -> tuple[HorizonCertificate, HorizonCertificate]:
    """Certify washout and prediction as one horizon, with and without input errors."""
    iterations = config.certificate_iterations
    joint, initial = (
        certify_predictions(observer, config.horizon, input_error=error, iterations=iterations)
        for error in (config.actuator, 0.0)
    )
    return joint, initial


def attack(
    system: LureSystem, certificate: HorizonCertificate, config: Config, *, starts: int, steps: int, seed: int
) -> Attack:
    """Search for the worst pairs of trajectories, as lower bounds of the certificate; without ``steps``, at random."""
    low, high = (np.array(side) for side in zip(*config.excitation, strict=True))
    return attack_horizon(
        system,
        certificate.horizon,
        initial_radius=certificate.initial_radius,
        metric=certificate.metric,
        input_radius=certificate.input_radius,
        input_range=(low, high),
        starts=starts,
        steps=steps,
        seed=seed,
    )


def random_pairs(
    system: LureSystem, certificate: HorizonCertificate, config: Config, *, batches: int, seed: int
) -> tuple[Array, int]:
    """Largest differences of random pairs, shape (horizon + 1, ny), and their number.

    In batches, to save memory.
    """
    seeds = [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(batches)]
    drawn = [attack(system, certificate, config, starts=60, steps=0, seed=s) for s in seeds]
    return np.max([one.random for one in drawn], axis=0), sum(one.pairs for one in drawn)


def model_error(
    system: LureSystem,
    observer: Washout,
    dataset: Dataset,
    config: Config,
    *,
    coverage: float | None = None,
    disturbance: DisturbanceFilter | None = None,
) -> ModelError:
    """Calibrate the model error on records that nothing else has seen.

    With the configured coverage when ``coverage`` is left out.
    """
    return calibrate(
        system,
        dataset.calibration,
        horizon=config.horizon,
        washout=config.washout,
        coverage=config.coverage if coverage is None else coverage,
        scale_trajectories=dataset.validation,
        initial_state=observer.initial_state,
        disturbance=disturbance,
    )


def tightening(error: ModelError, folder: Path, observer: Washout) -> Tightening:
    """Combine calibrated and certified bounds into a tightening."""
    joint, initial = (horizon_of(folder / name) for name in ("certificate.npz", "certificate_initial.npz"))
    return tighten(error, joint, observer=observer, initial_only=initial)


def as_commanded(records: Sequence[Trajectory], config: Config, seed: int) -> list[Trajectory]:
    """Records with input errors within the actuators' bound.

    A controller knows commands, not flows.
    """
    rng = np.random.default_rng(seed)
    return [replace(r, u=r.u + rng.uniform(-config.actuator, config.actuator, r.u.shape)) for r in records]


def coverage_of_total(
    tightening: Tightening, observer: Washout, dataset: Dataset, config: Config, seed: int
) -> tuple[Coverage, Array]:
    """Coverage of the total bound on the test records, and largest realised errors (horizon + 1, ny)."""
    records = as_commanded(dataset.test, config, seed)
    errors = [prediction_errors(observer, record, horizon=config.horizon) for record in records]
    return coverage_of(tightening.total, errors), np.max([np.abs(e).max(axis=0) for e in errors], axis=0)


def steady_input(config: Config, level: float) -> Array:
    """Pump flows that hold tank 1 at ``level`` [cm], shape (2,) [L/min]."""
    plant = MultiTank()
    flow = brentq(lambda q: plant.equilibrium(np.array([q, config.pump_2]))[0] - level, 0.5, 3.0)
    return np.array([flow, config.pump_2])


def reference(config: Config) -> Array:
    """Steady states with tank 1 at the wanted levels, shape (control_steps, 3) [cm]."""
    plant = MultiTank()
    wanted = [plant.equilibrium(steady_input(config, level)) for level in config.levels]
    # The level at the limit takes the longest part: that is where the plant earns its money.
    shares = np.array([0.15, 0.65, 0.2])
    counts = np.diff(np.round(np.cumsum([0, *shares]) * config.control_steps).astype(int))
    return np.concatenate([np.tile(y, (n, 1)) for y, n in zip(wanted, counts, strict=True)])


def build(folder: Path, config: Config, kind: Controller) -> ClosedLoopSetup:
    """Build plant and controller from the artefacts in ``folder``, which are of this study and verified when read.

    Importable, so that worker processes can call it.
    """
    observer = make_observer(model_of(folder), contraction_of(folder / "contraction.npz"), config)
    if kind is Controller.NOMINAL:
        return setup(observer, None, config)
    if kind is not Controller.RECALLING:
        return setup(observer, Tightening.load(folder / f"tightening_{kind.file}.npz").on_trust(), config)
    tightening, memory = Tightening.load(folder / "tightening_recalling.npz"), ErrorMemory.load(folder / "recall.npz")
    return setup(observer, tightening.on_trust(), config, memory=memory.on_trust())


def setup(
    observer: Washout,
    tightening: Tightening | None,
    config: Config,
    backend: BackendFactory | None = None,
    memory: ErrorMemory | None = None,
    move_weight: float = 20.0,
) -> ClosedLoopSetup:
    """Plant and controller; without a tightening (None) the nominal one."""
    system = observer.system
    tightening = no_tightening(system.digest, config.horizon, system.ny) if tightening is None else tightening
    # Controllers without a bound on their predictions get the best that practice knows: limits that follow the
    # disturbance estimate. With one, limits are kept by the full model error; the estimate only moves the reference.
    claims = not set(tightening.digests) <= NO_CLAIM
    controller = TightenedMPC(
        observer.predictor,
        observer,
        tightening,
        Tracking(
            output_weight=[1.0, 0.2, 0.2],
            input_move_weight=move_weight,
            mode=Mode.GUARANTEED if claims else Mode.PRACTICAL,
            disturbance_gain=0.2,
        ),
        error_memory=memory,
        safety=Safety(safe_input=[1.6, 1.6]),
        solver=Solver(backend=backend),
    )
    plant, wanted = MultiTank(), reference(config)
    options: Mapping[str, Any] = {
        "reference": wanted, "steps": config.control_steps, "x0": wanted[0],
        "warm_up": config.washout, "warm_up_input": steady_input(config, config.levels[0]),
        "noise_std": config.noise, "input_error": config.actuator,
        "disturbance": functools.partial(_drawn_inflows, config),
    }  # fmt: skip
    return ClosedLoopSetup(plant, controller, options)


def closed_loops(
    folder: Path, config: Config, kind: Controller, seed: int, progress: Callable[[int, int], None]
) -> MonteCarloResult:
    """Run many closed loops; all controllers see the same noise and disturbances."""
    seeds = loop_seeds(seed, config)
    return monte_carlo(functools.partial(build, folder, config, kind), seeds, progress=progress)


def loop_seeds(seed: int, config: Config) -> list[int]:
    """Seeds of the loops that all controllers are compared on."""
    return [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(config.runs)]


def save_model(system: LureSystem, folder: Path) -> None:
    """Save the chosen model, as deployed."""
    save_system(system, folder / "model.npz")


def model_of(folder: Path) -> LureSystem:
    """Load the chosen model."""
    system = load_system(folder / "model.npz")
    assert isinstance(system, LureSystem)
    return system


def _drawn_inflows(config: Config, rng: np.random.Generator) -> Array:
    return inflows(config, rng, config.control_steps, 3)


def horizon_of(path: Path) -> HorizonCertificate:
    """Load a horizon certificate."""
    certificate = load_certificate(path)
    assert isinstance(certificate, HorizonCertificate)
    return certificate


def contraction_of(path: Path) -> ContractionCertificate:
    """Load a contraction certificate."""
    certificate = load_certificate(path)
    assert isinstance(certificate, ContractionCertificate)
    return certificate
