"""Comparison of the premises of all parts of a controller."""

from __future__ import annotations

from controlrnn.errors import SettingError
from mpc.calibration.region import OperatingRegion
from mpc.observers.base import Observer
from mpc.predictor import Predictor
from mpc.problem.ocp import OptimalControlProblem
from mpc.promises.premises import Premises, premises_of
from mpc.tightening.error_memory import ErrorMemory
from mpc.tightening.terminal_set import TerminalSet
from mpc.tightening.tightening import NO_CLAIM, Tightening

# Sources of what a tightening claims about predictions, beside the growth of recursive plans.
_ABOUT_PREDICTIONS = frozenset({"model_error", "closed_loop_predictions"})


def agreed(
    observer: Observer,
    predictor: Predictor,
    tightening: Tightening,
    terminal: TerminalSet | None,
    memory: ErrorMemory | None,
    region: OperatingRegion | None,
) -> Premises:
    """Premises of a controller, after comparing those of its parts.

    Args:
        observer: The observer; the other parts are compared with it.
        predictor: The predictor of plans.
        tightening: The tightening.
        terminal: The terminal set, or None.
        memory: The error memory, or None.
        region: The region of calibration, or None.

    Raises:
        SettingError: Two of them have different premises, and the message names the differences; or the tightening
            claims something without premises.
    """
    if not predictor.system.digest == observer.system.digest == tightening.digests.get("system"):
        raise SettingError("observer and tightening must be of one model with predictor.system, got other digests")
    if tightening.premises is None and _ABOUT_PREDICTIONS & set(tightening.digests):
        raise SettingError(
            "the tightening promises something about predictions, but not what that rests on (its premises are None): "
            "make it by tighten, or state them, e.g. calibrate_closed_loop(..., premises=controller.premises)"
        )
    own = observer.premises
    premises_of(predictor).refuse_other("the predictor", own, "the observer")
    for what, part in (("the tightening", tightening), ("the terminal set", terminal), ("the error memory", memory)):
        if part is not None and part.premises is not None:
            part.premises.refuse_other(what, own, "the observer")
    if not set(tightening.digests) <= NO_CLAIM and tightening.digests.get("observer", observer.digest) != (
        observer.digest
    ):
        raise SettingError("the tightening was made for another observer: tighten with this one")
    if tightening.premises is not None:
        own = tightening.premises.beside(own)
        if own.region and (region is None or region.digest != own.region):
            raise SettingError(
                "the tightening was calibrated with a controller that watches an operating region, got "
                f"{'none' if region is None else 'another one'}: pass the same to Safety(region=...)"
            )
    if memory is not None and memory.premises is not None:
        own.refuse_other("the tightening", memory.premises, "the error memory")
        own = own.beside(memory.premises)
    return own if region is None else own.also(region=region.digest)


def move_limited(premises: Premises, problem: OptimalControlProblem) -> Premises:
    """Add the move limits of plans to the premises.

    Args:
        premises: Premises of the controller's parts.
        problem: Its optimal control problem.

    Raises:
        SettingError: The tightening was calibrated with other move limits.
    """
    own = Premises(
        system=premises.system,
        dt=premises.dt,
        timing=premises.timing,
        inputs=premises.inputs,
        input_units=premises.input_units,
        move_limit=problem.move_limit,
    )
    premises.refuse_other("the tightening", own, "the controller")
    return premises.also(move_limit=problem.move_limit)
