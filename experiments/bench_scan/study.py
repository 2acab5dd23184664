"""Forward + backward of the compiled scan against our eager path and public kernels, float32, median ms.

Cases: Elman networks, RENs and an R2DN from their explicit matrices, gradient of mean(y^2) by all free matrices, on
every side the same and no others (inputs and initial state have none); one long record and a batch; one thread and all.
Ours is `value_and_gradient`, which as jax's compiled function of that name returns numbers; `graph` is the same scan
within torch's graph, as training takes it, `eager` that graph alone.
An R2DN and a REN of as many parameters are set against each other (`equal_size`).
Peers (jax.lax.scan under jit, tsfast, neural-ssm) run in an environment of their own, which is made in the study's
folder; all take turns, so that a busy machine slows them alike. Ratios are of medians.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from controlrnn.kernels import simulate, value_and_gradient
from controlrnn.models import ContractingR2DN, Elman
from controlrnn.systems import MATRICES, LureSystem
from experiments.bench_scan import equal_size
from experiments.bench_scan.peer import LIBRARIES, timings
from experiments.shared.study import Row, Study

HERE = Path(__file__).parent
REQUIREMENTS = HERE / "peers.txt"
# Layer evaluations beyond which eager loops are left out, with one thread and with more: they take minutes, and more
# threads only slow them down.
EAGER_LIMIT, EAGER_LIMIT_THREADS = 30_000, 5_000
FIRST_CALL = """
import time, torch, controlrnn.kernels
from controlrnn.models import Elman
system, u = Elman(nu=1, ny=1, nx=8).system(), torch.randn({batch}, 20, 1)
began = time.perf_counter()
controlrnn.kernels.simulate(system, u)[0].sum().backward()
print(time.perf_counter() - began)
"""


@dataclass(frozen=True)
class Case:
    """One model at one size of data."""

    kind: str
    nx: int
    nv: int
    layers: tuple[int, ...]
    steps: int
    batch: int

    @property
    def name(self) -> str:
        """Readable and unique name of the case."""
        sizes = f"nv={self.nv}" if self.kind == "ren" else "-".join(str(n) for n in self.layers)
        return f"{self.kind} nx={self.nx} {sizes} T={self.steps} B={self.batch}"


class Peer:
    """A process of the peers' environment with a given number of threads."""

    def __init__(self, python: Path, threads: int) -> None:
        command = [str(python), str(HERE / "peer.py"), str(threads)]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Send one request and wait for its answer."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"note": "process ended"}

    def close(self) -> None:
        """End the process."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("bench_scan", __doc__, arguments)
    every = torch.get_num_threads()
    python, note = peers_python(study)
    study.say(note)
    for threads in sorted({1, every}):
        peer = Peer(python, threads) if python else None
        try:
            for case in cases(quick=study.quick):
                key = f"{case.name} threads={threads}"
                needs = {"peers": _pins(REQUIREMENTS), "available": python is not None}
                study.row(key, partial(compare, study, case, threads, peer), needs=needs)
        finally:
            torch.set_num_threads(every)
            if peer:
                peer.close()
    for records, samples in equal_size.SIZES:
        work = partial(equal_size.compare, records, samples // (8 if study.quick else 1), quick=study.quick)
        ratio = study.row(f"r2dn against ren B={records} T={samples}", work)["r2dn_over_ren"]
        study.target(f"R2DN over REN of equal size, B = {records}, T = {samples}", "<= 1", ratio, ratio <= 1)
    compilation = study.row("compilation", first_calls)
    judge(study, compilation, every)
    return study.finish(peers=note)


def cases(*, quick: bool) -> list[Case]:
    """All cells of the table."""
    models: list[tuple[str, int, int, tuple[int, ...]]] = []
    models += [("elman", n, n, (n,)) for n in ((8,) if quick else (8, 16, 64))]
    models += [("ren", 10, n, (1,) * n) for n in ((20,) if quick else (20, 60, 200))]
    models += [("r2dn", 10, 64, (32, 32))]
    sizes = [(64, 1), (20, 32)] if quick else [(1024, 1), (100, 32)]
    return [Case(*model, *size) for model in models for size in sizes]


def compare(study: Study, case: Case, threads: int, peer: Peer | None) -> Row:
    """Time ours, the eager path and the peers in turn; medians over all rounds."""
    torch.set_num_threads(threads)
    rounds, seconds = (1, 0.02) if study.quick else (5, 0.3)
    times: dict[str, list[float]] = {"ours": [], "graph": [], "eager": []}
    notes: dict[str, str] = {}
    fast = one_pass(case, study.seed)
    graph, slow = (gradient(case, study.seed, run) for run in (simulate, LureSystem.simulate))
    fast()
    graph()
    heavy = case.steps * len(case.layers) > (EAGER_LIMIT if threads == 1 else EAGER_LIMIT_THREADS)
    for turn in range(rounds):
        times["ours"] += timings(fast, 5, seconds)
        times["graph"] += timings(graph, 5, seconds)
        if turn == 0 and not heavy:
            times["eager"] += timings(slow, 1, seconds)
        for library in LIBRARIES if peer else ():
            eager_peer = library == "neural-ssm" or (library, case.kind) == ("tsfast", "r2dn")
            if library in notes or (eager_peer and (turn > 0 or heavy)):
                continue
            assert peer is not None
            least, pause = (1, 0.0) if eager_peer else (5, seconds)
            reply = peer.ask({"library": library, "least": least, "seconds": pause} | asdict(case))
            times.setdefault(library, []).extend(reply.get("ms", []))
            if "note" in reply:
                notes[library] = reply["note"]
    medians = {name: statistics.median(ms) if ms else None for name, ms in times.items()}
    ours = medians["ours"]
    assert ours is not None
    row: Row = {"threads": threads, "model": case.kind, "batch": case.batch} | {
        f"{n}_ms": m for n, m in medians.items()
    }
    row |= {f"{name}_least_ms": min(ms) for name, ms in times.items() if ms}
    row |= {f"{name}_ratio": m / ours for name, m in medians.items() if m is not None and name != "ours"}
    return row | {"notes": notes}


def inputs(case: Case, seed: int) -> torch.Tensor:
    """Inputs of a case."""
    return torch.randn(case.batch, case.steps, 1, generator=torch.Generator().manual_seed(seed))


def one_pass(case: Case, seed: int) -> Callable[[], object]:
    """Value and gradient by our compiled pass, as a function to time; mean(y^2) is the error against zero."""
    u, system = inputs(case, seed), explicit(case, seed)
    zero = torch.zeros(case.batch, case.steps, system.ny)
    return lambda: value_and_gradient(system, u, zero)


def gradient(case: Case, seed: int, run: Callable[..., Any]) -> Callable[[], None]:
    """Forward + backward through torch's graph with one of our two simulations, as a function to time."""
    u, system = inputs(case, seed), explicit(case, seed)
    return lambda: run(system, u)[0].square().mean().backward()


