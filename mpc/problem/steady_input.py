"""Steady-state optimisation: the constant input of least cost per step, for use where the MPC solve failed.

    min   sum_i w_i (y_i - r_i)^2 + l(y, u) + penalty' s
    s.t.  x = f(x, u),  y = g(x, u),  u in its limits,  lower - s <= y <= upper + s,  s >= 0

with the economic cost l of `mpc.problem.economy`. The steady state is eliminated, x(u) having the derivative (I - A)^-1
B. The remaining problem in a few inputs, in half ranges, is solved by sequential quadratic programming with exact
second derivatives and a trust region (Nocedal & Wright, chapters 4 and 18). As in `mpc.solvers.condensing` only the
neurons are nonlinear: with V the derivative of their inputs v, and mu that of p'y by their outputs, the Hessian of p'y
is V' diag(mu s''(v)) V.

The functions have no memory: the same arguments give bitwise the same input, from any thread.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlrnn.checks import Array, as_array, scales
from controlrnn.errors import SettingError
from controlrnn.kernels import output
from controlrnn.kernels.dense import dot, eigen, product, solve, weighted_squares
from controlrnn.kernels.linearisation import Linearisation, Lineariser
from mpc.predictor import Predictor
from mpc.problem.economy import Economy
from mpc.problem.ocp import OptimalControlProblem, StepData
from mpc.quadratic import QuadraticProgram

_TRIALS = 60  # most steps tried; more than 10 are rare
_ACCURACY = 1e-9  # of the inputs, in half ranges
_GAIN = 1e-10  # of the cost's terms: a smaller expected decrease ends the search
_NEAR = 0.3  # half ranges: after a shorter step second derivatives are used,
_SLOW = 0.5  # and after one that is not shorter than this share of the step before
_FLATTEST = 1e-9  # least eigenvalue of the Hessian, as a share of the largest
_SUFFICIENT = 1e-4  # share of the expected decrease from which on a step is accepted
_POOR = 0.25  # share of the expected decrease below which the trust region shrinks and steps are corrected
_CORRECTIONS = 3  # most second-order corrections of a step
# Prices of a limit that is left by its output's scale, where a distance of the scale costs 1: higher ones for targets
# so far away, or inputs that move a limited output so little, that leaving it at the first would pay.
_KEEPING = (1e3, 1e6, 1e9, 1e12)
_KEPT = 1e-9  # of the scale, and of the limit: an excess that is rounding
_NOISE = 1e-15  # of the cost's terms: rounding


def best_held_input(problem: OptimalControlProblem, data: StepData) -> Array:
    """Constant input of least steady-state cost: tracking, prices, and penalties for limits at the horizon's end.

    Args:
        problem: Weights, prices and penalties.
        data: The first rows of reference and forecast and the last rows of the limits are used.

    Returns:
        All inputs, measured ones included, shape (inputs,).

    Raises:
        SettingError: The model has no isolated steady state in the middle of the inputs' range.
    """
    given = np.full(problem.predictor.nu, np.nan)
    if data.forecast is not None:
        given[list(problem.measured_inputs)] = data.forecast[0]
    return held_input(problem.predictor, HeldCost.of(problem, data), given)


def steady_input(
    predictor: Predictor,
    target: Array,
    scale: Array,
    *,
    given: Array | None = None,
    limits: tuple[Array, Array] | None = None,
) -> Array:
    """Constant input (nu,) within the actuators' limits whose steady output is nearest to ``target``.

    The search is a local one from the middle of the actuators' range.

    Args:
        predictor: Model.
        target: Wanted output, shape (ny,).
        scale: Unit of distance per output, shape (ny,).
        given: Values of inputs that are fixed, shape (nu,); NaN where the input is to be found.
        limits: Lower and upper limits of the steady output, shape (ny,) each, infinite where there is none: keeping
            them comes before being near. Where none of the inputs keeps them, it leaves them by little.

    Raises:
        SettingError: A limit is missing, or the model has no isolated steady state in the middle of the range.
        ShapeError: An array does not fit.
    """
    wanted = HeldCost.distance(as_array("target", target, (predictor.ny,)), scales("scale", scale, predictor.ny))
    if limits is not None:
        lower, upper = (as_array("limits", limit, (predictor.ny,), finite=False) for limit in limits)
        if not (lower <= upper).all():
            raise SettingError(f"limits must be lower ones and upper ones above them, got {lower} and {upper}")
        wanted = replace(wanted, lower=lower, upper=upper)
    unknown = np.full(predictor.nu, np.nan)
    known = as_array("given", unknown if given is None else given, (predictor.nu,), finite=False)
    known = np.where(np.isfinite(known), known, np.nan)
    return held_input(predictor, wanted, known) if limits is None else _keeping(predictor, wanted, known)


def _keeping(predictor: Predictor, wanted: HeldCost, given: Array) -> Array:
    """Input (nu,) of the lowest of the prices at which limits are kept, or of that at which they are left least."""
    tried: list[tuple[float, Array]] = []
    for price in _KEEPING:
        found = held_input(predictor, replace(wanted, penalty=np.full(predictor.ny, price)), given)
        tried.append((wanted.excess(predictor.steady_output(found)), found))
        if tried[-1][0] == 0.0:
            break
    return min(tried, key=lambda one: one[0])[1]


def held_input(predictor: Predictor, cost: HeldCost, given: Array) -> Array:
    """Constant input (nu,) of least steady-state cost within its limits: the local minimum reached from their middle.

    Args:
        predictor: Model.
        cost: Cost to minimise.
        given: Values of inputs that are fixed, shape (nu,); NaN where the input is to be found.

    Raises:
        SettingError: A limit is missing, or the model has no isolated steady state in the middle of the inputs' range.
    """
    if not np.isnan(given).any():
        return given
    search = HeldInputSearch(predictor, cost, given)
    at = search.at(np.zeros(search.n), None)
    radius, last = 1.0, np.inf
    # Far from the minimum Gauss-Newton is faster, but it sees no curvature in prices: these start with the Lagrangian.
    multipliers = None if cost.economy is None else np.zeros(len(at.y))
    model = search.model(at, multipliers)
    for _ in range(_TRIALS):
        step = search.minimum(at, model, radius)
        if step is None or step.decrease <= _NOISE * at.size:
            break
        length = float(np.abs(step.d).max())
        trial, share = search.trial(at, model, step, radius)
        # The usual trust-region rule (Nocedal & Wright, algorithm 4.1).
        radius = max(radius, 2.0 * length) if share > 0.75 else radius if share > _POOR else 0.25 * length
        if trial is None or share < _SUFFICIENT:
            if radius < _ACCURACY:
                break
            continue
        at, ratio, last = trial, length / last, length  # ratio: 0 at first
        # Steps that shrink by a factor q leave an error of q / (1 - q) times the last one.
        error = length * ratio / (1.0 - ratio) if 0.0 < ratio < 0.5 else length
        if error <= _ACCURACY or step.decrease <= _GAIN * at.size:
            break
        multipliers = step.multipliers if multipliers is not None or length < _NEAR or ratio > _SLOW else None
        model = search.model(at, multipliers)
    return at.u


@dataclass(frozen=True, kw_only=True, eq=False)
class HeldCost:
    """Steady-state cost per step, with outputs in multiples of ``scale``.

    Args:
        scale: Shape (ny,).
        target: Wanted outputs r, shape (ny,), output units.
        weight: Weights w, shape (ny,), per square of the scale.
        lower: Lower limits, shape (ny,), output units; infinite where there is no limit.
        upper: Upper limits, as ``lower``.
        penalty: Penalty on violations, shape (ny,), per ``scale``.
        economy: Economic cost l, or None.
        unit: Factor on l.
    """

    scale: Array
    target: Array
    weight: Array
    lower: Array
    upper: Array
    penalty: Array
    economy: Economy | None = None
    unit: float = 1.0

    @classmethod
    def of(cls, problem: OptimalControlProblem, data: StepData) -> HeldCost:
        """Cost per step of a problem at its present reference, with the limits at the end of its horizon."""
        scale, unit = problem.output_scale, 1.0 / problem.cost_scale
        return cls(
            scale=scale,
            target=np.asarray(data.target),
            weight=unit * problem.output_weight * scale**2,
            lower=data.lower[-1],
            upper=data.upper[-1],
            penalty=unit * problem.rest_penalty * scale,
            economy=problem.economy,
            unit=unit,
        )

    @classmethod
    def distance(cls, target: Array, scale: Array) -> HeldCost:
        """Squared distance from a target, without limits."""
        free, ny = np.full(len(target), np.inf), len(target)
        return cls(scale=scale, target=target, weight=np.ones(ny), lower=-free, upper=free, penalty=np.zeros(ny))

    def at(self, y: Array, u: Array) -> tuple[float, float]:
        """Cost of outputs y (ny,) under inputs u (nu,), and the sum of its terms' absolute values."""
        over = np.maximum(np.maximum(y - self.upper, self.lower - y), 0.0) / self.scale
        cost = size = dot(self.weight, ((y - self.target) / self.scale) ** 2) + dot(self.penalty, over)
        if self.economy is not None:
            economy = self.economy
            cost += self.unit * (economy.of_inputs(u) + economy.of_outputs(y))
            squares = dot(economy.input_weight, (u - economy.input_reference) ** 2)
            size += self.unit * float(
                np.abs(economy.input_price * u).sum() + np.abs(economy.output_price * y).sum() + squares
            )
        return cost, size

    def excess(self, y: Array) -> float:
        """Sum of what outputs y (ny,) are beyond their limits, in multiples of the scale; zero where it is rounding."""
        over = np.maximum(np.maximum(y - self.upper, self.lower - y), 0.0) / self.scale
        return float(np.where(over <= _KEPT * (1.0 + np.abs(y) / self.scale), 0.0, over).sum())

    def slopes(self, y: Array, u: Array) -> tuple[Array, Array, Array]:
        """Derivatives of the cost without penalties: first ones by y (ny,) and u (nu,), second ones by u (nu,)."""
        by_y = 2.0 * self.weight * (y - self.target) / self.scale**2
        if self.economy is None:
            return by_y, np.zeros_like(u), np.zeros_like(u)
        bend = 2.0 * self.unit * self.economy.input_weight
        by_u = self.unit * self.economy.input_price + bend * (u - self.economy.input_reference)
        return by_y + self.unit * self.economy.output_price, by_u, bend


