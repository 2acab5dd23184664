"""Rows of grey-box fits: parameters with deviations, and how far the training records are out of the laws' ranges."""

from __future__ import annotations

from collections.abc import Sequence

from controlrnn.data import Trajectory
from controlrnn.greybox import GreyBoxFit, beyond_ranges
from experiments.shared.study import Row


def described(fit: GreyBoxFit, records: Sequence[Trajectory]) -> Row:
    """Row of a fit to some records.

    Args:
        fit: The fit.
        records: Those that it was made from, in their order.
    """
    runs = [fit.system.simulate(r.u, x0)[1][:-1] for r, x0 in zip(records, fit.initial_states, strict=True)]
    left = max(float(beyond_ranges(fit.system, x, r.u).max()) for x, r in zip(runs, records, strict=True))
    return {
        "records": len(records), "values": fit.values, "deviations": fit.deviations, "condition": fit.condition,
        "beyond_ranges": left,
    }  # fmt: skip
