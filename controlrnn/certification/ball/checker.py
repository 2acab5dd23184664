"""Dispatch of each kind of certificate to its check in ball arithmetic."""

from __future__ import annotations

from typing import Any

from controlrnn.certification.ball.arithmetic import decide, flint
from controlrnn.certification.ball.contraction import check_contraction, check_dissipation
from controlrnn.certification.ball.execution import check_execution
from controlrnn.certification.ball.fields import scalar
from controlrnn.certification.ball.gated import check_delta_iss
from controlrnn.certification.ball.horizon import check_gains, check_horizon, check_lipschitz
from controlrnn.certification.ball.model import Plant
from controlrnn.certification.ball.reinitialisation import check_reinitialisation
from controlrnn.certification.ball.tube import check_tube
from controlrnn.certification.certificate import Certificate
from controlrnn.certification.certificates.contraction import ContractionCertificate
from controlrnn.certification.certificates.delta_iss import DeltaIssCertificate
from controlrnn.certification.certificates.dissipation import DissipationCertificate
from controlrnn.certification.certificates.execution_error import ExecutionError
from controlrnn.certification.certificates.gains import GainCertificate
from controlrnn.certification.certificates.horizon import HorizonCertificate
from controlrnn.certification.certificates.lipschitz import LipschitzCertificate
from controlrnn.certification.certificates.reinitialisation import ReinitialisationCertificate
from controlrnn.certification.certificates.tube import TubeCertificate
from controlrnn.errors import CertificationError
from controlrnn.systems import GatedSystem, LureSystem


def check(certificate: Certificate | ExecutionError, system: Any) -> float:
    """Prove a certificate's claim in ball arithmetic, from its multipliers and nothing else of its making.

    Args:
        certificate: Of any kind, or a bound on rounding.
        system: The frozen system that it speaks of, whose digest has been compared.

    Returns:
        The least relative pivot of the proof, > 0 (for bounds on rounding of the certificates that they rest on); for
        delta-ISS what the rate leaves to one.

    Raises:
        CertificationError: The claim is not proven.
        ModuleNotFoundError: python-flint is missing: install ``controlrnn[audit]``.
    """
    flint()
    expected = GatedSystem if isinstance(certificate, DeltaIssCertificate) else LureSystem
    if not isinstance(system, expected):
        raise CertificationError(
            f"a {_kind(certificate)} speaks of a {expected.KIND}, got a {type(system).__name__}: pass what it was made "
            "of"
        )
    try:
        return decide(lambda: _claim(certificate, system))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        raise CertificationError(
            f"the certificate does not have the form of its kind ({error})", margin=-1.0
        ) from error


def _kind(certificate: Certificate | ExecutionError) -> str:
    return "bound on rounding" if isinstance(certificate, ExecutionError) else certificate.KIND


def _claim(certificate: Certificate | ExecutionError, system: Any) -> float:
    """Prove the claim at the present precision; returns the least relative pivot."""
    padding = getattr(certificate, "padding", None)
    if padding is not None:  # no proof here needs it, but a certificate holds no number that is none
        scalar("padding", padding)
    match certificate:
        case HorizonCertificate():
            return check_horizon(system, certificate)
        case GainCertificate():
            return check_gains(system, certificate)
        case LipschitzCertificate():
            return check_lipschitz(system, certificate)
        case ContractionCertificate():
            return check_contraction(Plant.of(system), certificate)
        case DissipationCertificate():
            return check_dissipation(system, certificate)
        case TubeCertificate():
            return check_tube(system, certificate)
        case ReinitialisationCertificate():
            return check_reinitialisation(system, certificate)
        case DeltaIssCertificate():
            return check_delta_iss(system, certificate)
        case ExecutionError():
            return check_execution(system, certificate)
    raise CertificationError(f"no check is known for a {_kind(certificate)}")
