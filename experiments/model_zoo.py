"""Every model of `controlrnn.models` on the data of the four carts: guarantees, fit and agreement of exports.

Each model is trained for 300 steps in float32 and frozen in float64. Then, per model:
- certificate: proven from the model's own numbers ("construction"), by search ("search"), or not at all ("none");
  `margin` is the smallest relative pivot of the proof;
- stretch: the largest growth of a state difference over one step that a gradient attack found, in the certificate's
  own metric; it must stay below `rate`. gain: the same for the l2 gain in scaled units, which must stay below `gamma`;
- disagreement of torch, CasADi and compiled C with numpy over 200 samples, relative to the largest output;
- nse: |y - yhat| / |y - mean y| of the free run over the test record at s = 3, after these few steps. These compare
  only models of the same `start`: some classes start at a subspace model of the records, the others at random.
"""

from __future__ import annotations

import copy
import ctypes
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from controlrnn import models
from controlrnn.certification import (
    ContractionCertificate,
    DeltaIssCertificate,
    L2GainCertificate,
    attack_l2_gain,
    certify_by_construction,
    certify_contraction,
    certify_delta_iss,
)
from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import CertificationError
from controlrnn.export import to_c, to_casadi
from controlrnn.identification import SimulationError, TqdmProgress, identify
from controlrnn.models import Model
from controlrnn.systems import GatedSystem, LureSystem, System
from experiments.four_carts import WASHOUT, errors_of, experiments
from experiments.shared.identification import start_of
from experiments.shared.study import Row, Study

NX, RANGE = 10, 3.0  # [N], twice what the test record at s = 3 applies
_REN = {"nv": 20, "activation": "relu"}
_R2DN = {"nv": 8, "layers": (20,), "activation": "relu"}
SETTINGS: dict[str, dict[str, Any]] = {
    "LTI": {},
    "Elman": {},
    "ResidualRNN": {"nv": 20},
    "StableRNN": {},
    "ContractingImplicitRNN": {},
    "RobustRNN": {"nv": 10},
    "ContractingREN": _REN,
    "LipschitzREN": _REN | {"gamma": 10.0},
    "DissipativeREN": _REN | {"Q": [[-0.1]], "S": [[0.0]], "R": [[10.0]]},
    "ContractingR2DN": _R2DN,
    "LipschitzR2DN": _R2DN | {"gamma": 10.0},
    "LipschitzRNN": {"step": 0.3, "gamma": 0.1},
    "AntisymmetricRNN": {"step": 0.3},
    "CayleyRNN": {},
    "NeuralODERNN": {"step": 0.3},
    "LSTM": {},
    "GRU": {},
}


@dataclass(frozen=True, eq=False)
class Proof:
    """Proven properties of a trained model."""

    origin: str
    contraction: ContractionCertificate | DeltaIssCertificate | None = None
    gain: L2GainCertificate | None = None


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("model_zoo", __doc__, arguments)
    missing = sorted(set(models.__all__) - {"Model"} - set(SETTINGS))
    if missing:
        raise LookupError(f"the study has no settings for {', '.join(missing)}: add them to SETTINGS")
    with study.stage("simulating the experiments"):
        data = experiments(study)
    rows = [
        study.row(name, lambda n=name: case(study, data, n), needs={"settings": SETTINGS[name]})  # type: ignore[misc]
        for name in SETTINGS
    ]
    promised = [row for row in rows if row["promises"]]
    proven = [row for row in promised if row["margin"] is not None]
    study.target("promises_proven", f"{len(promised)} margins > 0", len(proven), len(proven) == len(promised))
    for found, certified in (("stretch", "rate"), ("gain", "gamma")):
        ratios = [row[found] / row[certified] for row in rows if row[certified] is not None]
        study.target(f"{found}_below_{certified}", "<= 1", max(ratios), max(ratios) <= 1 + 1e-9)
    worst = max(
        row[f"{k}_differs"] for row in rows for k in ("torch", "casadi", "c") if row[f"{k}_differs"] is not None
    )
    study.target("agreement", "<= 1e-10", worst, worst <= 1e-10)
    spent = sum(row["seconds"] for row in rows)
    study.target("seconds", "<= 600", spent, spent <= 600)
    return study.finish()


