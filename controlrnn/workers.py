"""Processes side by side that stop when they are told to, and end when whoever started them is gone.

Every worker holds one end of a pipe that nothing is ever sent through. It ends when the other end is closed: by `stop`,
or by the system when the process that started it dies, however that happens. Ctrl-C in a terminal reaches all processes
at once; workers leave it to the one that started them, so that it is answered once.
"""

from __future__ import annotations

import _thread
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, wait
from multiprocessing.connection import Connection
from multiprocessing.connection import wait as wait_for
from types import FrameType, TracebackType
from typing import Any, Self

from controlrnn.checks import count

PATIENCE = 2.0  # seconds in which a worker that is interrupted may put in order what it has


class Workers:
    """A pool of fresh processes (not forked: a forked one would inherit locks of threads that it does not have).

    On leaving, all submitted work is waited for; after an error, Ctrl-C included, it is stopped.

    Args:
        workers: Number of processes.
        prepare: Called once in each process; importable there, like all that is submitted.
        given: Its arguments.
    """

    def __init__(self, workers: int, *, prepare: Callable[..., None] | None = None, given: Sequence[Any] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        theirs, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            count("workers", workers, most=4096), mp_context=context, initializer=_begin,
            initargs=(theirs, prepare, tuple(given)),
        )  # fmt: skip
        self._theirs = theirs  # workers are started when work comes, and take it with them

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Have ``function(*arguments)`` computed."""
        return self._pool.submit(_task, function, arguments)

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Results of ``function`` for every task, in their order."""
        for future in [self.submit(function, task) for task in tasks]:
            yield future.result()

    def stop(self, futures: Sequence[Future[Any]] = ()) -> None:
        """End the processes: work under way is interrupted and has 2 s to end.

        Args:
            futures: What is waited for so long.
        """
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._lifeline.close()
        self._theirs.close()
        wait(futures, timeout=PATIENCE + 1.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and not self._lifeline.closed:
            self._pool.shutdown(wait=True)
        self.stop()


class _State:
    """Of this worker."""

    busy = stopping = False


def _begin(lifeline: Connection, prepare: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    signal.signal(signal.SIGINT, _on_interrupt)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True, name="lifeline").start()
    if prepare is not None:
        prepare(*given)


def _task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    _State.busy = True
    try:
        return function(*arguments)
    finally:
        _State.busy = False


def _on_interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    if _State.stopping and _State.busy:
        raise KeyboardInterrupt


def _watch(lifeline: Connection) -> None:
    """Wait for the end of whoever started this process, then end it."""
    parent = multiprocessing.parent_process()
    wait_for([lifeline] if parent is None else [lifeline, parent.sentinel])
    _State.stopping = True
    alive = parent is None or parent.is_alive()
    if alive and _State.busy:
        _thread.interrupt_main()
        until = time.monotonic() + PATIENCE
        while _State.busy and time.monotonic() < until:
            time.sleep(0.02)
        time.sleep(0.2)  # for the result to be sent
    os._exit(1)
