"""Several starts of one fit, in sequence or in parallel processes, and the average of several models.

Training of recurrent networks has local minima, so a single start says little. The mean of several models is itself a
`LureSystem` with the states of all of them; its squared error is never above the mean of theirs (Krogh & Vedelsby,
"Neural network ensembles, cross validation, and active learning", NIPS 1995).
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg

from controlrnn.checks import Array, checked_seed, count
from controlrnn.data import Dataset, Trajectory
from controlrnn.data.sampling import all_same_dt
from controlrnn.errors import SettingError
from controlrnn.identification.training.identify import identify
from controlrnn.identification.training.result import FitResult
from controlrnn.identification.training.settings import FitStatus
from controlrnn.models import Model
from controlrnn.records import write_atomic
from controlrnn.systems import LureSystem
from controlrnn.typed import typed
from controlrnn.workers import Workers

if TYPE_CHECKING:
    from controlrnn.cluster import Client


@dataclass(frozen=True, eq=False)
@typed()
class Starts:
    """Fits of the same data from different starts.

    Args:
        fits: The fits, in order of their seeds.
    """

    fits: tuple[FitResult, ...]

    @property
    def best(self) -> FitResult:
        """Fit with the lowest validation error (training error where there are no validation records)."""
        return min(self.fits, key=lambda fit: fit.best_validation)

    def average(self) -> LureSystem:
        """Mean of all fits as one system; see `average`."""
        return average([fit.system for fit in self.fits])

    def simulate(self, record: Trajectory) -> Array:
        """Mean free run over ``record``, each model from its own initial state, shape (T, ny), physical units."""
        return np.asarray(np.mean([fit.simulate(record) for fit in self.fits], axis=0))


@typed()
def identify_starts(
    build: Callable[[int], Model],
    dataset: Dataset,
    *,
    starts: int = 5,
    seed: int = 0,
    jobs: int = 1,
    client: Client | None = None,
    folder: str | os.PathLike[str] | None = None,
    **options: Any,
) -> Starts:
    """Call `identify` for ``build(seed)``, ``build(seed + 1)``, ...; who computes them does not change the results.

    Args:
        build: Function that makes a model from a seed. With ``jobs`` > 1 it and the loss must be importable: a function
            of a module, not a lambda.
        dataset: As for `identify`.
        starts: Number of starts.
        seed: Seed of the first model and its windows.
        jobs: Processes to use.
        client: Client of a Dask cluster (`distributed.Client`) whose workers train instead. Data and options travel
            once to each worker, a fit and its checkpoint to and fro; after Ctrl-C only what is in ``folder`` is kept.
        folder: Folder for checkpoints and finished fits; those that it holds already are not computed again.
        options: Further arguments of `identify`, except ``seed``, ``checkpoint`` and ``callbacks``.

    Returns:
        All fits; fewer than ``starts`` after Ctrl-C, the last ones with the best parameters that they had by then.

    Raises:
        SettingError: An option is none of `identify`'s, or is set here; several jobs are asked for beside a client.
        ClusterError: The cluster has no workers, or its scheduler is gone.
        TrainingError: ``folder`` holds the state of another run.
    """
    starts, jobs, seed = count("starts", starts), count("jobs", jobs), checked_seed(seed)
    taken = sorted({"checkpoint", "callbacks"} & set(options))
    if taken:
        raise SettingError(f"identify_starts sets {', '.join(taken)} itself: pass folder to keep the state of training")
    if jobs > 1 and client is not None:
        raise SettingError(f"identify_starts takes the workers of its client, got {jobs} jobs as well: leave them out")
    with tempfile.TemporaryDirectory() as temporary:
        kept = Path(folder or temporary)
        kept.mkdir(parents=True, exist_ok=True)
        # Fits go through files in all cases, so that parallel and sequential runs return the same objects.
        tasks = [(build, dataset, options, s, kept) for s in range(seed, seed + starts)]
        if client is not None:
            done = _on_cluster(client, tasks)
        elif jobs == 1:
            done = []
            for task in tasks:
                done.append(_one(task))
                if not done[-1]:
                    break
        else:
            done = _side_by_side(tasks, min(jobs, starts))
        return Starts(tuple(_loaded(task) for task in tasks[: len(done)]))


@typed()
def average(systems: Sequence[LureSystem]) -> LureSystem:
    """Average several systems to one whose output is the mean of theirs and whose state is all of theirs together.

    It contracts if all of them do.

    Args:
        systems: Frozen systems of the same channels, sample time and activation.

    Raises:
        SettingError: None are given, or they differ in channels, sample time or activation.
    """
    same = len({(s.nu, s.ny, s.activation) for s in systems}) == 1 and all_same_dt(s.dt for s in systems)
    if not same:
        raise SettingError("average needs at least one system, all with the same channels, dt and activation")
    if not all(s.is_frozen for s in systems):
        raise SettingError("average needs frozen systems, got one of tensors: call model.freeze() first")
    n = len(systems)

    def diagonal(name: str) -> Array:
        return np.asarray(scipy.linalg.block_diag(*(getattr(s, name) for s in systems)))

    def stack(name: str) -> Array:
        return np.concatenate([getattr(s, name) for s in systems])

    def row(name: str) -> Array:
        return np.concatenate([getattr(s, name) / n for s in systems], axis=1)

    return LureSystem(
        A=diagonal("A"), B1=diagonal("B1"), B2=stack("B2"), bx=stack("bx"),
        C1=diagonal("C1"), D11=diagonal("D11"), D12=stack("D12"), bv=stack("bv"),
        C2=row("C2"), D21=row("D21"),
        D22=np.asarray(sum(s.D22 for s in systems)) / n, by=np.asarray(sum(s.by for s in systems)) / n,
        activation=systems[0].activation, layers=sum((s.layers for s in systems), ()), dt=systems[0].dt,
    )  # fmt: skip


def _side_by_side(tasks: Sequence[_Task], jobs: int) -> list[bool]:
    """Do the tasks in parallel; returns the results of `_one`, after Ctrl-C only those before the first unfinished."""
    with Workers(jobs) as pool:
        futures = [pool.submit(_one, task) for task in tasks]
        try:
            return [future.result() for future in futures]
        except KeyboardInterrupt:
            pool.stop(futures)  # they end with the best parameters so far
            ended = [f.done() and not f.cancelled() and f.exception() is None for f in futures]
            if not ended[0]:
                raise
            return [f.result() for f in futures[: [*ended, False].index(False)]]


def _on_cluster(client: Client, tasks: Sequence[_Task]) -> list[bool]:
    """Do the tasks on a cluster; fits are written as they come."""
    from controlrnn import cluster

    build, dataset, options, _, folder = tasks[0]

    def written(_number: int, found: tuple[bool, dict[str, bytes]]) -> None:
        for name, content in found[1].items():
            write_atomic(folder / name, content)

    sent = ((seed, {p.name: p.read_bytes() for p in folder.glob(f"*_{seed}.npz")}) for *_, seed, _ in tasks)
    train = functools.partial(functools.partial, _apart, build, dataset, options)
    return [finished for finished, _ in cluster.stream(client, train, sent, arrived=written)]


def _apart(
    build: Callable[[int], Model], dataset: Dataset, options: dict[str, Any], seed: int, files: dict[str, bytes]
) -> tuple[bool, dict[str, bytes]]:
    """`_one` in a folder of its own, from the files of that start; returns its result and its files."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in files.items():
            write_atomic(Path(folder, name), content)
        finished = _one((build, dataset, options, seed, Path(folder)))
        return finished, {path.name: path.read_bytes() for path in sorted(Path(folder).glob(f"*_{seed}.npz"))}


_Task = tuple[Callable[[int], Model], Dataset, dict[str, Any], int, Path]


def _one(task: _Task) -> bool:
    """Fit one start and write it to its file; returns whether training was not interrupted."""
    build, dataset, options, seed, folder = task
    # A finished run's checkpoint stays: it says what the run depended on, and is refused where that changed.
    fit = identify(build(seed), dataset, checkpoint=folder / f"checkpoint_{seed}.npz", seed=seed, **options)
    fit.save(folder / f"fit_{seed}.npz")
    return fit.status is not FitStatus.INTERRUPTED


def _loaded(task: _Task) -> FitResult:
    """Read the fit of a task from its file."""
    build, _, _, seed, folder = task
    return FitResult.load(folder / f"fit_{seed}.npz", build(seed))
