"""Benchmark of certificates: our search against the semidefinite program, bounds against attacks, cost of proofs.

Infinite-horizon certificates are set against those that models carry by construction, and, for freely trained networks,
against what a general solver says about the same inequality.

Both methods work on the same inequality for the same system and are proven by the same verifier. CPU seconds are
compared, in one process with one BLAS thread each, because wall time on a busy machine compares nothing.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from controlrnn.certification import (
    Method,
    attack_horizon,
    certify_gains,
    certify_horizon,
    certify_lipschitz,
)
from controlrnn.checks import Array
from controlrnn.data import Dataset, Scaler
from controlrnn.errors import CertificationError
from controlrnn.identification import SimulationError, identify
from controlrnn.models import ContractingR2DN, ContractingREN, StableRNN
from controlrnn.systems import LureSystem
from experiments.bench_certify.stationary import by_construction, freely_trained, larger_networks, proofs
from experiments.shared.study import Row, Study
from plants import MultiTank, excitation, simulate

RADII = ((0.5, 0.0), (0.5, 0.05), (0.1, 0.1), (0.0, 0.1))  # initial state, inputs per channel [standard deviations]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("bench_certify", __doc__, arguments)
    with study.stage("three-tank network"):
        tank = three_tanks(study.seed, quick=study.quick)
    compare(study, tank, (5, 10) if study.quick else (10, 20, 50))
    sizes(study, tank)
    tightness(study, tank, (10,) if study.quick else (10, 50))
    proofs(study, tank)
    by_construction(study)
    freely_trained(study)
    larger_networks(study)
    return study.finish()


def three_tanks(seed: int, *, quick: bool, nx: int = 16) -> LureSystem:
    """Train an Elman network with |W| < 1 on the three tanks, in scaled units, as in the RNN-SDP paper."""
    plant = MultiTank()
    u = np.stack(
        [excitation.random_steps(300, ((1.0, 2.6), (1.0, 2.4)), hold=(4, 40), seed=seed + n) for n in range(16)]
    )
    records: Any = simulate(plant, u, noise_std=0.2, seed=seed)
    fit = identify(
        StableRNN(nu=2, ny=3, nx=nx, seed=seed),
        Dataset(records[:12], records[12:]),
        loss=SimulationError(washout=60),
        window=160,
        steps=100 if quick else 2000,
        learning_rate=5e-3,
        seed=seed,
    )
    assert fit.model is not None
    fit.model.set_units(Scaler.identity(2), Scaler.identity(3), plant.dt)
    return fit.model.freeze()


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    """Call a function and return its result and CPU seconds."""
    began = time.process_time()
    result = work()
    return result, time.process_time() - began


def compare(study: Study, system: LureSystem, horizons: Sequence[int]) -> None:
    """Solve one inequality for one output and the last step, by our search and by Clarabel through cvxpy."""
    one = replace(system, C2=system.C2[:1], D21=system.D21[:1], D22=system.D22[:1], by=system.by[:1])
    certify_horizon(one, 2, initial_radius=1.0, input_radius=0.1, focus=[2], iterations=3)  # compiles
    for horizon in horizons:
        for radius, b in ((1.0, 0.0), (0.5, 0.05), (0.0, 0.1)):  # the last is the hardest for a search

            def compute(horizon: int = horizon, radius: float = radius, b: float = b) -> Row:
                settings: dict[str, Any] = {"initial_radius": radius, "input_radius": b, "focus": [horizon]}
                ours, seconds = timed(lambda: certify_horizon(one, horizon, **settings))
                row: Row = {"horizon": horizon, "radius": radius, "b": b, "ours": ours.bounds[-1, 0], "ours_s": seconds}
                verify = [timed(lambda: ours.verify(one))[1] for _ in range(5)]
                row["verify_ms"] = 1e3 * float(np.median(verify))
                try:
                    sdp, sdp_seconds = timed(lambda: certify_horizon(one, horizon, method=Method.SDP, **settings))
                except CertificationError as error:
                    return row | {
                        "sdp": None,
                        "sdp_s": None,
                        "looser_percent": None,
                        "speedup": None,
                        "note": str(error)[:60],
                    }
                looser = 100 * (ours.bounds[-1, 0] / sdp.bounds[-1, 0] - 1)
                return row | {
                    "sdp": sdp.bounds[-1, 0], "sdp_s": sdp_seconds, "looser_percent": looser,
                    "speedup": sdp_seconds / seconds, "note": sdp.solver_status,
                }  # fmt: skip

            row = study.row(f"against Clarabel, {horizon} steps, radii {radius}, {b}", compute)
            if row["sdp"] is not None:
                name = f"{horizon} steps, radii ({radius}, {b})"
                study.target(
                    f"{name}: looser than the SDP", "<= 0.5 %", row["looser_percent"], row["looser_percent"] <= 0.5
                )
                if horizon == max(horizons):
                    study.target(f"{name}: faster", ">= 10 x", row["speedup"], row["speedup"] >= 10)
                if horizon == 50:
                    study.target(f"{name}: verification", "<= 10 ms", row["verify_ms"], row["verify_ms"] <= 10)


def sizes(study: Study, tank: LureSystem) -> None:
    """Time larger networks and horizons for one output, and prove their certificates."""
    steps, nx, nv, layer = (100, 24, 20, 8) if study.quick else (1000, 64, 100, 32)
    cases: list[tuple[str, Callable[[], LureSystem], int, float]] = [
        (f"Elman n = 16, {steps} steps", lambda: tank, steps, 10.0),
        (f"Elman n = {nx}, 50 steps", lambda: three_tanks(study.seed, quick=True, nx=nx), 50, 60.0),
        (f"REN nv = {nv}, 20 steps", lambda: ContractingREN(
            nu=2, ny=3, nx=10, nv=nv, rate=0.95, seed=study.seed).freeze(), 20, 30.0),
        (f"R2DN {layer}-{layer}, 20 steps", lambda: ContractingR2DN(
            nu=2, ny=3, nx=10, nv=16, layers=(layer, layer), rate=0.95, seed=study.seed).freeze(), 20, 30.0),
    ]  # fmt: skip
    for name, make, horizon, limit in cases:

        def compute(make: Callable[[], LureSystem] = make, horizon: int = horizon) -> Row:
            system = make()
            one = replace(system, C2=system.C2[:1], D21=system.D21[:1], D22=system.D22[:1], by=system.by[:1])
            found, seconds = timed(
                lambda: certify_horizon(one, horizon, initial_radius=0.5, input_radius=0.05, focus=[horizon])
            )
            return {"bound": found.bounds[-1, 0], "cpu_s": seconds, "margin": found.margin}

        row = study.row(name, compute)
        study.target(f"{name}: one output", f"<= {limit:g} s", row["cpu_s"], row["cpu_s"] <= limit)


def tightness(study: Study, system: LureSystem, horizons: Sequence[int]) -> None:
    """Compare bounds over the horizon with attacks, the single constant, added gains and the norm product."""
    limits = -2.0 * np.ones(system.nu), 2.0 * np.ones(system.nu)
    for horizon in horizons:
        for radius, b in RADII:

            def compute(horizon: int = horizon, radius: float = radius, b: float = b) -> Row:
                found = certify_horizon(system, horizon, initial_radius=radius, input_radius=b)
                reached = attack_horizon(
                    system,
                    horizon,
                    initial_radius=radius,
                    input_radius=b,
                    input_range=limits,
                    starts=64,
                    steps=60,
                    seed=study.seed,
                )
                ratio = found.bounds[-1] / reached.differences[-1]
                constant = certify_lipschitz(system, horizon).constant
                everything = np.sqrt(radius**2 + (horizon + 1) * system.nu * b**2)
                return {
                    "horizon": horizon, "radius": radius, "b": b, "bound": found.bounds[-1],
                    "attack": reached.differences[-1], "ratio": ratio, "random": reached.random[-1],
                    "gains_added_over_bound": certify_gains(system, horizon).bounds(radius, b)[-1] / found.bounds[-1],
                    "single_constant_over_bound": constant * everything / found.bounds[-1],
                    "norm_product_over_bound": norm_product(system, horizon, radius, b) / found.bounds[-1],
                    "holds": bool((reached.differences <= found.bounds).all()),
                }  # fmt: skip

            row = study.row(f"tightness, {horizon} steps, radii {radius}, {b}", compute)
            limit = 1.10 if horizon <= 10 else 1.25
            study.target(
                f"{horizon} steps, radii ({radius}, {b}): bound over attack, worst output",
                f"<= {limit}",
                max(row["ratio"]),
                max(row["ratio"]) <= limit,
            )


def norm_product(system: LureSystem, horizon: int, radius: float, b: float) -> Array:
    """Bound |C| |W|^k radius + sum |C| |W|^i |U| |du|, which needs no optimisation."""
    shrink, push = np.linalg.norm(system.C1, 2), np.linalg.norm(system.D12, 2) * np.sqrt(system.nu) * b
    state = radius
    for _ in range(horizon):
        state = shrink * state + push
    return np.asarray(np.linalg.norm(system.C2, axis=1) * state)
