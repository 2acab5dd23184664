"""Multiple-shooting solver with fatrop, for any predictor with CasADi functions.

fatrop is an interior-point method that factorises stage by stage (Vanroye, Sathya, De Schutter, Decré, IROS 2023). It
needs its variables in stage order, x_0, u_0, x_1, u_1, ..., and x_{k+1} - f(x_k, u_k) = 0 ahead of the other
constraints of stage k. Here the state of a stage is extended by the input before it, so that weight and limit of a move
belong to one stage, and the slack belongs to the controls. Stages whose input is held have no inputs among their
controls; with a terminal set the controls of the last stage include the steady state. Its linear algebra, BLASFEO, uses
no threads.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import casadi
import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from mpc.problem.ocp import OptimalControlProblem, Solution, StepData
from mpc.problem.ranking import HARD, KEPT, refuse_ranks
from mpc.problem.solver_options import SolverOptions, Status
from mpc.solvers.casadi_terms import economic, inputs

_FINEST = 1e-6  # least tolerance: with references out of reach, finer ones fail by rounding,
_FINER = 1e-8  # which is harmless with a terminal set, where any plan that keeps all limits may be applied
_FREE = 1e4  # in output ranges: distance of a limit that stands for "no limit"
_INSIDE = 1e-7  # margin to limits with a terminal set, in output ranges or radii of the set


@dataclass
class _Stages:
    """Variables and constraints, collected in fatrop's stage order."""

    variables: list[Any] = field(default_factory=list)
    least: list[Array] = field(default_factory=list)
    most: list[Array] = field(default_factory=list)
    constraints: list[Any] = field(default_factory=list)
    equality: list[bool] = field(default_factory=list)
    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)
    states: list[int] = field(default_factory=list)
    controls: list[int] = field(default_factory=list)
    kept: list[int] = field(default_factory=list)

    def begin(self, nx: int, nu: int) -> tuple[Any, Any]:
        """Begin a stage; returns its state variables: the model's state (nx,) and the input before it (nu,)."""
        self.states.append(nx + nu)
        self.controls.append(0)
        return self._variable("x", nx), self._variable("l", nu)

    def control(self, name: str, n: int, least: float = -np.inf, most: float = np.inf) -> Any:
        """Add a control variable (n,) with limits to the present stage."""
        self.controls[-1] += n
        return self._variable(name, n, least, most)

    def _variable(self, name: str, n: int, least: float = -np.inf, most: float = np.inf) -> Any:
        """Add a variable (n,) with limits."""
        self.variables.append(casadi.SX.sym(name, n))
        self.least.append(np.full(n, least))
        self.most.append(np.full(n, most))
        return self.variables[-1]

    def keep(self, g: Any, lower: Array, upper: Array) -> None:
        """Add the constraint lower <= g <= upper."""
        self.constraints.append(g)
        self.equality += (lower == upper).tolist()
        self.lower.append(lower)
        self.upper.append(upper)

    def zero(self, g: Any) -> None:
        """Add the constraint g = 0."""
        self.keep(g, np.zeros(g.numel()), np.zeros(g.numel()))


