"""Interface of plants in closed loops, and checks that plant and loop fit the controller's premises."""

from __future__ import annotations

import logging
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, channels
from controlrnn.data import Signal, Timing
from controlrnn.data.sampling import same_dt
from controlrnn.errors import SettingError
from controlrnn.portable import told_apart
from mpc.control.controller import TightenedMPC
from mpc.predictor import Predictor
from mpc.promises.premises import Premises, channels_of

_log = logging.getLogger(__name__)


class Plant(Protocol):
    """Protocol of the plants that closed loops run with.

    A plant whose actuators are slow says so with ``move_limit``, their largest change per sample, scalar or shape
    (nu,); one whose inputs act a sample late with ``timing`` (`mpc.DelayedPlant`). One that has C code, for loops at
    its speed, gives it with ``c_code(name)`` and ``nw``; see `mpc.loops.compiled.engine`.
    """

    @property
    def dt(self) -> float:
        """Sample time [s]."""

    @property
    def inputs(self) -> tuple[Signal, ...]:
        """Inputs with limits."""

    @property
    def outputs(self) -> tuple[Signal, ...]:
        """Outputs with limits."""

    @property
    def nx(self) -> int:
        """Number of states."""

    def initial_state(self) -> Array:
        """State at the start of a run, shape (nx,)."""

    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """State one sample later, shape (nx,), under input u (nu,) and disturbance w (nw,)."""

    def output(self, x: Any, u: Any) -> Any:
        """Output without noise, shape (ny,), at state x (nx,) while input u (nu,) acts."""


def held_to(
    controller: TightenedMPC,
    plant: Plant,
    *,
    input_error: ArrayLike = 0.0,
    input_drift: ArrayLike | None = None,
    missing: float = 0.0,
    steps: int = 1,
) -> None:
    """Raise SettingError for a plant or a loop that violates the controller's premises before it has begun.

    Args:
        controller: The controller.
        plant: The plant.
        input_error: Bound on |applied - commanded input| in the loop, scalar or (nu,).
        input_drift: How much these errors change from sample to sample in the loop; None: by anything.
        missing: Share of the readings that will be missing.
        steps: Control steps.

    Raises:
        SettingError: Channels, units, sample time, ranges or errors are not those that were declared.
    """
    predictor, own = controller.predictor, controller.premises
    got, expected = (len(plant.inputs), len(plant.outputs)), (predictor.nu, predictor.ny)
    if got != expected or not same_dt(plant.dt, predictor.dt):
        raise SettingError(
            f"the plant must have the model's (nu, ny, dt) = {(*expected, predictor.dt)}, got {(*got, plant.dt)}"
        )
    of_plant = Premises(
        system=own.system,
        dt=own.dt,
        timing=getattr(plant, "timing", Timing.MEASURED_FIRST),
        **channels_of(plant.inputs, "input"),
        **channels_of(plant.outputs, "output"),
    )
    of_plant.refuse_other("the plant", own, "the controller")
    _reachable(plant, predictor)
    _fast_enough(plant, controller)
    declared = controller.observer.prediction_input_error
    actual = channels("input_error", input_error, predictor.nu)
    if "certificate" in controller.tightening.digests and (actual > declared * (1 + 1e-12)).any():
        raise SettingError(
            f"input_error must stay within what the observer declares (input_error + command_error), {declared}, got "
            f"{actual}: declare it there, and tighten anew (to break a premise on purpose, use faults)"
        )
    slowest = controller.observer.input_drift
    if slowest is not None:
        drift = 2 * actual if input_drift is None else channels("input_drift", input_drift, predictor.nu)
        drift = np.minimum(drift, 2 * actual)
        # At an end of the actuator's range an error that points outwards is cut off, and is back once the input leaves.
        ends = zip(plant.inputs, *predictor.input_limits(), actual, strict=True)
        cut = np.array([not (s.lower <= low - e and high + e <= s.upper) for s, low, high, e in ends])
        drift = np.where(cut, np.maximum(drift, actual), drift)
        if (drift > slowest * (1 + 1e-12)).any():
            raise SettingError(
                f"input errors must change no faster than the observer declares (input_drift), {slowest}, got {drift}: "
                "pass Disturbances(input_drift=...), declare it, or give the controller a range that is narrower than "
                "the plant's by the errors, which are cut off at its ends"
            )
    _other_records(own, missing, steps)


def _reachable(plant: Plant, predictor: Predictor) -> None:
    """Raise SettingError where the plant's actuators do not reach the controller's whole range."""
    for theirs, mine in zip(plant.inputs, predictor.inputs, strict=True):
        tolerance = 1e-9 * max(abs(mine.lower), abs(mine.upper))  # for rounding
        if np.isfinite([mine.lower, mine.upper]).all() and not (
            theirs.lower <= mine.lower + tolerance and mine.upper - tolerance <= theirs.upper
        ):
            raise SettingError(
                f"the plant's input {theirs.name!r} must reach the controller's range [{mine.lower:g}, "
                f"{mine.upper:g}], got [{theirs.lower:g}, {theirs.upper:g}]: give the predictor the actuator's range"
            )


def _fast_enough(plant: Plant, controller: TightenedMPC) -> None:
    """Raise SettingError where plans move inputs further per sample than the plant's actuators can."""
    given = getattr(plant, "move_limit", None)
    if given is None:
        return
    able = channels("the plant's move_limit", given, len(plant.inputs), finite=False)
    for i in controller.problem.chosen:
        asked = min(controller.problem.move_limit[i], controller._span[i])
        if not asked <= able[i] * (1 + 1e-9):
            most, manages = told_apart(float(asked), float(able[i]))
            raise SettingError(
                f"plans move input {plant.inputs[i].name!r} by up to {most} per sample, the plant's actuator "
                f"manages {manages}: give the controller a move_limit of at most that"
            )


def _other_records(own: Premises, missing: float, steps: int) -> None:
    """Log a warning where a loop is not exchangeable with the calibration records."""
    if own.missing is not None and missing > own.missing:
        _log.warning("%g of the readings missing, calibrated with %g: see promise", missing, own.missing)
    if own.length is not None and steps > own.length:
        _log.warning("%d steps, calibrated on records of %d samples: see promise_over", steps, own.length)
