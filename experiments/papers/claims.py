"""Claims of papers and how they are decided: yes, no, or not at all where spread or error exceeds the difference.

A claim is turned into *differences* that are positive where it holds, one for each network or seed. With m - h, m + h
the 95 % interval of their mean (Student's t) and e what our own search or simulation may err by,

    yes where m - h > e,     no where m + h < -e,     not decided otherwise, and for fewer than three.

Claims about every case, as of theorems, are decided by all cases together. A published value is met where a half of it
on either side holds our whole interval, and missed where the interval lies outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from scipy.stats import t as student

from experiments.shared.study import Row, Study

_FEWEST = 3  # values without which there is no spread
_CLOSE = 0.5  # share of a published value within which ours is as published


class Decision(StrEnum):
    """Whether data decide a claim, and how."""

    YES = "yes"
    NO = "no"
    NOT_DECIDED = "not decided"


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One row of the table of claims.

    Args:
        paper: Short name of the paper.
        claim: What it says.
        published: The published value as text, with its place.
        ours: Our values, one for each network or seed.
        unit: Unit of ``ours``; empty for numbers without one.
        decided: The decision.
        remark: What a reader has to know beside it.
    """

    paper: str
    claim: str
    published: str
    ours: tuple[float, ...]
    decided: Decision
    unit: str = ""
    remark: str = ""

    def row(self) -> Row:
        """Columns of the table: paper, claim, published, ours (median, spread), decided, remark."""
        return {
            "paper": self.paper, "claim": self.claim, "published": self.published,
            "ours": f"{summary(self.ours)} {self.unit}".strip(), "decided": str(self.decided), "remark": self.remark,
        }  # fmt: skip


def claimed(
    paper: str,
    claim: str,
    published: str,
    ours: Iterable[float | None],
    decided: Decision,
    unit: str = "",
    remark: str = "",
) -> Claim:
    """Make a claim of numbers of any kind; None, where a case has no value, becomes NaN."""
    values = tuple(float("nan") if v is None else float(v) for v in ours)
    return Claim(paper=paper, claim=claim, published=published, ours=values, unit=unit, decided=decided, remark=remark)


def joined(*remarks: str) -> str:
    """Remarks as one, without empty ones."""
    return "; ".join(part for part in remarks if part)


def finish(study: Study, found: Sequence[Claim]) -> int:
    """Make a target of every claim and end the study, with all claims in its results; returns the exit status."""
    for claim in found:
        study.target(claim.claim, claim.published, claim.row()["ours"], claim.decided is Decision.YES)
    return study.finish(claims=[claim.row() for claim in found])


def summary(values: Sequence[float]) -> str:
    """Median and range of values as text."""
    known = np.array([v for v in values if v is not None and np.isfinite(v)], dtype=np.float64)
    if not len(known):
        return "-"
    if len(known) == 1:
        return f"{known[0]:.3g}"
    return f"{np.median(known):.3g} ({known.min():.3g} .. {known.max():.3g})"


def decide(differences: Sequence[float | None], *, error: float = 0.0) -> Decision:
    """Decide a claim from differences that are positive where it holds; see the module docstring.

    Args:
        differences: One for each network or seed; None or NaN where a case has none, which leaves the claim open.
        error: What search or simulation may err by, in the unit of the differences.
    """
    interval = _interval(differences)
    if interval is None:
        return Decision.NOT_DECIDED
    low, high = interval
    if low > error:
        return Decision.YES
    return Decision.NO if high < -error else Decision.NOT_DECIDED


def decide_all(holds: Sequence[bool | None]) -> Decision:
    """Decide a claim about every case: no where one fails, yes where it holds in all; open without any case.

    Args:
        holds: One for each case; None where the case does not tell, as where nothing could be proven.
    """
    if any(case is not None and not case for case in holds):
        return Decision.NO
    return Decision.NOT_DECIDED if None in holds or not len(holds) else Decision.YES


def unrefuted(decision: Decision) -> Decision:
    """The decision on a claim that our numbers can confirm but not refute."""
    return Decision.YES if decision is Decision.YES else Decision.NOT_DECIDED


def settled(decision: Decision, short: str) -> Decision:
    """The decision on a claim about trained models; a training that is too ``short`` (how, or empty) refutes none."""
    return unrefuted(decision) if short else decision


def decide_value(values: Sequence[float | None], published: float) -> Decision:
    """Decide whether our values are as published, within a half of it."""
    interval = _interval(values)
    if interval is None:
        return Decision.NOT_DECIDED
    low, high = interval
    least, most = sorted((published * (1 - _CLOSE), published * (1 + _CLOSE)))
    if least <= low and high <= most:
        return Decision.YES
    return Decision.NO if high < least or low > most else Decision.NOT_DECIDED


def _interval(values: Sequence[Any]) -> tuple[float, float] | None:
    """The 95 % interval of the mean; None where a value is missing or there are too few."""
    known = np.array([np.nan if v is None else v for v in values], dtype=np.float64)
    if len(known) < _FEWEST or not np.isfinite(known).all():
        return None
    half = float(student.ppf(0.975, len(known) - 1)) * float(known.std(ddof=1)) / len(known) ** 0.5
    return float(known.mean()) - half, float(known.mean()) + half
