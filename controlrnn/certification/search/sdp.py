"""Semidefinite programs through cvxpy, the reference for our own searches.

Only multipliers are taken from a solver. Its objective value and its storage matrices are not certificates: they hold
to the solver's tolerance, in the solver's scaling (`certificate` recomputes and proves them).
"""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import Any

import cvxpy as cp
import numpy as np
import scipy.linalg

from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.search.riccati import HorizonObjective, Objective
from controlrnn.checks import Array
from controlrnn.errors import CertificationError

_log = logging.getLogger(__name__)
_USABLE = {cp.OPTIMAL, cp.OPTIMAL_INACCURATE, cp.USER_LIMIT}


def solve_horizon(
    task: HorizonObjective, sizes: Array, *, solver: str = "CLARABEL", options: dict[str, Any] | None = None
) -> tuple[Array, Array, str]:
    """Solve a task as one semidefinite program in the chordal (storage) form, one cone of size nz a stage.

    Args:
        task: The optimisation to solve; its order plays no part.
        sizes: Rough size of the storage per stage, shape (K,); each stage is divided by its own, because storages of a
            contracting system span orders of magnitude and solvers have absolute tolerances.
        solver: cvxpy's name of the solver.
        options: Passed on to the solver.

    Returns:
        Multipliers (K, nv), rho (K, nu), and the solver's status. Not proven, possibly slightly infeasible.
    """
    form, n, u = task.form, task.form.nx, task.form.nu
    stages = len(task.weights)
    P: list[Any] = [cp.Variable((n, n), symmetric=True) for _ in range(stages)]
    lam = [_multipliers(form) for _ in range(stages)]
    rho: list[Any] = [cp.Variable(u, nonneg=True) if u else None for _ in range(stages)]
    top = [cp.Variable(nonneg=True) for _ in range(stages)]
    later = np.cumsum(task.weights[::-1])[::-1]
    cost: Any = 0
    constraints = []
    for j in range(stages):
        demand = task.terminal / sizes[0] if j == 0 else form.T.T @ P[j - 1] @ form.T * (sizes[j - 1] / sizes[j])
        block = _supply(form, P[j], rho[j]) - demand - _multiplier_form(form.at(j), lam[j])
        constraints.append(block >> 0)
        if task.goal is Objective.LARGEST:
            continue
        cost += later[j] * sizes[j] * (task.b**2 @ rho[j]) if u else 0
        if task.state_weights[j] > 0:
            constraints.append(top[j] * np.eye(n) >> P[j])
            cost += task.state_weights[j] * sizes[j] * top[j]
    if task.goal is Objective.LARGEST:
        # One number above the last storage and all rho, in units of that storage's size.
        cost = top[-1]
        constraints.append(top[-1] * np.eye(n) >> P[-1])
        constraints += [r * (size / sizes[-1]) <= top[-1] for r, size in zip(rho, sizes, strict=True) if u]
    status = _solve(cp.Problem(cp.Minimize(cost), constraints), solver, options)
    return _values(lam, sizes, form.nv), _values(rho, sizes, u), status


def contraction_slack(
    form: IncrementalForm, rate: float, *, solver: str = "CLARABEL", options: dict[str, Any] | None = None
) -> float:
    """Largest t with rate^2 P - T'PT - S(lambda) >= t I over metrics P of trace nx; t > 0 shows the rate.

    Args:
        form: The difference system without inputs.
        rate: Contraction rate asked for.
        solver: cvxpy's name of the solver.
        options: Passed on to the solver.
    """
    P = cp.Variable((form.nx, form.nx), symmetric=True)
    lam = _multipliers(form)
    slack = cp.Variable()
    block = _supply(form, rate**2 * P, None) - form.T.T @ P @ form.T - _multiplier_form(form, lam)
    # The inequality is homogeneous: the trace fixes the size of P, and the last bound that of the multipliers.
    constraints = [block >> slack * np.eye(form.nz), P >> 0, cp.trace(P) == form.nx, slack <= 1]
    _solve(cp.Problem(cp.Maximize(slack), constraints), solver, options)
    return float(slack.value)


