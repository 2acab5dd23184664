"""Makes the helpers beside this file importable from every test folder, and hastens the tests of mutants.

Under the profile *mutants* (see docs/mutants.md) hypothesis draws the same examples each time and seeks no smaller ones
once a test has failed; what failed for another mutant of the same function goes first, then what takes least time.
Unless MUTANTS=thorough, only every fifth example is tried: that is for what a quick run leaves.
"""

import json
import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import Phase, settings

settings.register_profile(
    "mutants", derandomize=True, database=None, deadline=None, phases=(Phase.explicit, Phase.generate)
)
_TIMES, _KILLS = Path("mutmut-stats.json"), Path("kills.txt")  # written by mutmut and below, in the folder of the copy


def _quickly(test):
    """Fewer examples of a test by hypothesis."""
    own = getattr(test, "_hypothesis_internal_use_settings", None)
    if own is not None and own.max_examples > 10 and os.environ.get("MUTANTS") != "thorough":
        test._hypothesis_internal_use_settings = settings(own, max_examples=max(10, own.max_examples // 5))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    if config.getoption("hypothesis_profile", None) != "mutants" or not _TIMES.exists():
        return
    times = json.loads(_TIMES.read_text())["duration_by_test"]
    kills = Counter(line.partition("\t")[2] for line in _lines() if line.startswith(f"{_function()}\t"))
    items.sort(key=lambda item: (-kills[item.nodeid], times.get(item.nodeid, 0.0)))
    for test in {getattr(item, "obj", None) for item in items}:
        _quickly(test)


def pytest_runtest_logreport(report):
    if report.failed and _function() and _TIMES.exists():
        with _KILLS.open("a") as file:
            file.write(f"{_function()}\t{report.nodeid}\n")


def _lines():
    return _KILLS.read_text().splitlines() if _KILLS.exists() else []


def _function():
    """The function that a mutant is of; empty where none is tried."""
    return os.environ.get("MUTANT_UNDER_TEST", "").rpartition("__mutmut_")[0]