class FatropBackend:
    """Solver with CasADi and fatrop.

    Args:
        problem: The optimal control problem.
        options: Limits for the solver. fatrop cannot be stopped: time is checked when it returns.

    Raises:
        SettingError: ``options.rti`` is set, an input has no limits, or limits have ranks.
    """

    def __init__(self, problem: OptimalControlProblem, options: SolverOptions) -> None:
        if options.rti:
            raise SettingError("FatropBackend cannot stop after one iteration, got rti=True: use CondensedBackend")
        refuse_ranks(problem.ranking, "FatropBackend")
        self.problem = problem
        self.options = options
        self._lower, self._upper = (limit[problem.chosen] for limit in problem.predictor.input_limits())
        self._middle = 0.5 * (self._lower + self._upper)
        self._half = 0.5 * (self._upper - self._lower)
        signals = problem.predictor.outputs
        self._limited = np.flatnonzero(np.isfinite([[s.lower, s.upper] for s in signals]).any(axis=1))
        self._price = (problem.prices() * problem.output_scale / problem.cost_scale)[self._limited]
        self._formulate()

    def __getstate__(self) -> tuple[OptimalControlProblem, SolverOptions]:
        """For copies and pickling: CasADi's functions are made anew."""
        return self.problem, self.options

    def __setstate__(self, state: tuple[OptimalControlProblem, SolverOptions]) -> None:
        self.__init__(*state)  # type: ignore[misc]

    def reset(self) -> None:
        """Do nothing, since the solver has no memory; see `mpc.problem.ocp.Backend.reset`."""

    def solve(self, data: StepData) -> Solution:
        """Solve one sample; see `mpc.problem.ocp.Backend.solve`."""
        started = time.perf_counter()
        result = self._solver(x0=self._guess(data), p=self._parameters(data), **self._bounds)
        stats, values = self._solver.stats(), np.array(result["x"]).ravel()
        status = Status.SOLVED if stats["success"] else Status.FAILED
        if not stats["success"] and stats["iter_count"] >= self.options.max_iterations:
            status = Status.MAX_ITERATIONS
        message = f"fatrop returned {stats['return_status']}"
        u = np.clip(self._middle + self._half * values[self._places[0]], self._lower, self._upper)
        rows = np.minimum(np.arange(self.problem.horizon), self.problem.inputs - 1)
        u = self.problem.complete(u[rows], data.forecast)
        # Cost, slack and feasibility of the clipped plan are computed by our model, not taken from the solver.
        cost, slack = self.problem.objective(data, u)
        if not np.isfinite(cost):
            status, message = Status.FAILED, "not finite"
        terminal, feasible = self.problem.terminal, False
        if terminal is not None:
            feasible = bool(np.isfinite(cost)) and self.problem.excess(data, u) <= 0
        kept = feasible if terminal is not None else not (slack > KEPT * self.problem.output_scale).any()
        if status is Status.SOLVED and not self.problem.soft and not kept:
            status, message = Status.INFEASIBLE, "the least excess over the limits is not zero"
        limit = self.options.max_wall_time
        if status is Status.SOLVED and limit is not None and time.perf_counter() - started > limit:
            status, message = Status.TIME_LIMIT, "solved too late"
        return Solution(
            status=status,
            u=u,
            slack=slack,
            cost=cost,
            iterations=int(stats["iter_count"]),
            message=message,
            feasible=feasible,
        )

    def _formulate(self) -> None:
        problem, predictor, N = self.problem, self.problem.predictor, self.problem.horizon
        nx, nu, ny, limited, rows = (
            predictor.nx,
            len(self._half),
            predictor.ny,
            len(self._limited),
            N + 1 - problem.first,
        )
        start, before = casadi.SX.sym("start", nx), casadi.SX.sym("before", nu)
        reference = casadi.SX.sym("r", ny, N + 1)
        high, low = casadi.SX.sym("high", limited, rows), casadi.SX.sym("low", limited, rows)
        forecast = casadi.SX.sym("forecast", len(problem.measured_inputs), N)
        stages, cost = _Stages(), casadi.SX(0)
        x, last = stages.begin(nx, nu)
        for k in range(N + 1):
            v = stages.control("v", nu, -1.0, 1.0) if k < problem.inputs else last
            slack = stages.control("s", limited, 0.0) if k >= problem.first and limited else None
            ahead = forecast[:, min(k, N - 1)]
            y, follows = self._stage(x, v, ahead)
            # Index after the dynamics: fatrop's ng counts only the other constraints of a stage.
            state, held, above = x, last, len(stages.equality) + (nx + nu) * (k < N)
            if k < N:
                x, last = stages.begin(nx, nu)
                stages.zero(casadi.vertcat(x - follows, last - v))
            if k < problem.inputs:
                move_weight = problem.input_move_weight[problem.chosen] * self._half**2 / problem.cost_scale
                cost += casadi.dot(move_weight, (v - held) ** 2)
                self._limit_move(stages, v - held)
            if k == 0:  # the initial state and the last input are parameters
                stages.zero(casadi.vertcat(state - start, held - before))
            if k == N and problem.terminal is not None:
                y, end = self._settle(stages, x, last)
                cost += end
            weight = problem.output_weight if k < N else problem.terminal_weight
            scaled = weight * problem.output_scale**2 / problem.cost_scale
            cost += casadi.dot(scaled, (y - reference[:, k]) ** 2)
            by_outputs, by_inputs = economic(problem, y * problem.output_scale, inputs(problem, v, ahead))
            cost += by_outputs + (by_inputs if k < N or problem.terminal is not None else 0)
            if slack is not None:
                seen, free, row = y[self._limited.tolist()], np.full(limited, np.inf), k - problem.first
                stages.keep(seen - slack - high[:, row], -free, np.zeros(limited))
                stages.keep(seen + slack - low[:, row], np.zeros(limited), free)
                cost += casadi.dot(self._price, slack)
            stages.kept.append(len(stages.equality) - above)
        parameters = casadi.vertcat(start, before, *(casadi.vec(p) for p in (reference, high, low, forecast)))
        self._compile(stages, cost, parameters)

    def _settle(self, stages: _Stages, x: Any, held: Any) -> tuple[Any, Any]:
        """Add the terminal constraint that x is near the steady state of the held input, with slack.

        Returns the steady state's scaled output and the penalty on the slack.
        """
        terminal = self.problem.terminal
        assert terminal is not None
        settled, over = stages.control("e", self.problem.predictor.nx), stages.control("o", 1, 0.0)
        y, follows = self._stage(settled, held, casadi.SX(0, 1))
        stages.zero(settled - follows)
        gap = casadi.DM(terminal.root) @ (x - settled) / terminal.radius
        stages.keep(casadi.dot(gap, gap) - over, np.array([-np.inf]), np.array([(1.0 - _INSIDE) ** 2]))
        return y, HARD * 20.0 * self.problem.horizon * over

    def _stage(self, x: Any, v: Any, forecast: Any) -> tuple[Any, Any]:
        """Expressions of the scaled output and the next state at x (nx,) and scaled inputs v (nu,)."""
        step, output = self.problem.predictor.casadi
        u = inputs(self.problem, v, forecast)
        return output(x, u) / self.problem.output_scale, step(x, u)

    def _limit_move(self, stages: _Stages, move: Any) -> None:
        limit = self.problem.move_limit[self.problem.chosen] / self._half
        rows = np.flatnonzero(np.isfinite(limit))
        if len(rows):
            stages.keep(move[rows.tolist()], -limit[rows], limit[rows])

    def _compile(self, stages: _Stages, cost: Any, parameters: Any) -> None:
        options: dict[str, Any] = {
            "print_time": False,
            "structure_detection": "manual",
            "N": self.problem.horizon,
            "nx": stages.states,
            "nu": stages.controls,
            "ng": stages.kept,
            "equality": stages.equality,
            "fatrop": {
                "print_level": 0,
                "max_iter": self.options.max_iterations,
                "tolerance": max(self.options.tolerance, _FINEST if self.problem.terminal is None else _FINER),
            },
        }
        nlp = {
            "x": casadi.vertcat(*stages.variables),
            "f": cost,
            "g": casadi.vertcat(*stages.constraints),
            "p": parameters,
        }
        self._solver = casadi.nlpsol("ocp", "fatrop", nlp, options)
        self._bounds = {
            "lbx": np.concatenate(stages.least),
            "ubx": np.concatenate(stages.most),
            "lbg": np.concatenate(stages.lower),
            "ubg": np.concatenate(stages.upper),
        }
        # Where the variables of each kind lie in the solver's vector, for guesses and answers.
        starts = np.cumsum([0, *(v.numel() for v in stages.variables)])
        places: dict[str, list[Array]] = {name: [] for name in "xlvseo"}
        for v, start in zip(stages.variables, starts, strict=False):
            places[v[0].name().split("_")[0]].append(np.arange(start, start + v.numel()))
        self._size = int(starts[-1])
        self._states = np.array(places["x"])
        self._last = np.array(places["l"])
        slack = np.array(places["s"], dtype=int).reshape(self.problem.horizon + 1 - self.problem.first, -1)
        self._places = (np.array(places["v"]), slack)
        self._end = [np.array(places[name], dtype=int).ravel() for name in "eo"]

    def _limits(self, data: StepData) -> tuple[Array, Array]:
        scale = self.problem.output_scale[self._limited]
        first, inside = self.problem.first, 0.0 if self.problem.terminal is None else _INSIDE
        low = data.lower[first:, self._limited] / scale + inside
        high = data.upper[first:, self._limited] / scale - inside
        return np.maximum(low, -_FREE), np.minimum(high, _FREE)

    def _parameters(self, data: StepData) -> Array:
        low, high = self._limits(data)
        before = (data.previous_input[self.problem.chosen] - self._middle) / self._half
        reference = data.reference / self.problem.output_scale
        forecast = np.zeros(0) if data.forecast is None else data.forecast.ravel()
        return np.concatenate([data.x, before, reference.ravel(), high.ravel(), low.ravel(), forecast])

    def _guess(self, data: StepData) -> Array:
        problem, (low, high), (inputs_places, slack_places) = self.problem, self._limits(data), self._places
        rows = np.minimum(np.arange(problem.horizon), problem.inputs - 1)
        u = problem.complete(data.guess[rows][:, problem.chosen], data.forecast)
        x = problem.predictor.rollout(data.x, u)[1]
        y, gap = problem.outcome(data.x, u)
        seen = (y / problem.output_scale)[problem.first :, self._limited]
        scaled = (u[:, problem.chosen] - self._middle) / self._half
        values = np.zeros(self._size)
        values[self._states], values[inputs_places] = x, scaled[: problem.inputs]
        values[self._last] = np.vstack([(data.previous_input[problem.chosen] - self._middle) / self._half, scaled])
        values[slack_places] = np.maximum(np.maximum(seen - high, low - seen), 0.0)
        if problem.terminal is not None and gap is not None:
            settled, over = self._end
            values[settled], values[over] = x[-1] - gap, max(problem.terminal._radii(gap) ** 2 - 1.0, 0.0)
        return values
