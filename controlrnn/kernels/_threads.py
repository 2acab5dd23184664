"""Thread pool for compiled code that releases the GIL.

numba's own parallel loops depend on a threading layer that may not be entered from two threads, or not after a fork,
and that is set up for the whole process; plain threads have none of these limits.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numba

_pools: dict[int, ThreadPoolExecutor] = {}
# A forked child inherits the pools but not their threads.
os.register_at_fork(after_in_child=_pools.clear)


def thread_limit() -> int:
    """Number of threads that may be used: torch's setting where torch is loaded, else numba's."""
    torch = sys.modules.get("torch")
    return int(torch.get_num_threads() if torch else numba.config.NUMBA_NUM_THREADS)


def run(tasks: Sequence[Callable[[], None]], threads: int) -> None:
    """Run all tasks in up to ``threads`` threads, of which the calling one is one, in no fixed assignment."""
    helpers = min(threads, len(tasks)) - 1
    if helpers < 1:
        for task in tasks:
            task()
        return
    queue = iter(tasks)  # next() on a list iterator is atomic

    def work() -> None:
        for task in queue:
            task()

    pool = _pools.get(helpers)
    if pool is None:
        pool = _pools.setdefault(helpers, ThreadPoolExecutor(helpers, thread_name_prefix="controlrnn"))
    waiting = [pool.submit(work) for _ in range(helpers)]
    work()
    for future in waiting:
        future.result()
