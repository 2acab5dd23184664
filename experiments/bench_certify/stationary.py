"""Benchmark of infinite-horizon certificates: models with a guarantee, freely trained networks, cost of proofs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

import numpy as np
import torch

from controlrnn import models
from controlrnn.certification import (
    Certificate,
    L2GainCertificate,
    certify_by_construction,
    certify_contraction,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
)
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.search import sdp
from controlrnn.data import Dataset
from controlrnn.errors import CertificationError
from controlrnn.identification import SimulationError, identify
from controlrnn.models import Elman
from controlrnn.systems import LureSystem
from experiments.rnn_sdp_tanks.paper_tanks import tank_records
from experiments.shared.study import Row, Study

_SIZE: dict[str, Any] = {"nu": 2, "ny": 3, "dt": 1.0}
# Feasible by less than this, relative to a metric of trace nx, neither solver can tell.
_UNDECIDED = 1e-6


def direct_models(quick: bool) -> dict[str, Callable[[int], models.Model[Any]]]:
    """Models whose guarantee holds for every parameter value, by name; each takes a seed."""
    nx, nv = (3, 4) if quick else (8, 16)
    layers = (nv // 2, nv // 2)
    Q, S, R = -np.eye(3), np.zeros((2, 3)), 25.0 * np.eye(2)
    kinds: Mapping[str, tuple[Any, dict[str, Any]]] = {
        "LTI": (models.LTI, {"rate": 0.95}),
        "StableRNN": (models.StableRNN, {"rate": 0.95}),
        "ContractingImplicitRNN": (models.ContractingImplicitRNN, {"rate": 0.95}),
        "RobustRNN": (models.RobustRNN, {"nv": nv, "gamma": 5.0, "rate": 0.95}),
        "ContractingREN": (models.ContractingREN, {"nv": nv, "rate": 0.95}),
        "LipschitzREN": (models.LipschitzREN, {"nv": nv, "gamma": 5.0, "rate": 0.95}),
        "DissipativeREN": (models.DissipativeREN, {"nv": nv, "rate": 0.95, "Q": Q, "S": S, "R": R}),
        "ContractingR2DN": (models.ContractingR2DN, {"nv": nv // 2, "layers": layers, "rate": 0.95}),
        "LipschitzR2DN": (models.LipschitzR2DN, {"nv": nv // 2, "layers": layers, "gamma": 5.0, "rate": 0.95}),
    }
    return {name: partial(_randomised, kind, settings | {"nx": nx}) for name, (kind, settings) in kinds.items()}


def _randomised(kind: Any, settings: dict[str, Any], seed: int) -> Any:
    """Move a model's parameters away from their start, where guarantees are often slack or trivial."""
    model = kind(**_SIZE, **settings, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        before = [p.detach().clone() for p in model.parameters()]
        for p in model.parameters():
            p.add_(0.3 * torch.randn(p.shape, generator=generator, dtype=torch.float64).to(p.dtype))
        model.after_step(before)
    return model


def by_construction(study: Study) -> None:
    """Compare rates and gains that the search finds with those that the models guarantee."""
    for name, make in direct_models(study.quick).items():
        for seed in range(1 if study.quick else 3):

            def compute(make: Callable[[int], Any] = make, seed: int = seed) -> Row:
                own = certify_by_construction(make(study.seed + seed))
                began = time.process_time()
                found = certify_contraction(own.system)
                row: Row = {
                    "own_rate": own.contraction.rate, "rate": found.rate, "rate_margin": found.margin,
                    "rate_s": time.process_time() - began, "own_gain": None, "gain": None, "gain_margin": None,
                    "gain_s": None,
                }  # fmt: skip
                if isinstance(own.dissipation, L2GainCertificate):
                    began, claim = time.process_time(), own.dissipation
                    gain = certify_l2_gain(own.system, input_scale=claim.input_scale, output_scale=claim.output_scale)
                    row |= {"own_gain": claim.gamma, "gain": gain.gamma, "gain_margin": gain.margin,
                            "gain_s": time.process_time() - began}  # fmt: skip
                return row

            study.row(f"{name}, seed {seed}", compute)
    rows = [r for r in study.rows if "own_rate" in r]
    worst = max(r["rate"] - r["own_rate"] for r in rows)
    study.target("models by construction: rate found minus their own, worst", "<= 0", worst, worst <= 0)
    gains = [r["gain"] / r["own_gain"] for r in rows if r["gain"] is not None]
    study.target("models by construction: gain found over their own, worst", "<= 1", max(gains), max(gains) <= 1)


def freely_trained(study: Study) -> None:
    """Certify Elman networks without any constraint; checks that refusals are right."""
    few, all_steps = [(8, 0.5), (8, 0.7), (8, 1.5)], (60, 400)
    cases = few if study.quick else [(n, g) for n in (8, 16) for g in (0.4, 0.7, 2.0)]
    for nx, start in cases:
        for steps in all_steps[: 1 if study.quick else 2]:
            for seed in range(1 if study.quick else 2):
                work = partial(_free_network, nx, start, study.seed + seed, steps)
                study.row(f"free Elman network, n = {nx}, start {start} / sqrt(n), {steps} steps, seed {seed}", work)
    rows = [r for r in study.rows if "slack" in r]
    decided = [r for r in rows if abs(r["slack"]) > _UNDECIDED]
    agree = sum(r["certified"] == (r["slack"] > 0) for r in decided)
    study.target(
        "free networks: certified if and only if the LMI is feasible",
        f"{len(decided)} of {len(decided)}",
        agree,
        agree == len(decided),
    )
    beyond = sum(r["certified"] and r["norm"] > 1 for r in rows)
    study.target("free networks: certified with |W| > 1", "> 0", beyond, beyond > 0)
    refusals = [r["refusal"] for r in rows if not r["certified"]]
    clear = all("cannot be shown to contract" in text and "finite-horizon" in text for text in refusals)
    study.target("free networks: every refusal says why and what to do", True, clear, clear)


def _free_network(nx: int, start: float, seed: int, steps: int) -> Row:
    records = tank_records(60, 100, seed)
    model = Elman(nu=3, ny=3, nx=nx, seed=seed)
    with torch.no_grad():
        noise = torch.randn(model.W.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        model.W.copy_(start * nx**-0.5 * noise.to(model.W.dtype))
    fit = identify(
        model,
        Dataset(tuple(records[:48]), tuple(records[48:])),
        loss=SimulationError(washout=25),
        window=100,
        steps=steps,
        learning_rate=3e-3,
        start="as_is",
        seed=seed,
    )
    system = fit.system
    assert isinstance(system, LureSystem)
    norms = np.linalg.norm(system.C1, 2), np.abs(np.linalg.eigvals(system.C1)).max()
    still = IncrementalForm.of(system, np.zeros(system.nu, bool))
    slack = sdp.contraction_slack(still, 1.0)
    row: Row = {"norm": float(norms[0]), "spectral_radius": float(norms[1]), "slack": slack, "certified": False,
                "rate": None, "gain": None, "refusal": ""}  # fmt: skip
    began = time.process_time()
    try:
        row |= {"certified": True, "rate": certify_contraction(system).rate, "gain": certify_l2_gain(system).gamma}
    except CertificationError as error:
        row |= {"certified": False, "refusal": str(error)}
    # Whatever happens over the infinite horizon, a finite one has a bound.
    finite = certify_horizon(system, 10, initial_radius=0.1, input_radius=0.01, iterations=100)
    return row | {"cpu_s": time.process_time() - began, "bound_10_steps": float(finite.bounds[-1].max())}


def larger_networks(study: Study) -> None:
    """Time the search for a contraction metric of larger networks."""
    for nx, limit in ((8, 5.0),) if study.quick else ((32, 10.0), (48, 60.0)):

        def compute(nx: int = nx) -> Row:
            model = models.StableRNN(**_SIZE, nx=nx, seed=study.seed)
            system, began = model.freeze(), time.process_time()
            found = certify_contraction(system)
            return {"rate": found.rate, "margin": found.margin, "cpu_s": time.process_time() - began}

        row = study.row(f"contraction of an Elman network, n = {nx}", compute)
        study.target(
            f"contraction of an Elman network, n = {nx}", f"<= {limit:g} s", row["cpu_s"], row["cpu_s"] <= limit
        )


def proofs(study: Study, system: LureSystem) -> None:
    """Time the search and the proof of each kind of certificate of the three-tank network, all outputs."""
    N = 10 if study.quick else 50
    box = -2.0 * np.ones(system.nu), 2.0 * np.ones(system.nu)
    kinds: dict[str, Callable[[], Certificate]] = {
        "horizon": lambda: certify_horizon(system, N, initial_radius=0.5, input_radius=0.05, iterations=100),
        "gains": lambda: certify_gains(system, N, iterations=100),
        "lipschitz": lambda: certify_lipschitz(system, N, iterations=100),
        "contraction": lambda: certify_contraction(system),
        "l2 gain": lambda: certify_l2_gain(system),
        "re-initialisation": lambda: certify_reinitialisation(
            system, washout=20, horizon=10, input_range=box, input_error=0.05, iterations=100
        ),
    }
    for name, make in kinds.items():

        def compute(make: Callable[[], Certificate] = make) -> Row:
            began = time.process_time()
            found = make()
            seconds, taken = time.process_time() - began, []
            for _ in range(5):
                began = time.process_time()
                found.verify(system)
                taken.append(time.process_time() - began)
            return {"find_s": seconds, "prove_ms": 1e3 * float(np.median(taken)), "proof_margin": found.margin}

        study.row(f"proof of a {name} certificate, {N} steps, n = {system.nx}", compute)