@dataclass(frozen=True, eq=False, slots=True)
class SteadyPoint:
    """A steady state: scaled inputs v (n,), inputs u (nu,), state, outputs, cost, and its terms' absolute sum."""

    v: Array
    u: Array
    x: Array
    y: Array
    cost: float
    size: float


@dataclass(frozen=True, eq=False, slots=True)
class SteadyModel:
    """Quadratic model near a steady state: d'Hd / 2 + g'd for a step d, with scaled outputs low <= C d <= high."""

    H: Array
    g: Array
    C: Array
    low: Array
    high: Array


@dataclass(frozen=True, eq=False, slots=True)
class SteadyStep:
    """Minimum of a local model: step d (n,), expected decrease, multipliers (ny,) of the scaled outputs."""

    d: Array
    decrease: float
    multipliers: Array


class HeldInputSearch:
    """Trust-region SQP over the free inputs: steady states, local models and trial steps."""

    def __init__(self, predictor: Predictor, cost: HeldCost, given: Array) -> None:
        lower, upper = predictor.input_limits()
        self.predictor = predictor
        self.cost = cost
        self._free = np.flatnonzero(np.isnan(given))
        self.n = len(self._free)
        self._middle = np.where(np.isnan(given), 0.5 * (lower + upper), given)
        self._half = 0.5 * (upper - lower)[self._free]
        self._lower = lower[self._free]
        self._upper = upper[self._free]
        self._limited = np.flatnonzero(np.isfinite(cost.lower) | np.isfinite(cost.upper))
        self._linearise = Lineariser(predictor.system)
        self._by_input = np.zeros((predictor.nu, self.n))
        self._by_input[self._free, np.arange(self.n)] = self._half
        self._program: QuadraticProgram | None = None

    def at(self, v: Array, guess: Array | None) -> SteadyPoint:
        """Steady state under scaled inputs v (n,), searched for near a guess (nx,)."""
        u = self._middle.copy()
        u[self._free] = np.minimum(np.maximum(u[self._free] + self._half * v, self._lower), self._upper)
        x = self.predictor.equilibrium(u, guess=guess)
        y = output(self.predictor.system, x, u)
        return SteadyPoint(v, u, x, y, *self.cost.at(y, u))

    def model(self, at: SteadyPoint, multipliers: Array | None) -> SteadyModel:
        """Quadratic model at a steady state.

        With the multipliers of the limits its Hessian is that of the Lagrangian; with None that of Gauss-Newton.
        """
        cost, free = self.cost, self._free
        lin = self._linearise(at.x[None], at.u[None])
        stiff = np.eye(len(at.x)) - lin.A[0]
        # Implicit function theorem: the state moves by (I - A)^-1 B per input.
        by_v = np.vstack([self._solved(stiff, product(lin.B[0], self._by_input), at), self._by_input])
        G = product(lin.output[0], by_v)
        by_y, by_u, bend = cost.slopes(at.y, at.u)
        H = weighted_squares(G, 2.0 * cost.weight / cost.scale**2) + np.diag(bend[free] * self._half**2)
        if multipliers is not None:
            H += weighted_squares(product(lin.V[0], by_v), self._bend(lin, stiff, by_y + multipliers / cost.scale, at))
        low, high = (((limit - at.y) / cost.scale)[self._limited] for limit in (cost.lower, cost.upper))
        return SteadyModel(
            definite(H),
            product(by_y, G) + by_u[free] * self._half,
            (G / cost.scale[:, None])[self._limited],
            low,
            high,
        )

    def _bend(self, lin: Linearisation, stiff: Array, prices: Array, at: SteadyPoint) -> Array:
        """Diagonal mu s''(v) of the Hessian of p'y by the neurons' inputs, for p = ``prices`` (ny,), shape (nv,)."""
        system, w = self.predictor.system, lin.w[0]
        mu = product(self._solved(stiff.T, product(prices, lin.C[0]), at), system.B1) + product(prices, system.D21)
        if len(system.layers) > 1:  # neurons move outputs through later neurons, too
            later = system.activation.derivative(w)[:, None] * system.D11
            mu = self._solved((np.eye(len(w)) - later).T, mu, at)
        return np.asarray(mu * system.activation.curvature(w))

    def _solved(self, A: Array, b: Array, at: SteadyPoint) -> Array:
        x = solve(A, b)
        if x is None:
            raise SettingError(f"the steady state at u = {at.u} is not the only one near: a derivative is infinite")
        return x

    def minimum(self, at: SteadyPoint, model: SteadyModel, radius: float) -> SteadyStep | None:
        """Minimum of the model within the trust region; None where rounding errors stop the QP solver."""
        prices = self.cost.penalty[self._limited]
        if self._program is None:  # daqp's tolerances are absolute
            self._unit = 1.0 / float(model.H.diagonal().max())
            self._program = QuadraticProgram(self.n, self._unit * prices)
        lower = np.concatenate([np.maximum(-1.0 - at.v, -radius), model.low])
        upper = np.concatenate([np.minimum(1.0 - at.v, radius), model.high])
        minimum = self._program.solve(self._unit * model.H, self._unit * model.g, model.C, lower, upper)
        if minimum is None:
            return None
        d, multipliers = minimum.z, np.zeros(len(at.y))
        multipliers[self._limited] = minimum.multipliers / self._unit
        before, after = (
            np.maximum(np.maximum(change - model.high, model.low - change), 0.0)
            for change in (np.zeros(len(model.C)), product(model.C, d))
        )
        return SteadyStep(d, dot(prices, before - after) - dot(model.g + 0.5 * product(model.H, d), d), multipliers)

    def trial(
        self, at: SteadyPoint, model: SteadyModel, step: SteadyStep, radius: float
    ) -> tuple[SteadyPoint | None, float]:
        """Steady state after a step, and the ratio of achieved to expected decrease; None where there is none.

        Steps with a small ratio get a second-order correction for curved limits (Nocedal & Wright, section 18.3).
        """
        d, best, most = step.d, None, -np.inf
        for _ in range(1 + (_CORRECTIONS if len(model.C) else 0)):
            try:
                trial = self.at(at.v + d, at.x)
            except SettingError:  # no steady state so far away
                break
            share = (at.cost - trial.cost + _NOISE * at.size) / step.decrease
            if share > most:
                best, most = trial, share
            if share > _POOR:
                break
            curved = ((trial.y - at.y) / self.cost.scale)[self._limited] - product(model.C, d)
            bent = self.minimum(at, replace(model, low=model.low - curved, high=model.high - curved), radius)
            if bent is None:
                break
            d = bent.d
        return best, most


def definite(H: Array) -> Array:
    """Positive definite matrix with the eigenvectors of H and the absolute values of its eigenvalues, bounded below."""
    found = eigen(H)
    if found is None:
        return H
    values, rows = found
    sizes = np.abs(values)
    return weighted_squares(rows, np.maximum(sizes, _FLATTEST * (sizes.max() or 1.0)))
