"""Empirical coverage of a promise, with a confidence interval for the probability.

Independent loops that are evaluated once get the interval of Clopper and Pearson. Stretches of one operation are
evaluated while it goes on: their interval holds at all times simultaneously, if each stretch is inside with the same
probability whatever went before (`mpc.promises.order_statistics`). Single steps get none: they depend on each other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import count
from controlrnn.typed import typed
from mpc.promises.order_statistics import anytime_interval, clopper_pearson


@dataclass(frozen=True, kw_only=True)
@typed()
class CoverageMet:
    """Number of cases inside a bound, with a confidence interval for the probability.

    Args:
        what: Name of the cases, in the plural.
        inside: Number of cases inside.
        n: Number of cases.
        lower: Lower end of the interval for the probability of being inside.
        upper: Upper end.
        confidence: Probability with which the interval contains it, at least.
        anytime: Whether the interval is valid at every evaluation of a growing count, or for a single one.
    """

    what: str
    inside: int
    n: int
    lower: float
    upper: float
    confidence: float
    anytime: bool

    @property
    def words(self) -> str:
        """The count as a sentence."""
        premise = "whatever went before, each is as likely inside" if self.anytime else "they are independent"
        return (
            f"{self.inside} of {self.n} {self.what} inside: probability within [{self.lower:.3g}, {self.upper:.3g}] "
            f"with confidence {self.confidence:g}, if {premise}"
        )

    def contradicts(self, promised: float) -> bool:
        """Whether a promise of this probability is refuted, with the interval's confidence.

        Args:
            promised: Probability of being inside, at least.
        """
        return self.upper < promised


def met(what: str, inside: NDArray[np.bool_], *, confidence: float = 0.95, anytime: bool = False) -> CoverageMet:
    """Count the cases that are inside, with a confidence interval for the probability.

    Args:
        what: Name of the cases, in the plural.
        inside: One flag per case, shape (n,).
        confidence: Of the interval, in (0, 1).
        anytime: Whether the count is evaluated repeatedly while n grows.
    """
    hits, n = int(np.sum(inside)), len(inside)
    lower, upper = (anytime_interval if anytime else clopper_pearson)(hits, n, confidence)
    return CoverageMet(what=what, inside=hits, n=n, lower=lower, upper=upper, confidence=confidence, anytime=anytime)


def stretches(inside: NDArray[np.bool_], length: int) -> NDArray[np.bool_]:
    """Whether each complete stretch of ``length`` steps was inside throughout, shape (n // length,).

    Args:
        inside: One flag per step, shape (n,).
        length: Steps per stretch.
    """
    n = len(inside) // count("stretch", length)  # an incomplete stretch at the end is left out
    return np.asarray(inside[: n * length].reshape(n, length).all(axis=1))
