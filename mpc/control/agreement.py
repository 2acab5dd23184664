"""One set of premises for all parts of a controller."""

from __future__ import annotations

from controlrnn.errors import SettingError
from mpc.calibration.region import OperatingRegion
from mpc.observers.base import Observer
from mpc.predictor import Predictor
from mpc.problem.ocp import OptimalControlProblem
from mpc.promises.premises import Premises, premises_of
from mpc.tightening.error_memory import Recall
from mpc.tightening.terminal_set import TerminalSet
from mpc.tightening.tightening import NO_CLAIM, Tightening


def agreed(
    observer: Observer,
    predictor: Predictor,
    tightening: Tightening,
    terminal: TerminalSet | None,
    recall: Recall | None,
    region: OperatingRegion | None,
) -> Premises:
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
