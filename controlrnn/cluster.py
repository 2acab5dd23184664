"""Work on a Dask cluster: what all tasks share travels once to each worker, results come back in order, few at a time.

Tasks are pure functions of their arguments: where a worker dies, Dask gives its tasks to another one. Workers have one
thread each, since a controller keeps its state between calls.

Dask pickles functions, arguments and results on their way between the processes of its cluster: whoever reaches a
scheduler runs code on all of its workers and on who listens to them. Nothing here is unpickled from disk.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import logging
import os
import tempfile
import time
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask.config
import distributed
from dask.tokenize import tokenize
from distributed import Client as Client  # for annotations elsewhere
from distributed.comm.core import CommClosedError

from controlrnn.checks import count, shown
from controlrnn.errors import ClusterError, SettingError

AHEAD = 1000  # results that may wait for an earlier one
BATCH_SECONDS, MOST_IN_BATCH = 0.25, 100  # what a task of the scheduler takes about: each costs it milliseconds
PATIENCE = 60.0  # seconds without a single worker before it is an error
KEPT = 8  # shared things that a client leaves on its workers
# An embedded cluster shares its processors with the workers: these looks at itself cost it a twelfth of one.
_CALM = {
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "5s",
    "distributed.worker.profile.enabled": False,
}
_log = logging.getLogger(__name__)


def processors() -> int:
    """Number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def local_client(workers: int | None = None) -> Iterator[Client]:
    """Start an embedded cluster on this machine, and end it.

    Its processes listen on loopback and admit only holders of a certificate made for this cluster: other users of the
    machine are kept out.

    Args:
        workers: Number of processes; one a processor when left out.
    """
    number = processors() if workers is None else count("workers", workers, most=4096)
    with dask.config.set(_CALM):
        made = distributed.LocalCluster(
            n_workers=number,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            security=True,
            silence_logs=logging.CRITICAL,
        )
    with made as cluster, distributed.Client(cluster) as client:
        yield client


@contextmanager
def connected(scheduler: str, *, timeout: float = 10.0) -> Iterator[Client]:
    """Connect to a scheduler that the user started.

    Args:
        scheduler: Its address, such as ``tcp://10.0.0.1:8786``.
        timeout: Seconds to wait for it.

    Raises:
        ClusterError: Nobody answers there.
    """
    try:
        client = distributed.Client(scheduler, timeout=timeout)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"no scheduler answers at {scheduler!r} ({error}): start one with `dask scheduler`, and workers with "
            "`dask worker ADDRESS --nthreads 1 --nworkers auto`"
        ) from error
    with client:
        yield client


def checked_client(client: Any) -> Client:
    """Return ``client`` after checking that it is a client of a cluster that is running.

    Raises:
        SettingError: It is something else, or closed.
    """
    if not isinstance(client, distributed.Client) or client.asynchronous:
        raise SettingError(f"client must be a distributed.Client that is not asynchronous, got {shown(client)}")
    if client.status not in ("running", "connecting"):
        raise SettingError(f"client must be connected to a scheduler, got one that is {client.status}")
    return client


@dataclass(frozen=True)
class Parcel:
    """Files that travel: their content by name.

    Args:
        files: Content by plain file name.
    """

    files: Mapping[str, bytes]

    @classmethod
    def of(cls, paths: Iterable[Path]) -> Parcel:
        """Read files."""
        return cls({path.name: path.read_bytes() for path in sorted(paths)})

    @property
    def digest(self) -> str:
        """SHA-256 over names and contents."""
        sha = hashlib.sha256()
        for name, content in sorted(self.files.items()):
            sha.update(f"{name}|{len(content)}|".encode() + content)
        return sha.hexdigest()

    def folder(self) -> Path:
        """Folder of this process, accessible to its user alone, that holds the files; gone when the process ends."""
        digest = self.digest
        if digest not in _unpacked:
            _unpacked[digest] = tempfile.TemporaryDirectory(prefix="controlrnn-")
            for name, content in self.files.items():
                (Path(_unpacked[digest].name) / Path(name).name).write_bytes(content)
        return Path(_unpacked[digest].name)


