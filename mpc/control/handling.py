"""Handling of a controller besides its steps: late readings, start, saving, copies, changes, explanations."""

from __future__ import annotations

import copy
import weakref
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import as_array, read_only
from controlrnn.errors import DataError, InfeasibleError, SettingError
from controlrnn.kernels import output, step
from controlrnn.kernels.dense import length
from controlrnn.records import digest
from mpc.c_tables import ControllerTable
from mpc.control.explanation import explanation
from mpc.control.parts import ControllerParts
from mpc.control.saved_state import restore_into, saved, told
from mpc.control.settings import grouped
from mpc.observers.base import Observer
from mpc.problem.ocp import StepData
from mpc.problem.solver_options import Status
from mpc.safety.fallback import Fallbacks

_HOLDERS: weakref.WeakKeyDictionary[Any, weakref.ref[Any]] = weakref.WeakKeyDictionary()
# Keys of what a state says of itself: digest of the parts that it was saved with, names of its entries, their digest.
_UNDER, _ENTRIES, _CONTENT = "rests on", "entries", "content"


class ControllerHandling(ControllerParts):
    """Mixin of `mpc.TightenedMPC` with the methods of this module."""

    _made: tuple[tuple[Any, ...], dict[str, Any]]

    def __new__(cls, *args: Any, **settings: Any) -> Self:
        """Keep the constructor's arguments, for `change`."""
        made = super().__new__(cls)
        made._made = args, settings
        return made

    def __copy__(self) -> Self:
        """Independent copy that goes on from the present state: nothing that changes is shared."""
        return copy.deepcopy(self)

    def __getstate__(self) -> dict[str, Any]:
        """Attributes for copies and for pickling by multiprocessing, without those that hold bound methods."""
        return {name: value for name, value in vars(self).items() if name != "_fallbacks"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        _renew(self)

    def state(self) -> dict[str, NDArray[Any]]:
        """State of the running controller as arrays; ``np.savez(path, **controller.state())`` saves it."""
        kept = saved(self)
        about = {_UNDER: _parts(self), _ENTRIES: sorted(kept), _CONTENT: digest(kept, {})}
        return {name: np.array(value) for name, value in about.items()} | kept

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        """Restore a saved `state`: the same samples then give bitwise the same inputs.

        Args:
            state: From `state` of a controller of the same parts and settings, or ``np.load`` of one.

        Raises:
            DataError: The state is of a controller of other parts, or not what was saved.
        """
        known = {name: state[name] for name in state}
        if str(known.pop(_UNDER, "")) != _parts(self):
            raise DataError("the state is of a controller of other parts or settings: restore it into the same one")
        _refuse_altered(known)
        twin = copy.deepcopy(self)
        restore_into(twin, known)  # refuses before anything changes
        restore_into(self, known)

    def start_from(self, u_previous: ArrayLike) -> None:
        """Bumpless start: the input that acts now is held while warming up, and moves are counted from it.

        Args:
            u_previous: Input that acts now, shape (nu,), within the actuators' range.

        Raises:
            SettingError: The input is outside the range.
        """
        u, (lower, upper) = as_array("u_previous", u_previous, (self.predictor.nu,)), self.predictor.input_limits()
        if ((u < lower) | (u > upper)).any():
            raise SettingError(f"u_previous must lie within the actuators' range {lower} to {upper}, got {u}")
        if not np.array_equal(u, self.u_previous):  # nobody knows what acted since the last sample, or for how long
            self.move_watch.revise(u, known=False)
            if self.observer._seen:
                self.clear_estimate()
        self._previous = read_only(u)

    def clear_estimate(self) -> None:
        """Reset the state and disturbance estimates and what limits have learnt, e.g. after wrong readings.

        The last input is held until the observer is ready again; set points stay, and so does what is known of inputs
        out of range that may have led the model's state astray (`mpc.observers.straying`).
        """
        self.observer.start_over()
        self.disturbance.reset()
        if self.learnt_errors is not None:
            self.learnt_errors.reset()
        self._plan = None
        self._came_from = None
        self.last_data = None

    def correct(self, age: int, y: ArrayLike) -> None:
        """Pass a late measurement to the observer, before the next `step`; the disturbance estimate does not change.

        Where limits learn from measurements, they are reset if the corrected estimate is further than a certified jump
        from what the last plan expected.

        Raises SettingError where its sample has not been seen, ShapeError where ``y`` does not fit.

        Args:
            age: Samples taken in since its own; 0 for that of the last `step` or `record`.
            y: Measurement, shape (ny,); NaN where missing.
        """
        before = self.observer.state
        self.observer.correct(age, self.premise_watch.late(self._measurement(y)))
        if self.learnt_errors is not None and self.observer.state is not before and not _as_planned(self):
            self.learnt_errors.reset()

    def change(self, **settings: Any) -> None:
        """Change settings of the running controller without a bump; on an error nothing is changed.

        Args:
            settings: Arguments of the constructor, or fields of its records, by name; and ``outputs``: the outputs'
                `Signal` with other limits. Another horizon with a terminal set needs another ``terminal``, and so on,
                as in the constructor.

        Raises:
            SettingError: The constructor refuses the settings.
            InfeasibleError: Hard limits leave no plan from the present state; names the limits, and what would help.
        """
        args, kept = self._made
        # A new controller is built beside this one; only if that succeeds does this one take its place.
        names = dict(zip(("predictor", "observer", "tightening", "tracking"), args, strict=False)) | kept
        outputs = settings.pop("outputs", None)
        observer = copy.deepcopy(self.observer)
        names = grouped(settings, names | {"predictor": self.predictor, "tightening": self.tightening})
        if outputs is not None:
            names["predictor"] = replace(self.predictor, outputs=tuple(outputs))
        observer.predictor = names["predictor"]
        names["observer"] = observer
        memory = saved(observer)
        new = type(self)(**names)
        restore_into(observer, memory)  # the constructor started it anew
        _hand_over(self, new)
        _refuse_without_plan(new)
        del names["observer"]
        new._made = (), names | {"observer": self.observer}
        vars(self).update(vars(new))
        _HOLDERS[self.observer] = weakref.ref(self)
        _renew(self)

    def data_for(self, reference: ArrayLike) -> StepData:
        """Data of the optimal control problem that a step without a new reading would solve; nothing changes.

        Args:
            reference: As in `step`.
        """
        points = copy.copy(self.set_points)  # the controller's own remember the last set point
        present = output(self.predictor.system, self.observer.state, self.u_previous) + self.disturbance.estimate
        return self._data(self.observer.state, points.rows(reference, present, self.horizon + 1))

    def c_table(self) -> ControllerTable:
        """Numbers that C code needs of the controller and of its parts, besides public settings and the solver's."""
        own = self.tightened_limits
        learnt = None if self.learnt_errors is None else self.learnt_errors.c_table()
        lower, upper = self._answers.limits(*own, own if learnt is None else (learnt.lower, learnt.upper))
        wider = own if self._wider is None else self._wider
        wider_lower, wider_upper = self._answers.limits(*wider, wider)
        return ControllerTable(
            lower=lower,
            upper=upper,
            wider_lower=wider_lower,
            wider_upper=wider_upper,
            span=self._span,
            observer=self.observer.c_table(),
            premises=self.premise_watch.c_table(),
            learnt=learnt,
            ranges=self.range_watch.c_table(),
            moves=self.move_watch.c_table(),
        )

    def explain(self) -> str:
        """Text of what the tightening takes of each output's range, what the last plan violates, and what helps."""
        return explanation(self)


def own_observer(observer: Observer, controller: Any) -> Observer:
    """Observer for a controller: the given one, or a fresh copy if another controller uses it already."""
    # Weak references, so that a controller that is gone no longer owns its observer.
    holder = _HOLDERS.get(observer)
    other = None if holder is None else holder()
    if other is not None and other is not controller and getattr(other, "observer", None) is observer:
        observer = copy.deepcopy(observer)
        observer.start()
    _HOLDERS[observer] = weakref.ref(controller)
    return observer


def _as_planned(controller: ControllerParts) -> bool:
    """Whether the estimate is within a certified jump of what the last plan expected."""
    jump = controller.observer.jump
    if jump is None or controller._came_from is None or not controller.observer.certified:
        return False
    away = controller.observer.state - step(controller.predictor.system, *controller._came_from)
    return length(away, jump.metric) <= jump.radius


def _renew(controller: ControllerParts) -> None:
    controller._fallbacks = Fallbacks(controller.problem, controller.safe_input, controller._feasible)


def _parts(controller: ControllerParts) -> str:
    settings = {"observer": controller.observer.digest, "tightening": controller.tightening.digest}
    settings["premises"] = controller.premises.digest
    learnt = controller.learnt_errors
    settings |= {} if learnt is None else {"error_memory": learnt.memory.digest}
    settings |= {} if controller.terminal is None else {"terminal": controller.terminal.digest}
    problem, limits = controller.problem, controller.predictor.input_limits()
    ends = np.array([[signal.lower, signal.upper] for signal in controller.predictor.outputs])
    arrays = {"inputs": np.stack(limits), "outputs": ends, "output_weight": problem.output_weight}
    arrays |= {"moves": problem.input_move_weight, "move_limit": problem.move_limit, "penalty": problem.penalty}
    arrays["prices"] = problem.prices()  # of hard and soft limits, and of ranks
    arrays |= {"terminal_weight": problem.terminal_weight, "safe_input": controller.safe_input}
    meta = {"horizon": controller.horizon, "mode": str(controller.mode), "kind": type(controller).__name__}
    meta |= {"watching": told(controller.premise_watch.watching), "economy": told(problem.economy)}
    meta["filter"] = controller.filter.gain
    solvers = getattr(controller.backend, "backends", (controller.backend,))
    meta["solver"] = [[type(one).__name__, told(getattr(one, "options", None))] for one in solvers]
    return digest(arrays, settings | meta)


def _refuse_altered(known: dict[str, NDArray[Any]]) -> None:
    """Raise DataError unless these are all entries of a state, as they were saved; drops what it says of itself."""
    about = [known.pop(name, None) for name in (_ENTRIES, _CONTENT)]
    entries = None if about[0] is None else {str(name) for name in np.ravel(about[0])}
    for words, names in (
        ("lacks", (entries or {_ENTRIES}) - set(known)),
        ("also holds", set(known) - (entries or set())),
    ):
        if names:
            raise DataError(
                f"the state {words} {', '.join(sorted(names)[:3])}: restore all of one, saved by this version"
            )
    if str(about[1]) != digest(known, {}):
        raise DataError("the state was altered after it was saved: restore it as it was")


def _hand_over(old: ControllerParts, new: ControllerParts) -> None:
    """Copy the state of the old controller to the new one, as far as it applies there."""
    for name in ("_previous", "_age", "_came_from", "_forecast", "_doubted"):
        setattr(new, name, getattr(old, name))
    N = new.horizon
    # Plans and level corrections are cut or extended by their last row to the new horizon.
    if old._plan is not None:
        new._plan = read_only(old._plan[np.minimum(np.arange(N) + old._age, len(old._plan) - 1)])
        new._age = 0
    new.disturbance._beside = old.disturbance._beside
    new.disturbance._estimate = old.disturbance._estimate
    level = old.disturbance._level
    new.disturbance._level = np.vstack([level[np.minimum(np.arange(N + 1), len(level) - 2)], level[-1:]])
    new.set_points._last = old.set_points._last
    for name in ("_lasting", "_reacting", "_time"):
        setattr(new.premise_watch, name, getattr(old.premise_watch, name))
    regions = new.region_watch, old.region_watch
    if regions[0] is not None and regions[1] is not None and regions[0].region is regions[1].region:
        vars(regions[0]).update(vars(regions[1]))
    new.move_watch.take_over(old.move_watch)
    met, before = new.premise_watch.coverage_run, old.premise_watch.coverage_run
    if met is not None and before is not None and met.promise == before.promise:
        vars(met).update(vars(before))
    if new.learnt_errors is not None and old.learnt_errors is not None:
        new.learnt_errors.take_over(old.learnt_errors)


def _refuse_without_plan(new: ControllerParts) -> None:
    if not new.observer.ready or new.problem.soft or new._measured_inputs:
        return
    present = np.full(new.predictor.ny, np.nan)
    data = new.last_data = new._data(new.observer.state, new._reference(present))
    if new.problem.excess(data, new._feasible(data.guess)) <= 0:
        return
    solution = new.backend.solve(data)
    new.backend.reset()  # so that the attempt leaves no trace in a solver with memory
    if solution.feasible or solution.status is Status.SOLVED:
        return
    new._plan = read_only(new._feasible(solution.u))
    raise InfeasibleError(f"no plan keeps the changed limits from here, nothing was changed. {explanation(new)}")
