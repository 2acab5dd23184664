"""Tightened MPC: state and disturbance estimation, tightened limits, a solver, and fallbacks for failed solves.

Two modes (docs/theory/tightening.md). *Guaranteed*: limits are tightened by the full model error; the disturbance
estimate only moves the reference, so that it cannot invalidate a limit. *Practical*: the estimate shifts predictions
and limits alike, and the tightening was calibrated with the same estimate; less conservative, without proof of
recursive feasibility. In both the reference is corrected so that set points are kept without offset with any observer:
see `mpc.control.offset_free`. With a terminal set the guaranteed mode is recursively feasible: see
`mpc.tightening.terminal_set`. Every plan is then checked independently of the solver, and where a solve gives none that
keeps all limits, the shifted plan does. With an `ErrorMemory` the guaranteed limits learn from measurements and stay
guaranteed: see `mpc.tightening.error_memory`.

A failed solve is reported in the step, not raised: the input applied then keeps the limits, or violates them least
(`mpc.safety.fallback`); from outside hard limits it returns in the fewest samples (`mpc.safety.recovery`). Set points
may be of any size, or missing (`mpc.problem.set_points`).

A step runs in the thread that calls it, for all thread settings of the environment: with our solver nothing in it calls
BLAS or LAPACK, which would wait for threads of their own (`controlrnn.kernels.dense`). ipopt brings its own libraries:
see `mpc.solvers.dompc`. Where every step has a deadline, call ``gc.collect(); gc.freeze()`` once everything is built:
otherwise Python's full garbage collections visit all imported objects, 0.2 s at a time (`experiments.soak` measures
what remains).
"""

from __future__ import annotations

import logging
from dataclasses import replace
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array, read_only
from controlrnn.errors import SettingError
from controlrnn.kernels import output
from controlrnn.typed import typed
from mpc.calibration.region import RegionWatch
from mpc.calibration.residuals import measured_errors
from mpc.control.agreement import agreed, move_limited
from mpc.control.handling import ControllerHandling, own_observer
from mpc.control.modes import (
    check_memory,
    check_terminal,
    covered,
    disturbance_mode,
    plan_limits,
    promises,
    unlearnt_errors,
)
from mpc.control.offset_free import OutputDisturbance
from mpc.control.settings import Safety, Solver
from mpc.control.step import MpcStep
from mpc.control.watching import catch_up, check_forecast, left_ranges, watch_of, wider_limits
from mpc.observers.base import Observer
from mpc.predictor import Predictor
from mpc.problem.answers import Answers
from mpc.problem.economy import economy_of
from mpc.problem.ocp import Solution, StepData, tracking_problem
from mpc.problem.plans import inside_after, known_rows, safe_input, slack_of, within_moves
from mpc.problem.priorities import by_priority
from mpc.problem.ranking import KEPT, ranked
from mpc.problem.set_points import SetPoints
from mpc.problem.settings import Limits, Mode, Prices, Tracking
from mpc.problem.solver_options import SolverOptions, Status
from mpc.safety.fallback import Fallback, Fallbacks
from mpc.safety.move_watch import MoveWatch
from mpc.safety.premise_watch import Premise, Reaction
from mpc.safety.range_watch import RangeWatch
from mpc.safety.recovery import returning
from mpc.solvers.condensed import CondensedBackend
from mpc.tightening.error_memory import ErrorMemory
from mpc.tightening.learnt_errors import LearntErrors
from mpc.tightening.terminal_set import TerminalSet
from mpc.tightening.tightening import Tightening

_log = logging.getLogger(__name__)