def explicit(case: Case, seed: int) -> LureSystem:
    """The system with its free matrices as leaves; an Elman network's other matrices are constants."""
    if case.kind == "elman":
        return Elman(nu=1, ny=1, nx=case.nx, seed=seed).system()
    if case.kind == "r2dn":
        made = ContractingR2DN(nu=1, ny=1, nx=case.nx, nv=16, layers=case.layers, seed=seed).system()
        matrices = {name: getattr(made, name).detach() for name in MATRICES}
    else:
        rng, nx, nv = torch.Generator().manual_seed(seed), case.nx, case.nv
        shapes = {"A": (nx, nx), "B1": (nx, nv), "B2": (nx, 1), "bx": (nx,), "C1": (nv, nx), "D11": (nv, nv),
                  "D12": (nv, 1), "bv": (nv,), "C2": (1, nx), "D21": (1, nv), "D22": (1, 1), "by": (1,)}  # fmt: skip
        matrices = {n: 0.3 * torch.randn(s, generator=rng) / max(1, s[-1]) ** 0.5 for n, s in shapes.items()}
    leaves: dict[str, Any] = {name: value.clone().requires_grad_() for name, value in matrices.items()}
    return LureSystem(**leaves, layers=case.layers, dt=1.0)


def first_calls() -> Row:
    """Seconds of the first forward + backward of a process, before and after it is in the cache."""
    row: Row = {}
    with tempfile.TemporaryDirectory() as folder:
        for batch in (1, 32):
            for what in ("compiled", "cached"):
                done = subprocess.run(
                    [sys.executable, "-c", FIRST_CALL.format(batch=batch)],
                    capture_output=True,
                    text=True,
                    check=True,
                    env=os.environ | {"NUMBA_CACHE_DIR": folder},
                )
                row[f"{what}_B{batch}_s"] = float(done.stdout)
    return row


def judge(study: Study, compilation: Row, every: int) -> None:
    """Compare the rows with the study's targets."""
    cells = [row for row in study.rows if "ours_ms" in row]
    ratios, graphs = [], []
    for row in cells:
        found = [row[f"{name}_ratio"] for name in LIBRARIES if row.get(f"{name}_ratio") is not None]
        ratios += [min(found)] if found else []
        graphs += [min(found) / row["graph_ratio"]] if found else []
    if ratios:
        study.target("slowest against the fastest peer", ">= 1", min(ratios), min(ratios) >= 1)
        study.target("the same through torch's graph", ">= 1", min(graphs), min(graphs) >= 1)
        share = sum(ratio >= 2 for ratio in ratios) / len(ratios)
        study.target("share of cells twice as fast as the fastest peer", "> 0.5", share, share > 0.5)
    if every > 1:
        alone, both = ([r["ours_ms"] for r in cells if r["batch"] == 32 and r["threads"] == n] for n in (1, every))
        gain = min(a / b for a, b in zip(alone, both, strict=True))
        study.target("all threads against one, B = 32", "> 1", gain, gain > 1)
    for what, limit in (("compiled", 10.0), ("cached", 0.5)):
        worst = max(compilation[f"{what}_B{batch}_s"] for batch in (1, 32))
        study.target(f"first call, {what} [s]", f"<= {limit}", worst, worst <= limit)


def peers_python(study: Study) -> tuple[Path | None, str]:
    """Path of the interpreter of the peers' environment, made on first use; None and a reason if unavailable."""
    home = study.path("peers-venv").absolute()
    python, stamp = home / "bin" / "python", home / "installed.txt"
    if stamp.exists() and _pins(stamp) == _pins(REQUIREMENTS):
        return python, f"peers: {home}"
    if study.quick:
        return None, "peers: left out of the quick version where they are not installed"
    with study.stage("installing the peers"):
        try:
            subprocess.run([sys.executable, "-m", "venv", str(home)], check=True, capture_output=True)
            install = [str(python), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)]
            subprocess.run(install, check=True, capture_output=True, text=True)
        except subprocess.CalledProcessError as error:
            return None, f"peers: could not be installed, so the table holds our two paths only: {error.stderr}"[:500]
    stamp.write_text(REQUIREMENTS.read_text())
    return python, f"peers: {home}"


def _pins(path: Path) -> list[str]:
    """Lines of a requirements file that name packages."""
    return [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
