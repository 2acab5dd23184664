"""Premises of calibrated bounds: those of the observer and those of the records."""

from __future__ import annotations

from typing import Any

from controlrnn.errors import SettingError
from mpc.calibration.model_error import ModelError
from mpc.observers.base import Observer
from mpc.promises.premises import Premises


def calibrated_premises(model_error: ModelError, observer: Observer) -> Premises:
    """Premises of a bound calibrated for an observer, after comparing them with those of the records.

    Args:
        model_error: The calibrated part.
        observer: The controller's observer.

    Raises:
        SettingError: The records' channels or sample time are not the observer's, or the error is calibrated for slow
            inputs and actuators may move further than they are told.
    """
    own, stated = observer.premises, model_error.premises
    slow: dict[str, Any] = {}
    if stated is not None:
        stated.refuse_other("the model error", own, "the observer")
        if stated.move_window is not None:
            slow = {"move_limit": stated.move_limit, "move_window": stated.move_window}
            if observer.command_error.any():
                raise SettingError(
                    f"the model error is calibrated for moves of recorded inputs, got actuators that miss commands by "
                    f"up to {observer.command_error}: nobody keeps that move limit; calibrate without it"
                )
    # In operation all predictions count, in a record maybe few of them: no more in a row than there are promised.
    length = model_error.length
    if slow:
        length = min(length, model_error.starts + model_error.washout + model_error.horizon)
    records = {"length": length, "missing": model_error.missing, "loop": model_error.loop}
    return own.also(horizon=model_error.horizon, **records, **slow)
