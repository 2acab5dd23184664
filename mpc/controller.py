"""The controller: state and disturbance estimate, tightened limits, a solver, and what happens when it fails.

Two modes (DESIGN, section 4). *Guaranteed*: limits are tightened by the full model error; the disturbance estimate only
moves the reference, so it cannot invalidate a limit. *Practical*: the estimate shifts predictions and limits alike, and
the tightening was calibrated with the same estimate; less conservative, without proof of recursive feasibility.

A failed solve is a state, not an exception: the step then says so, applies the first that exists of (last successful
plan shifted, steady input for the reference, safe input), and nothing of the failed iterate is kept.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, Choice, as_array, count, read_only
from controlrnn.errors import SettingError, ShapeError
from mpc.condensed import CondensedBackend
from mpc.observer import Observer, per_channel
from mpc.ocp import (
    BackendFactory,
    OptimalControlProblem,
    Solution,
    SolverOptions,
    Status,
    StepData,
    cost_scale,
    default_penalty,
    output_scale,
)
from mpc.predictor import Predictor
from mpc.residuals import DisturbanceFilter, measured_errors
from mpc.tightening import Tightening

_log = logging.getLogger(__name__)
_DISTURBANCE_GAIN = 0.2  # used for the cost where the tightening prescribes none


class Mode(Choice):
    """What the disturbance estimate may do; see the module docstring."""

    GUARANTEED = "guaranteed"
    PRACTICAL = "practical"


class Fallback(StrEnum):
    """Which input stood in for a solution."""

    NONE = "none"
    PLAN = "plan"
    STEADY = "steady"
    SAFE = "safe"


@dataclass(frozen=True, kw_only=True, eq=False)
class MpcStep:
    """One control step.

    Args:
        u: Input to apply now, shape (nu,).
        status: How the solve ended.
        fallback: What stood in for a solution.
        solve_time: Wall time of the whole step [s].
        iterations: Solver iterations.
        cost: Objective, slack included; NaN unless solved.
        x: State estimate, shape (nx,).
        disturbance: Output disturbance estimate, shape (ny,).
        u_planned: Planned inputs, shape (N, nu).
        y_predicted: Predicted outputs under them, shape (N + 1, ny).
        slack: Use of soft limits per step and output, shape (N + 1, ny), output units.
        missing: Which measurements were missing, shape (ny,), bool.
        certified: Whether the certified error of the state estimate holds at this step.
        message: The solver's own words.
    """

    u: Array
    status: Status
    fallback: Fallback
    solve_time: float
    iterations: int
    cost: float
    x: Array
    disturbance: Array
    u_planned: Array
    y_predicted: Array
    slack: Array
    missing: Array
    certified: bool
    message: str


class TightenedMPC:
    """Output-tracking MPC on a recurrent model with limits tightened by its prediction error.

    Args:
        predictor: Model with the channels' limits.
        observer: State estimate.
        tightening: From `mpc.tighten` (or `mpc.nominal`).
        output_weight: Cost of output errors per unit^2, scalar or shape (ny,).
        input_move_weight: Cost of input moves per unit^2, scalar or shape (nu,).
        horizon: Steps N; the tightening's when left out, and at most that.
        terminal_weight: Cost of output errors at step N; ``output_weight`` when left out.
        move_limit: Largest change of each input per step, scalar or shape (nu,); none when left out.
        soft: Allow slack on output limits at an exact penalty. False: limits are hard, a solve may be infeasible.
        penalty: Cost per unit of slack, scalar or shape (ny,); `mpc.ocp.default_penalty` when left out.
        mode: What the disturbance estimate may do; fixed by the tightening when left out.
        disturbance_gain: Gain of the disturbance filter; the tightening's when left out, else 0.2.
        safe_input: Last resort, shape (nu,); the middle of the actuators' range when left out.
        options: Limits for the solver.
        backend: Makes the solver; `mpc.condensed.CondensedBackend` when left out. Others: `mpc.fatrop.FatropBackend`,
            `mpc.dompc.DoMpcBackend`, or several in turn with `mpc.chain`.

    Raises:
        SettingError: Parts belong to different models, or a setting contradicts the tightening.
        InfeasibleError: The tightening leaves nothing of an output's range.
    """

    def __init__(
        self,
        predictor: Predictor,
        observer: Observer,
        tightening: Tightening,
        *,
        output_weight: ArrayLike,
        input_move_weight: ArrayLike,
        horizon: int | None = None,
        terminal_weight: ArrayLike | None = None,
        move_limit: ArrayLike | None = None,
        soft: bool = True,
        penalty: ArrayLike | None = None,
        mode: Mode | None = None,
        disturbance_gain: float | None = None,
        safe_input: ArrayLike | None = None,
        options: SolverOptions | None = None,
        backend: BackendFactory | None = None,
    ) -> None:
        self.predictor, self.observer, self.tightening = predictor, observer, tightening
        if not predictor.system.digest == observer.system.digest == tightening.digests.get("system"):
            raise SettingError("predictor, observer and tightening must belong to one model, got different digests")
        self.horizon = count("horizon", tightening.horizon if horizon is None else horizon)
        if self.horizon > tightening.horizon:
            raise SettingError(
                f"the tightening covers {tightening.horizon} steps, got horizon {self.horizon}: shorten it"
            )
        self.mode, self.filter = _disturbance(tightening, mode, disturbance_gain)
        lower, upper = tightening.limits(predictor.outputs)
        self._lower, self._upper = lower[: self.horizon + 1], upper[: self.horizon + 1]
        self._input_lower, self._input_upper = predictor.input_limits()
        if safe_input is None:
            safe_input = 0.5 * (self._input_lower + self._input_upper)
        self.safe_input = read_only(as_array("safe_input", safe_input, (predictor.nu,)))
        if ((self.safe_input < self._input_lower) | (self.safe_input > self._input_upper)).any():
            raise SettingError(f"safe_input must lie within the input limits, got {self.safe_input}")
        self.problem = _problem(
            predictor, self.horizon, output_weight, terminal_weight, input_move_weight, move_limit, penalty, soft
        )
        self.backend = (backend or CondensedBackend)(self.problem, options or SolverOptions())
        self.reset()

    def reset(self) -> None:
        """Forget everything: the same samples will give bitwise the same inputs as on a new controller."""
        self.observer.start()
        self.backend.reset()
        self._disturbance: Array | None = None
        self._previous: Array | None = None
        self._plan: Array | None = None
        self._age = 0

    def record(self, y: ArrayLike, u: ArrayLike) -> None:
        """Take in a sample whose input somebody else chose (warm-up, manual operation).

        Args:
            y: Measurement, shape (ny,); NaN where missing.
            u: Input that acts from this sample on, shape (nu,).
        """
        y = self._measurement(y)
        u = as_array("u", u, (self.predictor.nu,))
        if self.observer.ready:
            self._estimate_disturbance(y)
        self._plan = None
        self._advance(u, y)

    def step(self, y: ArrayLike, reference: ArrayLike) -> MpcStep:
        """Choose the next input.

        Args:
            y: Measurement at this sample, shape (ny,); NaN where missing.
            reference: Shape (ny,), or (T, ny) for known future values from this sample on; the last row is held.

        Raises:
            ShapeError: ``y`` or ``reference`` does not fit.
            DataError: ``reference`` is not finite.
        """
        started = time.perf_counter()
        y = self._measurement(y)
        wanted = self._reference(reference)
        x, certified = self.observer.state, self.observer.certified
        solution, offset = None, np.zeros(self.predictor.ny)
        if self.observer.ready:
            offset = self._estimate_disturbance(y)
            solution = self.backend.solve(self._data(x, wanted, offset))
        plan, fallback = self._choose(solution, wanted[0] - offset)
        u = read_only(plan[0])
        self._advance(u, y)
        return MpcStep(
            u=u,
            status=Status.WARMING_UP if solution is None else solution.status,
            fallback=fallback,
            solve_time=time.perf_counter() - started,
            iterations=0 if solution is None else solution.iterations,
            cost=solution.cost if solution is not None and solution.status is Status.SOLVED else np.nan,
            x=x,
            disturbance=read_only(offset),
            u_planned=read_only(plan),
            y_predicted=read_only(self.predictor.predict(x, plan) + (offset if self.mode is Mode.PRACTICAL else 0.0)),
            slack=read_only(_slack_of(solution, self._lower)),
            missing=np.isnan(y),
            certified=certified,
            message="" if solution is None else solution.message,
        )

    def _measurement(self, y: ArrayLike) -> Array:
        seen = as_array("y", y, (self.predictor.ny,), finite=False)
        return np.where(np.isfinite(seen), seen, np.nan)  # an infinite reading is a missing one

    def _estimate_disturbance(self, y: Array) -> Array:
        x = self.observer.state[None]
        before = self.safe_input if self._previous is None else self._previous
        # A model with feedthrough is compared at the input before; without, the input does not matter.
        error = measured_errors(self.predictor.system, x, before[None], y[None])[0]
        if self._disturbance is None and np.isnan(error).any():
            return np.zeros(self.predictor.ny)  # as on records, the filter starts at the first complete measurement
        self._disturbance = self.filter.update(self._disturbance, error)
        return self._disturbance

    def _data(self, x: Array, wanted: Array, offset: Array) -> StepData:
        shift = offset if self.mode is Mode.PRACTICAL else np.zeros_like(offset)
        return StepData(
            x=x,
            previous_input=self._before(),
            reference=wanted - offset,
            lower=self._lower - shift,
            upper=self._upper - shift,
            guess=np.tile(self._before(), (self.horizon, 1)) if self._plan is None else self._shifted(self._plan),
        )

    def _choose(self, solution: Solution | None, target: Array) -> tuple[Array, Fallback]:
        """The plan to apply, shape (N, nu), and where it comes from."""
        if solution is not None and solution.status is Status.SOLVED:
            self._plan, self._age = read_only(solution.u), 0
            return self._feasible(solution.u), Fallback.NONE
        if solution is None:
            held = Fallback.SAFE if self._previous is None else Fallback.STEADY
            return self._feasible(np.tile(self._before(), (self.horizon, 1))), held
        _log.warning("MPC solve ended with %s (%s): falling back", solution.status, solution.message)
        if self._plan is not None and self._age < self.horizon:
            return self._feasible(self._shifted(self._plan)), Fallback.PLAN
        try:
            u, fallback = self.predictor.steady_input(target, self.problem.output_scale), Fallback.STEADY
        except SettingError as error:
            _log.warning("no steady input for the reference (%s): safe input", error)
            u, fallback = self.safe_input, Fallback.SAFE
        return self._feasible(np.tile(u, (self.horizon, 1))), fallback

    def _shifted(self, plan: Array) -> Array:
        rows = np.minimum(np.arange(self.horizon) + self._age, self.horizon - 1)
        return plan[rows]

    def _before(self) -> Array:
        return self.safe_input if self._previous is None else self._previous

    def _feasible(self, plan: Array) -> Array:
        """The plan within input and move limits, from the input before it on."""
        kept, before = [], self._before()
        for u in plan:
            moved = np.clip(u, before - self.problem.move_limit, before + self.problem.move_limit)
            before = np.clip(moved, self._input_lower, self._input_upper)
            kept.append(before)
        return np.array(kept)

    def _advance(self, u: Array, y: Array) -> None:
        self.observer.update(u, y)
        self._previous, self._age = read_only(u), self._age + 1

    def _reference(self, reference: ArrayLike) -> Array:
        ny, rows = self.predictor.ny, self.horizon + 1
        if np.ndim(reference) < 2:
            return np.tile(as_array("reference", reference, (ny,)), (rows, 1))
        known = as_array("reference", reference, ("T", ny))
        if not len(known):
            raise ShapeError(f"reference must have at least one row, got {known.shape}")
        return known[np.minimum(np.arange(rows), len(known) - 1)]


def _disturbance(tightening: Tightening, mode: Mode | None, gain: float | None) -> tuple[Mode, DisturbanceFilter]:
    prescribed = tightening.disturbance_gain
    claims = set(tightening.digests) != {
        "system"
    }  # a nominal tightening promises nothing, so nothing can contradict it
    natural = Mode.GUARANTEED if claims and prescribed is None else Mode.PRACTICAL
    mode = natural if mode is None else Mode(mode)
    if claims and mode is not natural:
        raise SettingError(
            f"mode must be {natural} for this tightening, got {mode}: the model error was calibrated "
            f"{'without' if prescribed is None else 'with'} disturbance feedback; calibrate it the other way"
        )
    if prescribed is not None and gain not in (None, prescribed):
        raise SettingError(f"disturbance_gain must be {prescribed} as calibrated, got {gain}: leave it out")
    return mode, DisturbanceFilter(prescribed or gain or _DISTURBANCE_GAIN)


def _problem(
    predictor: Predictor,
    horizon: int,
    output_weight: ArrayLike,
    terminal_weight: ArrayLike | None,
    input_move_weight: ArrayLike,
    move_limit: ArrayLike | None,
    penalty: ArrayLike | None,
    soft: bool,
) -> OptimalControlProblem:
    weight = per_channel("output_weight", output_weight, predictor.ny)
    moves = per_channel("input_move_weight", input_move_weight, predictor.nu)
    if not weight.any():
        raise SettingError("output_weight must be positive for some output, got zeros: nothing would be controlled")
    free = np.inf if move_limit is None else move_limit
    each = np.full(predictor.nu, free) if np.ndim(free) == 0 else free
    limit = as_array("move_limit", each, (predictor.nu,), finite=False)
    if not (limit > 0).all():
        raise SettingError(f"move_limit must be positive, got {limit}: it bounds |u_k - u_(k-1)| per step")
    scale = output_scale(predictor)
    default = default_penalty(horizon, cost_scale(predictor, weight, moves, scale), scale)
    chosen = default if penalty is None else per_channel("penalty", penalty, predictor.ny)
    if not (chosen > 0).all():
        raise SettingError(f"penalty must be positive, got {chosen}: a limit without a price is none")
    return OptimalControlProblem(
        predictor=predictor,
        horizon=horizon,
        output_weight=weight,
        terminal_weight=weight
        if terminal_weight is None
        else per_channel("terminal_weight", terminal_weight, predictor.ny),
        input_move_weight=moves,
        move_limit=read_only(limit),
        output_scale=read_only(scale),
        penalty=read_only(chosen),
        soft=bool(soft),
    )


def _slack_of(solution: Solution | None, like: Array) -> Array:
    solved = solution is not None and solution.status is Status.SOLVED
    return solution.slack if solved and solution is not None else np.zeros_like(like)
