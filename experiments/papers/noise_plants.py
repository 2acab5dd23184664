"""The four ways of noise-robust training on a plant: identification of a tank from noisy inputs, and control with it.

Noise of half the input's spread lies on every recorded input, in training and in tests; true levels are predicted. The
terms and their weights are the paper's (`experiments.papers.noise_robust`), over windows instead of last outputs.
Control: the same predictive controller without margins follows steps, with actuators that err by up to a bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.identification import (
    Decaying,
    Loss,
    NoiseCovariance,
    NoiseUpperBound,
    SimulationError,
    free_run,
    identify,
)
from controlrnn.models import Elman, Model, StableRNN
from controlrnn.systems import LureSystem
from experiments.papers.claims import Claim, claimed, decide, joined, settled
from experiments.shared.study import Row
from mpc import Disturbances, Predictor, TightenedMPC, Tracking, Washout, no_tightening, run_closed_loop
from plants import MultiTank, excitation, simulate

PAPER = "noise-robust"
WASHOUT, WINDOW, PERIOD = 40, 120, 50
TRAINED = 0.5  # deviation of the noise on recorded inputs, in units of their own
LEVELS = (0.0, 0.25, 0.5, 1.0, 1.5, 2.0)
APPLIED = (0.0, 0.3, 0.6)  # bounds [L/min] of the actuator's error in closed loop
_HORIZON = 10


def experiments(seed: int) -> tuple[Dataset, tuple[Trajectory, ...], Array]:
    """Records with noisy inputs for training and validation, clean test records, and the spread of the inputs (nu,)."""
    plant = tank()
    u: Any = np.stack(
        [excitation.random_steps(250, [(1.0, 4.0)], hold=(4, 30), seed=1000 * seed + s) for s in range(24)]
    )
    records = simulate(plant, u, noise_std=0.1, seed=seed)
    spread = u.std(axis=(0, 1))
    rng = np.random.default_rng(seed)
    noisy = [noised(r, TRAINED * spread * rng.normal(size=r.u.shape)) for r in records[:16]]
    return Dataset(tuple(noisy[:12]), tuple(noisy[12:])), records[16:], spread


def tank() -> MultiTank:
    """One tank whose level stays below 20 cm."""
    return MultiTank(1, dt=10.0, level_limit=20.0)


def noised(record: Trajectory, error: Array) -> Trajectory:
    """The record with ``error`` added to its inputs."""
    return Trajectory(record.u + error, record.y, record.dt, inputs=record.inputs, outputs=record.outputs)


def model_and_loss(way: str, seed: int) -> tuple[Model, Loss]:
    """Elman network of 8 neurons, its start remembering, and the loss of one way of training."""
    error = SimulationError(washout=WASHOUT)
    some: dict[str, Any] = {"nu": 1, "ny": 1, "nx": 8, "seed": seed}
    if way == "stable":
        return StableRNN(rate=0.99, clamp=True, **some), error
    if way == "bound":
        return Elman(**some), error + 0.015 * Decaying(NoiseUpperBound(1.0, washout=WASHOUT), period=PERIOD)
    if way == "estimate":
        return Elman(**some), error + 0.01 * NoiseCovariance(1.0, washout=WASHOUT, windows=5)
    return Elman(**some), error


def one_plant(way: str, seed: int, *, steps: int, control: int) -> Row:
    """Identify in one way; errors of prediction over the noise on inputs, and of closed loops over actuators' errors.

    Args:
        way: Way of training.
        seed: Seed of data, model and loops.
        steps: Steps of Adam.
        control: Control steps of a closed loop.
    """
    data, tests, spread = experiments(seed)
    model, loss = model_and_loss(way, seed)
    fit = identify(model, data, loss=loss, window=WINDOW, steps=steps, learning_rate=1e-2, seed=seed)
    curve = [prediction_error(fit.system, tests, sigma * spread, seed) for sigma in LEVELS]
    loops = [loop_error(fit.system, bound, seed, control) for bound in APPLIED]
    norm = float(np.linalg.norm(fit.system.C1 @ fit.system.B1, 2))
    return {"plant_way": way, "curve": curve, "loops": loops, "norm": norm}


def prediction_error(system: LureSystem, records: Sequence[Trajectory], sigma: Array, seed: int) -> float:
    """RMSE [cm] of free runs whose inputs carry noise; the same noise for every size."""
    rng = np.random.default_rng(seed)
    runs, _ = free_run(system, [noised(r, sigma * rng.normal(size=r.u.shape)) for r in records])
    missed = [(run - r.y)[WASHOUT:] for run, r in zip(runs, records, strict=True)]
    return float(np.sqrt(np.mean(np.square(np.concatenate(missed)))))


def loop_error(system: LureSystem, bound: float, seed: int, steps: int) -> float:
    """RMS tracking error [cm] of a predictive controller without margins, while actuators err up to ``bound``."""
    plant = tank()
    predictor = Predictor(system, plant.inputs, plant.outputs)
    observer = Washout(predictor, WASHOUT)
    margins = no_tightening(system.digest, _HORIZON, 1)
    controller = TightenedMPC(predictor, observer, margins, Tracking(output_weight=1.0, input_move_weight=1.0))
    wanted = np.repeat(np.random.default_rng(seed).uniform(5, 15, (1 + steps // 20, 1)), 20, axis=0)[:steps]
    acting = Disturbances(noise_std=0.1, input_error=bound)
    run = run_closed_loop(plant, controller, reference=wanted, steps=steps, disturbances=acting, seed=seed)
    return float(np.sqrt(np.mean(np.square(run.y[-steps:] - wanted))))


def claims(rows: Mapping[str, Sequence[Row]], order: Sequence[tuple[str, str]], short: str) -> Iterator[Claim]:
    """Decide the paper's orderings on the tank; a short training refutes none.

    Args:
        rows: Rows of all seeds by way.
        order: Pairs (better, worse).
        short: Why the training is too short to refute; empty where it is not.
    """
    curves = {way: np.array([row["curve"] for row in own]) for way, own in rows.items()}
    loops = {way: np.array([row["loops"] for row in own]) for way, own in rows.items()}
    for name, values, levels, unit in (
        ("prediction of a tank, noise of twice the inputs' spread", curves, LEVELS, "recorded inputs"),
        (f"closed loop with a tank, actuators off by {APPLIED[-1]} L/min", loops, APPLIED, "applied inputs"),
    ):
        for better, worse in order:
            one, other = (values[way][:, len(levels) - 1] for way in (better, worse))
            errors = ", ".join(
                f"{way} {np.median(values[way][:, -1]):.2f} (without noise {np.median(values[way][:, 0]):.2f}) cm"
                for way in (better, worse)
            )
            yield claimed(
                PAPER,
                f"{better} errs less than {worse}: {name}",
                "not in the paper",
                other / one,
                settled(decide(np.log(other / one).tolist()), short),
                "times its error",
                joined(f"noise on {unit}", errors, short),
            )


def all_rows(study: Any, ways: Sequence[str], *, quick: bool) -> dict[str, list[Row]]:
    """Rows of all ways and three seeds, kept by the study."""
    steps, control = (400, 60) if quick else (4000, 400)
    found: dict[str, list[Row]] = {way: [] for way in ways}
    for seed in range(study.seed, study.seed + 3):
        for way in ways:
            work = partial(one_plant, way, seed, steps=steps, control=control)
            found[way].append(study.row(f"tank {way} {seed}", work, needs=[steps, control]))
    return found
