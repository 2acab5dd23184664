"""Frozen systems of every shape that the exports are tested on."""

from __future__ import annotations

import numpy as np
from random_systems import random_elman, random_system

from controlrnn.systems import GatedSystem


def gated(cell: str, *, units: int = 3, feedthrough: bool = False, seed: int = 0) -> GatedSystem:
    """A random gated system with two inputs and two outputs."""
    draw, rows = np.random.default_rng(seed).standard_normal, {"gru": 3, "lstm": 4}[cell] * units
    return GatedSystem(
        W=draw((rows, 2)), U=0.5 * draw((rows, units)), b=draw(rows), C=draw((2, units)), by=draw(2), cell=cell,
        feedthrough=feedthrough, dt=0.1,
    )  # fmt: skip


SYSTEMS = {
    **{f"layers {layers}": random_system(1, layers=layers) for layers in [(), (4,), (2, 3, 1), (1, 1, 1, 1)]},
    **{a: random_system(2, layers=(3, 2), activation=a) for a in ("relu", "sigmoid", "leaky_relu")},
    "one of each": random_system(3, nx=1, nu=1, ny=1, layers=(1,), feedthrough=False),
    "elman": random_elman(4),
    **{cell: gated(cell) for cell in ("gru", "lstm")},
    **{f"{cell} with feedthrough": gated(cell, feedthrough=True) for cell in ("gru", "lstm")},
}
