"""Construction of a controller's premise watch, and updates for read-back, missed and late samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array, number
from controlrnn.errors import SettingError
from mpc.control.modes import plan_limits, promises
from mpc.control.parts import ControllerParts
from mpc.observers.straying import led_astray
from mpc.promises.promise import LoopTarget
from mpc.safety.premise_watch import Premise, PremiseWatch, Watching, reading_bounds

MOST_MISSED = 1000  # longest gap in samples that is simulated; after a longer one the observer starts again


def watch_of(controller: ControllerParts, watching: Watching | None) -> PremiseWatch:
    """Make the premise watch of a controller.

    Args:
        controller: The controller, with its problem.
        watching: Settings; the defaults of `Watching` when left out.

    Raises:
        SettingError: The plausibility limits, the safe set point or what is promised do not fit.
    """
    watching, ny = watching or Watching(), controller.predictor.ny
    if watching.plausibility is not None and len(watching.plausibility.sensors) != ny:
        raise SettingError(
            f"plausibility must know {ny} sensors, got {len(watching.plausibility.sensors)}: one per output"
        )
    if watching.safe_reference is not None:
        as_array("safe_reference", watching.safe_reference, (ny,))
    bounds = reading_bounds(controller.tightening, promises(controller.tightening))
    made = PremiseWatch(watching, controller.predictor, controller.problem, bounds)
    if watching.promised is not None and watching.promised.target is LoopTarget.PREDICTIONS:
        if not promises(controller.tightening):
            raise SettingError("promised is about predictions, of which this tightening says nothing: calibrate one")
        made.promised_bounds = controller.tightening.predictive[0] * (1 + 1e-9)
    return made


def wider_limits(controller: ControllerParts, watching: Watching | None) -> tuple[Array, Array] | None:
    """Lower and upper limits of plans by the wider tightening, each (N + 1, ny); None where there is none.

    Args:
        controller: The controller, with its parts.
        watching: Settings with the wider tightening.

    Raises:
        SettingError: The wider tightening rests on other premises, is not wider, or limits learn from measurements.
    """
    if watching is None or watching.wider is None:
        return None
    wider, N = watching.wider, controller.horizon
    if controller.learnt_errors is not None:
        raise SettingError("wider is for fixed limits, got an error memory as well: leave one out")
    if wider.horizon < N or wider.digests.get("system") != controller.predictor.system.digest:
        raise SettingError(f"wider must be for this model and at least {N} steps, got {wider.horizon}: tighten anew")
    if wider.premises is not None and wider.premises.move_window not in (None, controller.premises.move_window):
        raise SettingError("wider is calibrated for slow inputs, which the tightening is not: calibrate both alike")
    if wider.premises is not None:
        wider.premises.also(length=None, missing=None, loop=None, horizon=None).refuse_other(
            "the wider tightening", controller.premises, "the controller"
        )
    if (wider.total[: N + 1] < controller.tightening.total[: N + 1]).any():
        raise SettingError("wider must be at least the tightening at every step and output: calibrate it with more")
    found = plan_limits(wider, controller.predictor, N, controller.terminal)
    controller._answers.refuse_empty(*found)
    return found


def check_forecast(controller: ControllerParts) -> None:
    """Check that the forecasts of this step are within the inputs' range."""
    if controller._forecast is not None:
        rows = np.tile(controller.safe_input, (len(controller._forecast), 1))  # inside the range, for chosen inputs
        rows[:, controller._measured_inputs] = controller._forecast
        controller.premise_watch.inputs(rows, "forecast of")


def catch_up(controller: ControllerParts, applied: ArrayLike | None, time: float | None) -> None:
    """Update the controller for the input that acted since the last sample, and for missed samples.

    Args:
        controller: The controller.
        applied: Read-back of the last input, shape (nu,), or None.
        time: Time stamp of this sample [s], or None.

    Raises:
        ShapeError: ``applied`` does not fit.
        SettingError: ``time`` is not a finite number.
    """
    watch, commanded = controller.premise_watch, controller._previous
    if applied is None and time is None:
        watch.since(None)
        return
    told = None if applied is None else as_array("applied", applied, (controller.predictor.nu,), finite=False)
    passed, due = watch.since(None if time is None else number("time", time))
    if commanded is None:
        return
    acted = commanded if told is None else np.where(np.isfinite(told), told, commanded)
    acted, absurd = watch.possible(acted)
    # If the sample came early or late, the input may have acted for another time: nothing is known about it.
    doubt = controller._span if absurd or not due else None
    if (acted != commanded).any() or doubt is not None:
        _revise(controller, acted, doubt)
    if passed > MOST_MISSED:
        led_astray(controller.observer, acted, held=True)
        controller.move_watch.revise(acted, known=False)
        controller.clear_estimate()
        watch.tell(Premise.TIME, f"{passed - 1} samples were missed: the observer starts anew")
        return
    for _ in range(passed - 1):  # the actuator is assumed to have held its input
        nothing = np.full(controller.predictor.ny, np.nan)
        watch.tell(Premise.REGION, controller._advance(acted, nothing, doubt=doubt))


def left_ranges(controller: ControllerParts, x: Array, u: Array) -> bool:
    """Whether an estimate and the input that acts from its sample on leave a law's declared range; notes it if so.

    Args:
        controller: The controller.
        x: Estimate, shape (nx,).
        u: Input, shape (nu,).
    """
    words = controller.range_watch.check(x, u)
    controller.premise_watch.tell(Premise.RANGES, words)
    return bool(words)


def _revise(controller: ControllerParts, acted: Array, doubt: Array | None) -> None:
    """Replace the last input by the one that acted, in all parts that depend on it."""
    watch, observer, commanded = controller.premise_watch, controller.observer, controller._previous
    assert commanded is not None
    watch.inputs(acted)
    if controller.region_watch is not None and (acted != commanded).any():
        watch.tell(Premise.REGION, controller.region_watch.revise(acted))
    off = np.abs(acted - commanded)
    wrong = off > observer.command_error + 1e-9 * controller._span
    if wrong.any():
        i = int(np.flatnonzero(wrong)[0])
        label = controller.predictor.inputs[i].label
        doubt = controller._span  # it did something else, or the read-back is wrong
        watch.tell(Premise.ACTUATORS, f"{label} acted as {acted[i]:.4g}, told {commanded[i]:.4g}")
    controller.move_watch.revise(acted, known=doubt is None)
    if controller._came_from is not None and left_ranges(controller, controller._came_from[0], acted):
        doubt = controller._span
    if not observer.revise(acted, doubt=doubt):
        watch.tell(Premise.ACTUATORS, "the estimate is of the command and cannot be made again")
        led_astray(observer, acted)
        controller._doubted = True
    else:
        controller.disturbance.revise(acted)
    if controller.learnt_errors is not None and doubt is not None:
        controller.learnt_errors.reset()
    controller._previous = acted
