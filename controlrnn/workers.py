"""Pool of worker processes that stop on request and end when the process that started them ends.

Every worker holds one end of a pipe that nothing is ever sent through. It ends when the other end is closed: by `stop`,
or by the system when the process that started it dies, however that happens. Ctrl-C in a terminal reaches all processes
at once; workers ignore it and leave it to the process that started them, so that it is handled once.
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

PATIENCE = 2.0  # seconds that an interrupted worker has to clean up


class Workers:
    """Pool of worker processes, as a context manager.

    Leaving it waits for all submitted work; after an error, Ctrl-C included, work is stopped instead. The processes are
    spawned, not forked: a forked one would inherit locks held by threads that it does not have.

    Args:
        workers: Number of processes.
        prepare: Function called once in each process; importable there, like everything that is submitted.
        given: Arguments of ``prepare``.
    """

    def __init__(self, workers: int, *, prepare: Callable[..., None] | None = None, given: Sequence[Any] = ()) -> None:
        context = multiprocessing.get_context("spawn")
        theirs, self._lifeline = context.Pipe(duplex=False)
        self._pool = ProcessPoolExecutor(
            count("workers", workers, most=4096),
            mp_context=context,
            initializer=_begin,
            initargs=(theirs, prepare, tuple(given)),
        )
        self._theirs = theirs  # kept open: workers are started only when work is submitted, and inherit it then

    def submit(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Submit ``function(*arguments)`` to the pool; returns its future."""
        return self._pool.submit(_task, function, arguments)

    def map(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> Iterator[Any]:
        """Yield the results of ``function`` for all tasks, in their order."""
        for future in [self.submit(function, task) for task in tasks]:
            yield future.result()

    def stop(self, futures: Sequence[Future[Any]] = ()) -> None:
        """Stop all processes; work in progress is interrupted and has 2 s to clean up.

        Args:
            futures: Work to wait for during that time.
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
    """State of the worker process that this module runs in."""

    busy = stopping = False


def _begin(lifeline: Connection, prepare: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    """Set up a worker process: its interrupt handler, the thread that watches the pipe, and ``prepare``."""
    signal.signal(signal.SIGINT, _on_interrupt)
    threading.Thread(target=_watch, args=(lifeline,), daemon=True, name="lifeline").start()
    if prepare is not None:
        prepare(*given)


def _task(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
    """Call ``function`` while this worker is marked as busy."""
    _State.busy = True
    try:
        return function(*arguments)
    finally:
        _State.busy = False


def _on_interrupt(number: int, frame: FrameType | None) -> None:  # noqa: ARG001
    """Raise KeyboardInterrupt only if this worker is being stopped; Ctrl-C alone is for the starting process."""
    if _State.stopping and _State.busy:
        raise KeyboardInterrupt


def _watch(lifeline: Connection) -> None:
    """Wait until the pipe is closed or the starting process has ended, then end this process."""
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
