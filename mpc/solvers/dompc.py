"""do-mpc (5.1, imported only here) with ipopt as a solver of the optimal control problem.

Some properties of do-mpc need care: constraints stop at step N - 1 (those of step N are appended between
``prepare_nlp`` and ``create_nlp``, with the slack of step 0, which is free otherwise); a failed solve returns its
iterate silently and starts the next one from it (the status is read; guess and multipliers come from the last success
only); ``make_step`` sleeps without an initial guess, appends to its history with quadratic cost and is slow in setting
parameters (the solver is called directly, on flat vectors); its scaling mixes scaled and unscaled inputs (scaling is
part of the model here, do-mpc's stays at 1).

ipopt factorises with MUMPS on CasADi's own OpenBLAS, which may use threads on large problems, and waits for them on a
busy machine: set OMP_NUM_THREADS=1 before Python starts where steps have a deadline. (With 16 states over 20 steps no
other thread was seen to run.)
"""

from __future__ import annotations

import warnings
from typing import Any

import casadi
import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from mpc.problem.ocp import OptimalControlProblem, Solution, StepData
from mpc.problem.ranking import refuse_ranks
from mpc.problem.solver_options import SolverOptions, Status
from mpc.solvers.casadi_terms import economic, inputs

with warnings.catch_warnings():  # do-mpc warns about optional features that are not installed
    warnings.simplefilter("ignore")
    import do_mpc

_FREE = 1e4  # in output ranges: distance of a limit that stands for "no limit"
_STATUS = {
    "Solve_Succeeded": Status.SOLVED,
    "Solved_To_Acceptable_Level": Status.SOLVED,
    "Maximum_Iterations_Exceeded": Status.MAX_ITERATIONS,
    "Maximum_CpuTime_Exceeded": Status.TIME_LIMIT,
    "Maximum_WallTime_Exceeded": Status.TIME_LIMIT,
    "Infeasible_Problem_Detected": Status.INFEASIBLE,
}