def smallest_l2_gain(
    form: IncrementalForm, *, solver: str = "CLARABEL", options: dict[str, Any] | None = None
) -> float:
    """Least incremental l2 gain according to the solver; not proven.

    Args:
        form: The difference system, inputs and outputs in units of the gain.
        solver: cvxpy's name of the solver.
        options: Passed on to the solver.
    """
    P = cp.Variable((form.nx, form.nx), symmetric=True)
    lam, rho = _multipliers(form), cp.Variable(nonneg=True)
    supply = _supply(form, P, rho * np.ones(form.nu)) - form.Y.T @ form.Y
    constraints = [supply - form.T.T @ P @ form.T - _multiplier_form(form, lam) >> 0, P >> 0]
    _solve(cp.Problem(cp.Minimize(rho), constraints), solver, options)
    return float(np.sqrt(rho.value))


def fit_robust_rnn(
    samples: dict[str, Array],
    C: Array,
    D: Array,
    gamma: float | None,
    rate: float,
    feedthrough: bool,
    *,
    solver: str = "CLARABEL",
    options: dict[str, Any] | None = None,
) -> dict[str, Array]:
    """Fit the robust RNN of 2020 to samples of a state map, by Lagrangian relaxation of the equation error.

    min tr(R Phi) + |Y - C2 X - D21 W - D22 U - by|^2,  Phi = mean z z', z = (x+, x, w, u, 1), M = [E -F -B1 -B2 -e],
    s.t. [R M'; M E+E'-I] >= 0, so that tr(R Phi) bounds the mean of |x+ - E^-1 (F x + B1 w + B2 u + e)|^2, and the
    inequality of the set. (Revay, Wang, Manchester, L-CSS 2020, sec. V; Umenberger, Manchester 2019.)

    Args:
        samples: Rows of ``next, x, u, w, y``, each (N, n).
        C: Drive of the neurons from the state, shape (nv, nx): v = C x + D u.
        D: Shape (nv, nu).
        gamma: Gain bound; None for contraction alone.
        rate: Contraction rate.
        feedthrough: Whether D21 and D22 may differ from zero.
        solver: cvxpy's name of the solver.
        options: Passed on to it.

    Returns:
        ``E, P, F, B1, B2, L, C2, D21, D22, bx, by``. Not proven: the model checks its own inequality.
    """
    (nv, n), nu, ny = C.shape, D.shape[1], samples["y"].shape[1]
    one = np.ones((len(samples["x"]), 1))
    E, F, B1 = cp.Variable((n, n)), cp.Variable((n, n)), cp.Variable((n, nv))
    B2, e, P = cp.Variable((n, nu)), cp.Variable((n, 1)), cp.Variable((n, n), symmetric=True)
    L, C2, by = cp.Variable(nv, nonneg=True), cp.Variable((ny, n)), cp.Variable((ny, 1))
    D21, D22 = cp.Variable((ny, nv)), cp.Variable((ny, nu))
    # Triangular factors instead of all samples.
    root = _factor(np.hstack([samples[k] for k in ("next", "x", "w", "u")] + [one]))
    M = cp.hstack([E, -F, -B1, -B2, -e]) @ root
    R = cp.Variable((root.shape[1],) * 2, symmetric=True)
    data = _factor(np.hstack([samples[k] for k in ("x", "w", "u")] + [one, samples["y"]]))
    miss = cp.hstack([C2, D21, D22, by, -np.eye(ny)]) @ data
    C1, D12 = cp.diag(L) @ C, cp.diag(L) @ D
    corner, middle = E + E.T - P / rate**2, 2 * cp.diag(L)
    if gamma is None:
        rows = [[corner, -C1.T, F.T], [-C1, middle, B1.T], [F, B1, P]]
    else:
        xu, xy = np.zeros((n, nu)), np.zeros((n, ny))
        rows = [
            [corner, -C1.T, xu, F.T, C2.T],
            [-C1, middle, -D12, B1.T, D21.T],
            [xu.T, -D12.T, gamma**2 * np.eye(nu), B2.T, D22.T],
            [F, B1, B2, P, xy],
            [C2, D21, D22, xy.T, np.eye(ny)],
        ]
    inside: Any = cp.bmat(rows)
    constraints = [cp.bmat([[R, M.T], [M, E + E.T - np.eye(n)]]) >> 0, inside >> 1e-3 * np.eye(inside.shape[0])]
    if not feedthrough:
        constraints += [D21 == 0, D22 == 0]
    _solve(cp.Problem(cp.Minimize(cp.trace(R) + cp.sum_squares(miss)), constraints), solver, options)
    found = {"E": E, "P": P, "F": F, "B1": B1, "B2": B2, "L": L, "C2": C2, "D21": D21, "D22": D22}
    values = {name: np.asarray(variable.value, dtype=np.float64) for name, variable in found.items()}
    return values | {"bx": np.linalg.solve(values["E"], e.value)[:, 0], "by": np.asarray(by.value)[:, 0]}