def case(study: Study, data: Dataset, name: str) -> Row:
    """Train, prove, attack and compare one model."""
    model: Model[Any] = getattr(models, name)(nu=1, ny=1, nx=NX, seed=study.seed, **SETTINGS[name])
    fit = identify(
        model,
        data,
        loss=SimulationError(washout=WASHOUT),
        window=300,
        batch_size=16,
        steps=30 if study.quick else 300,
        learning_rate=5e-3,
        validate_every=100,
        keep="last",
        seed=study.seed,
        callbacks=[TqdmProgress(name)],
    )
    assert fit.model is not None
    system: Any = fit.system
    proof = prove(fit.model, system)
    row: Row = {
        "parameters": fit.model.n_parameters,
        "start": start_of(model),
        "promises": fit.model.guarantee() is not None,
    }
    row |= {"certificate": proof.origin, "margin": None, "rate": None, "stretch": None, "gamma": None, "gain": None}
    if proof.contraction is not None:
        row |= {"margin": proof.contraction.verify(system), "rate": proof.contraction.rate}
        row["stretch"] = worst_stretch(system, proof.contraction, data.test[2], seed=study.seed)
    if proof.gain is not None:
        row |= {"margin": min(row["margin"], proof.gain.verify(system)), "gamma": proof.gain.gamma}
        row["gain"] = attack_l2_gain(
            system,
            input_range=(np.array([-RANGE]), np.array([RANGE])),
            input_scale=proof.gain.input_scale,
            output_scale=proof.gain.output_scale,
            seed=study.seed,
        ).gain
    return row | disagreements(fit.model, system, data.test[2].u[:200]) | {"nse": errors_of(system, data)["nse_3"]}


def prove(model: Model[Any], system: Any) -> Proof:
    """Prove the model's own certificates, else search for some."""
    try:
        if model.guarantee() is not None:
            construction = certify_by_construction(model)
            gain = construction.dissipation
            return Proof(
                "construction", construction.contraction, gain if isinstance(gain, L2GainCertificate) else None
            )
        if isinstance(system, GatedSystem):
            limits = np.full(1, RANGE)
            return Proof("search", certify_delta_iss(system, input_range=(-limits, limits)))
        return Proof("search", certify_contraction(system))
    except CertificationError:
        return Proof("none")


def worst_stretch(
    system: LureSystem | GatedSystem,
    proof: ContractionCertificate | DeltaIssCertificate,
    record: Trajectory,
    *,
    seed: int,
    starts: int = 256,
    steps: int = 150,
) -> float:
    """Largest growth of a state difference over one step, in the metric of the certificate.

    Starts lie along a free run. The difference goes where the linearised growth is largest (power iterations in an
    ellipsoidal metric, a corner of the box in a weighted maximum norm), while state and input climb by Adam.
    """
    rng = np.random.default_rng(seed)
    fixed: Any = system
    tensors = replace(
        fixed,
        **{f.name: torch.tensor(v) for f in fields(system) if isinstance(v := getattr(system, f.name), np.ndarray)},
    )
    path = system.simulate(record.u[:2000])[1][:-1]
    pick = rng.integers(0, len(path), starts)
    size = path.std(axis=0) + 1e-9
    x = torch.tensor(path[pick] + size * rng.normal(size=path[pick].shape)).requires_grad_()
    u = torch.tensor(rng.uniform(-RANGE, RANGE, (starts, system.nu))).requires_grad_()
    distance, worst_direction = _geometry(proof)
    # Differences of all sizes: small ones see the steepest slope, but none so small that rounding would show.
    radius = torch.tensor(10.0 ** rng.uniform(-2, 0, (starts, 1))) * distance(torch.tensor(size)[None])
    xi, best = torch.tensor(rng.normal(size=x.shape)), 0.0
    climb = torch.optim.Adam(
        [{"params": [x], "lr": 0.02 * float(size.max())}, {"params": [u], "lr": 0.05}], maximize=True
    )
    for _ in range(steps):
        dx = (radius * worst_direction(xi)).requires_grad_()
        with torch.no_grad():
            if isinstance(proof, DeltaIssCertificate):  # speaks of these states only
                bound = torch.tensor(proof.state_bound)
                x.copy_(torch.minimum(torch.maximum(x, -bound - dx.clamp_max(0)), bound - dx.clamp_min(0)))
            u.clamp_(-RANGE, RANGE)
        after = distance(tensors.step(x + dx, u) - tensors.step(x, u))
        ratio = after / distance(dx)
        best = max(best, float(ratio.detach().max()))
        (xi,) = torch.autograd.grad(after.square().sum(), dx, retain_graph=True)
        x.grad, u.grad = torch.autograd.grad(ratio.sum(), (x, u))
        climb.step()
    return best


