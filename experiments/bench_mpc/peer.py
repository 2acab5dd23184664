# mypy: disable-error-code="import-not-found"
"""acados' side of `experiments.bench_mpc`: solves samples on request, in an environment of its own.

The first line that it reads is the problem, {"folder", "rti", "N", "C1", "D12", "bv", "C2", "by", "weights", "moves",
"price"}; every other one a sample, {"x", "before", "reference", "lower", "upper"}. It answers with the plan and with
the seconds of the whole call from Python (parameters set, solved, plan read) and of acados alone. The slim CasADi that
comes with the wheel would replace the full one: hence the environment.
"""

from __future__ import annotations

import ctypes
import glob
import json
import os
import sys
import time
from contextlib import redirect_stdout
from typing import Any

import numpy as np


def load() -> Any:
    """Load acados' template package after its libraries, which lie where no loader looks."""
    home = next(f"{p}/acados" for p in sys.path if os.path.isdir(f"{p}/acados/install"))
    os.environ["ACADOS_SOURCE_DIR"] = f"{home}/install"
    os.environ["TERA_PATH"] = glob.glob(f"{home}/**/t_renderer*", recursive=True)[0]
    os.environ["ACADOS_PYTHON_INTERFACE_PATH"] = f"{home}/acados_template"
    for name in ("libblasfeo.so", "libhpipm.so", "libqpOASES_e.so.3.1", "libacados.so"):
        ctypes.CDLL(f"{home}/install/lib/{name}", mode=ctypes.RTLD_GLOBAL)
    sys.path.insert(0, home)
    import acados_template

    return acados_template


def build(task: dict[str, Any]) -> Any:
    """Build the solver: Gauss-Newton SQP or RTI on partially condensed QPs, solved by HPIPM."""
    template = load()
    import casadi as ca

    n, nu, ny = len(task["bv"]), len(task["D12"][0]), len(task["by"])
    x, last, u, r = ca.SX.sym("x", n), ca.SX.sym("l", nu), ca.SX.sym("u", nu), ca.SX.sym("r", ny)
    C1, D12, bv, C2, by = (np.array(task[name]) for name in ("C1", "D12", "bv", "C2", "by"))
    y = C2 @ x + by
    model = template.AcadosModel()
    model.name = "elman"
    model.x = ca.vertcat(x, last)
    model.u = u
    model.p = r
    model.disc_dyn_expr = ca.vertcat(ca.tanh(C1 @ x + D12 @ u + bv), u)
    model.cost_y_expr = ca.vertcat(y - r, u - last)
    model.cost_y_expr_e = y - r
    model.con_h_expr = model.con_h_expr_e = y
    ocp = template.AcadosOcp()
    ocp.model = model
    ocp.dims.N = task["N"]
    ocp.parameter_values = np.zeros(ny)
    ocp.acados_include_path = os.environ["ACADOS_SOURCE_DIR"] + "/include"
    ocp.acados_lib_path = os.environ["ACADOS_SOURCE_DIR"] + "/lib"
    ocp.cost.cost_type = ocp.cost.cost_type_e = "NONLINEAR_LS"
    ocp.cost.W = 2 * np.diag(task["weights"] + task["moves"])
    ocp.cost.W_e = 2 * np.diag(task["weights"])
    ocp.cost.yref = np.zeros(ny + nu)
    ocp.cost.yref_e = np.zeros(ny)
    held = ocp.constraints
    held.lbu = -np.ones(nu)
    held.ubu = np.ones(nu)
    held.idxbu = np.arange(nu)
    held.x0 = np.zeros(n + nu)
    for end in ("", "_e"):
        for side, sign in (("l", -1.0), ("u", 1.0)):
            setattr(held, f"{side}h{end}", sign * np.full(ny, 1e3))
            setattr(ocp.cost, f"z{side}{end}", np.array(task["price"]))
            setattr(ocp.cost, f"Z{side}{end}", np.zeros(ny))
        setattr(held, f"idxsh{end}", np.arange(ny))
    options = ocp.solver_options
    options.integrator_type = "DISCRETE"
    options.hessian_approx = "GAUSS_NEWTON"
    options.tf = float(task["N"])
    options.nlp_solver_type = "SQP_RTI" if task["rti"] else "SQP"
    options.qp_solver = "PARTIAL_CONDENSING_HPIPM"
    options.qp_solver_cond_N = 5
    os.makedirs(task["folder"], exist_ok=True)
    os.chdir(task["folder"])
    return template.AcadosOcpSolver(ocp, json_file="ocp.json")


def solve(solver: Any, N: int, sample: dict[str, Any]) -> dict[str, Any]:
    """Solve one sample, starting from the last one's iterate."""
    start = np.array(sample["x"] + sample["before"])
    reference, lower, upper = (np.array(sample[name]) for name in ("reference", "lower", "upper"))
    began = time.perf_counter()
    solver.set(0, "lbx", start)
    solver.set(0, "ubx", start)
    for k in range(N + 1):
        solver.set(k, "p", reference[k])
        if k:
            solver.constraints_set(k, "lh", lower[k])
            solver.constraints_set(k, "uh", upper[k])
    status = solver.solve()
    plan = [solver.get(k, "u") for k in range(N)]
    seconds = time.perf_counter() - began
    inner, iterations = (float(np.ravel(solver.get_stats(name))[0]) for name in ("time_tot", "sqp_iter"))
    return {
        "u": [u.tolist() for u in plan], "status": int(status), "seconds": seconds, "inner": inner,
        "iterations": int(iterations),
    }  # fmt: skip


def main() -> None:
    """Serve requests until the input ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # compilers and acados write to the standard output
    with redirect_stdout(sys.stderr):
        task = json.loads(sys.stdin.readline())
        solver = build(task)
        print("ready", file=answers, flush=True)
        for line in sys.stdin:
            print(json.dumps(solve(solver, task["N"], json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