def _factor(rows: Array) -> Array:
    """Factor G with G G' the mean of z z' over the ``rows`` z."""
    if not np.isfinite(rows).all():
        raise CertificationError("samples of the model are beyond float64: measure inputs and outputs in other units")
    return np.asarray(scipy.linalg.qr(rows, mode="r")[0][: rows.shape[1]].T / len(rows) ** 0.5)


def _multipliers(form: IncrementalForm) -> Any:
    """Variable (nv,) >= 0 of cvxpy; None for a linear system, since cvxpy has no empty variables."""
    return cp.Variable(form.nv, nonneg=True) if form.nv else None


def _values(variables: list[Any], sizes: Array, n: int) -> Array:
    """Solver's values per stage in the original scaling, shape (K, n); tiny negative ones become zero."""
    rows = [s * np.maximum(v.value, 0.0) if n else np.zeros(0) for s, v in zip(sizes, variables, strict=True)]
    return np.array(rows).reshape(len(rows), n)


def _supply(form: IncrementalForm, P: Any, rho: Any) -> Any:
    """The matrix blkdiag(P, diag(rho), 0) as a cvxpy expression."""
    M: Any = np.zeros((form.nz, form.nz))
    if form.nx and P is not None:
        into_x = np.eye(form.nz)[:, : form.nx]
        M = into_x @ P @ into_x.T
    if form.nu and rho is not None:
        into_u = np.eye(form.nz)[:, form.nx : form.nx + form.nu]
        M = M + into_u @ cp.diag(rho) @ into_u.T
    return M


def _multiplier_form(form: IncrementalForm, lam: Any) -> Any:
    """The matrix S(lambda) as a cvxpy expression."""
    if not form.nv:
        return np.zeros((form.nz, form.nz))
    half = form.lower.T @ cp.diag(lam) @ form.upper
    return half + half.T


class _Failures(contextlib.AbstractContextManager["_Failures"]):
    """Names failures of a solver as such: cvxpy's, and panics of Rust code, which are no Exception in Python.

    Clarabel panics where an eigenvalue does not converge.
    """

    def __init__(self, solver: str) -> None:
        self.solver = solver

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None and (issubclass(kind, cp.SolverError) or kind.__name__ == "PanicException"):
            raise CertificationError(f"{self.solver} failed: {error}", status="error") from error


def _solve(problem: Any, solver: str, options: dict[str, Any] | None) -> str:
    """Solve a problem and return the solver's status; raises CertificationError where it found nothing usable."""
    with warnings.catch_warnings():
        # "Solution may be inaccurate": we prove what we use, so the warning says nothing that we need.
        warnings.simplefilter("ignore", UserWarning)
        with _Failures(solver):
            problem.solve(solver=solver, **(options or {}))
    _log.info("%s: %s, objective %s", solver, problem.status, problem.value)
    if problem.status not in _USABLE or any(v.value is None for v in problem.variables()):
        raise CertificationError(f"{solver} found no multipliers: status {problem.status}", status=problem.status)
    return str(problem.status)