_unpacked: dict[str, tempfile.TemporaryDirectory[str]] = {}
_makers: dict[str, Callable[[], Callable[..., Any]]] = {}  # of a worker process, by the name of its plugin
_made: dict[str, Callable[..., Any]] = {}


class Shared(distributed.WorkerPlugin):  # type: ignore[misc]  # untyped
    """What all tasks of one kind share; the scheduler hands it to every worker, also to those that join later.

    Args:
        name: Name by digest.
        make: Called once in each worker process, at the first task; gives the function that tasks call.
    """

    idempotent = True

    def __init__(self, name: str, make: Callable[[], Callable[..., Any]]) -> None:
        self.name = name
        self.make = make

    def setup(self, worker: distributed.Worker) -> None:  # noqa: ARG002
        """Keep it in the worker process."""
        _makers[self.name] = self.make

    def teardown(self, worker: distributed.Worker) -> None:  # noqa: ARG002
        """Forget it."""
        _makers.pop(self.name, None)
        _made.pop(self.name, None)


def stream(
    client: Client,
    make: Callable[[], Callable[..., Any]],
    tasks: Iterable[Sequence[Any]],
    *,
    arrived: Callable[[int, Any], None] | None = None,
    ahead: int = AHEAD,
) -> Iterator[Any]:
    """Yield ``make()(*task)`` of all tasks, in their order; only a few are on their way or waiting at a time.

    Args:
        client: Client of the cluster.
        make: Makes the function of the tasks; called once in each worker process. With everything that it holds it
            travels once to each worker.
        tasks: Arguments of each task; drawn as they are needed.
        arrived: Called with (number of the task, result) the moment that a result comes, before its turn.
        ahead: Results that may wait for an earlier one.

    Raises:
        ClusterError: The scheduler is gone, workers die of a task or there are none for a minute.
        SettingError: A worker has several threads.
    """
    run = _Run(checked_client(client), _share(client, make), enumerate(tasks), arrived, ahead)
    try:
        yield from run
    finally:
        run.cancel()


