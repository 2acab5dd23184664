"""Horizon certificates for an observer: bounds on the error of its predictions, and on the effect of its jump.

Both call `controlrnn.certification.certify_horizon` with the arguments that follow from the observer: initial radius,
metric and input radius. The theorem on re-initialisation is that of `mpc.observers.base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, count, per_channel
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import told_apart
from controlrnn.typed import typed
from mpc.calibration.model_error import ModelError
from mpc.observers.base import Observer
from mpc.observers.state_error import StateError

if TYPE_CHECKING:
    from controlrnn.certification import HorizonCertificate, InputError


@typed()
def certify_predictions(
    observer: Observer, horizon: int, *, input_error: ArrayLike | None = None, **options: Any
) -> HorizonCertificate:
    """Certify bounds on the error of predictions that start from the observer's estimate, for `mpc.tighten`.

    Where the estimate is a simulation over the last ``observer.steps`` recorded inputs, these samples and the
    prediction are one horizon, which is tighter than a ball around the estimate in between.

    Args:
        observer: The controller's observer, with a contraction certificate.
        horizon: Prediction steps N.
        input_error: Bound on |true - commanded input|, scalar or shape (nu,);
            what the observer declares when left out, zero for the effect of re-initialisation alone.
        **options: Further arguments of `controlrnn.certification.certify_horizon`, e.g. ``iterations``.

    Raises:
        SettingError: The observer certifies nothing, or the model has feedthrough.
        CertificationError: Nothing could be proven.
    """
    from controlrnn.certification import certify_horizon

    start, ahead = start_of(observer)
    end = ahead + count("horizon", horizon)
    error = (
        input_set(observer) if input_error is None else per_channel("input_error", input_error, observer.predictor.nu)
    )
    return certify_horizon(
        observer.system,
        end,
        initial_radius=start.radius,
        metric=start.metric,
        input_radius=error,
        **{"focus": [ahead, end]} | options,
    )


@typed()
def certify_jump(observer: Observer, horizon: int, **options: Any) -> HorizonCertificate:
    """Certify bounds on the effect of one jump of the estimate on a plan's outputs, for `mpc.make_recursive`.

    Args:
        observer: The controller's observer, with a certified jump.
        horizon: Prediction steps N.
        **options: Further arguments of `controlrnn.certification.certify_horizon`, e.g. ``iterations``.

    Raises:
        SettingError: The observer's jump is not certified, or is zero: then `mpc.make_recursive` needs no certificate.
        CertificationError: Nothing could be proven.
    """
    from controlrnn.certification import certify_horizon

    jump = observer.jump
    if jump is None or jump.radius == 0:
        got = "none" if jump is None else "one of zero"
        raise SettingError(f"observer must have a certified jump above zero, got {got}: {observer.describe()}")
    return certify_horizon(
        observer.system, count("horizon", horizon), initial_radius=jump.radius, metric=jump.metric, **options
    )


def input_set(observer: Observer) -> InputError:
    """Set of true minus commanded inputs that an observer declares.

    Args:
        observer: The observer.
    """
    from controlrnn.certification import InputError, InputErrorKind

    radius, drift = observer.prediction_input_error, observer.input_drift
    if drift is None or not radius.any():
        return InputError(radius=radius)
    if drift.any():
        return InputError(kind=InputErrorKind.RATE_LIMITED, radius=radius, rate=drift)
    return InputError(kind=InputErrorKind.CONSTANT, radius=radius)


def covers_inputs(certificate: HorizonCertificate, observer: Observer) -> bool:
    """Whether a certificate covers the set of input errors that an observer declares.

    Args:
        certificate: The certificate.
        observer: The observer.
    """
    if (certificate.input_radius >= observer.prediction_input_error).all():
        return True  # errors that are others at every sample
    declared, covered = input_set(observer), getattr(certificate, "input_error", None)
    if (
        covered is None
        or not (declared.is_state and covered.is_state)
        or (covered.b < observer.prediction_input_error).any()
    ):
        return False
    return bool((covered.changes >= declared.changes).all())


def start_of(observer: Observer) -> tuple[StateError, int]:
    """Initial error that certificates may start from, and by how many samples it precedes the prediction.

    Args:
        observer: The observer, with a contraction certificate.
    """
    restart = observer.restart
    return (observer.error, 0) if restart is None else (restart, observer.steps)


def checked_part(certificate: HorizonCertificate, model_error: ModelError, observer: Observer) -> Array:
    """Certified part over the prediction, shape (horizon + 1, ny), after checks of the certificate."""
    if certificate.system_digest != model_error.system_digest:
        raise SettingError("certificate and model_error belong to different models: certify the calibrated model")
    refuse_boxes(certificate)
    horizon, ahead = model_error.horizon, 0
    if certificate.horizon < horizon:
        raise SettingError(
            f"certificate must cover the horizon {horizon} of the model error, got {certificate.horizon}"
        )
    # The certificate starts at the prediction, or where it is long enough at the beginning of the washout.
    error, what = observer.error, "observer.error"
    if observer.restart is not None and certificate.horizon >= observer.steps + horizon:
        error, ahead, what = observer.restart, observer.steps, "observer.restart"
    radius = error.needed_in(certificate.metric)
    if not radius <= certificate.initial_radius:
        needed, got = told_apart(radius, certificate.initial_radius)
        raise CertificationError(
            f"the certificate's initial radius must cover the observer's certified error {needed} (in the "
            f"certificate's metric, {ahead} samples before the prediction), got {got}: "
            f"certify with initial_radius={what}.radius, metric={what}.metric",
            margin=float(certificate.initial_radius - radius),
        )
    certificate.verify(observer.system)
    return np.asarray(certificate.bounds[ahead : ahead + horizon + 1])


def refuse_boxes(certificate: HorizonCertificate) -> None:
    """Raise SettingError for a certificate that holds only in boxes, since nothing keeps estimates in them.

    Args:
        certificate: From `certify_horizon`.
    """
    if certificate.input_range.size:
        raise SettingError("the certificate holds in its boxes of inputs and states alone: certify without them")
