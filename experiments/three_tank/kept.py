"""Schemas of the files that the study keeps beside models, certificates and results."""

from __future__ import annotations

from controlrnn.records import Count, Numbers, Schema

ATTACK = Schema(
    "attack", 2, meta={"pairs": Count()},
    arrays={"gradient": Numbers("N", "ny", least=0.0), "random": Numbers("N", "ny", least=0.0)},
)  # fmt: skip
REALISED = Schema("realised", 2, arrays={"largest": Numbers("N", "ny", least=0.0, nan=True)})
CLOSED_LOOPS = Schema(
    "closed-loops", 2,
    arrays={
        "y": Numbers("R", "K + 1", "ny"), "u": Numbers("R", "K", "nu"), "reference": Numbers("R", "K + 1", "ny"),
        "errors": Numbers("R", "K", "N", "ny", nan=True), "room": Numbers("R", "K", 2),
    },
)  # fmt: skip
