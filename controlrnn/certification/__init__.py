"""Certificates: proven bounds on frozen systems, with the searches that find and the attacks that test them.

Attacks need torch, which takes seconds to import; they are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from controlrnn.certification.certificate import Certificate, Rigour, load_certificate
from controlrnn.certification.certificates.by_construction import (
    Construction,
    certificate_from,
    certify_by_construction,
)
from controlrnn.certification.certificates.contraction import ContractionCertificate, certify_contraction
from controlrnn.certification.certificates.delta_iss import DeltaIssCertificate, certify_delta_iss
from controlrnn.certification.certificates.dissipation import DissipationCertificate
from controlrnn.certification.certificates.execution_error import ExecutionError, execution_error
from controlrnn.certification.certificates.gains import GainCertificate, certify_gains
from controlrnn.certification.certificates.horizon import HorizonCertificate, Method, certify_horizon
from controlrnn.certification.certificates.l2_gain import L2GainCertificate, certify_l2_gain
from controlrnn.certification.certificates.lipschitz import LipschitzCertificate, certify_lipschitz
from controlrnn.certification.certificates.reinitialisation import ReinitialisationCertificate, certify_reinitialisation
from controlrnn.certification.certificates.tube import TubeCertificate, certify_around
from controlrnn.certification.input_error import InputError, InputErrorKind
from controlrnn.certification.proof.intervals import local_slopes

if TYPE_CHECKING:
    from controlrnn.certification.attacks.horizon import Attack, GainAttack, attack_horizon, attack_l2_gain
    from controlrnn.certification.attacks.tube import attack_around

__all__ = [
    "Attack",
    "Certificate",
    "Construction",
    "ContractionCertificate",
    "DeltaIssCertificate",
    "DissipationCertificate",
    "ExecutionError",
    "GainAttack",
    "GainCertificate",
    "HorizonCertificate",
    "InputError",
    "InputErrorKind",
    "L2GainCertificate",
    "LipschitzCertificate",
    "Method",
    "ReinitialisationCertificate",
    "Rigour",
    "TubeCertificate",
    "attack_around",
    "attack_horizon",
    "attack_l2_gain",
    "certificate_from",
    "certify_around",
    "certify_by_construction",
    "certify_contraction",
    "certify_delta_iss",
    "certify_gains",
    "certify_horizon",
    "certify_l2_gain",
    "certify_lipschitz",
    "certify_reinitialisation",
    "execution_error",
    "load_certificate",
    "local_slopes",
]

_ON_USE = {
    "Attack": "horizon",
    "GainAttack": "horizon",
    "attack_around": "tube",
    "attack_horizon": "horizon",
    "attack_l2_gain": "horizon",
}


def __getattr__(name: str) -> Any:
    if name not in _ON_USE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.attacks.{_ON_USE[name]}"), name)