class TightenedMPC(ControllerHandling):
    """MPC on a recurrent model with limits tightened by its prediction error: tracking, economic, or both.

    Args:
        predictor: Model with the channels' limits.
        observer: State estimate.
        tightening: From `mpc.tighten` (or `mpc.no_tightening`).
        tracking: Weights, horizon and feedback.
        terminal: From `mpc.terminal_set`, for recursively feasible plans; its horizon is N, the tightening is from
            `mpc.make_recursive` with the same jump, and limits are hard.
        error_memory: From `mpc.make_error_memory`, for guaranteed limits that learn from measurements.
        prices: Economic costs.
        limits: Move limits, and hardness and priorities of output limits.
        safety: Monitoring of premises and of the operating region, and the last resort.
        solver: The solver and its options.

    Raises:
        SettingError: Premises or settings disagree.
        CertificationError: A guarantee would rest on a part from a file that was not verified.
        InfeasibleError: The tightening leaves nothing of an output's range.
    """

    @typed()
    def __init__(
        self,
        predictor: Predictor,
        observer: Observer,
        tightening: Tightening,
        tracking: Tracking,
        *,
        terminal: TerminalSet | None = None,
        error_memory: ErrorMemory | None = None,
        prices: Prices | None = None,
        limits: Limits | None = None,
        safety: Safety | None = None,
        solver: Solver | None = None,
    ) -> None:
        prices, limits, safety, solver = prices or Prices(), limits or Limits(), safety or Safety(), solver or Solver()
        self.observer = observer = own_observer(observer, self)
        self.predictor = predictor
        self.tightening = tightening
        self.terminal = terminal
        self.premises = agreed(observer, predictor, tightening, terminal, error_memory, safety.region)
        self.horizon = N = covered(tightening, tracking.horizon)
        if terminal is not None:
            check_terminal(terminal, tightening, N, tracking.mode)
            free = max(N // 2, 1) if tracking.control_horizon is None else tracking.control_horizon
            tracking = replace(tracking, mode=Mode.GUARANTEED, control_horizon=free)
        mode, gain = tracking.mode, tracking.disturbance_gain
        self.mode, self.filter = disturbance_mode(tightening, mode, gain, terminal, error_memory)
        entering = self.mode is Mode.PRACTICAL, not promises(tightening)
        self.disturbance = OutputDisturbance(observer, N, self.filter, terminal is not None, *entering)
        self._answers = Answers(observer, guaranteed=terminal is not None)
        self._lower, self._upper = plan_limits(tightening, predictor, N, terminal)
        self._answers.refuse_empty(self._lower, self._upper)
        self._widest = unlearnt_errors(tightening, N)
        self.learnt_errors = None if error_memory is None else self._learning(error_memory)
        self._input_lower, self._input_upper = predictor.input_limits()
        self.safe_input = safe_input(safety.safe_input, self._input_lower, self._input_upper)
        ranks = ranked(limits, predictor.ny, copies=self._answers.copies, terminal=terminal is not None)
        planner = self._answers.planner
        tracking, prices, limits = self._answers.settings(tracking, prices, limits)
        economy = economy_of(planner, prices)
        self.problem = tracking_problem(planner, N, tracking, limits, ranks, terminal=terminal, economy=economy)
        self.premise_watch = watch_of(self, safety.watching)
        self.range_watch = RangeWatch(self.problem.predictor.system)
        self._release_measured()
        self.premises = move_limited(self.premises, self.problem)
        self._wider = wider_limits(self, safety.watching)
        self.move_watch = MoveWatch(self.premises)
        self.region_watch = None if safety.region is None else RegionWatch(safety.region, observer)
        self.backend = (solver.backend or CondensedBackend)(self.problem, solver.options or SolverOptions())
        self.reset()

    def _learning(self, memory: ErrorMemory) -> LearntErrors:
        check_memory(memory, self.tightening, self.horizon)
        return LearntErrors(memory, self.predictor.outputs, self.terminal)

    def _release_measured(self) -> None:
        """Drop the limits of measured inputs, then make the parts that need those left: fallbacks and set points."""
        self._measured_inputs = list(self.problem.measured_inputs)
        if self._measured_inputs:
            free = np.isin(np.arange(self.predictor.nu), self._measured_inputs)
            self._input_lower = np.where(free, -np.inf, self._input_lower)
            self._input_upper = np.where(free, np.inf, self._input_upper)
        self._fallbacks = Fallbacks(self.problem, self.safe_input, self._feasible)
        self.set_points = SetPoints(self.predictor, self.problem.output_scale[: self.predictor.ny])

    @property
    def _span(self) -> Array:
        """Widths of the actuators' ranges, shape (nu,)."""
        lower, upper = self.predictor.input_limits()
        return np.asarray(upper - lower)

    @property
    def tightened_limits(self) -> tuple[Array, Array]:
        """Lower and upper limits of readings in plans, each (N + 1, ny), before measurements widen them."""
        return self._lower, self._upper

    @property
    def recalls(self) -> bool:
        """Whether limits learn from measurements."""
        return self.learnt_errors is not None

    def reset(self) -> None:
        """Forget all samples: the same samples then give bitwise the same inputs as on a new controller."""
        self.observer.start()
        self.backend.reset()
        self.disturbance.reset()
        self.set_points.reset()
        self.premise_watch.reset()
        self.move_watch.reset()
        if self.region_watch is not None:
            self.region_watch.reset()
        if self.learnt_errors is not None:
            self.learnt_errors.reset()
        self._previous = None
        self._plan = None
        self.last_data = None
        self._forecast = None
        self._came_from = None
        self._age = 0
        self._doubted = False

    def record(self, y: ArrayLike, u: ArrayLike) -> None:
        """Update the estimates with a sample whose input the controller did not choose (warm-up, manual operation).

        Args:
            y: Measurement, shape (ny,); NaN where missing.
            u: Input that acts from this sample on, measured inputs included, shape (nu,).
        """
        y, u = self._measurement(y), as_array("u", u, (self.predictor.nu,))
        u, absurd = self.premise_watch.recorded(u)
        y, used = self._believed(y)
        if self.observer.ready:
            self.premise_watch.tell(Premise.DRIFT, self._learn(used, y))
        self._plan = None
        self.premise_watch.tell(Premise.REGION, self._advance(u, y, doubt=self._span if absurd else None))
        self.premise_watch.finish(self.observer, told=False)

    def step(
        self,
        y: ArrayLike,
        reference: ArrayLike,
        forecast: ArrayLike | None = None,
        *,
        applied: ArrayLike | None = None,
        time: float | None = None,
    ) -> MpcStep:
        """Perform one control step: update the estimates and choose the next input.

        Args:
            y: Measurement at this sample, shape (ny,); NaN where missing.
            reference: Shape (ny,), or (T, ny) for known future values from this sample on; the last row is held. NaN
                where it is not known, see `mpc.problem.set_points`.
            forecast: Forecast of the measured inputs, in their order among all inputs, from this sample on: shape (d,),
                or (T, d) for known future values; the last row is held. The first row is taken as true.
            applied: Read-back of the input that acted since the last sample, shape (nu,); NaN where it is not known,
                which stands for the command.
            time: Time stamp of this sample [s]. For missed samples the model is simulated with its input held.

        Raises:
            ShapeError: ``y``, ``reference`` or ``forecast`` does not fit.
            SettingError: ``forecast`` is missing, or there is nothing to forecast.
            DataError: ``forecast`` is not finite.
        """
        started = perf_counter()
        y = self._measurement(y)
        wanted = self._reference(reference)
        if (forecast is None) != (not self._measured_inputs):
            names = [self.predictor.inputs[i].name for i in self._measured_inputs]
            got = "none" if forecast is None else "one"
            raise SettingError(f"step needs a forecast of the measured inputs {names}, and only of them, got {got}")
        d, N = len(self._measured_inputs), self.horizon
        coming = None if forecast is None else known_rows("forecast", forecast, d, N)
        catch_up(self, applied, time)
        self.premise_watch.tell(Premise.MOVES, self.move_watch.words)
        self._forecast = coming
        check_forecast(self)
        x, certified = self.observer.state, self.observer.certified
        solution, data, missing = None, None, np.isnan(y)
        y, used = self._believed(y)
        if self.observer.ready:
            self.premise_watch.tell(Premise.DRIFT, self._learn(used, y))
            data = self.last_data = self._data(x, wanted)
            solution = None if self.premise_watch.reaction is Reaction.HOLD else self._solved(data, started)
        offset, shift = self.disturbance.estimate, self.disturbance.in_limits
        plan, fallback, feasible, inside_after = self._choose(solution, data, started)
        u, interval = read_only(plan[0]), self._error_interval()
        watched, beyond = self.premise_watch, self._advance(u, y)
        watched.tell(Premise.REGION, beyond)
        outside, broken = watched.words, watched.broken
        watched.finish(self.observer)
        return MpcStep(
            u=u,
            status=Status.WARMING_UP if solution is None else solution.status,
            fallback=fallback,
            solve_time=perf_counter() - started,
            iterations=0 if solution is None else solution.iterations,
            cost=solution.cost if solution is not None and solution.status is Status.SOLVED else np.nan,
            x=x,
            disturbance=read_only(offset),
            u_planned=read_only(plan),
            y_predicted=read_only(self.predictor.predict(x, plan) + shift),
            shift=read_only(shift),
            slack=read_only(self._answers.narrow(slack_of(solution, self._answers.wide(self._lower)))),
            missing=missing,
            certified=certified and not broken,
            feasible=feasible,
            inside_after=inside_after,
            set_point=read_only(wanted[0]),
            message="" if solution is None else solution.message,
            error_interval=interval,
            verdicts=watched.verdicts,
            outside=outside,
            broken=broken,
        )

    def _measurement(self, y: ArrayLike) -> Array:
        seen = as_array("y", y, (self.predictor.ny,), finite=False)
        return np.where(np.isfinite(seen), seen, np.nan)  # an infinite reading is a missing one

    def _output_error(self, y: Array) -> Array:
        before = self.u_previous[None]  # its value does not matter: the model has no feedthrough
        return np.asarray(measured_errors(self.predictor.system, self.observer.state[None], before, y[None])[0])

    def _believed(self, y: Array) -> tuple[Array, Array]:
        """Readings for the observer and those for everything else, with NaN for implausible ones."""
        if self.move_watch.becomes_slow:
            self.disturbance.forget_errors()
        error = self._output_error(y)
        expected = y - error + self.disturbance.estimate if self.observer.ready else np.full(len(y), np.nan)
        y, used = self.premise_watch.readings(y, error, expected, self.observer)
        after = self.disturbance.after(np.where(np.isnan(used), np.nan, error))
        if self.observer.ready:
            self.premise_watch.coverage(used, after, promised=self.move_watch.kept)
        if self.premise_watch.model_error(after, self.observer):
            used = self.premise_watch.ignored(used, after)
        return y, used

    def _learn(self, y: Array, seen: Array) -> str:
        """Update the disturbance estimate with y (ny,) and report readings in ``seen`` that contradict earlier ones."""
        error = self._output_error(y)
        self.disturbance.update(error, self.observer.state, self.u_previous)
        if self.learnt_errors is None:
            return ""
        # Also a reading that is not used otherwise may show that what was learnt is wrong.
        return self.learnt_errors.update(self._output_error(seen), certified=self.observer.certified)

    def _reference(self, reference: ArrayLike) -> Array:
        present = output(self.predictor.system, self.observer.state, self.u_previous) + self.disturbance.estimate
        return self.set_points.rows(reference, present, self.horizon + 1)

    def _error_interval(self) -> Array:
        return self._widest if self.learnt_errors is None else self.learnt_errors.interval

    def _data(self, x: Array, wanted: Array) -> StepData:
        wide, own = self._answers.wide, (self._lower, self._upper)
        reaction = self.premise_watch.reaction
        if reaction is Reaction.WIDEN and self._wider is not None:
            own = self._wider
        elif reaction is Reaction.BACK_OFF:
            wanted = known_rows("safe_reference", self.premise_watch.safe, self.predictor.ny, len(wanted))
        shift = wide(self.disturbance.in_limits)
        lower, upper = self._answers.limits(*own, own if self.learnt_errors is None else self.learnt_errors.limits())
        return StepData(
            x=x,
            previous_input=self.u_previous,
            reference=wide(wanted - self.disturbance.rows),
            target=wide(wanted[0] - self.disturbance.steady),
            lower=lower - shift,
            upper=upper - shift,
            guess=np.tile(self.u_previous, (self.horizon, 1)) if self._plan is None else self._shifted(self._plan),
            forecast=self._forecast,
        )

    def _solved(self, data: StepData, started: float) -> Solution:
        solution = self.backend.solve(data)
        return by_priority(self.backend, self.problem, data, solution, self._deadline(started))

    def _deadline(self, started: float) -> float:
        limit = getattr(getattr(self.backend, "options", None), "max_wall_time", None)
        return np.inf if limit is None else started + limit

    def _choose(
        self, solution: Solution | None, data: StepData | None, started: float
    ) -> tuple[Array, Fallback, bool, int]:
        """Choose the plan to apply: plan (N, nu), its source, whether it keeps all limits, and from which step on."""
        if solution is None or data is None:
            held = Fallback.SAFE if self._previous is None else Fallback.STEADY
            return self._feasible(np.tile(self.u_previous, (self.horizon, 1))), held, False, self.horizon + 1
        solved = solution.status is Status.SOLVED
        if solved or solution.feasible:
            plan, beyond = self._feasible(solution.u), solution.slack > KEPT * self.problem.output_scale
            kept = not beyond.any()
            if self.terminal is not None:
                kept = self.problem.excess(data, plan) <= 0
            if kept or (solved and self.terminal is None and not beyond[:, self.problem.hard].any()):
                self._plan = read_only(plan)
                self._age = 0
                inside = inside_after(beyond[:, self.problem.counted])
                return plan, Fallback.NONE if solved else Fallback.PLAN, kept, inside
        _log.warning("MPC solve ended with %s (%s): falling back", solution.status, solution.message)
        last = self._plan is not None and (self.terminal is not None or self._age < self.horizon)
        back = returning(self.backend, self.problem, data, solution, self._deadline(started))
        found = self._fallbacks.choose(data, data.guess if last else None, solution, back)
        if found.followed(self.terminal is not None):
            self._plan = read_only(found.plan)
            self._age = 0
        return found.plan, found.fallback, found.feasible, found.inside_after

    def _shifted(self, plan: Array) -> Array:
        return plan[np.minimum(np.arange(self.horizon) + self._age, self.horizon - 1)]

    @property
    def u_previous(self) -> Array:
        """Input that acts until the next one is applied, shape (nu,); the safe one before the first."""
        return self.safe_input if self._previous is None else self._previous

    def _feasible(self, plan: Array) -> Array:
        """Clip a plan (N, nu) to input and move limits, and insert the forecast of measured inputs."""
        plan, before = np.clip(plan, self._input_lower, self._input_upper), self.u_previous
        if self._forecast is not None:
            plan[:, self._measured_inputs] = self._forecast
        return within_moves(plan, before, self._input_lower, self._input_upper, self.problem.move_limit)

    def _advance(self, u: Array, y: Array, doubt: Array | None = None) -> str:
        """Take in a sample with its input u (nu,); returns a text of what lies outside the calibrated region."""
        outside = ""
        if self.region_watch is not None and self.observer.ready:
            outside = self.region_watch.check(u, self._output_error(y), self._previous).message
        elif self.region_watch is not None:
            self.region_watch.skip()
        before = self.observer.certified and self.move_watch.kept
        self.move_watch.advance(u, known=doubt is None and not self._doubted)
        self._came_from = (self.observer.state, u)
        left = left_ranges(self, *self._came_from)  # also while warming up: the window holds these samples
        self.disturbance.advance(u)
        self.observer.update(u, y, doubt=self._span if self._doubted or left else doubt)
        self._doubted = False
        if self.learnt_errors is not None:  # intervals carry over only from one certified estimate to the next
            if before and self.observer.certified and self.move_watch.kept:
                self.learnt_errors.advance()
            else:
                self.learnt_errors.reset()
        self._previous = read_only(u)
        self._age += 1
        return outside
