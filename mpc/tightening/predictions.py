"""Horizon certificates for an observer: bounds on the error of its predictions, and on the effect of its jump.

Both call `controlrnn.certification.certify_horizon` with the arguments that follow from the observer: initial radius,
metric and input radius. The theorem on re-initialisation is that of `mpc.observers.base`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from numpy.typing import ArrayLike

from controlrnn.checks import count, per_channel
from controlrnn.errors import SettingError
from controlrnn.typed import typed
from mpc.observers.base import Observer
from mpc.observers.state_error import StateError

if TYPE_CHECKING:
    from controlrnn.certification import HorizonCertificate


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
            ``observer.prediction_input_error`` when left out, zero for the effect of re-initialisation alone.
        **options: Further arguments of `controlrnn.certification.certify_horizon`, e.g. ``iterations``.

    Raises:
        SettingError: The observer certifies nothing, or the model has feedthrough.
        CertificationError: Nothing could be proven.
    """
    from controlrnn.certification import certify_horizon

    start, ahead = start_of(observer)
    end = ahead + count("horizon", horizon)
    error = observer.prediction_input_error if input_error is None else input_error
    return certify_horizon(
        observer.system,
        end,
        initial_radius=start.radius,
        metric=start.metric,
        input_radius=per_channel("input_error", error, observer.predictor.nu),
        **{"focus": [ahead, end]} | options,
    )


@typed()
def certify_jump(observer: Observer, horizon: int, **options: Any) -> HorizonCertificate:
    """Certify bounds on the effect of one jump of the estimate on a plan's outputs, for `mpc.recursive`.

    Args:
        observer: The controller's observer, with a certified jump.
        horizon: Prediction steps N.
        **options: Further arguments of `controlrnn.certification.certify_horizon`, e.g. ``iterations``.

    Raises:
        SettingError: The observer's jump is not certified, or is zero: then `mpc.recursive` needs no certificate.
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


def start_of(observer: Observer) -> tuple[StateError, int]:
    """Initial error that certificates may start from, and by how many samples it precedes the prediction.

    Args:
        observer: The observer, with a contraction certificate.
    """
    restart = observer.restart
    return (observer.error, 0) if restart is None else (restart, observer.steps)