def _geometry(
    proof: ContractionCertificate | DeltaIssCertificate,
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """Size of a difference (N, nx), and the unit difference along which a linear function (N, nx) grows most."""
    if isinstance(proof, DeltaIssCertificate):
        scale = torch.tensor(proof.scale)
        return lambda d: (d.abs() / scale).amax(dim=1), lambda g: scale * torch.where(g < 0, -1.0, 1.0)
    root = torch.linalg.cholesky(torch.tensor(proof.metric))
    inverse = torch.linalg.inv(root)

    def direction(g: Tensor) -> Tensor:
        xi = g @ inverse.T  # the gradient in coordinates d root, where distances are Euclidean
        unit: Tensor = (xi / xi.norm(dim=1, keepdim=True).clamp_min(1e-300)) @ inverse
        return unit

    return lambda d: (d @ root).norm(dim=1), direction


def disagreements(model: Model[Any], system: System, u: Array) -> Row:
    """Largest differences of outputs (T, ny) from those of numpy, relative to the largest output."""
    reference = system.simulate(u)[0]
    runs = {"torch": run_torch(model, u), "casadi": run_casadi(system, u), "c": run_c(system, u)}
    size = np.abs(reference).max()
    return {f"{k}_differs": None if y is None else float(np.abs(y - reference).max() / size) for k, y in runs.items()}


def run_torch(model: Model[Any], u: Array) -> Array:
    """Outputs (T, ny) of the trainable model in float64, from its scaled units."""
    twin = copy.deepcopy(model).double()
    with torch.no_grad():
        scaled: Array = twin(torch.tensor(model.input_scaler.apply(u))).numpy()
    return model.output_scaler.invert(scaled)


def run_casadi(system: System, u: Array) -> Array:
    """Outputs (T, ny) of the CasADi functions."""
    step, output = to_casadi(system)
    x, y = np.zeros(system.nx), []
    for row in u:
        y.append(output(x, row).full().ravel())
        x = step(x, row).full().ravel()
    return np.array(y)


def run_c(system: System, u: Array) -> Array | None:
    """Outputs (T, ny) of the compiled C code; None without a compiler."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        source, _ = to_c(system, Path(folder) / "model.c")
        target = Path(folder) / "model.so"
        flags = ["-std=c99", "-O2", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(source), "-o", str(target), "-lm"], check=True)
        library = ctypes.CDLL(str(target))
        x, out, y = np.zeros(system.nx), np.empty(system.ny), []

        def call(name: str, *arrays: Array) -> None:
            getattr(library, name)(*(a.ctypes.data_as(ctypes.POINTER(ctypes.c_double)) for a in arrays))

        for row in np.ascontiguousarray(u):
            call("model_output", x, row, out)
            call("model_step", x, row, x)
            y.append(out.copy())
    return np.array(y)


if __name__ == "__main__":
    sys.exit(main())
