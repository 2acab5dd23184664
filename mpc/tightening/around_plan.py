"""Tightening for a single plan, from a tube certificate around its trajectory.

Around a known trajectory the slopes of the neurons are known more precisely, which makes the certified part smaller.
The state estimate and the planned inputs are the nominal trajectory of a `TubeCertificate`. The model's true state is
within the observer's certified error of the estimate, the true inputs within input and command errors of the planned
ones: both lie in the tube, so that the certificate's bounds take the place of those for all trajectories. The result
holds for this plan only. After a solve it gives the margin that the plan really needs; a controller that solves with it
has to check the new plan again, since that is another trajectory.
"""

from __future__ import annotations

import numpy as np

from controlrnn.certification import TubeCertificate, certify_around
from controlrnn.checks import Array, as_array
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import told_apart
from controlrnn.records import digest
from controlrnn.typed import typed
from mpc.calibration.model_error import ModelError
from mpc.observers.base import Observer
from mpc.tightening.execution_part import NOT_COUNTED
from mpc.tightening.premises import calibrated_premises
from mpc.tightening.tightening import Tightening


@typed()
def certify_plan(
    x: Array, plan: Array, *, observer: Observer, near: TubeCertificate | None = None, iterations: int = 5
) -> TubeCertificate:
    """Certify bounds on the effect of the observer's error and of input errors on the predictions of one plan.

    Args:
        x: State estimate, shape (nx,).
        plan: Planned inputs, shape (N, nu); the last one is held, as in `Predictor.predict`.
        observer: The controller's observer, which states its error.
        near: A certificate for another plan of this length and the same observer, e.g. that of the last sample, whose
            multipliers are adapted instead of searched for.
        iterations: Iterations of that adaptation, see `TubeCertificate.around`; 0 takes the multipliers as they are.

    Raises:
        ShapeError, DataError: ``x`` or ``plan`` does not fit.
        SettingError: ``near`` is for other errors.
        CertificationError: Nothing could be proven.
    """
    u = _held(plan, observer)
    error, inputs = observer.error, observer.prediction_input_error
    if near is None:
        return certify_around(
            observer.system, x, u, initial_radius=error.radius, metric=error.metric, input_radius=inputs
        )
    if not (error.needed_in(near.metric) <= near.initial_radius and (inputs <= near.input_radius).all()):
        raise SettingError(
            "near must cover the observer's error, input and command errors: certify the first plan without it"
        )
    return near.around(observer.system, x, u, iterations=iterations)


@typed()
def tighten_around(
    model_error: ModelError, certificate: TubeCertificate, *, observer: Observer, x: Array, plan: Array
) -> Tightening:
    """Tightening for one plan, from the calibrated model error and a tube certificate.

    Args:
        model_error: From `mpc.calibrate`.
        certificate: From `certify_plan`; verified here.
        observer: The controller's observer.
        x: State estimate that the plan starts from, shape (nx,).
        plan: Planned inputs, shape (N, nu).

    Returns:
        A tightening whose `digests` name the plan, as `plan_digest` does.

    Raises:
        SettingError: The parts belong to different models or plans, or the horizon is too short.
        CertificationError: The certificate does not hold or covers too little.
    """
    system, u = observer.system, _held(plan, observer)
    if not system.digest == model_error.system_digest == certificate.system_digest:
        raise SettingError("model_error, certificate and observer belong to different models: use one of them")
    if not (np.array_equal(certificate.x0, x) and np.array_equal(certificate.u, u)):
        raise SettingError("the certificate is for another plan: certify_plan(x, plan, observer=observer)")
    if certificate.horizon < model_error.horizon:
        raise SettingError(
            f"the plan must cover the horizon {model_error.horizon} of the model error, got {certificate.horizon}"
        )
    radius, inputs = observer.error.needed_in(certificate.metric), observer.prediction_input_error
    if not (radius <= certificate.initial_radius and (inputs <= certificate.input_radius).all()):
        needed, got = told_apart(radius, certificate.initial_radius)
        raise CertificationError(
            f"the certificate must cover the observer's error {needed} and its input and command errors {inputs}, "
            f"got {got} and {certificate.input_radius}: certify_plan with this observer"
        )
    # The disturbance estimate is averaged from errors of another observer, or of one with wrong inputs.
    other = model_error.observer_digest != observer.digest or bool(inputs.any())
    filtered = model_error.disturbance_gain is not None and other
    if filtered and (system.D21 != 0).any():
        raise SettingError(
            "the disturbance estimate averages output errors of the past, whose slopes this plan does not tell: "
            "calibrate with this observer and exact inputs, or without disturbance feedback"
        )
    certificate.verify(system)
    bounds = certificate.bounds[: model_error.horizon + 1]
    return Tightening(
        model_error=model_error.bounds,
        # Without neurons in the output the bound at step 0 is that of any state (see `mpc.tighten`).
        reinitialisation=bounds + bounds[0] if filtered else bounds,
        input_error=np.zeros_like(bounds),
        disturbance_gain=model_error.disturbance_gain,
        promise=(
            f"for this plan alone: deterministic given the model error, which {model_error.promise}; state estimate: "
            f"{observer.promise}; {NOT_COUNTED}"
        ),
        digests={
            "system": system.digest,
            "model_error": model_error.digest,
            "observer": observer.digest,
            "certificate": certificate.digest,
            "plan": plan_digest(x, plan),
        },
        premises=calibrated_premises(model_error, observer),
    )._made()


@typed()
def plan_digest(x: Array, plan: Array) -> str:
    """SHA-256 of a state estimate (nx,) and planned inputs (N, nu).

    Args:
        x: State estimate.
        plan: Planned inputs.
    """
    return digest({"x": np.asarray(x, dtype=np.float64), "plan": np.asarray(plan, dtype=np.float64)}, {})


def _held(plan: Array, observer: Observer) -> Array:
    u = as_array("plan", plan, ("N", observer.system.nu))
    return np.vstack([u, u[-1:]])
