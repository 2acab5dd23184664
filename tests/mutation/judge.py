"""Judges all mutants of a set in one process: a plugin of pytest that runs tests once a mutant instead of once.

mutmut makes the mutants (`run`); here the tests are collected once, and for each mutant those beside its file run that
reach its function, until one fails: first what failed for other mutants of the same function, then what takes least
time. What survives every fifth example of the tests by hypothesis is tried with all of them, unless a first look is
enough. What functions remember (`functools.cache`) is forgotten before each mutant, and fixtures are made anew for each.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import time
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from _pytest.runner import runtestprotocol
from mutmut.state import state

BRIEF, BUDGET = 1.0, 10.0  # seconds of a test, and of all tests together, that a first look takes at most
ENOUGH = 3.0  # seconds of processor time for one test of a mutant, besides thrice what it takes without one


@dataclass(frozen=True)
class Task:
    """What to judge.

    Args:
        sources: Mutants, in this order, and a digest of the function of each.
        beside: Files or folders of the tests that have to notice each.
        tests: A mark of these tests for each.
        verdicts: File of the verdicts, one JSON object a line; those already in it are kept.
        shares: Of hypothesis' examples that are tried, one after the other: one of so many.
    """

    sources: dict[str, str]
    beside: dict[str, tuple[str, ...]]
    tests: dict[str, str]
    verdicts: Path
    shares: tuple[int, ...]


class Judge:
    """The plugin."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.kills: dict[str, Counter[str]] = defaultdict(Counter)
        self.seconds: dict[str, float] = {}
        self.reached: dict[str, set[str]] = defaultdict(set)

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own loop."""
        signal.signal(signal.SIGPROF, _too_long)
        items = {item.nodeid: item for item in session.items}
        self._look(items)
        known = [json.loads(line) for line in self.task.verdicts.read_text().splitlines()]
        for one in known:
            self.kills[_function(one["name"])][one["by"]] += 1
        done = {one["name"] for one in known}
        for name, source in self.task.sources.items():
            if name not in done:
                began = time.process_time()
                found = {"name": name, "source": source, "tests": self.task.tests[name]} | self._judged(name, items)
                found["seconds"] = f"{time.process_time() - began:.2f}"
                with self.task.verdicts.open("a") as file:
                    file.write(json.dumps(found) + "\n")
        return True

    def _look(self, items: dict[str, pytest.Item]) -> None:
        """Run all tests without any change: how long they take, and which functions they reach."""
        names, shared = list(items), set[str]()
        for name, following in zip(names, [*names[1:], None], strict=True):
            if (item := items[name]).path != getattr(self, "_file", None):
                self._file, shared = item.path, set()
                _forget()
            began = time.process_time()
            if self._fails(item, "stats", items[following] if following else None):
                print(f"{name} fails without any change, and says nothing", flush=True)
            else:
                self.seconds[name] = time.process_time() - began
                if self.seconds[name] > BRIEF:  # the first tests import what they need, and make what others share
                    began = time.process_time()
                    self._fails(item, "stats", items[following] if following else None)
                    self.seconds[name] = time.process_time() - began
                # What one test of a file made, the next ones may use.
                shared |= set(state()._stats)
                for function in shared:
                    self.reached[function].add(name)
            state()._stats.clear()

    def _judged(self, name: str, items: dict[str, pytest.Item]) -> dict[str, str]:
        kills = self.kills[_function(name)]
        reached = [test for test in self.reached[_function(name)] if test.startswith(self.task.beside[name])]
        if not reached:
            return {"verdict": "no tests", "by": ""}
        order = sorted(reached, key=lambda test: (-kills[test], self.seconds[test]))
        first = self.task.shares[-1] > 1
        if first:
            order = [test for test in order if self.seconds[test] <= BRIEF] or order[:3]
        _forget()
        began = time.process_time()
        for share in self.task.shares:
            # What fixtures are kept for is the test that really follows: otherwise its setup would fail.
            tests = [test for test in order if share == self.task.shares[0] or Examples(items[test], share).many]
            for test, following in zip(tests, [*tests[1:], None], strict=False):  # there may be none
                if first and time.process_time() - began > BUDGET:
                    break
                with Examples(items[test], share):
                    if self._fails(items[test], name, items[following] if following else None):
                        kills[test] += 1
                        return {"verdict": "killed", "by": test}
            items[order[0]].session._setupstate.teardown_exact(None)
        return {"verdict": "survived", "by": ""}

    def _fails(self, item: pytest.Item, mutant: str, following: pytest.Item | None) -> bool:
        """Whether a test fails for a mutant; fixtures that the ``following`` one shares are kept if it does not."""
        os.environ["MUTANT_UNDER_TEST"] = mutant
        signal.setitimer(signal.ITIMER_PROF, ENOUGH + 3 * self.seconds.get(item.nodeid, 60.0))
        try:
            failed = any(report.failed for report in runtestprotocol(item, log=False, nextitem=following))
        except TimeoutError:
            failed = True
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            os.environ["MUTANT_UNDER_TEST"] = ""
        if failed:
            with contextlib.suppress(Exception):
                item.session._setupstate.teardown_exact(None)
        return failed


class Examples:
    """One of so many examples of a test by hypothesis, while it lasts."""

    def __init__(self, item: pytest.Item, share: int) -> None:
        self.test, self.share = getattr(item, "obj", None), share
        self.own = getattr(self.test, "_hypothesis_internal_use_settings", None)

    @property
    def many(self) -> bool:
        """Whether there are more than are always tried."""
        return self.own is not None and self.own.max_examples > 10

    def __enter__(self) -> None:
        if self.many and self.share > 1:
            from hypothesis import settings  # not before pytest has looked at it

            least = max(10, self.own.max_examples // self.share)
            self.test._hypothesis_internal_use_settings = settings(self.own, max_examples=least)

    def __exit__(self, *_: object) -> None:
        if self.own is not None:
            self.test._hypothesis_internal_use_settings = self.own


def _function(mutant: str) -> str:
    return mutant.rpartition("__mutmut_")[0]


def _too_long(*_: object) -> None:
    raise TimeoutError("a mutant takes too long")


def _forget() -> None:
    """Empty what functions of ours remember."""
    here = os.getcwd()
    for module in list(sys.modules.values()):
        if (getattr(module, "__file__", None) or "").startswith(here):
            for value in list(vars(module).values()):
                if callable(getattr(value, "cache_clear", None)):
                    value.cache_clear()