class DoMpcBackend:
    """Solver with do-mpc and ipopt.

    Args:
        problem: The optimal control problem.
        options: Limits for the solver.

    Raises:
        SettingError: ``options.rti`` is set, an input has no limits, limits have ranks, or the problem has a terminal
            set or a control horizon shorter than its horizon.

    Attributes:
        mpc: The ``do_mpc.controller.MPC`` with its model, for reading only.
    """

    def __init__(self, problem: OptimalControlProblem, options: SolverOptions) -> None:
        if options.rti:
            raise SettingError("DoMpcBackend cannot stop after one iteration, got rti=True: use CondensedBackend")
        if problem.terminal is not None or problem.inputs < problem.horizon:
            raise SettingError(
                "DoMpcBackend takes neither a terminal set nor a shorter control horizon: use CondensedBackend or "
                "FatropBackend"
            )
        refuse_ranks(problem.ranking, "DoMpcBackend")
        if problem.first == 0:
            raise SettingError(
                "DoMpcBackend cannot limit outputs that answer to the first input at once: use CondensedBackend or "
                "FatropBackend"
            )
        self.problem = problem
        self.options = options
        lower, upper = (limit[problem.chosen] for limit in problem.predictor.input_limits())
        self._lower = lower
        self._upper = upper
        self._middle = 0.5 * (lower + upper)
        self._half = 0.5 * (upper - lower)
        signals = problem.predictor.outputs
        # Rows of do-mpc's constraint: outputs with an upper limit, then outputs with a lower one.
        self._above = np.flatnonzero(np.isfinite([s.upper for s in signals]))
        self._below = np.flatnonzero(np.isfinite([s.lower for s in signals]))
        with warnings.catch_warnings():  # do-mpc passes CasADi values to numpy functions, about which CasADi warns
            warnings.simplefilter("ignore", FutureWarning)
            self.mpc = _formulate(problem, self._above, self._below, _ipopt(options, warm=False))
        # Two solvers of the same problem, since ipopt's warm-start options slow down a start without multipliers.
        self._cold = self.mpc.S
        self._warm = casadi.nlpsol("warm", "ipopt", self.mpc.nlp, _ipopt(options, warm=True))
        self._bounds = {
            "lbx": self.mpc._lb_opt_x.master,
            "ubx": self.mpc._ub_opt_x.master,
            "lbg": self.mpc.nlp_cons_lb,
            "ubg": self.mpc.nlp_cons_ub,
        }
        self._multipliers: dict[str, Any] = {}

    def __getstate__(self) -> tuple[OptimalControlProblem, SolverOptions, dict[str, Array]]:
        """For copies and pickling: what is remembered, as arrays; the rest is made anew."""
        return self.problem, self.options, {name: np.array(value) for name, value in self._multipliers.items()}

    def __setstate__(self, state: tuple[OptimalControlProblem, SolverOptions, dict[str, Array]]) -> None:
        self.__init__(*state[:2])  # type: ignore[misc]
        self._multipliers = state[2]

    def reset(self) -> None:
        """Forget the multipliers of the last sample; see `mpc.problem.ocp.Backend.reset`."""
        self._multipliers = {}

    def solve(self, data: StepData) -> Solution:
        """Solve one sample; see `mpc.problem.ocp.Backend.solve`."""
        solver = self._warm if self._multipliers else self._cold
        result = solver(x0=self._guess(data), p=self._parameters(data), **self._bounds, **self._multipliers)
        stats = solver.stats()
        values = np.array(result["x"]).ravel()
        self.mpc.opt_x_num.master = result["x"]
        status = _STATUS.get(stats["return_status"], Status.FAILED)
        if not np.isfinite(values).all():
            status = Status.FAILED
        if status is Status.SOLVED:
            self._multipliers = {"lam_g0": result["lam_g"], "lam_x0": result["lam_x"]}
        N, nx, nu = self.problem.horizon, self.problem.predictor.nx, len(self._half)
        # do-mpc's vector holds all states, then all inputs, then the slacks.
        first, last = (N + 1) * nx, (N + 1) * nx + N * nu
        u = self._middle + self._half * values[first:last].reshape(N, nu)
        return Solution(
            status=status,
            u=self.problem.complete(
                np.clip(u, self._lower, self._upper), data.forecast
            ),  # ipopt keeps bounds up to its tolerance
            slack=self._slack(values[last:].reshape(N, -1)),
            cost=float(result["f"]) * self.problem.cost_scale,
            iterations=int(stats["iter_count"]),
            message=str(stats["return_status"]),
        )

    def _limits(self, data: StepData) -> tuple[Array, Array]:
        scale = self.problem.output_scale
        upper, lower = data.upper[:, self._above].copy(), data.lower[:, self._below].copy()
        upper[0], lower[0] = _FREE * scale[self._above], -_FREE * scale[self._below]
        return upper, lower

    def _parameters(self, data: StepData) -> Array:
        upper, lower = self._limits(data)
        forecast = np.zeros((self.problem.horizon, 0)) if data.forecast is None else data.forecast
        varying = np.hstack([data.reference, upper, lower, np.vstack([forecast, forecast[-1:]])])
        previous = (data.previous_input[self.problem.chosen] - self._middle) / self._half
        return np.concatenate([data.x, varying.ravel(), previous])

    def _guess(self, data: StepData) -> Array:
        predictor, scale, chosen = self.problem.predictor, self.problem.output_scale, data.guess[:, self.problem.chosen]
        y, x = predictor.rollout(data.x, self.problem.complete(chosen, data.forecast))
        upper, lower = self._limits(data)
        excess = np.hstack(
            [(y[:, self._above] - upper) / scale[self._above], (lower - y[:, self._below]) / scale[self._below]]
        )
        excess[0] = excess[-1]  # the slack of step 0 is used for step N
        slack = np.maximum(excess[:-1], 0.0) if self.problem.soft else np.zeros_like(excess[:-1])
        scaled = (chosen - self._middle) / self._half
        return np.concatenate([x.ravel(), scaled.ravel(), slack.ravel()])

    def _slack(self, slack: Array) -> Array:
        rows = np.zeros((self.problem.horizon + 1, self.problem.predictor.ny))
        if slack.shape[1]:
            ordered = np.maximum(np.vstack([np.zeros(slack.shape[1]), slack[1:], slack[:1]]), 0.0)
            n = len(self._above)
            rows[:, self._above] = ordered[:, :n]
            rows[:, self._below] = np.maximum(rows[:, self._below], ordered[:, n:])
        return rows * self.problem.output_scale


