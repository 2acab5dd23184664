"""Order statistics with finite-sample guarantees: conformal ranks, tolerance limits, confidence intervals.

Of n + 1 exchangeable scores the last exceeds the r-th smallest of the others with probability <= 1 - r / (n + 1), and
exactly with that where ties have probability zero (Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World",
2005; Lei et al., JASA 2018, theorem 2.2). That is an average over calibration sets. For *this* set, if scores are
independent: the share of new scores below the r-th smallest is at least a Beta(r, n + 1 - r) variable, so that it is
>= c with probability >= P(Binomial(n, c) <= r - 1) (Wilks, Ann. Math. Statist. 1941).

Intervals: Clopper & Pearson (Biometrika 1934) for a single evaluation of independent trials; for one after every trial
Ville's inequality on the mixture martingale of Robbins (Ann. Math. Statist. 1970), with a uniform mixture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import bdtr, betaincinv, betaln

from controlrnn.checks import Array, count, positive
from controlrnn.errors import DataError, SettingError
from controlrnn.typed import typed

_EPS = 1e-9  # tolerance before rounding up, against (n + 1) * coverage = 9.000000000000002


@typed()
def conformal_rank(n: int, coverage: float) -> int:
    """Rank r = ceil((n + 1) coverage): the r-th smallest of n scores bounds a new one with that probability.

    Args:
        n: Number of scores.
        coverage: Wanted probability, in (0, 1), over scores and the new one together.

    Raises:
        SettingError: ``coverage`` is not in (0, 1).
        DataError: n is too small; the message names the least n.
    """
    n = count("n", n, least=0)
    _probability("coverage", coverage)
    rank = max(math.ceil((n + 1) * coverage - _EPS), 1)
    if rank > n:
        raise _too_few(n, coverage, least_number(coverage), n / (n + 1), "")
    return rank


@typed()
def confident_rank(n: int, coverage: float, confidence: float) -> int:
    """Least rank of n independent scores that bounds a share >= ``coverage`` of new ones with ``confidence``.

    Args:
        n: Number of scores.
        coverage: Share of new scores to be bounded, in (0, 1).
        confidence: Probability, in (0, 1), over the n scores, that the share is that large.

    Raises:
        SettingError: A probability is not in (0, 1).
        DataError: n is too small; the message names the least n.
    """
    n = count("n", n, least=0)
    _probability("coverage", coverage)
    _probability("confidence", confidence)
    # P(at most r - 1 of n scores lie among the share `coverage` of the smallest ones), for r = 1..n.
    enough = bdtr(np.arange(n), n, coverage) >= confidence - 1e-12
    if not enough.any():
        least, words = least_number(coverage, confidence), f" with confidence {confidence:g}"
        raise _too_few(n, coverage, least, (1 - confidence) ** (1 / n) if n else 0.0, words)
    return int(np.argmax(enough)) + 1


def rank_of(n: int, coverage: float, confidence: float | None = None) -> int:
    """Rank by `conformal_rank`, or by `confident_rank` if a confidence is given.

    Args:
        n: Number of scores.
        coverage: Wanted probability, in (0, 1).
        confidence: Confidence over calibration sets; None for the average over them.
    """
    return conformal_rank(n, coverage) if confidence is None else confident_rank(n, coverage, confidence)


def least_number(coverage: float, confidence: float | None = None) -> int:
    """Least number of scores that `rank_of` finds a rank for.

    Args:
        coverage: Wanted probability, in (0, 1).
        confidence: Confidence over calibration sets; None for the average over them.

    Raises:
        SettingError: A probability is not in (0, 1).
    """
    _probability("coverage", coverage)
    needed = coverage / (1 - coverage)
    if confidence is not None:
        needed = math.log1p(-_probability("confidence", confidence)) / math.log(coverage)
    return max(math.ceil(needed - _EPS), 1)


def pooled_quantile(groups: Sequence[Array], coverage: float) -> float:
    """Quantile of grouped scores that bounds a random score of a new group with probability >= ``coverage``.

    Each of n groups has weight 1 / (n + 1), spread evenly over its scores; the rest of the weight lies at infinity.
    Groups are exchangeable, scores within a group may depend on each other in any way (Lee, Barber & Willett,
    "Distribution-free inference with hierarchical data", 2023; Dunn, Wasserman & Ramdas, JASA 2023). Proof: with the
    new group in the place of infinity, the quantile covers a random score of a random group; infinity only raises it.

    Args:
        groups: One array of scores per trajectory, shape (starts,), not empty.
        coverage: Wanted probability, in (0, 1).

    Raises:
        SettingError: ``coverage`` is not in (0, 1).
        DataError: There are too few groups.
    """
    n = len(groups)
    conformal_rank(n, coverage)  # the same number of groups is needed
    scores = np.concatenate([np.ravel(g) for g in groups])
    weights = np.concatenate([np.full(np.size(g), 1 / (np.size(g) * (n + 1))) for g in groups])
    order = np.argsort(scores)
    reached = np.cumsum(weights[order]) >= coverage - _EPS
    return float(scores[order][np.argmax(reached)])


@typed()
def clopper_pearson(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval for a probability from independent trials, valid for a single evaluation.

    Args:
        successes: Trials that succeeded.
        n: Trials; with none the interval is (0, 1).
        confidence: Probability with which the interval contains the true value, at least.

    Raises:
        SettingError: The counts do not fit, or ``confidence`` is not in (0, 1).
    """
    successes, n, tail = _counts(successes, n, confidence)
    lower = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, tail / 2))
    upper = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - tail / 2))
    return lower, upper


