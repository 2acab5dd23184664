"""The optimal control problem of one sample, and the interface of its solvers.

    min   sum_{k=0..N-1} ( |y_k - r_k|_Q^2 + |u_k - u_{k-1}|_R^2 ) + |y_N - r_N|_{Q_N}^2 + sum_{k=1..N} penalty' s_k
    s.t.  x_{k+1} = f(x_k, u_k),  y_k = g(x_k, u_k),  u in its limits,  |u_k - u_{k-1}| <= move limit,
          lower_k - s_k <= y_k <= upper_k + s_k,  s_k >= 0,   k = 1..N       (u_N = u_{N-1} in g)

Limits start at step 1: no input changes the present output. With feedthrough the outputs just after an input are
limited as well, from step 0 on (`mpc.problem.answers`). The penalty on the slack s is exact (L1): while it exceeds
every constraint's multiplier, s is zero whenever the problem without s has a solution (Nocedal & Wright, thm 17.3).

Fewer inputs than steps may be free: u_k = u_{M-1} for k >= M. With a terminal set (`mpc.tightening.terminal_set`) the
plan has to end near the steady state of its last input, |x_N - x_s|_P <= a with x_s = f(x_s, u_N); y_N then means
g(x_s, u_N), so that its cost is that of the steady state; limits are hard.

An economic cost l(y_k, u_k) per step (`mpc.problem.economy`) is added: its outputs' part at k = 0..N, its inputs' part
at k = 0..N-1, and with a terminal set also at N, so that the steady state has the full cost. Some inputs may be
measured disturbances: they follow a forecast, and only the others are decision variables with limits, moves and prices.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, channels, count, per_channel, read_only
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.kernels import output
from controlrnn.typed import typed
from mpc.predictor import Predictor, output_scale
from mpc.problem.economy import Economy
from mpc.problem.ranking import HARD, Ranking
from mpc.problem.settings import Limits, Tracking
from mpc.problem.solver_options import SolverOptions, Status

if TYPE_CHECKING:
    from mpc.tightening.terminal_set import TerminalSet

_CLIPPED = 1e-7  # in half ranges of an input: violations of move limits that the controller clips away
_ROUNDED = 64 * np.finfo(float).eps  # relative to the numbers compared: a smaller excess is rounding
_POSITIVE = {
    "move_limit": "it bounds |u_k - u_(k-1)| per step",
    "output_scale": "solvers divide by it",
    "penalty": "a limit without a price is none",
}


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("move_limit",))
class OptimalControlProblem:
    """Weights, limits and horizons of the problem, which stay the same from sample to sample; in physical units.

    Args:
        predictor: Model.
        horizon: Number N of predicted steps.
        output_weight: Diagonal of Q, shape (ny,) [1 / output unit^2].
        terminal_weight: Diagonal of Q_N, shape (ny,).
        input_move_weight: Diagonal of R, shape (nu,) [1 / input unit^2].
        move_limit: Largest |u_k - u_{k-1}|, shape (nu,); infinite where there is none.
        output_scale: Typical range of each output, shape (ny,), positive; solvers work in multiples of it.
        penalty: Cost per unit of slack, shape (ny,).
        soft: Whether all limits are; False forbids slack: limits are hard and the problem may be infeasible.
        control_horizon: Number M <= N of free inputs, the last of which is held; N when left out.
        terminal: Set in which plans end, or None.
        economy: Economic cost, or None.
        measured_inputs: Indices of the inputs that are measured disturbances; they have neither weights nor prices.
        ranking: Hardness and order of the limits, see `mpc.problem.priorities`; None where all are alike.

    Raises:
        SettingError: The parts contradict each other.
    """

    predictor: Predictor
    horizon: int
    output_weight: Array
    terminal_weight: Array
    input_move_weight: Array
    move_limit: Array
    output_scale: Array
    penalty: Array
    soft: bool
    control_horizon: int | None = None
    terminal: TerminalSet | None = None
    economy: Economy | None = None
    measured_inputs: tuple[int, ...] = ()
    ranking: Ranking | None = None

    def __post_init__(self) -> None:
        nu, ny = self.predictor.nu, self.predictor.ny
        sizes = {"output_weight": ny, "terminal_weight": ny, "input_move_weight": nu, "move_limit": nu}
        for name, n in (sizes | {"output_scale": ny, "penalty": ny}).items():
            as_array(name, getattr(self, name), (n,), finite=name != "move_limit")
        for name, why in _POSITIVE.items():
            if not (getattr(self, name) > 0).all():
                raise SettingError(f"{name} must be positive, got {getattr(self, name)}: {why}")
        if self.inputs > self.horizon:
            raise SettingError(f"control_horizon must be at most the horizon {self.horizon}, got {self.inputs}")
        if self.terminal is not None and (self.soft or self.terminal.horizon != self.horizon):
            raise SettingError(
                f"a terminal set needs hard limits and its own horizon {self.terminal.horizon}, got soft={self.soft} "
                f"and horizon {self.horizon}"
            )
        if self.terminal is not None and self.measured_inputs:
            raise SettingError(
                "a terminal set needs inputs that are all chosen, got measured ones: their forecast may change, and "
                "plans that rest on it then end elsewhere"
            )
        economy, measured = self.economy, list(self.measured_inputs)
        if not set(measured) <= set(range(nu)):
            raise SettingError(f"measured_inputs must name inputs by numbers from 0 to {nu - 1}, got {measured}")
        bound = [] if economy is None else [economy.input_price, economy.input_weight]
        if any(part[measured].any() for part in (self.input_move_weight, *bound)):
            raise SettingError("measured inputs must have neither weights nor prices: they are not chosen")
        squares = [self.output_weight, self.terminal_weight, self.input_move_weight]
        if not any(part.any() for part in [*squares, *bound[1:]]):
            raise SettingError(
                "output_weight, input_move_weight or input_weight must be positive somewhere, got zeros: a cost of "
                "prices alone has no unique plan"
            )

    @property
    def chosen(self) -> NDArray[np.intp]:
        """Indices of the inputs that plans decide about."""
        return np.setdiff1d(np.arange(self.predictor.nu), self.measured_inputs)

    def complete(self, u: Array, forecast: Array | None) -> Array:
        """All inputs (N, nu), from chosen ones u (N, chosen) and the ``forecast`` of measured ones (N, measured)."""
        if not self.measured_inputs and forecast is None:
            return u
        if forecast is None or forecast.shape != (len(u), len(self.measured_inputs)):
            got = None if forecast is None else forecast.shape
            raise ShapeError(f"forecast must have shape {(len(u), len(self.measured_inputs))}, got {got}")
        rows = np.empty((len(u), self.predictor.nu))
        rows[:, self.chosen], rows[:, list(self.measured_inputs)] = u, forecast
        return rows

    @property
    def inputs(self) -> int:
        """Number M of free inputs."""
        return self.horizon if self.control_horizon is None else count("control_horizon", self.control_horizon)

    @cached_property
    def hard(self) -> NDArray[np.bool_]:
        """Flags of outputs with hard limits, shape (ny,)."""
        return np.full(self.predictor.ny, not self.soft) if self.ranking is None else np.array(self.ranking.hard)

    @cached_property
    def counted(self) -> NDArray[np.bool_]:
        """Flags (ny,) of outputs that decide whether a plan is inside: those with hard limits if any, else all."""
        return self.hard if self.hard.any() else ~self.hard

    def prices(self, kept: int = 0) -> Array:
        """Penalty on slack in solvers, shape (ny,); on hard limits `HARD` times an exact penalty.

        Args:
            kept: See `StepData.kept_ranks`.
        """
        exact = np.maximum(self.penalty, default_penalty(self.horizon, self.cost_scale, self.output_scale))
        price = np.where(self.hard, HARD * exact, self.penalty)
        scale = self.output_scale
        return price if self.ranking is None else self.ranking.ladder(price * scale, kept) / scale

    @cached_property
    def rest_penalty(self) -> Array:
        """Penalty on violations by a steady state, shape (ny,)."""
        scale = self.output_scale
        return self.penalty if self.ranking is None else self.ranking.ladder(self.penalty * scale) / scale

    @cached_property
    def limit_weight(self) -> Array:
        """Weights of violations within each rank, shape (ny,): penalties relative to the largest of the rank."""
        price, weight = self.penalty * self.output_scale, np.ones(self.predictor.ny)
        if not np.isfinite(price).all():
            return weight
        for level in range(1 if self.ranking is None else self.ranking.levels):
            same = slice(None) if self.ranking is None else self.ranking.at(level)
            weight[same] = price[same] / price[same].max()
        return weight

    @property
    def first(self) -> int:
        """First step with output limits."""
        return int(not self.predictor.system.has_feedthrough)

    @cached_property
    def cost_scale(self) -> float:
        """Largest cost of one step, for scaling: output errors of a whole range, and inputs moved over theirs.

        The largest difference in economic cost is added.
        """
        return cost_scale(
            self.predictor, self.output_weight, self.input_move_weight, self.output_scale, economy=self.economy
        )

    def objective(self, data: StepData, u: Array) -> tuple[float, Array]:
        """Value of the objective at inputs u (N, nu), slack included, and the slack, shape (N + 1, ny)."""
        y, _ = self.outcome(data.x, u)
        slack = np.maximum(np.maximum(y - data.upper, data.lower - y), 0.0)
        slack[: self.first] = 0.0
        # With a terminal set y[-1] is the output of the steady state, which has the full economic cost.
        end = ((y[-1] - data.reference[-1]) ** 2 * self.terminal_weight).sum()
        running = self._cost(y[:-1], data.reference[:-1], u, data.previous_input)
        if self.economy is not None:
            end += self.economy.of_outputs(y[-1])
            end += 0.0 if self.terminal is None else self.economy.of_inputs(u[-1])
        return running + float(end + (slack * self.penalty).sum()), slack

    def outcome(self, x: Array, u: Array) -> tuple[Array, Array | None]:
        """Outputs (N + 1, ny) of a plan u (N, nu) from x (nx,), and with a terminal set x_N - x_s (nx,), else None."""
        y, states = self.predictor.rollout(x, u)
        if self.terminal is None:
            return y, None
        if not np.isfinite(states[-1]).all():
            return y, np.full(len(x), np.nan)
        settled = self.predictor.equilibrium(u[-1], guess=states[-1])
        return np.vstack([y[:-1], output(self.predictor.system, settled, u[-1])]), states[-1] - settled

    def excess(self, data: StepData, u: Array) -> float:
        """Largest violation of all limits by a plan u (N, nu), in relative units; feasible if <= 0.

        Outputs count in ranges, the end of the plan in radii of the terminal set, inputs and moves in half ranges. Of
        the latter 1e-7 is tolerated, since the controller clips them. Violations that may be rounding do not count.
        """
        y, gap = self.outcome(data.x, u)
        lower, upper = self.predictor.input_limits()
        moves = np.abs(np.diff(np.vstack([data.previous_input, u]), axis=0)) - self.move_limit
        over = self._beyond(data, y)[self.first :]  # earlier steps are not limited
        beyond = np.maximum(np.maximum(u - upper, lower - u), moves) / (0.5 * (upper - lower)) - _CLIPPED
        end = -np.inf if gap is None or self.terminal is None else self.terminal._radii(gap) - 1.0 - _ROUNDED
        return float(max(over.max(), beyond.max(), end))

    def excess_of(self, data: StepData, y: Array) -> Array:
        """Violations of the output limits by y (N + 1, ny), in output ranges, same shape; infinite where y is NaN."""
        over = np.maximum(self._beyond(data, y), 0.0)
        over[: self.first] = 0.0
        return np.where(np.isnan(over), np.inf, over)

    def _beyond(self, data: StepData, y: Array) -> Array:
        """Signed distance of outputs y (N + 1, ny) beyond their limits, in ranges, less what may be rounding."""
        over = np.maximum(y - data.upper, data.lower - y)
        return np.asarray((over - _ROUNDED * np.abs(y)) / self.output_scale)

    def cost(self, y: Array, reference: Array, u: Array, before: Array) -> float:
        """Running cost (without slack and terminal weight) of outputs y (T, ny), references (T, ny), inputs u (T, nu).

        ``before`` (nu,) is the input applied before ``u[0]``.

        Raises:
            ShapeError: An array does not fit.
            DataError: An array, or the cost, is not finite.
        """
        p = self.predictor
        y = as_array("y", y, ("T", p.ny))
        arrays = (
            y,
            as_array("reference", reference, y.shape),
            as_array("u", u, ("T", p.nu)),
            as_array("before", before, (p.nu,)),
        )
        with np.errstate(over="ignore", invalid="ignore"):
            cost = self._cost(*arrays)
        if not np.isfinite(cost):
            raise DataError("the cost is beyond the range of float64: check the units of y, reference and u")
        return cost

    def _cost(self, y: Array, reference: Array, u: Array, before: Array) -> float:
        moves = np.diff(np.vstack([before, u]), axis=0)
        cost = ((y - reference) ** 2 * self.output_weight).sum() + (moves**2 * self.input_move_weight).sum()
        if self.economy is not None:
            cost += self.economy.of_inputs(u) + self.economy.of_outputs(y)
        return float(cost)


@dataclass(frozen=True, kw_only=True, eq=False)
class StepData:
    """Data of one sample; references and limits are for model outputs, with disturbance estimates subtracted.

    Args:
        x: State estimate, shape (nx,).
        previous_input: u_{-1}, shape (nu,).
        reference: Set points, shape (N + 1, ny).
        lower: Lower output limits, shape (N + 1, ny).
        upper: Upper output limits, shape (N + 1, ny).
        guess: Inputs to start from, shape (N, nu); columns of measured inputs are ignored.
        forecast: Measured inputs, shape (N, measured), or None where there are none.
        target: Wanted output of steady states, shape (ny,); the reference's first row when left out.
        kept_ranks: Number of ranks of limits that must not be violated further; see `mpc.problem.priorities`.
    """

    x: Array
    previous_input: Array
    reference: Array
    lower: Array
    upper: Array
    guess: Array
    forecast: Array | None = None
    target: Array | None = None
    kept_ranks: int = 0

    def __post_init__(self) -> None:
        if self.target is None:
            object.__setattr__(self, "target", self.reference[0])


@dataclass(frozen=True, kw_only=True, eq=False)
class Solution:
    """A solver's answer; only meaningful as a plan where ``status`` is SOLVED.

    Args:
        status: Status of the solve.
        u: Planned inputs, shape (N, nu).
        slack: Slack on output limits, shape (N + 1, ny), output units; row 0 is zero.
        cost: Value of the objective, slack included.
        iterations: Iterations used.
        message: The solver's message.
        feasible: With a terminal set: whether ``u`` keeps every limit, so that it may be applied whatever the status.
    """

    status: Status
    u: Array
    slack: Array
    cost: float
    iterations: int
    message: str
    feasible: bool = False


class Backend(Protocol):
    """Interface of solvers of an `OptimalControlProblem`, called sample after sample."""

    def solve(self, data: StepData) -> Solution:
        """Solve one sample. Must not raise because a problem has no solution, nor learn from a failed one."""

    def reset(self) -> None:
        """Forget all earlier samples, so that the same samples give bitwise the same answers."""


BackendFactory = Callable[[OptimalControlProblem, SolverOptions], Backend]


def cost_scale(
    predictor: Predictor,
    output_weight: Array,
    input_move_weight: Array,
    scale: Array,
    *,
    economy: Economy | None = None,
) -> float:
    """Largest cost of one step from its parts; see `OptimalControlProblem.cost_scale`."""
    lower, upper = predictor.input_limits()
    cost = float(output_weight @ scale**2 + input_move_weight @ (upper - lower) ** 2)
    return cost if economy is None else cost + economy.range(lower, upper, scale)


def default_penalty(horizon: int, cost: float, scale: Array) -> Array:
    """Penalty on slack, shape (ny,), that is exact while outputs and inputs stay within a few of their ranges.

    A multiplier is the cost saved per unit by which its constraint is relaxed. With errors and moves within their
    ranges, shifting all of them by one range changes the whole cost, prices included, at a rate of at most 2 N
    ``cost``; ten times that per range leaves room for outputs with a small gain from the inputs.
    """
    return 20.0 * horizon * cost / scale


def tracking_problem(
    predictor: Predictor,
    horizon: int,
    tracking: Tracking,
    limits: Limits,
    ranks: tuple[bool, Ranking | None],
    *,
    terminal: TerminalSet | None = None,
    economy: Economy | None = None,
) -> OptimalControlProblem:
    """Make the problem from settings, scalar or per channel, with defaults; arguments as of `mpc.TightenedMPC`.

    ``ranks`` are those of `mpc.problem.ranking.ranked`.
    """
    weight = per_channel("output_weight", tracking.output_weight, predictor.ny)
    places = _places(predictor, tracking.measured_inputs)
    moves = _without(places, per_channel("input_move_weight", tracking.input_move_weight, predictor.nu))
    if economy is not None:
        economy = replace(
            economy,
            input_price=_without(places, economy.input_price),
            input_weight=_without(places, economy.input_weight),
        )
    elif not weight.any():
        raise SettingError("output_weight must be positive for some output, got zeros: nothing would be controlled")
    scale = output_scale(predictor)
    default = default_penalty(horizon, cost_scale(predictor, weight, moves, scale, economy=economy), scale)
    chosen = default if limits.penalty is None else per_channel("penalty", limits.penalty, predictor.ny)
    last = tracking.terminal_weight
    return OptimalControlProblem(
        predictor=predictor,
        horizon=horizon,
        output_weight=weight,
        terminal_weight=weight if last is None else per_channel("terminal_weight", last, predictor.ny),
        input_move_weight=moves,
        move_limit=_move_limit(predictor, limits.move_limit, places),
        output_scale=read_only(scale),
        penalty=read_only(chosen),
        soft=ranks[0],
        control_horizon=tracking.control_horizon,
        terminal=terminal,
        economy=economy,
        measured_inputs=places,
        ranking=ranks[1],
    )


def _move_limit(predictor: Predictor, given: ArrayLike | None, measured: Sequence[int]) -> Array:
    """Largest moves, shape (nu,); infinite where any is allowed."""
    limit = channels("move_limit", np.inf if given is None else given, predictor.nu, finite=False)
    return read_only(_without(measured, limit, np.inf))


def _places(predictor: Predictor, names: Sequence[str]) -> tuple[int, ...]:
    known = [s.name for s in predictor.inputs]
    if isinstance(names, str) or len(set(names)) != len(names) or not set(names) <= set(known):
        raise SettingError(f"measured_inputs must name different inputs of {known}, got {names!r}")
    if len(names) == len(known):
        raise SettingError(f"measured_inputs must leave an input to choose, got all of {known}")
    return tuple(sorted(known.index(name) for name in names))


def _without(places: Sequence[int], values: Array, left: float = 0.0) -> Array:
    """Replace the values at measured inputs, which are not chosen and cost nothing, by ``left``."""
    if not places:
        return values
    kept = values.copy()
    kept[list(places)] = left
    return read_only(kept)