def _formulate(problem: OptimalControlProblem, above: Any, below: Any, solver: dict[str, Any]) -> Any:
    predictor, scale, unit = problem.predictor, problem.output_scale, 1.0 / problem.cost_scale
    step, output = predictor.casadi
    model = do_mpc.model.Model("discrete", "SX")
    x, v = model.set_variable("_x", "x", predictor.nx), model.set_variable("_u", "v", len(problem.chosen))
    for name, size in (("r", predictor.ny), ("h", len(above)), ("l", len(below))):
        model.set_variable("_tvp", name, size)
    forecast = model.set_variable("_tvp", "d", len(problem.measured_inputs))
    model.set_rhs("x", step(x, inputs(problem, v, forecast)))
    model.setup()
    # setup() replaces all symbols: expressions for the controller are built from the new ones.
    x, v, reference, high, low, forecast = model.x["x"], model.u["v"], *(model.tvp[name] for name in "rhld")
    u = inputs(problem, v, forecast)
    y = output(x, u)
    by_outputs, by_inputs = economic(problem, y, u)

    mpc = do_mpc.controller.MPC(model)
    mpc.set_param(n_horizon=problem.horizon, t_step=predictor.dt, store_lagr_multiplier=False, nlpsol_opts=solver)
    template = mpc.get_tvp_template()
    mpc.set_tvp_fun(lambda _: template)
    weight = casadi.DM(problem.output_weight * unit)
    mpc.set_objective(mterm=casadi.DM(0), lterm=casadi.dot(weight, (y - reference) ** 2) + by_outputs + by_inputs)
    lower, upper = predictor.input_limits()
    mpc.set_rterm(v=(problem.input_move_weight * (0.5 * (upper - lower)) ** 2 * unit)[problem.chosen])
    mpc.bounds["lower", "_u", "v"], mpc.bounds["upper", "_u", "v"] = -1.0, 1.0
    excess = _excess(y, high, low, above, below, scale)
    if len(above) + len(below):
        price = np.concatenate([problem.penalty[above] * scale[above], problem.penalty[below] * scale[below]]) * unit
        most = np.inf if problem.soft else 0.0
        mpc.set_nl_cons("limits", excess, ub=0.0, soft_constraint=True, penalty_term_cons=price, maximum_violation=most)
    mpc.prepare_nlp()
    _append(mpc, problem, casadi.Function("end", [x, v, model.tvp], [y - reference, excess, by_outputs]), unit)
    mpc.create_nlp()
    return mpc


def _append(mpc: Any, problem: OptimalControlProblem, end: Any, unit: float) -> None:
    """Append the terms that do-mpc does not make: cost and limits at step N, and limits on moves."""
    lower, upper = (limit[problem.chosen] for limit in problem.predictor.input_limits())
    variables, parameters = mpc.opt_x, mpc.opt_p
    error, excess, priced = end(variables["_x", -1, 0, -1], variables["_u", -1, 0], parameters["_tvp", -1])
    mpc.nlp_obj += casadi.dot(casadi.DM(problem.terminal_weight * unit), error**2) + priced
    if excess.shape[0]:
        mpc.nlp_cons.append(excess - variables["_eps", 0, 0])
        mpc.nlp_cons_lb.append(-np.inf * np.ones(excess.shape[0]))
        mpc.nlp_cons_ub.append(np.zeros(excess.shape[0]))
    limit = problem.move_limit[problem.chosen]
    limited = np.flatnonzero(np.isfinite(limit))
    most = (limit / (0.5 * (upper - lower)))[limited]
    before = parameters["_u_prev"]
    for k in range(problem.horizon if len(limited) else 0):
        now = variables["_u", k, 0]
        mpc.nlp_cons.append((now - before)[limited.tolist()])
        mpc.nlp_cons_lb.append(-most)
        mpc.nlp_cons_ub.append(most)
        before = now


def _excess(y: Any, high: Any, low: Any, above: Any, below: Any, scale: Array) -> Any:
    over = (y[above.tolist()] - high) / scale[above] if len(above) else casadi.SX(0, 1)
    under = (low - y[below.tolist()]) / scale[below] if len(below) else casadi.SX(0, 1)
    return casadi.vertcat(over, under)


def _ipopt(options: SolverOptions, *, warm: bool) -> dict[str, Any]:
    chosen: dict[str, Any] = {
        "print_time": False,
        "ipopt.print_level": 0,
        "ipopt.sb": "yes",
        "ipopt.tol": options.tolerance,
        "ipopt.max_iter": options.max_iterations,
    }
    if options.max_wall_time is not None:
        chosen["ipopt.max_wall_time"] = options.max_wall_time
    if warm:
        chosen["ipopt.warm_start_init_point"] = "yes"
        chosen["ipopt.mu_init"] = 1e-6
        for name in ("bound_push", "bound_frac", "slack_bound_push", "slack_bound_frac", "mult_bound_push"):
            chosen[f"ipopt.warm_start_{name}"] = 1e-8
    return chosen
