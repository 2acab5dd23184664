"""Tightening for a guarded observer: the guard's tightening, and the effect of the distance to the guard's estimate.

With c the guard's estimate, the effect of re-initialisation splits as

    g(x*_k) - g(xhat_k) = [ g(x*_k) - g(c_k) ] + [ g(c_k) - g(xhat_k) ] ,

three runs of the model, the last two under the same inputs. The first bracket is that of the guard, from a certificate
that may start at the beginning of its window; the second starts in a ball of trust times the guard's error. Where the
guard is a plain simulation, no ball is put around its estimate, and the sum is smaller than the effect of a ball of
1 + trust times its error. See also docs/theory/tightening.md.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import told_apart
from controlrnn.typed import typed
from mpc.calibration.model_error import ModelError
from mpc.observers.guarded import GuardedObserver
from mpc.tightening.predictions import refuse_boxes
from mpc.tightening.premises import calibrated_premises
from mpc.tightening.tightening import Tightening, tighten

if TYPE_CHECKING:
    from controlrnn.certification import HorizonCertificate


@typed()
def tighten_guarded(
    model_error: ModelError,
    certificate: HorizonCertificate,
    difference: HorizonCertificate,
    *,
    observer: GuardedObserver,
) -> Tightening:
    """Make the tightening for a guarded observer from its parts, and check that they fit together.

    Args:
        model_error: From `mpc.calibrate`.
        certificate: The certificate that `mpc.tighten` needs for the guard, whose command error is at least the
            observer's, since the first bracket compares runs under true and under commanded inputs.
        difference: Bound on the effect of an initial difference of ``observer.guard_distance``; verified here.
        observer: The controller's observer.

    Raises:
        SettingError: The observer has no guard, the guard allows for smaller command errors, or the parts belong to
            different models.
        CertificationError: A certificate does not hold or covers too little.
    """
    if observer.guard is None or observer.guard_distance is None:
        raise SettingError("tighten_guarded needs an observer with a guard, got none: use tighten")
    if (observer.guard.command_error < observer.command_error).any():
        raise SettingError(
            f"the guard must allow for command errors of {observer.command_error}, got {observer.guard.command_error}: "
            "pass command_error to it as well"
        )
    # First bracket: the guard's own tightening. Second: the certified effect of the distance to its estimate.
    theirs = tighten(model_error, certificate, observer=observer.guard)
    refuse_boxes(difference)
    radius = observer.guard_distance.needed_in(difference.metric)
    if difference.system_digest != model_error.system_digest or difference.horizon < model_error.horizon:
        raise SettingError(
            f"difference must be certified for the calibrated model over {model_error.horizon} steps, got "
            f"{difference.horizon} steps for system {difference.system_digest[:12]}"
        )
    if not radius <= difference.initial_radius:
        needed, got = told_apart(radius, difference.initial_radius)
        raise CertificationError(
            f"difference must cover a radius of {needed}, got {got}: certify with "
            "initial_radius=observer.guard_distance.radius, metric=observer.guard_distance.metric",
            margin=float(difference.initial_radius - radius),
        )
    difference.verify(observer.system)
    more = difference.bounds[: model_error.horizon + 1]
    if model_error.disturbance_gain is not None:
        more = more + more[0]  # the disturbance estimate averages output errors of the guarded estimate
    digests = theirs.digests | {"observer": observer.digest, "difference": difference.digest}
    return replace(
        theirs,
        reinitialisation=theirs.reinitialisation + more,
        digests=digests,
        premises=calibrated_premises(model_error, observer),
    )._made(theirs)
