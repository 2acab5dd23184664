"""Refutation of claims: proofs in ball arithmetic, by runs that a claim covers and that break it (extra ``audit``)."""

from controlrnn.certification.refutation.claims import (
    refute_around,
    refute_contraction,
    refute_contraction_at,
    refute_delta_iss,
    refute_dissipation,
    refute_gains,
    refute_horizon,
    refute_lipschitz,
    slowest_mode,
)
from controlrnn.certification.refutation.reinitialisation import Scenario, refute_reinitialisation
from controlrnn.certification.refutation.trajectories import Pair

__all__ = [
    "Pair",
    "Scenario",
    "refute_around",
    "refute_contraction",
    "refute_contraction_at",
    "refute_delta_iss",
    "refute_dissipation",
    "refute_gains",
    "refute_horizon",
    "refute_lipschitz",
    "refute_reinitialisation",
    "slowest_mode",
]