class _Run:
    """One `stream`; its arguments, with the name of what is shared."""

    def __init__(
        self,
        client: Client,
        name: str,
        tasks: Iterator[tuple[int, Sequence[Any]]],
        arrived: Callable[[int, Any], None] | None,
        ahead: int,
    ) -> None:
        self._client = client
        self._name = name
        self._tasks = tasks
        self._arrived = arrived
        self._ahead = ahead
        self._pending: dict[distributed.Future, list[int]] = {}
        self._order: deque[int] = deque()
        self._waiting: dict[int, Any] = {}
        self._batch = 1
        self._spent = 0.0
        self._done = 0
        self._ended = False
        self._joined = 0
        self._asked = -float("inf")

    def __iter__(self) -> Iterator[Any]:
        while True:
            self._submit()
            while self._order and self._order[0] in self._waiting:
                yield self._waiting.pop(self._order.popleft())
            if not self._pending and self._ended:
                return
            self._submit()
            if self._pending:
                self._collect()

    def cancel(self) -> None:
        """Give up what is on its way."""
        if self._pending and self._client.status == "running":
            self._client.cancel(list(self._pending), force=True)
        self._pending.clear()

    def _submit(self) -> None:
        """Submit tasks until two batches a worker are on their way, as long as not too many results wait."""
        while not self._ended and len(self._pending) < 2 * self._workers() and len(self._order) < self._ahead:
            size = min(self._batch, self._ahead - len(self._order))
            batch = list(itertools.islice(self._tasks, size))
            self._ended = len(batch) < size
            if batch:
                future = self._client.submit(_work, self._name, [tuple(task) for _, task in batch], pure=False)
                self._pending[future] = [number for number, _ in batch]
                self._order.extend(self._pending[future])

    def _workers(self) -> int:
        """Number of workers, asked for at most twice a second; waits for the first one."""
        if time.monotonic() - self._asked > 0.5 or not self._joined:
            with _gone():
                self._joined = len(self._client.nthreads())
                if not self._joined:
                    _log.warning("waiting for a worker to join %s", self._client.scheduler.address)
                    self._client.wait_for_workers(1, timeout=PATIENCE)
                    self._joined = len(self._client.nthreads())
            self._asked = time.monotonic()
        return max(self._joined, 1)

    def _collect(self) -> None:
        """Wait for results, and take in what has come."""
        with _gone():
            try:
                ended = distributed.wait(list(self._pending), timeout=5.0, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                self._workers()  # says so where there are none
                return
        for future in ended:
            self._take(future)
        each = self._spent / max(self._done, 1)
        self._batch = int(min(max(BATCH_SECONDS / max(each, 1e-6), 1), MOST_IN_BATCH, max(self._ahead // 4, 1)))

    def _take(self, future: distributed.Future) -> None:
        """Take in the results of a batch, or raise what went wrong in it, as it is."""
        numbers = self._pending.pop(future)
        error = future.exception() if future.status == "error" else None
        if error is not None and not isinstance(error, distributed.KilledWorker):
            raise error
        with _gone():
            spent, results = future.result()
        self._spent += spent
        self._done += len(results)
        for number, result in zip(numbers, results, strict=True):
            if self._arrived is not None:
                self._arrived(number, result)
            self._waiting[number] = result


@contextmanager
def _gone() -> Iterator[None]:
    """Say in our words that a scheduler or workers are gone."""
    try:
        yield
    except distributed.KilledWorker as error:
        raise ClusterError(
            f"workers died of a task ({error}): look at their memory and their logs; what was stored is kept"
        ) from error
    except TimeoutError as error:
        raise ClusterError(
            f"no worker has joined the scheduler for {PATIENCE:g} s: start some with `dask worker ADDRESS --nthreads 1`"
        ) from error
    except (CancelledError, CommClosedError) as error:
        raise ClusterError(
            f"the scheduler is gone or has forgotten the tasks ({error}): start it and its workers, and run again; "
            "what was stored is kept"
        ) from error


_sent: weakref.WeakKeyDictionary[Client, OrderedDict[str, None]] = weakref.WeakKeyDictionary()


def _share(client: Client, make: Callable[[], Callable[..., Any]]) -> str:
    """Send ``make`` to all workers, unless they have it; returns its name."""
    name, kept = f"controlrnn-{client.id}-{tokenize(make)}", _sent.setdefault(client, OrderedDict())
    with _gone():
        if name not in kept:
            client.register_plugin(Shared(name, make), name=name)
        kept[name] = None
        kept.move_to_end(name)
        while len(kept) > KEPT:
            client.unregister_worker_plugin(kept.popitem(last=False)[0])
    return name


def _work(name: str, batch: Sequence[Sequence[Any]]) -> tuple[float, list[Any]]:
    """Do a batch of tasks in a worker; returns the seconds that they took, and their results."""
    threads = distributed.get_worker().state.nthreads
    if threads != 1:
        raise SettingError(
            f"workers must have one thread each, got one with {threads}: start them with `dask worker ADDRESS "
            "--nthreads 1 --nworkers auto`"
        )
    if name not in _made:
        _made[name] = _makers[name]()
    began = time.perf_counter()
    results = [_made[name](*task) for task in batch]
    return time.perf_counter() - began, results


def constant(value: Any) -> Callable[[], Any]:
    """Function without arguments that gives ``value``; unlike a lambda it has a digest."""
    return functools.partial(_itself, value)


def _itself(value: Any) -> Any:
    return value
