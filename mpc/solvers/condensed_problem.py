"""Condensed form of the optimal control problem, as a function of the inputs alone, with its local QP model.

The problem is that of `mpc.problem.ocp`. Inputs are in half ranges around the middle, z in [-1, 1]; outputs in
multiples of their scale; cost in multiples of the problem's cost scale. The local model is a convex QP: the objective's
Gauss-Newton matrix, with the curvature of the outputs added on demand, and linearised output limits (Nocedal & Wright,
"Numerical optimization", sections 10.3, 18).

With a terminal set the last sample is the steady state of the last input, and |x_N - x_s|_P <= a one more penalised
limit. A plan must then keep its limits exactly to be recursively feasible. The merit function therefore penalises
limits `_INSIDE` early, which leaves room for line search and tolerances, and the QP aims inside by the same amount
again.

Measured inputs are not variables: they follow the sample's forecast.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Scaler
from controlrnn.errors import ShapeError
from controlrnn.kernels.dense import dot, eigen, positive_definite, product, weighted_squares
from mpc.c_tables import SolverTable
from mpc.problem.economy import ScaledEconomy, scaled
from mpc.problem.ocp import OptimalControlProblem, StepData
from mpc.problem.ranking import HARD
from mpc.solvers.condensing import Condenser
from mpc.tightening.terminal_set import TerminalSet

RIDGE = 1e-10  # regularisation, as a share of the Hessian's largest entry: weights may be zero
FLATTEST = 1e-3  # least eigenvalue, as a share of the largest, where the Lagrangian's Hessian is indefinite
_INSIDE = 1e-7  # margin to limits with a terminal set, in output ranges or radii of the set


@dataclass(frozen=True, eq=False, slots=True)
class Sample:
    """`StepData` in scaled units.

    Args:
        x: State, shape (nx,), physical.
        before: Chosen inputs applied before the plan, shape (nu,).
        reference: Set points, shape (N + 1, ny).
        low: Lower limits of the limited outputs from the first limited step to N, shape (steps, limited).
        high: Upper limits, as ``low``.
        forecast: Measured inputs, shape (N, measured), physical, or None.
    """

    x: Array
    before: Array
    reference: Array
    low: Array
    high: Array
    forecast: Array | None


@dataclass(frozen=True, eq=False, slots=True)
class Plan:
    """Inputs of a plan with its simulation, violations and cost.

    Args:
        z: Scaled inputs, shape (M nu,).
        u: Physical inputs at every sample, measured ones included, shape (N + 1, inputs).
        w: Outputs of the neurons, shape (N + 1, nv); with a terminal set those of the steady state at the last sample.
        y: Scaled outputs, shape (N + 1, ny).
        error: y minus reference.
        excess: Violations of limits, step by step, and of the terminal set's radius, >= 0.
        cost: Objective with slack; hard limits are penalised, too.
        gap: x_N minus the steady state, shape (nx,), or None.
        size: Sum of the absolute values of the terms of ``cost``, for rounding errors. It differs from ``cost`` only by
            prices, which may be negative.
    """

    z: Array
    u: Array
    w: Array
    y: Array
    error: Array
    excess: Array
    cost: float
    gap: Array | None
    size: float


@dataclass(frozen=True, eq=False, slots=True)
class LocalModel:
    """Local QP: min d'Hd / 2 + g'd + price' slack  s.t.  lower <= (d, C d) <= upper, with slack on output limits."""

    H: Array
    g: Array
    C: Array
    lower: Array
    upper: Array


