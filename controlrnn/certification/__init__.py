"""Proven bounds on frozen systems: numpy verifies, solvers only suggest."""

from controlrnn.certification.attack import Attack, attack_horizon
from controlrnn.certification.certificate import Certificate, load_certificate
from controlrnn.certification.contraction import ContractionCertificate, certify_contraction
from controlrnn.certification.horizon import HorizonCertificate, Method, certify_horizon

__all__ = [
    "Attack",
    "Certificate",
    "ContractionCertificate",
    "HorizonCertificate",
    "Method",
    "attack_horizon",
    "certify_contraction",
    "certify_horizon",
    "load_certificate",
]
