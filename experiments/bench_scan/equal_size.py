"""R2DN against REN of as many parameters on the compiled scan, at the sizes of the R2DN paper's F-16 study.

Forward + backward by all matrices, float32, processor time, taken in turns so that a busy machine slows both alike. A
REN's neurons wait for each other; an R2DN's layers are dense and do not touch beyond their neighbours.
(Manchester, Barbara, Wang, "R2DN", 2025: 75 states and 150 neurons, 75 states and three layers of 87.)
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from controlrnn.kernels import simulate
from controlrnn.models import ContractingR2DN, ContractingREN, Model
from controlrnn.models.base import lure
from controlrnn.systems import MATRICES, LureSystem
from experiments.shared.rows.cases import one_thread
from experiments.shared.study import Row

SIZES = ((1, 256), (4, 256), (16, 256), (64, 128))  # records and samples of a gradient


def model(kind: str, *, quick: bool) -> Model:
    """The model of the paper's size, or a fifth of it."""
    n = 5 if quick else 1
    if kind == "ren":
        return ContractingREN(nu=2, ny=3, nx=75 // n, nv=150 // n, activation="relu", feedthrough=True)
    made = ContractingR2DN(
        nu=2, ny=3, nx=75 // n, nv=75 // n, layers=(87 // n,) * 3, activation="relu", feedthrough=True
    )
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():  # its start has no effect of the network, whose zeros would be skipped
        for parameter in (made.B, made.D21):
            assert parameter is not None
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=rng))
    return made


def leaves(system: LureSystem) -> LureSystem:
    """The system with its matrices as leaves, of the same structure."""
    matrices = {name: getattr(system, name).detach().clone().requires_grad_() for name in MATRICES}
    return lure(
        **matrices,
        activation=str(system.activation),
        layers=system.layers,
        dt=system.dt,
        feedforward=system.feedforward,
    )


def in_turns(works: Mapping[str, Callable[[], None]], turns: int) -> dict[str, list[float]]:
    """Processor time [ms] of each work, taken in turns; the first turn, which compiles, does not count."""
    times: dict[str, list[float]] = {name: [] for name in works}
    with one_thread():  # the times of all threads are counted together
        for turn in range(turns + 1):
            for name, work in works.items():
                began = time.process_time()
                work()
                if turn:
                    times[name].append(1e3 * (time.process_time() - began))
    return times


def _gradient(system: LureSystem, u: Tensor) -> None:
    simulate(system, u)[0].square().mean().backward()


def compare(records: int, samples: int, *, quick: bool) -> Row:
    """Median processor time [ms] of a gradient of both, and their ratio."""
    rng = torch.Generator().manual_seed(0)
    u = torch.randn(records, samples, 2, generator=rng)
    systems = {kind: leaves(model(kind, quick=quick).system()) for kind in ("ren", "r2dn")}
    times = in_turns({kind: partial(_gradient, system, u) for kind, system in systems.items()}, 3 if quick else 20)
    medians = {f"{kind}_ms": statistics.median(values) for kind, values in times.items()}
    numbers = {f"{kind}_entries": sum(int((getattr(s, n) != 0).sum()) for n in MATRICES) for kind, s in systems.items()}
    return {"records": records, "samples": samples} | numbers | medians | {
        "r2dn_over_ren": medians["r2dn_ms"] / medians["ren_ms"]
    }  # fmt: skip
