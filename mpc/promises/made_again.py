"""Verification of stored results: recompute them from their sources and refuse differences.

A checksum shows that a file was not damaged, not who wrote it. A result that follows from certificates and a
calibration can be recomputed from them by the same few float64 operations, and must agree up to the rounding of another
processor. A user who does so trusts the model error (a statistical statement about records) and nothing else in the
file. A guaranteed controller takes only what this program made or verified itself, or was told to trust: see
`MadeAgain`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Self

import numpy as np

from controlrnn.checks import Array, put
from controlrnn.errors import CertificationError
from controlrnn.records import Stored

Words = Mapping[str, str | float | None]

# Relative tolerance: about a hundred times the rounding of the few sums that results consist of.
SAME = 1e-12
_VERIFIED, _TRUSTED = "verified", "trusted"


class MadeAgain(Stored):
    """Base of the results that guaranteed limits rest on; unusable until made, verified or trusted by this program.

    The mark that says so is no field: a file does not hold it, and `dataclasses.replace` drops it. It names the numbers
    that were verified: a copy keeps it, one that was changed does not.
    """

    _mark = ("", "")

    @property
    def verified(self) -> bool:
        """Whether this program made it, or verified it against what it was made of."""
        return self._mark == (_VERIFIED, self.digest)

    def on_trust(self) -> Self:
        """A copy that controllers take unverified, for a file whose maker is known: that of a signed folder, say."""
        trusted = copy.copy(self)
        if not self.verified:
            put(trusted, _mark=(_TRUSTED, self.digest))
        return trusted

    def _made(self, *sources: MadeAgain | None) -> Self:
        """Itself, marked as made just now from ``sources``: verified if they are, trusted if they are no more."""
        given = [one for one in sources if one is not None]
        if all(one.verified for one in given):
            put(self, _mark=(_VERIFIED, self.digest))
        elif all(one.usable for one in given):
            put(self, _mark=(_TRUSTED, self.digest))
        return self

    @property
    def usable(self) -> bool:
        """Whether guaranteed limits may rest on it: made, verified, or declared trusted, by this program."""
        return self._mark in ((_VERIFIED, self.digest), (_TRUSTED, self.digest))


def refuse_unverified(**parts: MadeAgain | None) -> None:
    """Raise CertificationError for a part that nobody vouches for; None is no part.

    Args:
        parts: By what they are called.
    """
    for name, part in parts.items():
        if part is not None and not part.usable:
            raise CertificationError(
                f"the {name} was read from a file or changed, and not verified since, so that nothing is guaranteed: "
                f"call {name}.verify(...) with what it was made of, or pass {name}.on_trust() if you know who made it"
            )


def refuse_other(what: str, claimed: Mapping[str, Array], made: Mapping[str, Array]) -> None:
    """Raise CertificationError unless all claimed arrays agree with the recomputed ones.

    Args:
        what: Name of the stored result, for the message.
        claimed: Its arrays by name.
        made: The same arrays, recomputed from the sources.
    """
    for name in [*made, *(n for n in claimed if n not in made)]:
        if name not in claimed or name not in made:
            raise CertificationError(
                f"{what} {'lacks' if name in made else 'has'} {name}, unlike what its sources give: it was altered, or "
                "made from others; make it anew"
            )
        found, own = claimed[name], made[name]
        if np.shape(found) != np.shape(own):
            raise CertificationError(
                f"{what} claims {name} of shape {np.shape(found)}, its sources give {np.shape(own)}"
            )
        wrong = ~np.isclose(found, own, rtol=SAME, atol=0.0)
        if wrong.any():
            where = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise CertificationError(
                f"{what} claims {name} = {np.asarray(found)[where]:.6g} at {where}, its sources give "
                f"{np.asarray(own)[where]:.6g}: it was altered, or made from others; make it anew",
                margin=float(np.asarray(found)[where] - np.asarray(own)[where]),
            )


def refuse_other_words(
    what: str, claimed: Mapping[str, str | float | None], made: Mapping[str, str | float | None]
) -> None:
    """Raise CertificationError unless all texts and numbers equal the recomputed ones; arguments as `refuse_other`."""
    for name in [*made, *(n for n in claimed if n not in made)]:
        if name not in claimed or name not in made or claimed[name] != made[name]:
            raise CertificationError(
                f"{what} names another {name} than the parts given ({str(claimed.get(name))[:60]!r}, expected "
                f"{str(made.get(name))[:60]!r}): it was altered, or made from others; make it anew"
            )
