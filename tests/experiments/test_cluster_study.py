"""A study on a cluster survives the loss of a worker, its driver and its scheduler, and ends as a serial one."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytest.importorskip("distributed", reason="the extra cluster is not installed")

ROOT = Path(__file__).parents[2]
CASES = 30
STUDY = f"""
import os, sys, time
from functools import partial
from pathlib import Path
import numpy as np
from experiments.shared.study import Study

def case(log, n):
    with open(log, "a") as file:
        file.write(f"{{n}} {{os.getpid()}}\\n")
    time.sleep(0.1)
    rng = np.random.default_rng(n)
    M = rng.standard_normal((20, 20))
    return {{"n": n, "value": float(np.linalg.eigvalsh(M @ M.T)[0]), "list": list(M[0]), "odd": n % 2 == 1}}

def main(out, log, scheduler):
    study = Study("demo", quick=False, seed=0, out=Path(out), scheduler=scheduler or None)
    study.each(partial(case, log), {{f"case {{n}}": (n,) for n in range({CASES})}}, needs="demo")
    study.finish()

if __name__ == "__main__":
    import demo  # as workers see it
    demo.main(*sys.argv[1:])
"""


def until(condition, seconds=180.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)
    return found


def lines(path):
    return path.read_text().splitlines() if path.exists() else []


def stored(folder):
    import pyarrow.parquet as pq

    keys = []
    for path in folder.glob("rows/*.parquet"):
        keys += pq.read_table(path).column("case").to_pylist()
    return keys


class Machine:
    """Processes of a cluster on loopback, each killed at the end."""

    def __init__(self, folder):
        self.folder, self.log, self.processes = folder, folder / "said", []
        (folder / "demo.py").write_text(STUDY)
        self.env = os.environ | {"PYTHONPATH": f"{folder}:{ROOT}", "OMP_NUM_THREADS": "1"}
        self.env["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "3s"  # the loss of a scheduler is noticed after it

    def start(self, *command):
        with self.log.open("ab") as said:
            process = subprocess.Popen(
                [sys.executable, *map(str, command)], cwd=self.folder, env=self.env, stdout=said, stderr=said
            )
        self.processes.append(process)
        return process

    def said(self):
        return self.log.read_text()

    def scheduler(self):
        file = self.folder / "scheduler.json"
        process = self.start(
            "-m",
            "distributed.cli.dask_scheduler",
            "--host",
            "127.0.0.1",
            "--port",
            "0",
            "--no-dashboard",
            "--no-show",
            "--scheduler-file",
            file,
        )
        until(file.exists)
        return process, until(lambda: json.loads(file.read_text() or "{}").get("address"))

    def worker(self, address):
        return self.start(
            "-m",
            "distributed.cli.dask_worker",
            address,
            "--nthreads",
            "1",
            "--no-nanny",
            "--no-dashboard",
            "--host",
            "127.0.0.1",
            "--local-directory",
            self.folder / "scratch",
        )

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()


@pytest.fixture
def machine(tmp_path):
    made = Machine(tmp_path)
    yield made
    made.end()


def values(folder):
    rows = json.loads((folder / "results.json").read_text())["rows"]
    return [json.dumps({k: v for k, v in row.items() if k != "seconds"}) for row in rows]


@pytest.mark.slow
def test_a_study_survives_its_worker_its_scheduler_and_its_driver(machine, tmp_path):
    serial = machine.start("demo.py", tmp_path / "serial", tmp_path / "serial.log", "")
    scheduler, address = machine.scheduler()
    workers = [machine.worker(address) for _ in range(2)]
    log, out = tmp_path / "log", tmp_path / "out"
    run = ("demo.py", out, log, address)
    driver = machine.start(*run)

    until(lambda: len({line.split()[1] for line in lines(log)}) == 2)  # both work
    workers[0].kill()
    until(lambda: len(stored(out)) >= 6)
    driver.kill()
    driver.wait()
    time.sleep(1.0)  # what was on its way has begun by now
    done, before = set(stored(out)), len(lines(log))
    assert len(done) < CASES

    machine.worker(address)
    driver = machine.start(*run)
    until(lambda: len(stored(out)) >= len(done) + 4)
    scheduler.kill()
    assert driver.wait(timeout=240) == 1
    assert "ClusterError: the scheduler is gone" in machine.said()
    again = [f"case {line.split()[0]}" for line in lines(log)[before:]]
    assert not done & set(again)
    done, before = set(stored(out)), len(lines(log))

    (tmp_path / "scheduler.json").unlink()
    _, address = machine.scheduler()
    machine.worker(address)
    last = machine.start("demo.py", out, log, address)
    assert last.wait(timeout=240) == 0, machine.said()
    again = [f"case {line.split()[0]}" for line in lines(log)[before:]]
    assert not done & set(again)
    assert serial.wait(timeout=240) == 0
    assert values(out) == values(tmp_path / "serial")
    assert len(values(out)) == CASES
    assert sorted(stored(out)) == sorted(f"case {n}" for n in range(CASES))  # each stored once