@typed()
def anytime_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Confidence interval for a probability, valid after every trial simultaneously, however often it is evaluated.

    The trials need not be independent: it is enough that each succeeds with the same probability whatever went before.

    Args:
        successes: Trials that succeeded so far.
        n: Trials so far; with none the interval is (0, 1).
        confidence: Probability with which all intervals ever given contain the true value, at least.

    Raises:
        SettingError: The counts do not fit, or ``confidence`` is not in (0, 1).
    """
    successes, n, tail = _counts(successes, n, confidence)
    if n == 0:
        return 0.0, 1.0
    failures, most = n - successes, -math.log(tail)

    def evidence(p: float) -> float:
        """Logarithm of the martingale against p, minus the threshold that it exceeds with probability <= ``tail``."""
        likely = successes * math.log(p) + failures * math.log1p(-p)
        return float(betaln(successes + 1, failures + 1)) - likely - most

    from scipy.optimize import brentq  # takes longer to import than the rest of this package

    # The evidence is zero at both ends of the interval and negative between them.
    middle, edge = min(max(successes / n, 1e-12), 1 - 1e-12), 1e-15
    lower = 0.0 if evidence(edge) <= 0 else float(brentq(evidence, edge, middle))
    upper = 1.0 if evidence(1 - edge) <= 0 else float(brentq(evidence, middle, 1 - edge))
    return lower, upper


def _probability(name: str, value: float) -> float:
    if not positive(name, value) < 1:
        raise SettingError(f"{name} must lie in (0, 1), got {value!r}")
    return value


def _counts(successes: int, n: int, confidence: float) -> tuple[int, int, float]:
    successes, n = count("successes", successes, least=0), count("n", n, least=0)
    if successes > n:
        raise SettingError(f"successes must be <= n = {n}, got {successes}")
    return successes, n, 1 - _probability("confidence", confidence)


def _too_few(n: int, coverage: float, least: int, most: float, words: str) -> DataError:
    # Rounded down, so that the advised coverage is accepted; at least one digit that is not zero is kept.
    digits = 3 if most >= 1e-2 else 3 - math.floor(math.log10(most)) if most > 0 else 0
    advice = math.floor(most * 10**digits + 1e-9) / 10**digits
    ask = f", or ask for at most {advice:.{digits}f}" if advice > 0 else ""
    return DataError(
        f"coverage {coverage:g}{words} needs at least {least} calibration trajectories, got {n}: record more{ask}"
    )
