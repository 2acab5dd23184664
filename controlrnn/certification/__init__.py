"""Proven bounds on frozen systems: numpy verifies, solvers only suggest."""

from controlrnn.certification.attack import Attack, attack_horizon
from controlrnn.certification.by_construction import Construction, certificate_from, certify_by_construction
from controlrnn.certification.certificate import Certificate, load_certificate
from controlrnn.certification.contraction import ContractionCertificate, certify_contraction
from controlrnn.certification.dissipation import DissipationCertificate
from controlrnn.certification.horizon import HorizonCertificate, Method, certify_horizon
from controlrnn.certification.l2_gain import L2GainCertificate

__all__ = [
    "Attack",
    "Certificate",
    "Construction",
    "ContractionCertificate",
    "DissipationCertificate",
    "HorizonCertificate",
    "L2GainCertificate",
    "Method",
    "attack_horizon",
    "certificate_from",
    "certify_by_construction",
    "certify_contraction",
    "certify_horizon",
    "load_certificate",
]
