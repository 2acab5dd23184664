"""Processor times of a REN and an R2DN, taken in turns, so that a busy machine slows both alike.

A training step is the map to the explicit matrices, the loss and its gradient; inference is a run of given matrices.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch

from controlrnn.kernels import simulate
from controlrnn.models import ContractingR2DN, ContractingREN, Model
from controlrnn.systems import LureSystem
from experiments.bench_scan.equal_size import in_turns, leaves
from experiments.papers.r2dn.tasks import KINDS, Run, Task
from experiments.shared.rows.cases import one_thread
from experiments.shared.study import Row

PATHS: dict[str, Run] = {"fused": simulate, "eager": LureSystem.simulate}
# Sizes of the paper's scaling study with the error that it found there [%]: 1 state, batch 64, horizon 128.
REN_SIZES = {20: 6.1, 30: 4.6, 40: 4.0, 60: 2.2, 80: 1.15, 100: 0.65, 128: 0.40, 200: 0.25}
R2DN_SIZES = {8: 6.6, 16: 4.1, 24: 2.4, 32: 1.5, 48: 0.66, 64: 0.51, 80: 0.38, 96: 0.32}
BATCH, HORIZON = 64, 128


def of_task(task: Task, turns: Mapping[str, int], eager_samples: int) -> Row:
    """Milliseconds of a training step and of inference on both paths, a list of all turns each.

    Args:
        task: The task.
        turns: Number of turns of each path.
        eager_samples: Samples of a batch that the eager loop is timed with; its time grows in proportion.
    """
    row: Row = {}
    models = {kind: moved(task.models[kind](seed=0)) for kind in KINDS}
    batch = next(task.batches(0))
    for path, run in PATHS.items():
        some = _shortened(batch, eager_samples) if path == "eager" else batch
        steps = {kind: _step(model, task, some, run) for kind, model in models.items()}
        runs = {kind: _inference(model, task, some, run) for kind, model in models.items()}
        for what, works in (("training", steps), ("inference", runs)):
            row |= {f"{what}_{path}_{kind}": times for kind, times in in_turns(works, turns[path]).items()}
    return row


def scaling(turns: Mapping[str, int], horizons: Mapping[str, int], *, every: int) -> Row:
    """Milliseconds over the sizes of the paper's scaling study: {what}_{path}_{kind} (turns, sizes).

    Args:
        turns: Number of turns of each path.
        horizons: Samples of each path.
        every: Step through the sizes.
    """
    sizes = {"ren": list(REN_SIZES)[::-1][::every][::-1], "r2dn": list(R2DN_SIZES)[::-1][::every][::-1]}
    row: Row = {"sizes": sizes}
    for path, run in PATHS.items():
        for kind in KINDS:
            columns: dict[str, list[list[float]]] = {"training": [], "inference": []}
            for size in sizes[kind]:
                works = _plain(moved(scaled_model(kind, size)), horizons[path], run)
                for what, times in in_turns(works, turns[path]).items():
                    columns[what].append(times)
            row |= {f"{what}_{path}_{kind}": np.transpose(times).tolist() for what, times in columns.items()}
    return row


def eager_backward(lengths: tuple[int, int] = (392, 784)) -> Row:
    """Least of five times [ms] of a backward pass through the loop over samples, at two lengths, and their ratio."""
    system, found = given(moved(scaled_model("r2dn", 32))), []
    for samples in lengths:
        u = torch.randn(8, samples, 1, generator=torch.Generator().manual_seed(0))
        times = []
        with one_thread():
            for _ in range(5):
                loss = LureSystem.simulate(leaves(system), u)[0].square().mean()
                began = time.process_time()
                loss.backward()
                times.append(1e3 * (time.process_time() - began))
        found.append(min(times))
    return {"lengths": list(lengths), "ms": found, "ratio": found[1] / found[0]}


def scaled_model(kind: str, size: int) -> Model:
    """The scaling study's model of a size: neurons of a REN, width of an R2DN's six layers."""
    if kind == "ren":
        return ContractingREN(nu=1, ny=1, nx=1, nv=size, activation="tanh", feedthrough=True)
    return ContractingR2DN(nu=1, ny=1, nx=1, nv=16, layers=(size,) * 6, activation="relu", feedthrough=True)


def moved(model: Model) -> Model:
    """The model away from its start, at which the network has no effect, so that no zeros are skipped."""
    rng = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.03 * torch.randn(parameter.shape, generator=rng))
    return model


def _step(model: Model, task: Task, batch: Any, run: Run) -> Callable[[], None]:
    def work() -> None:
        model.zero_grad(set_to_none=True)
        task.loss(model.system(), batch, None, run)[0].backward()  # type: ignore[no-untyped-call]

    return work


def _inference(model: Model, task: Task, batch: Any, run: Run) -> Callable[[], None]:
    system = given(model)

    def work() -> None:
        with torch.no_grad():
            task.loss(system, batch, None, run)

    return work


def _plain(model: Model, horizon: int, run: Run) -> dict[str, Callable[[], None]]:
    u = torch.randn(BATCH, horizon, 1, generator=torch.Generator().manual_seed(0))
    system = given(model)

    def training() -> None:
        model.zero_grad(set_to_none=True)
        run(model.system(), u)[0].square().mean().backward()

    def inference() -> None:
        with torch.no_grad():
            run(system, u)

    return {"training": training, "inference": inference}


@torch.no_grad()
def given(model: Model) -> LureSystem:
    """Explicit system of tensors, whose computation is not remembered."""
    return model.system()


def _shortened(batch: Any, samples: int) -> Any:
    """The batch with sequences cut to some samples; one-step pairs as they are."""
    if isinstance(batch, list):
        return batch
    return tuple(part[:, :samples] if isinstance(part, torch.Tensor) else part for part in batch)
