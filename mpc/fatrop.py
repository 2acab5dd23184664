"""The general engine: any predictor with CasADi functions, with all states and inputs as variables of fatrop.

fatrop is an interior-point method that factorises stage by stage (Vanroye, Sathya, De Schutter, Decré, IROS 2023). It
wants its variables in stage order, x_0, u_0, x_1, u_1, ..., and x_{k+1} - f(x_k, u_k) = 0 ahead of the other
constraints of stage k. Here the state of a stage is extended by the input before it, so that price and limit of a move
belong to one stage, and the slack belongs to the controls.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import casadi
import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from mpc.ocp import HARD, KEPT, OptimalControlProblem, Solution, SolverOptions, Status, StepData, default_penalty

_FINEST = 1e-6  # finer tolerances are lost in rounding when references are out of reach: it then reports failure
_FREE = 1e4  # limits this many ranges away constrain nothing


@dataclass
class _Stages:
    """Variables and constraints in the order in which the solver wants them."""

    variables: list[Any] = field(default_factory=list)
    least: list[Array] = field(default_factory=list)
    most: list[Array] = field(default_factory=list)
    constraints: list[Any] = field(default_factory=list)
    equality: list[bool] = field(default_factory=list)
    lower: list[Array] = field(default_factory=list)
    upper: list[Array] = field(default_factory=list)

    def variable(self, name: str, n: int, least: float = -np.inf, most: float = np.inf) -> Any:
        """A new variable (n,) with limits."""
        self.variables.append(casadi.SX.sym(name, n))
        self.least.append(np.full(n, least))
        self.most.append(np.full(n, most))
        return self.variables[-1]

    def keep(self, g: Any, lower: Array, upper: Array) -> None:
        """Keep lower <= g <= upper."""
        self.constraints.append(g)
        self.equality += (lower == upper).tolist()
        self.lower.append(lower)
        self.upper.append(upper)

    def zero(self, g: Any) -> None:
        """Keep g = 0."""
        self.keep(g, np.zeros(g.numel()), np.zeros(g.numel()))


class FatropBackend:
    """Solves with CasADi and fatrop.

    Args:
        problem: The optimal control problem.
        options: Limits for the solver. fatrop cannot be stopped: time is checked when it returns.

    Raises:
        SettingError: ``options.rti`` is set, or an input has no limits.
    """

    def __init__(self, problem: OptimalControlProblem, options: SolverOptions) -> None:
        if options.rti:
            raise SettingError("FatropBackend cannot stop after one iteration, got rti=True: use CondensedBackend")
        self.problem, self.options = problem, options
        self._lower, self._upper = problem.predictor.input_limits()
        self._middle, self._half = 0.5 * (self._lower + self._upper), 0.5 * (self._upper - self._lower)
        signals = problem.predictor.outputs
        self._limited = np.flatnonzero(np.isfinite([[s.lower, s.upper] for s in signals]).any(axis=1))
        penalty = problem.penalty
        if not problem.soft:
            penalty = HARD * np.maximum(
                penalty, default_penalty(problem.horizon, problem.cost_scale, problem.output_scale)
            )
        self._price = (penalty * problem.output_scale / problem.cost_scale)[self._limited]
        self._formulate()

    def reset(self) -> None:
        """See `mpc.ocp.Backend.reset`; there is nothing to forget."""

    def solve(self, data: StepData) -> Solution:
        """See `mpc.ocp.Backend.solve`."""
        started = time.perf_counter()
        result = self._solver(x0=self._guess(data), p=self._parameters(data), **self._bounds)
        stats, values = self._solver.stats(), np.array(result["x"]).ravel()
        status = Status.SOLVED if stats["success"] else Status.FAILED
        if not stats["success"] and stats["iter_count"] >= self.options.max_iterations:
            status = Status.MAX_ITERATIONS
        message = f"fatrop returned {stats['return_status']}"
        u = np.clip(self._middle + self._half * values[self._places[0]], self._lower, self._upper)
        cost, slack = self.problem.objective(data, u)
        if not np.isfinite(cost):
            status, message = Status.FAILED, "not finite"
        if status is Status.SOLVED and not self.problem.soft and (slack > KEPT * self.problem.output_scale).any():
            status, message = Status.INFEASIBLE, "the least excess over the limits is not zero"
        limit = self.options.max_wall_time
        if status is Status.SOLVED and limit is not None and time.perf_counter() - started > limit:
            status, message = Status.TIME_LIMIT, "solved too late"
        return Solution(
            status=status, u=u, slack=slack, cost=cost, iterations=int(stats["iter_count"]), message=message
        )

    def _formulate(self) -> None:
        problem, predictor, N = self.problem, self.problem.predictor, self.problem.horizon
        nx, nu, ny, limited = predictor.nx, predictor.nu, predictor.ny, len(self._limited)
        start, before = casadi.SX.sym("start", nx), casadi.SX.sym("before", nu)
        reference = casadi.SX.sym("r", ny, N + 1)
        high, low = casadi.SX.sym("high", limited, N), casadi.SX.sym("low", limited, N)
        stages, cost = _Stages(), casadi.SX(0)
        x, last = stages.variable("x", nx), stages.variable("l", nu)
        for k in range(N + 1):
            v = last if k == N else stages.variable("v", nu, -1.0, 1.0)
            slack = stages.variable("s", limited, 0.0) if k and limited else None
            y, follows = self._stage(x, v)
            state, held = x, last
            if k < N:
                x, last = stages.variable("x", nx), stages.variable("l", nu)
                stages.zero(casadi.vertcat(x - follows, last - v))
                cost += casadi.dot(problem.input_move_weight * self._half**2 / problem.cost_scale, (v - held) ** 2)
                self._limit_move(stages, v - held)
            if k == 0:
                stages.zero(casadi.vertcat(state - start, held - before))
            weight = problem.output_weight if k < N else problem.terminal_weight
            scaled = weight * problem.output_scale**2 / problem.cost_scale
            cost += casadi.dot(scaled, (y - reference[:, k]) ** 2)
            if slack is not None:
                seen, free = y[self._limited.tolist()], np.full(limited, np.inf)
                stages.keep(seen - slack - high[:, k - 1], -free, np.zeros(limited))
                stages.keep(seen + slack - low[:, k - 1], np.zeros(limited), free)
                cost += casadi.dot(self._price, slack)
        parameters = casadi.vertcat(start, before, *(casadi.vec(p) for p in (reference, high, low)))
        self._compile(stages, cost, parameters)

    def _stage(self, x: Any, v: Any) -> tuple[Any, Any]:
        """Scaled output and next state."""
        step, output = self.problem.predictor.casadi
        u = self._middle + self._half * v
        return output(x, u) / self.problem.output_scale, step(x, u)

    def _limit_move(self, stages: _Stages, move: Any) -> None:
        limit = self.problem.move_limit / self._half
        rows = np.flatnonzero(np.isfinite(limit))
        if len(rows):
            stages.keep(move[rows.tolist()], -limit[rows], limit[rows])

    def _compile(self, stages: _Stages, cost: Any, parameters: Any) -> None:
        options: dict[str, Any] = {
            "print_time": False,
            "structure_detection": "auto",
            "equality": stages.equality,
            "fatrop": {
                "print_level": 0,
                "max_iter": self.options.max_iterations,
                "tolerance": max(self.options.tolerance, _FINEST),
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
            "lbx": np.concatenate(stages.least), "ubx": np.concatenate(stages.most),
            "lbg": np.concatenate(stages.lower), "ubg": np.concatenate(stages.upper),
        }  # fmt: skip
        starts = np.cumsum([0, *(v.numel() for v in stages.variables)])
        places: dict[str, list[Array]] = {"x": [], "l": [], "v": [], "s": []}
        for v, start in zip(stages.variables, starts, strict=False):
            places[v[0].name().split("_")[0]].append(np.arange(start, start + v.numel()))
        self._size = int(starts[-1])
        self._states, self._last = np.array(places["x"]), np.array(places["l"])
        slack = np.array(places["s"], dtype=int).reshape(self.problem.horizon, -1)
        self._places = (np.array(places["v"]), slack)

    def _limits(self, data: StepData) -> tuple[Array, Array]:
        scale = self.problem.output_scale[self._limited]
        low, high = data.lower[1:, self._limited] / scale, data.upper[1:, self._limited] / scale
        return np.maximum(low, -_FREE), np.minimum(high, _FREE)

    def _parameters(self, data: StepData) -> Array:
        low, high = self._limits(data)
        before = (data.previous_input - self._middle) / self._half
        reference = data.reference / self.problem.output_scale
        return np.concatenate([data.x, before, reference.ravel(), high.ravel(), low.ravel()])

    def _guess(self, data: StepData) -> Array:
        y, x = self.problem.predictor.rollout(data.x, data.guess)
        seen, (low, high) = (y / self.problem.output_scale)[1:, self._limited], self._limits(data)
        inputs = (data.guess - self._middle) / self._half
        inputs_places, slack_places = self._places
        values = np.zeros(self._size)
        values[self._states], values[inputs_places] = x, inputs
        values[self._last] = np.vstack([(data.previous_input - self._middle) / self._half, inputs])
        values[slack_places] = np.maximum(np.maximum(seen - high, low - seen), 0.0)
        return values