class CondensedProblem:
    """Condensed optimal control problem; see the module docstring.

    Args:
        problem: The optimal control problem.
        kept_ranks: See `mpc.problem.ocp.StepData.kept_ranks`.

    Raises:
        SettingError: The predictor's system is not a `LureSystem`, or an input has no limits.
    """

    def __init__(self, problem: OptimalControlProblem, kept_ranks: int = 0) -> None:
        predictor, N, scale = problem.predictor, problem.horizon, problem.output_scale
        self.horizon = N
        self.inputs = problem.inputs
        self.nu = len(problem.chosen)
        self.n = self.inputs * self.nu
        self.predictor = predictor
        self.system = predictor.system
        self.scale = scale
        self.terminal: TerminalSet | None = problem.terminal
        self._first = problem.first
        self._inside = 0.0 if problem.terminal is None else _INSIDE
        self._measured_inputs = list(problem.measured_inputs)
        # Columns of the inputs that are chosen; a slice where all are, to avoid copies.
        self._chosen: Any = problem.chosen if problem.measured_inputs else slice(None)
        self.input_lower, self.input_upper = (limit[self._chosen] for limit in predictor.input_limits())
        self.middle = 0.5 * (self.input_lower + self.input_upper)
        self.half = 0.5 * (self.input_upper - self.input_lower)
        self._condenser = Condenser(
            predictor.system.scaled(Scaler.identity(predictor.nu), Scaler(np.zeros(predictor.ny), 1.0 / scale)),
            N,
            self.half,
            control_horizon=self.inputs,
            steady=problem.terminal is not None,
            chosen=problem.chosen,
        )
        self.cost_scale = problem.cost_scale
        unit = 1.0 / self.cost_scale
        weights = np.tile(problem.output_weight, (N + 1, 1))
        weights[N] = problem.terminal_weight
        self._root = np.sqrt(2.0 * unit * weights) * scale  # cost = |root * error|^2 / 2 + ...
        limited = np.flatnonzero(np.isfinite([[s.lower, s.upper] for s in predictor.outputs]).any(axis=1))
        # Columns of the outputs that have limits; a slice where all have, to avoid copies.
        self._limited: Any = slice(None) if len(limited) == predictor.ny else limited
        self._limited_scale = scale[self._limited]
        price = np.tile((problem.prices(kept_ranks) * scale * unit)[self._limited], N + 1 - self._first)
        end = [] if problem.terminal is None else [HARD * 20.0 * N]  # as `default_penalty`, in scaled units
        self._price = np.concatenate([price, end])
        self._priced = slice(self.n, self.n + self._price.size)  # rows of penalised limits in lower and upper
        self._move_root = np.sqrt(2.0 * unit * problem.input_move_weight[self._chosen]) * self.half
        self._prepare_moves(problem.move_limit[self._chosen] / self.half)
        self._prepare_economy(problem)
        self._load()

    def _prepare_moves(self, limit: Array) -> None:
        """Set up moves z_k - z_{k-1} = (D z)_k, less z_{-1} in the first rows: their weight and their limits."""
        D = np.eye(self.n) - np.eye(self.n, k=-self.nu)
        self._input_hessian = (D.T * np.tile(self._move_root**2, self.inputs)) @ D
        bounded = np.tile(np.isfinite(limit), self.inputs)
        self._bounded = bounded
        self._first_bounded = np.flatnonzero(bounded[: self.nu])
        self._move_limit = np.where(np.isfinite(limit), limit, 4.0)  # 4: further than any move
        self._any_bounded = bool(bounded.any())
        self._constraints = np.vstack([np.zeros((self._price.size, self.n)), D[bounded]])
        #: Penalty on each constraint of the local model; infinite for hard ones.
        self.prices = np.concatenate([self._price, np.full(bounded.sum(), np.inf)])

    def _prepare_economy(self, problem: OptimalControlProblem) -> None:
        self._economy: ScaledEconomy | None = None
        if problem.economy is None:
            return
        # The last input is held to the end, and its steady state has the cost of one more step.
        held = np.ones(self.inputs)
        held[-1] += self.horizon - self.inputs + (problem.terminal is not None)
        self._economy = scaled(
            problem.economy,
            held,
            self.middle,
            self.half,
            problem.chosen,
            self.scale,
            self.horizon + 1,
            1.0 / problem.cost_scale,
        )
        self._input_hessian += np.diag(self._economy.root**2)

    def _load(self) -> None:
        """Call compiled functions once, so that the first sample does not wait for compilation."""
        run = self._condenser.run(np.zeros((self.horizon + 1, self.system.nu)), np.zeros(self.system.nx))
        self._condenser.condense(run.w)

    @property
    def limit_prices(self) -> Array:
        """Penalty of each limited output, shape (limited,)."""
        return self._price[: self._limited_scale.size]

    def c_table(self, prices: Array, *, steep: bool, accuracy: float) -> SolverTable:
        """Numbers that C code needs of the problem, with those of the solver.

        Args:
            prices: `limit_prices` with all ranks in force, then without the first, and so on, one after the other.
            steep: See `SolverTable`.
            accuracy: Likewise.
        """
        return SolverTable(
            inputs=self.inputs,
            limited=np.arange(self.predictor.ny)[self._limited],
            bounded=self._first_bounded,
            middle=self.middle,
            half=self.half,
            input_low=self.input_lower,
            input_high=self.input_upper,
            scale=self.scale,
            root=self._root,
            prices=prices,
            end_price=0.0 if self.terminal is None else float(self._price[-1]),
            move_root=self._move_root,
            move_limit=self._move_limit,
            inside=self._inside,
            steep=steep,
            accuracy=accuracy,
        )

    def sample(self, data: StepData) -> Sample:
        """Scale the data of one sample."""
        limited, first = self._limited, self._first
        low, high = (limit[first:, limited] / self._limited_scale for limit in (data.lower, data.upper))
        if self._inside:
            low, high = low + self._inside, high - self._inside
        before = (data.previous_input[self._chosen] - self.middle) / self.half
        return Sample(data.x, before, data.reference / self.scale, low, high, data.forecast)

    def admissible(self, sample: Sample, u: Array) -> Array:
        """Scaled inputs z from inputs u (N, nu), clipped to input and move limits one after the other."""
        z = _clip((u[: self.inputs, self._chosen] - self.middle) / self.half, -1.0, 1.0)
        if self._any_bounded:
            before = sample.before
            for k in range(self.inputs):
                moved = _clip(z[k], before - self._move_limit, before + self._move_limit)
                z[k] = before = _clip(moved, -1.0, 1.0)
        return z.ravel()

    def physical(self, plan: Plan) -> Array:
        """Chosen inputs (N, nu) within their limits."""
        return _clip(plan.u[:-1, self._chosen], self.input_lower, self.input_upper)

    def plan(self, sample: Sample, z: Array) -> Plan:
        """Simulate the model along scaled inputs z (M nu,) and evaluate violations and cost."""
        u = self._inputs(z, sample.forecast)
        (y, x, w), gap = self._condenser.run(u, sample.x), None
        if self.terminal is not None:
            gap = self._settle(x[:-1], y, w, u[-1])
        error = y - sample.reference
        reached = y[self._first :, self._limited]
        excess = _beyond(reached, sample.low, sample.high).ravel()
        if self.terminal is not None and gap is not None:
            excess = np.append(excess, max(self.terminal._radii(gap) - (1.0 - self._inside), 0.0))
        missed, moved = self._root * error, self._move_root * self._moves(sample, z)
        cost = size = float(0.5 * (dot(missed, missed) + dot(moved, moved)) + dot(self._price, excess))
        if self._economy is not None:
            priced, most = self._economy.cost(z, y)
            cost, size = cost + priced, size + most
        return Plan(z, u, w, y, error, excess, cost, gap, size)

    def keeps_limits(self, plan: Plan) -> bool:
        """Whether a plan keeps all limits; only used with a terminal set."""
        return bool((plan.excess <= self._inside).all())

    def model(self, sample: Sample, plan: Plan, multipliers: Array | None) -> LocalModel:
        """Local QP model at a plan.

        Args:
            sample: The sample.
            plan: The plan.
            multipliers: Multipliers of the output limits, in the order of `LocalModel.C`, for the Hessian of the
                Lagrangian, made positive definite. None for Gauss-Newton.
        """
        G = self._condenser.condense(plan.w)
        J, weights = G.reshape(-1, self.n), self._root**2
        H = weighted_squares(J, weights.ravel())
        H += self._input_hessian
        if multipliers is not None:
            # Derivatives of the Lagrangian by the outputs: what one unit of each output costs at this plan.
            prices = weights * plan.error
            if self._economy is not None:
                prices += self._economy.output_price
            limits = prices[self._first :, self._limited]
            prices[self._first :, self._limited] = limits + multipliers[: limits.size].reshape(limits.shape)
            end = multipliers[limits.size] if self.terminal is not None else 0.0
            H = _convex(H + self._curvature(prices, plan, float(end)), priced=self._economy is not None)
        H.ravel()[:: self.n + 1] += RIDGE * H.max()
        g = product((weights * plan.error).ravel(), J) + product(self._input_hessian, plan.z)
        g[: self.nu] -= self._move_root**2 * sample.before  # the first move starts from the input before, not from 0
        if self._economy is not None:
            g += self._economy.slope + product(self._economy.output_price.ravel(), J)
        C = self._constraints
        outputs = G[self._first :, self._limited].reshape(-1, self.n)
        C[: len(outputs)] = outputs
        if self.terminal is not None:
            C[len(outputs)] = product(self._condenser.gap, self._outwards(plan))
        return LocalModel(H, g, C, *self._limits(sample, plan))

    def decrease(self, plan: Plan, model: LocalModel, d: Array) -> float:
        """Decrease of the cost that the local model expects for the step d."""
        change, rows, inside = product(model.C[: self._price.size], d), self._priced, self._inside
        lower, upper = model.lower[rows], model.upper[rows]
        excess = _beyond(change, lower - inside, upper + inside) if inside else _beyond(change, lower, upper)
        return dot(self._price, plan.excess - excess) - dot(d, model.g + 0.5 * product(model.H, d))

    def corrected(self, plan: Plan, model: LocalModel, trial: Plan) -> LocalModel:
        """Local model with limits shifted by their curvature between ``plan`` and a trial (second-order correction).

        Without it the exact penalty rejects full steps along curved limits (Maratos effect; Nocedal & Wright, section
        18.3).
        """
        rows = self._priced
        bent = self._limited_values(trial) - self._limited_values(plan)
        bent -= product(model.C[: self._price.size], trial.z - plan.z)
        lower, upper = model.lower.copy(), model.upper.copy()
        lower[rows] -= bent
        upper[rows] -= bent
        return replace(model, lower=lower, upper=upper)

    def slack(self, plan: Plan) -> Array:
        """Violations of the output limits in output units, shape (N + 1, ny)."""
        rows, shape = np.zeros(plan.y.shape), (len(plan.y) - self._first, -1)
        excess = plan.excess if self.terminal is None else np.maximum(plan.excess[:-1] - self._inside, 0.0)
        rows[self._first :, self._limited] = excess.reshape(shape) * self._limited_scale
        return rows

    def _limited_values(self, plan: Plan) -> Array:
        """Values of the penalised rows: limited outputs, then the distance from the steady state in radii."""
        reached = plan.y[self._first :, self._limited].ravel()
        return (
            reached if self.terminal is None or plan.gap is None else np.append(reached, self.terminal._radii(plan.gap))
        )

    def _inputs(self, z: Array, forecast: Array | None) -> Array:
        """Physical inputs at every sample, shape (N + 1, inputs)."""
        u = np.empty((self.horizon + 1, self.system.nu))
        u[: self.inputs, self._chosen] = self.middle + self.half * z.reshape(self.inputs, self.nu)
        u[self.inputs :] = u[self.inputs - 1]
        if self._measured_inputs:
            if forecast is None:
                raise ShapeError("a sample of a problem with measured inputs needs their forecast, got None")
            u[:-1, self._measured_inputs] = forecast
            u[-1, self._measured_inputs] = forecast[-1]
        return u

    def _settle(self, x: Array, y: Array, w: Array, u: Array) -> Array:
        """Overwrite the last sample of outputs and neurons by the steady state; returns x_N minus that state."""
        if not np.isfinite(x).all():
            return np.full(x.shape[1], np.nan)
        steady = self.predictor.equilibrium(u, guess=x[-1])
        y[-1], w[-1] = self._condenser.at(steady, u)
        return np.asarray(x[-1] - steady)

    def _outwards(self, plan: Plan) -> Array:
        """Gradient of the distance of x_N from the steady state, in radii, with respect to the gap, shape (nx,)."""
        assert self.terminal is not None
        assert plan.gap is not None
        pulled = product(self.terminal.metric, plan.gap)
        length = np.sqrt(dot(plan.gap, pulled))
        return np.asarray(pulled / (self.terminal.radius * length)) if length > 0 else np.zeros_like(pulled)

    def _curvature(self, prices: Array, plan: Plan, end: float) -> Array:
        """Hessian of the priced outputs plus ``end`` times the distance of x_N from the steady state."""
        if self.terminal is None or plan.gap is None or end <= 0:
            return self._condenser.curvature(plan.w, prices)
        outwards, metric, radius = self._outwards(plan), self.terminal.metric, self.terminal.radius
        # Second derivative of a norm: what is left of the metric across the direction outwards.
        bend = (metric / radius**2 - np.outer(outwards, outwards)) / self.terminal._radii(plan.gap)
        gap = self._condenser.gap
        return np.asarray(
            self._condenser.curvature(plan.w, prices, end * outwards) + product(product(end * gap, bend), gap.T)
        )

    def _limits(self, sample: Sample, plan: Plan) -> tuple[Array, Array]:
        reached = plan.y[self._first :, self._limited]
        lower, upper = [-1.0 - plan.z, (sample.low - reached).ravel()], [1.0 - plan.z, (sample.high - reached).ravel()]
        if self.terminal is not None and plan.gap is not None:
            lower.append(np.array([-np.inf]))
            upper.append(np.array([1.0 - self._inside - self.terminal._radii(plan.gap)]))
        if self._inside:
            lower[1:], upper[1:] = (
                [part + self._inside for part in lower[1:]],
                [part - self._inside for part in upper[1:]],
            )
        if self._any_bounded:
            moves = self._moves(sample, plan.z).ravel()[self._bounded]
            limit = np.tile(self._move_limit, self.inputs)[self._bounded]
            # Zero stays admissible: the input before may be one that its limits forbid to follow.
            lower.append(np.minimum(-limit - moves, 0.0))
            upper.append(np.maximum(limit - moves, 0.0))
            # Limits of first moves are bounds: range and move may leave one input alone, and as a row and a bound that
            # ask for opposite sides of it they would be no program in floating point.
            first = self._first_bounded
            lower[0][first] = np.maximum(lower[0][first], lower[-1][: len(first)])
            upper[0][first] = np.minimum(upper[0][first], upper[-1][: len(first)])
            lower[-1][: len(first)], upper[-1][: len(first)] = -np.inf, np.inf
        return np.concatenate(lower), np.concatenate(upper)

    def _moves(self, sample: Sample, z: Array) -> Array:
        rows = z.reshape(self.inputs, self.nu)
        moves = np.empty_like(rows)
        np.subtract(rows[0], sample.before, out=moves[0])
        np.subtract(rows[1:], rows[:-1], out=moves[1:])
        return moves


def _beyond(values: Array, lower: Array, upper: Array) -> Array:
    return np.maximum(np.maximum(values - upper, lower - values), 0.0)


def _clip(values: Array, lower: Array | float, upper: Array | float) -> Array:
    return np.minimum(np.maximum(values, lower), upper)  # much faster than np.clip on short arrays


def _convex(H: Array, *, priced: bool) -> Array:
    """H, or if that is not positive definite the nearest matrix with eigenvalues above a share of the largest.

    Where all are negative, or prices are linear, the largest absolute value counts.
    """
    found = None if positive_definite(H) else eigen(H)
    if found is None:  # positive definite, or not finite: the QP solver rejects the latter
        return H
    values, rows = found
    largest = max(values[-1], -values[0]) if priced or values[-1] <= 0 else values[-1]
    return weighted_squares(rows, np.maximum(values, FLATTEST * largest))
