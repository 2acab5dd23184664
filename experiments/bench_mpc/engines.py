"""The solvers that `experiments.bench_mpc` compares."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import casadi
import numpy as np

from mpc import Backend, OptimalControlProblem, Solution, SolverOptions, Status, StepData
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend

BASE = "do_mpc"
ACADOS = "CONTROLRNN_ACADOS"


class Peer:
    """acados in a process of its own, which also takes the time."""

    rti = False

    def __init__(self, problem: OptimalControlProblem, _: SolverOptions) -> None:
        system = problem.predictor.system
        folder = tempfile.mkdtemp(prefix="acados-")
        task = {name: getattr(system, name).tolist() for name in ("C1", "D12", "bv", "C2", "by")} | {
            "folder": folder, "rti": self.rti, "N": problem.horizon, "weights": problem.output_weight.tolist(),
            "moves": problem.input_move_weight.tolist(), "price": problem.penalty.tolist(),
        }  # fmt: skip
        with open(Path(folder) / "log.txt", "w") as log:
            self._process = subprocess.Popen(
                [os.environ[ACADOS], str(Path(__file__).with_name("peer.py"))],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        if self._ask(task) != "ready":
            raise RuntimeError(f"acados could not be started: see {folder}/log.txt")
        self.seconds = 0.0
        self.inner = list[float]()

    def reset(self) -> None:
        """Clear the records of earlier solves; the process keeps nothing but its last iterate."""
        self.inner = []

    def solve(self, data: StepData) -> Solution:
        """Solve one sample; see `mpc.problem.ocp.Backend.solve`."""
        arrays = {"x": data.x, "before": data.previous_input, "reference": data.reference}
        arrays |= {"lower": data.lower, "upper": data.upper}
        answer = json.loads(self._ask({name: value.tolist() for name, value in arrays.items()}))
        self.seconds = answer["seconds"]
        self.inner.append(answer["inner"])
        return Solution(
            status=Status.SOLVED if answer["status"] == 0 else Status.FAILED,
            u=np.clip(answer["u"], -1.0, 1.0),
            slack=np.zeros_like(data.reference),
            cost=np.nan,
            iterations=answer["iterations"],
            message="",
        )

    def _ask(self, request: Any) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


class PeerRti(Peer):
    """acados' real-time iteration."""

    rti = True


class MakeStep:
    """do-mpc as its users run it: `make_step` with its own guess, bookkeeping and ipopt's defaults."""

    def __init__(self, problem: OptimalControlProblem, options: SolverOptions) -> None:
        self._adapter = DoMpcBackend(problem, options)
        self.reset()

    def reset(self) -> None:
        """Forget the last solution."""
        self._started = False

    def solve(self, data: StepData) -> Solution:
        """Solve one sample; see `mpc.problem.ocp.Backend.solve`."""
        adapter, mpc = self._adapter, self._adapter.mpc
        parameters = adapter._parameters(data)
        nx, nu = len(data.x), len(data.previous_input)
        mpc.tvp_fun(0.0).master = casadi.DM(parameters[nx:-nu])
        mpc.u0 = parameters[-nu:]
        if not self._started:
            mpc.reset_history()
            mpc.x0 = data.x
            mpc.set_initial_guess()
            self._started = True
        v = mpc.make_step(data.x.reshape(-1, 1)).ravel()
        first = adapter._middle + adapter._half * v
        return Solution(
            status=Status.SOLVED if mpc.solver_stats["success"] else Status.FAILED,
            u=np.tile(first, (len(data.guess), 1)),
            slack=np.zeros_like(data.reference),
            cost=np.nan,
            iterations=int(mpc.solver_stats["iter_count"]),
            message="",
        )


def rti(problem: OptimalControlProblem, options: SolverOptions) -> Backend:
    """Our solver with one iteration per sample."""
    return CondensedBackend(problem, replace(options, rti=True))


def loose(problem: OptimalControlProblem, options: SolverOptions) -> Backend:
    """Our solver with a tolerance of a tenth of a half range."""
    return CondensedBackend(problem, replace(options, tolerance=1e-2))


ENGINES: dict[str, Callable[[OptimalControlProblem, SolverOptions], Backend]] = {
    BASE: MakeStep, "do_mpc_warm": DoMpcBackend, "fatrop": FatropBackend, "condensed": CondensedBackend,
    "loose": loose, "rti": rti, "acados": Peer, "acados_rti": PeerRti,
}  # fmt: skip


@dataclass
class Timed:
    """Wrapper of a solver that keeps its times [s]."""

    inner: Backend
    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def reset(self) -> None:
        """Reset the solver and forget the times."""
        self.inner.reset()
        self.wall = []
        self.cpu = []

    def solve(self, data: StepData) -> Solution:
        """Solve one sample and keep the time; see `mpc.problem.ocp.Backend.solve`."""
        wall, cpu = time.perf_counter(), time.thread_time()
        solution = self.inner.solve(data)
        self.cpu.append(time.thread_time() - cpu)
        self.wall.append(self.inner.seconds if isinstance(self.inner, Peer) else time.perf_counter() - wall)
        return solution
