"""Worker processes end with the process that started them, and at once when it is told to stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from controlrnn.workers import Workers

HOLD = """
import os, sys, time
from pathlib import Path
from controlrnn.workers import Workers

def hold(folder):
    Path(folder, str(os.getpid())).touch()
    if folder.endswith("asleep"):
        time.sleep(120)
    else:
        until = time.time() + 120
        while time.time() < until:
            sum(range(1000))

if __name__ == "__main__":
    with Workers(2) as pool:
        for _ in pool.map(hold, [sys.argv[1]] * 2):
            pass
"""


def square(x):
    return x * x


def fail(x):
    raise ValueError(f"no {x}")


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def until(condition, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return condition()


@pytest.fixture
def held(tmp_path, request):
    """A process with two workers that would go on for two minutes, in a process group of its own."""
    script, folder = tmp_path / "hold.py", tmp_path / request.param
    script.write_text(HOLD)
    folder.mkdir()
    process = subprocess.Popen(
        [sys.executable, script, folder],
        start_new_session=True,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])},
    )
    assert until(lambda: len(list(folder.iterdir())) == 2, 60)
    yield process, [int(p.name) for p in folder.iterdir()]
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


linux = pytest.mark.skipif(not Path("/proc").exists(), reason="needs /proc to look for processes")


@linux
@pytest.mark.parametrize("held", ["asleep", "busy"], indirect=True)
def test_workers_die_with_whoever_started_them(held):
    process, workers = held
    process.kill()
    assert until(lambda: not any(map(alive, workers)), 5)


@linux
@pytest.mark.parametrize("held", ["asleep", "busy"], indirect=True)
@pytest.mark.parametrize("whole_group", [True, False])
def test_ctrl_c_ends_all_within_seconds(held, whole_group):
    process, workers = held
    began = time.monotonic()
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=15)
    assert time.monotonic() - began < 8
    assert process.returncode != 0
    assert until(lambda: not any(map(alive, workers)), 2)
    assert said.count(b"Traceback") <= 1, said.decode()  # the one of who was interrupted


def test_results_come_in_order_and_errors_as_they_are():
    with Workers(2) as pool:
        assert list(pool.map(square, range(5))) == [0, 1, 4, 9, 16]
    with pytest.raises(ValueError, match="no 3"), Workers(1) as pool:
        list(pool.map(fail, [3]))
