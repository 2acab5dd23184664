"""Terms of the optimal control problem of `mpc.problem.ocp` as CasADi expressions."""

from __future__ import annotations

from typing import Any

import casadi

from mpc.problem.ocp import OptimalControlProblem


def inputs(problem: OptimalControlProblem, v: Any, forecast: Any) -> Any:
    """All physical inputs (inputs,) from the chosen ones v (nu,), in half ranges, and the forecast (measured,)."""
    lower, upper = (limit[problem.chosen] for limit in problem.predictor.input_limits())
    u = casadi.SX(problem.predictor.nu, 1)
    u[problem.chosen.tolist()] = 0.5 * (lower + upper) + 0.5 * (upper - lower) * v
    u[list(problem.measured_inputs)] = forecast
    return u


def economic(problem: OptimalControlProblem, y: Any, u: Any) -> tuple[Any, Any]:
    """Economic cost of outputs y (ny,) and of inputs u (inputs,) in one step, in multiples of the cost scale."""
    economy, unit = problem.economy, 1.0 / problem.cost_scale
    if economy is None:
        return casadi.SX(0), casadi.SX(0)
    of_inputs = casadi.dot(economy.input_price * unit, u)
    of_inputs += casadi.dot(economy.input_weight * unit, (u - economy.input_reference) ** 2)
    return casadi.dot(economy.output_price * unit, y), of_inputs
