"""Premises of calibrated bounds: those of the observer and those of the records."""

from __future__ import annotations

from mpc.calibration.model_error import ModelError
from mpc.observers.base import Observer
from mpc.promises.premises import Premises


def calibrated_premises(model_error: ModelError, observer: Observer) -> Premises:
    """Premises of a bound calibrated for an observer, after comparing them with those of the records.

    Args:
        model_error: The calibrated part.
        observer: The controller's observer.

    Raises:
        SettingError: The records' channels or sample time are not the observer's.
    """
    own = observer.premises
    if model_error.premises is not None:
        model_error.premises.refuse_other("the model error", own, "the observer")
    return own.also(
        horizon=model_error.horizon, length=model_error.length, missing=model_error.missing, loop=model_error.loop
    )
