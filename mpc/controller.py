"""The controller: state and disturbance estimate, tightened limits, a solver, and what happens when it fails.

Two modes (docs/theory/tightening.md). *Guaranteed*: limits are tightened by the full model error; the disturbance
estimate only moves the reference, so it cannot invalidate a limit. *Practical*: the estimate shifts predictions and
limits alike, and the tightening was calibrated with the same estimate; less conservative, without proof of recursive
feasibility. In both the reference moves so that set points are kept without offset, whatever the observer: see
`mpc.offset_free`. With a terminal set the guaranteed mode is recursively feasible: see `mpc.terminal`. Every plan is
then checked apart from the solver, and where a solve gives none that keeps all limits, the shifted plan does. With a
`Recall` the guaranteed limits learn from measurements and stay guaranteed: see `mpc.recall`.

A failed solve is a state, not an exception: the step then says so, and applies what keeps the limits, or exceeds them
least (`mpc.fallback`); from outside hard limits it comes back in the fewest samples (`mpc.recovery`). Set points may be
of any size, or missing (`mpc.set_points`).

A step runs in the thread that calls it, whatever the environment says about threads: with our solver nothing in it
calls BLAS or LAPACK, which would wait for threads of theirs (`controlrnn.kernels.dense`). ipopt brings libraries of its
own: see `mpc.dompc`.

Where every step has a deadline, call ``gc.collect(); gc.freeze()`` once everything is built: Python's full collections
otherwise look through all that was imported, 0.2 s at a time (`experiments.soak` counts what is left).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from time import perf_counter

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array, read_only
from controlrnn.errors import SettingError
from controlrnn.kernels import output
from controlrnn.typed import typed
from mpc.answers import Answers
from mpc.condensed import CondensedBackend
from mpc.control_step import Fallback, MpcStep
from mpc.economy import economy_of
from mpc.fallback import Fallbacks
from mpc.modes import Mode as Mode
from mpc.modes import check_recall, check_terminal, covered, disturbance_mode, plan_limits, promises, unlearnt_errors
from mpc.observer import Observer
from mpc.ocp import (
    KEPT,
    BackendFactory,
    Solution,
    SolverOptions,
    Status,
    StepData,
    tracking_problem,
)
from mpc.offset_free import OutputDisturbance
from mpc.operation import Operation, own_observer
from mpc.plans import inside_after, known_rows, slack_of, within_moves
from mpc.plans import safe_input as within
from mpc.predictor import Predictor
from mpc.premises_agreed import agreed, move_limited
from mpc.priorities import by_priority, ranked
from mpc.recall import Recall
from mpc.recalled_errors import RecalledErrors
from mpc.recovery import returning
from mpc.region import OperatingRegion, RegionWatch
from mpc.residuals import measured_errors
from mpc.set_points import SetPoints
from mpc.terminal import TerminalSet
from mpc.tightening import Tightening
from mpc.watch import Premise, Reaction, Watching
from mpc.watching import caught_up, foreseen, watch_of, wider_limits

_log = logging.getLogger(__name__)


class TightenedMPC(Operation):
    """MPC on a recurrent model with limits tightened by its prediction error: tracking, economic, or both.

    Args:
        predictor: Model with the channels' limits.
        observer: State estimate.
        tightening: From `mpc.tighten` (or `mpc.nominal`).
        output_weight: Cost of output errors per unit^2, scalar or shape (ny,).
        input_move_weight: Cost of input moves per unit^2, scalar or shape (nu,).
        horizon: Steps N; the tightening's when left out, and at most that.
        control_horizon: Number M of free inputs, the last of which is held. N when left out, N / 2 with a terminal
            set, where the steps after M are what brings the plan to rest.
        terminal: From `mpc.terminal_set`, for plans that can always be continued; its horizon is N, the tightening is
            from `mpc.recursive` with the same jump, and limits are hard.
        recall: From `mpc.remember`, for guaranteed limits that learn from measurements.
        terminal_weight: Cost of output errors at step N, or with a terminal set of those of the steady state;
            ``output_weight`` when left out.
        input_price: Cost per unit of input and step, scalar or shape (nu,), either sign.
        output_price: Cost per unit of output and step, scalar or shape (ny,), either sign; see `mpc.economy`.
        input_weight: Cost of an input's distance from ``input_reference`` per unit^2 and step, scalar or shape (nu,).
        input_reference: Where inputs belong, scalar or shape (nu,); the middle of their range when left out.
        measured: Names of inputs that are known disturbances: `step` is told their future, and decides about the other
            inputs only; limits, moves, weights and prices are for those. The limits of a measured input's `Signal` say
            what it may be, for bounds on the state. The tightening's radius for it covers the errors of its forecast.
            Not with a terminal set.
        move_limit: Largest change of each input per step, scalar or shape (nu,); none when left out.
        soft: Allow slack on output limits at an exact penalty, for all or for each output. False: limits are hard, a
            solve may be infeasible. Soft without a terminal set, hard with one, when left out.
        priority: Which limits are kept first where not all can be, shape (ny,), 1 first; strictly, see
            `mpc.priorities`. All hard ones alike, then all soft ones, when left out. With our solver only.
        penalty: Cost per unit of slack, scalar or shape (ny,); `mpc.ocp.default_penalty` when left out.
        mode: What the disturbance estimate may do; fixed by the tightening when left out.
        disturbance_gain: Gain of the disturbance filter; the tightening's when left out, else 0.2.
        safe_input: Last resort, shape (nu,); the middle of the actuators' range when left out.
        region: Where the model error was calibrated, from `mpc.learn_region`: steps outside are logged and flagged.
        watching: How premises are watched at every step, and what is done when one is contradicted; see `mpc.watch`.
        options: Limits for the solver.
        backend: Makes the solver; `mpc.condensed.CondensedBackend` when left out. Others: `mpc.fatrop.FatropBackend`,
            `mpc.dompc.DoMpcBackend`, or several in turn with `mpc.chain`.

    Raises:
        SettingError, CertificationError: Premises or settings disagree, or a part is from a file that was not verified.
        InfeasibleError: The tightening leaves nothing of an output's range.
    """

    @typed(infinite=("move_limit",))
    def __init__(
        self,
        predictor: Predictor,
        observer: Observer,
        tightening: Tightening,
        *,
        output_weight: ArrayLike,
        input_move_weight: ArrayLike,
        horizon: int | None = None,
        control_horizon: int | None = None,
        terminal: TerminalSet | None = None,
        recall: Recall | None = None,
        terminal_weight: ArrayLike | None = None,
        input_price: ArrayLike = 0.0,
        output_price: ArrayLike = 0.0,
        input_weight: ArrayLike = 0.0,
        input_reference: ArrayLike | None = None,
        measured: Sequence[str] = (),
        move_limit: ArrayLike | None = None,
        soft: bool | Sequence[bool] | None = None,
        priority: Sequence[int] | None = None,
        penalty: ArrayLike | None = None,
        mode: Mode | None = None,
        disturbance_gain: float | None = None,
        safe_input: ArrayLike | None = None,
        region: OperatingRegion | None = None,
        watching: Watching | None = None,
        options: SolverOptions | None = None,
        backend: BackendFactory | None = None,
    ) -> None:
        self.observer = observer = own_observer(observer, self)
        self.predictor, self.tightening, self.terminal = predictor, tightening, terminal
        self.premises = agreed(observer, predictor, tightening, terminal, recall, region)
        self.horizon = covered(tightening, horizon)
        if terminal is not None:
            check_terminal(terminal, tightening, self.horizon, mode)
            mode = Mode.GUARANTEED
            control_horizon = max(self.horizon // 2, 1) if control_horizon is None else control_horizon
        self.mode, self.filter = disturbance_mode(tightening, mode, disturbance_gain, terminal, recall)
        entering = self.mode is Mode.PRACTICAL, not promises(tightening)
        self.disturbance = OutputDisturbance(observer, self.horizon, self.filter, terminal is not None, *entering)
        self._answers = Answers(observer, guaranteed=terminal is not None)
        self._lower, self._upper = plan_limits(tightening, predictor, self.horizon, terminal)
        self._widest = unlearnt_errors(tightening, self.horizon)
        self._recalled = None if recall is None else self._learning(recall)
        self._input_lower, self._input_upper = predictor.input_limits()
        self.safe_input = within(safe_input, self._input_lower, self._input_upper)
        planner, of, copies = self._answers.planner, self._answers.setting, self._answers.copies
        ranks = ranked(soft, priority, predictor.ny, copies=copies, terminal=terminal is not None)
        self.problem = tracking_problem(
            planner, self.horizon, of(output_weight), of(terminal_weight), input_move_weight, move_limit,
            of(penalty, priced=True), ranks, control_horizon, terminal,
            economy_of(planner, input_price, of(output_price), input_weight, input_reference), measured,
        )  # fmt: skip
        self._watched, self._wider = watch_of(self, watching), wider_limits(self, watching)
        self._release_measured()
        self.premises = move_limited(self.premises, self.problem)
        self.watch = None if region is None else RegionWatch(region, observer)
        self.backend = (backend or CondensedBackend)(self.problem, options or SolverOptions())
        self.reset()

    def _learning(self, recall: Recall) -> RecalledErrors:
        check_recall(recall, self.tightening, self.horizon)
        return RecalledErrors(recall, self.predictor.outputs, self.terminal)

    def _release_measured(self) -> None:
        """Only chosen inputs have limits to keep; what stands in where a solve fails knows them."""
        self._measured = list(self.problem.measured)
        if self._measured:
            free = np.isin(np.arange(self.predictor.nu), self._measured)
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
    def recalls(self) -> bool:
        """Whether limits learn from measurements."""
        return self._recalled is not None

    def reset(self) -> None:
        """Forget everything: the same samples will give bitwise the same inputs as on a new controller."""
        self.observer.start()
        self.backend.reset()
        self.disturbance.reset()
        self.set_points.reset()
        self._watched.reset()
        if self.watch is not None:
            self.watch.reset()
        if self._recalled is not None:
            self._recalled.reset()
        self._previous: Array | None = None
        self._plan: Array | None = None
        self._last_data: StepData | None = None
        self._forecast: Array | None = None
        self._came_from: tuple[Array, Array] | None = None
        self._age, self._doubted = 0, False

    def record(self, y: ArrayLike, u: ArrayLike) -> None:
        """Take in a sample whose input somebody else chose (warm-up, manual operation).

        Args:
            y: Measurement, shape (ny,); NaN where missing.
            u: Input that acts from this sample on, measured inputs included, shape (nu,).
        """
        y, u = self._measurement(y), as_array("u", u, (self.predictor.nu,))
        u, absurd = self._watched.recorded(u)
        y, used = self._believed(y)
        if self.observer.ready:
            self._watched.tell(Premise.DRIFT, self._learn(used, y))
        self._plan = None
        self._watched.tell(Premise.REGION, self._advance(u, y, doubt=self._span if absurd else None))
        self._watched.finish(self.observer, told=False)

    def step(
        self, y: ArrayLike, reference: ArrayLike, forecast: ArrayLike | None = None, *,
        applied: ArrayLike | None = None, time: float | None = None,
    ) -> MpcStep:  # fmt: skip
        """Choose the next input.

        Args:
            y: Measurement at this sample, shape (ny,); NaN where missing.
            reference: Shape (ny,), or (T, ny) for known future values from this sample on; the last row is held. NaN
                where it is not known, see `mpc.set_points`.
            forecast: Of the measured inputs, in their order among all: what acts from this sample on, shape (d,), or
                (T, d) for known future values; the last row is held. The first row is taken as true.
            applied: Read-back: the input that acted since the last sample, shape (nu,); NaN where nobody knows, and the
                command is taken for it.
            time: Time stamp of this sample [s]. Where samples were missed the model catches up, its input held.

        Raises:
            ShapeError: ``y``, ``reference`` or ``forecast`` does not fit.
            SettingError: ``forecast`` is missing, or there is nothing to forecast.
            DataError: ``forecast`` is not finite.
        """
        started = perf_counter()
        y = self._measurement(y)
        wanted = self._reference(reference)
        if (forecast is None) != (not self._measured):
            names = [self.predictor.inputs[i].name for i in self._measured]
            got = "none" if forecast is None else "one"
            raise SettingError(f"step needs a forecast of the measured inputs {names}, and only of them, got {got}")
        d, N = len(self._measured), self.horizon
        coming = None if forecast is None else known_rows("forecast", forecast, d, N)
        caught_up(self, applied, time)
        self._forecast = coming
        foreseen(self)
        x, certified = self.observer.state, self.observer.certified
        solution, data, missing = None, None, np.isnan(y)
        y, used = self._believed(y)
        if self.observer.ready:
            self._watched.tell(Premise.DRIFT, self._learn(used, y))
            data = self._last_data = self._data(x, wanted)
            solution = None if self._watched.reaction is Reaction.HOLD else self._solved(data, started)
        offset, shift = self.disturbance.estimate, self.disturbance.in_limits
        plan, fallback, feasible, inside_after = self._choose(solution, data, started)
        u, interval = read_only(plan[0]), self._error_interval()
        watched, beyond = self._watched, self._advance(u, y)
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
        before = self._before()[None]  # whatever it is: the model does not answer to it at once
        return np.asarray(measured_errors(self.predictor.system, self.observer.state[None], before, y[None])[0])

    def _believed(self, y: Array) -> tuple[Array, Array]:
        """Readings for the observer and for everything else, with NaN for those that cannot be right."""
        error = self._output_error(y)
        expected = y - error + self.disturbance.estimate if self.observer.ready else np.full(len(y), np.nan)
        y, used = self._watched.readings(y, error, expected, self.observer)
        after = self.disturbance.after(np.where(np.isnan(used), np.nan, error))
        if self.observer.ready:
            self._watched.coverage(used, after)
        if self._watched.model_error(after, self.observer):
            used = self._watched.ignored(used, after)
        return y, used

    def _learn(self, y: Array, seen: Array) -> str:
        """Take a measurement into the disturbance estimate; what of it cannot be according to earlier ones."""
        error = self._output_error(y)
        self.disturbance.see(error, self.observer.state, self._before())
        if self._recalled is None:
            return ""
        # a reading that is not used otherwise still says that what was known may be wrong
        return self._recalled.see(self._output_error(seen), certified=self.observer.certified)

    def _reference(self, reference: ArrayLike) -> Array:
        present = output(self.predictor.system, self.observer.state, self._before()) + self.disturbance.estimate
        return self.set_points.rows(reference, present, self.horizon + 1)

    def _error_interval(self) -> Array:
        return self._widest if self._recalled is None else self._recalled.interval

    def _data(self, x: Array, wanted: Array) -> StepData:
        wide, own = self._answers.wide, (self._lower, self._upper)
        reaction = self._watched.reaction
        if reaction is Reaction.WIDEN and self._wider is not None:
            own = self._wider
        elif reaction is Reaction.BACK_OFF:
            wanted = known_rows("safe_reference", self._watched.safe, self.predictor.ny, len(wanted))
        shift = wide(self.disturbance.in_limits)
        lower, upper = self._answers.limits(*own, own if self._recalled is None else self._recalled.limits())
        return StepData(
            x=x,
            previous_input=self._before(),
            reference=wide(wanted - self.disturbance.rows),
            target=wide(wanted[0] - self.disturbance.steady),
            lower=lower - shift,
            upper=upper - shift,
            guess=np.tile(self._before(), (self.horizon, 1)) if self._plan is None else self._shifted(self._plan),
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
        """The plan to apply, (N, nu), where it comes from, whether it keeps all limits, and from which step on."""
        if solution is None or data is None:
            held = Fallback.SAFE if self._previous is None else Fallback.STEADY
            return self._feasible(np.tile(self._before(), (self.horizon, 1))), held, False, self.horizon + 1
        solved = solution.status is Status.SOLVED
        if solved or solution.feasible:
            plan, beyond = self._feasible(solution.u), solution.slack > KEPT * self.problem.output_scale
            kept = not beyond.any()
            if self.terminal is not None:
                kept = self.problem.excess(data, plan) <= 0
            if kept or (solved and self.terminal is None and not beyond[:, self.problem.hard].any()):
                self._plan, self._age = read_only(plan), 0
                return (
                    plan,
                    Fallback.NONE if solved else Fallback.PLAN,
                    kept,
                    inside_after(beyond[:, self.problem.counted]),
                )
        _log.warning("MPC solve ended with %s (%s): falling back", solution.status, solution.message)
        last = self._plan is not None and (self.terminal is not None or self._age < self.horizon)
        back = returning(self.backend, self.problem, data, solution, self._deadline(started))
        found = self._fallbacks.choose(data, data.guess if last else None, solution, back)
        if found.followed(self.terminal is not None):
            self._plan, self._age = read_only(found.plan), 0
        return found.plan, found.fallback, found.feasible, found.inside_after

    def _shifted(self, plan: Array) -> Array:
        return plan[np.minimum(np.arange(self.horizon) + self._age, self.horizon - 1)]

    def _before(self) -> Array:
        return self.safe_input if self._previous is None else self._previous

    def _feasible(self, plan: Array) -> Array:
        """The plan within input and move limits, from the input before it on, with the measured inputs to come."""
        plan, before = np.clip(plan, self._input_lower, self._input_upper), self._before()
        if self._forecast is not None:
            plan[:, self._measured] = self._forecast
        return within_moves(plan, before, self._input_lower, self._input_upper, self.problem.move_limit)

    def _advance(self, u: Array, y: Array, doubt: Array | None = None) -> str:
        """Take the sample in; says what of it lies outside of the calibrated region."""
        outside = ""
        if self.watch is not None and self.observer.ready:
            outside = self.watch.check(u, self._output_error(y)).message
        before, self._came_from = self.observer.certified, (self.observer.state, u)
        self.disturbance.advance(u)
        self.observer.update(u, y, doubt=self._span if self._doubted else doubt)
        self._doubted = False
        if self._recalled is not None:  # nothing is known of an estimate that follows, or is, an uncertified one
            if before and self.observer.certified:
                self._recalled.advance()
            else:
                self._recalled.reset()
        self._previous, self._age = read_only(u), self._age + 1
        return outside
