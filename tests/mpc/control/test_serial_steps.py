"""Control steps run in the thread that calls, whatever the environment says; see `controlrnn.kernels.dense`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import blas_calls
import pytest

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    if blas_calls.missing():
        pytest.skip(blas_calls.missing())
    known = blas_calls.environment(tmp_path_factory.mktemp("calls"))
    known = {name: value for name, value in known.items() if not name.endswith("_NUM_THREADS")}
    paths = [ROOT, ROOT / "tests", ROOT / "tests/mpc"]
    known |= {"OPENBLAS_NUM_THREADS": "8", "PYTHONPATH": os.pathsep.join(map(str, paths))}
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("serial_steps.py")],
        env=known,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def test_calls_and_threads_are_seen_where_there_are_some(report):
    seen = report["a product of numpy's"]
    assert sum(seen["calls"].values()) == 1
    if len(os.sched_getaffinity(0)) > 1:
        assert seen["other threads"] >= 1
    assert len(report) >= 24


def test_no_step_enters_a_routine_that_could_wake_threads(report):
    """Also where it would not, being small: thresholds belong to the library's version and the processor."""
    assert {name: seen["calls"] for name, seen in report.items() if seen["calls"] and "numpy" not in name} == {}


def test_no_other_thread_runs_during_a_step(report):
    assert {name: seen for name, seen in report.items() if seen["other threads"] and "numpy" not in name} == {}
