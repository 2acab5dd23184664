"""Decisions on claims of papers, by the claim: what the tests of five studies share."""

from experiments.papers.claims import Decision

YES, NO, OPEN = Decision.YES, Decision.NO, Decision.NOT_DECIDED


def decisions(claims):
    """The decision on each claim; no two claims say the same, or a table by claims would lose one."""
    found = {}
    for claim in claims:
        assert claim.claim not in found, f"{claim.claim!r} is claimed twice"
        found[claim.claim] = claim.decided
    return found
