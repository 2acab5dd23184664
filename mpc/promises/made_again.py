"""What a file claims, against what its sources give: the parts are made again and compared.

A checksum shows that a file was not damaged, not who wrote it. What rests on certificates and a calibration can be made
from them again, by the same few float64 operations, and has to come out the same up to the rounding of another
processor. Whoever does so trusts the model error (a statistical statement about records) and nothing else of the file.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import CertificationError

Words = Mapping[str, str | float | None]

# Bounds are stored exactly, and sums of a few of them in one order of operations: a hundred times their rounding.
SAME = 1e-12


def refuse_other(what: str, claimed: Mapping[str, Array], made: Mapping[str, Array]) -> None:
    """Raise CertificationError where a part is not what its sources give.

    Args:
        what: What claims it, for the message.
        claimed: Parts by name.
        made: The same parts, made again.
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
    """Raise CertificationError where a promise, a setting or a source is another one; arguments as `refuse_other`."""
    for name in [*made, *(n for n in claimed if n not in made)]:
        if name not in claimed or name not in made or claimed[name] != made[name]:
            raise CertificationError(
                f"{what} names another {name} than the parts given ({str(claimed.get(name))[:60]!r}, expected "
                f"{str(made.get(name))[:60]!r}): it was altered, or made from others; make it anew"
            )
