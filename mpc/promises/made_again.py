"""Verification of stored results: recompute them from their sources and refuse differences.

A checksum shows that a file was not damaged, not who wrote it. A result that follows from certificates and a
calibration can be recomputed from them by the same few float64 operations, and must agree up to the rounding of another
processor. A user who does so trusts the model error (a statistical statement about records) and nothing else in the
file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import CertificationError

Words = Mapping[str, str | float | None]

# Relative tolerance: about a hundred times the rounding of the few sums that results consist of.
SAME = 1e-12


def refuse_other(what: str, claimed: Mapping[str, Array], made: Mapping[str, Array]) -> None:
    """Raise CertificationError unless all claimed arrays agree with the recomputed ones.

    Args:
        what: Name of the stored result, for the message.
        claimed: Its arrays by name.
        made: The same arrays, recomputed from the sources.
    """
    for name, own in made.items():
        found = claimed[name]
        if np.shape(found) != np.shape(own):
            raise CertificationError(f"{what} claims {name} of shape {np.shape(found)}, its sources give {own.shape}")
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
