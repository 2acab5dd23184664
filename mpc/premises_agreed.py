"""One set of premises for all parts of a controller, and for the plant or loop that it is put into."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import channels
from controlrnn.data import Timing
from controlrnn.errors import SettingError
from mpc.observer import Observer
from mpc.ocp import OptimalControlProblem
from mpc.predictor import Predictor
from mpc.premises import Premises, channels_of, premises_of
from mpc.recall import Recall
from mpc.region import OperatingRegion
from mpc.terminal import TerminalSet
from mpc.tightening import NO_CLAIM, Tightening

if TYPE_CHECKING:
    from mpc.closed_loop import Plant
    from mpc.controller import TightenedMPC

_log = logging.getLogger(__name__)


def agreed(
    observer: Observer, predictor: Predictor, tightening: Tightening, terminal: TerminalSet | None,
    recall: Recall | None, region: OperatingRegion | None,
) -> Premises:  # fmt: skip
    """What a controller of these parts rests on.

    Args:
        observer: The observer; the others are compared with it.
        predictor: What plans are made with.
        tightening: The tightening.
        terminal: The terminal set, or None.
        recall: The recall, or None.
        region: The region of calibration, or None.

    Raises:
        SettingError: Two of them rest on different premises; the message names what differs.
    """
    if not predictor.system.digest == observer.system.digest == tightening.digests.get("system"):
        raise SettingError("observer and tightening must be of one model with predictor.system, got other digests")
    own = observer.premises
    premises_of(predictor).refuse_other("the predictor", own, "the observer")
    for what, part in (("the tightening", tightening), ("the terminal set", terminal), ("the recall", recall)):
        if part is not None and part.premises is not None:
            part.premises.refuse_other(what, own, "the observer")
    if not set(tightening.digests) <= NO_CLAIM and tightening.digests.get("observer", observer.digest) != (
        observer.digest
    ):
        raise SettingError("the tightening was made for another observer: tighten with this one")
    if tightening.premises is not None:
        own = tightening.premises
    return own if region is None else own.also(region=region.digest)


def move_limited(premises: Premises, problem: OptimalControlProblem) -> Premises:
    """The premises with the moves that plans ask of the actuators.

    Args:
        premises: Of the controller's parts.
        problem: Its optimal control problem.
    """
    return premises.also(move_limit=problem.move_limit)


def held_to(
    controller: TightenedMPC, plant: Plant, *, input_error: ArrayLike = 0.0, missing: float = 0.0, steps: int = 1
) -> None:
    """Refuse a plant, or a loop, that breaks what the controller rests on before it has begun.

    Args:
        controller: The controller.
        plant: The plant.
        input_error: Bound on |applied - commanded input| in the loop, scalar or (nu,).
        missing: Share of the readings that will be missing.
        steps: Control steps.

    Raises:
        SettingError: Channels, units, sample time, ranges or errors are not those that were declared.
    """
    predictor, own = controller.predictor, controller.premises
    got, expected = (len(plant.inputs), len(plant.outputs)), (predictor.nu, predictor.ny)
    if got != expected or not np.isclose(plant.dt, predictor.dt, rtol=1e-9, atol=0):
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
    _other_records(own, missing, steps)


def _reachable(plant: Plant, predictor: Predictor) -> None:
    """Raise SettingError where the plant's actuators end before the controller's range does."""
    for theirs, mine in zip(plant.inputs, predictor.inputs, strict=True):
        room = 1e-9 * max(abs(mine.lower), abs(mine.upper))
        if np.isfinite([mine.lower, mine.upper]).all() and not (
            theirs.lower <= mine.lower + room and mine.upper - room <= theirs.upper
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
            raise SettingError(
                f"plans move input {plant.inputs[i].name!r} by up to {asked:g} per sample, the plant's actuator "
                f"manages {able[i]:g}: give the controller a move_limit of at most that"
            )


def _other_records(own: Premises, missing: float, steps: int) -> None:
    """Log where a loop is not of the kind of the calibration records."""
    if own.missing is not None and missing > own.missing:
        _log.warning("%g of the readings missing, calibrated with %g: see promise", missing, own.missing)
    if own.length is not None and steps > own.length:
        _log.warning("%d steps, calibrated on records of %d samples: see promise_over", steps, own.length)
