"""Arrays in memory: orientation, types, masks, tensors, frames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlrnn.data import Trajectory
from experiments.bad_data.case import Case, N, refused, right, signals, warned

U, Y = (z[:, None] for z in signals())
HOLE = Y.copy()
HOLE[7] = np.nan
FILLED = Y.copy()
FILLED[7] = -9999.0


def made(u: Any = U, y: Any = Y, dt: Any = 1.0) -> Any:
    """Case of a trajectory from arrays."""
    return lambda _: Trajectory(u, y, dt)


def frame(column: str, values: Any) -> Any:
    """Case of a data frame of which one column is another."""

    def run(_: Path) -> Trajectory:
        import pandas as pd

        table = pd.DataFrame({"u": U[:, 0], "y": Y[:, 0]})
        table[column] = values(table[column])
        return Trajectory.from_frame(table, inputs=["u"], outputs=["y"], dt=1.0)

    return run


def nullable(column: Any) -> Any:
    """Nullable numbers of which one is missing."""
    import pandas as pd

    found = column.astype("Float64")
    found[7] = pd.NA
    return found


def same(r: Trajectory) -> bool:
    """Whether the record holds what was put in."""
    return np.array_equal(r.u, U) and np.array_equal(r.y, Y)


def hole(r: Trajectory) -> bool:
    """Whether one sample is missing and the others are there."""
    return bool(r.missing.sum() == 1 and r.missing[7, 0] and np.array_equal(r.y, HOLE, equal_nan=True))


class OnGpu:
    """What numpy meets when it is given a tensor on a GPU."""

    def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
        """Refuse, as torch does."""
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu()")


STAMPS = np.datetime64("2024-01-01") + np.arange(N).astype("m8[s]")
CASES: list[Case] = [
    refused(
        "time along the second axis, as MATLAB has it",
        made(np.stack([U[:, 0]] * 2), np.stack([Y[:, 0]] * 2)),
        "time first",
        "u.T",
    ),
    refused("one channel without its axis", made(U[:, 0]), "u[:, None]"),
    refused("inputs and outputs of different lengths", made(U[:-1]), "same length"),
    refused("missing inputs", made(HOLE), "u must be finite"),
    right("missing outputs, as NaN", made(y=HOLE), hole),
    refused("an output that was never measured", made(y=np.full((N, 1), np.nan)), "leave that output out"),
    refused("infinite outputs", made(y=np.where(np.isnan(HOLE), np.inf, HOLE)), "infinite value at (7, 0)"),
    refused("a masked array", made(y=np.ma.masked_invalid(HOLE)), "masked", "NaN"),
    right("a list with None for a missing output", made(y=[[None if np.isnan(v) else v] for v in HOLE[:, 0]]), hole),
    warned("a placeholder of a missing sample", made(y=FILLED), lambda r: r.y[7, 0] == -9999.0, "-9999", "put NaN"),
    refused("dates for an input", made(STAMPS[:, None]), "real numbers"),
    refused("durations for an input", made((STAMPS - STAMPS[0])[:, None]), "real numbers"),
    refused("complex numbers", made(U + 0j), "real numbers"),
    refused("texts", made(U.astype(str)), "real numbers"),
    refused("a ragged list", made([[1.0]] * (N - 1) + [[1.0, 2.0]]), "array of numbers"),
    refused("a generator", made(row for row in U), "array of numbers"),
    refused("a tensor with a gradient", made(torch.tensor(U, requires_grad=True)), "grad"),
    refused("a tensor on a GPU", made(OnGpu()), "Tensor.cpu()"),
    right("a tensor without a gradient", made(torch.tensor(U), torch.tensor(Y)), same),
    right(
        "big endian, strided, Fortran order",
        made(np.asfortranarray(U.astype(">f8")), np.repeat(Y, 2, axis=1)[:, ::2]),
        same,
    ),
    right("small integers", made(np.arange(N, dtype=np.uint8)[:, None], Y), lambda r: r.u[255 - 56, 0] == 199.0),
    refused("the differences of stamps for a sample time", made(dt=np.diff(np.arange(N))), "dt must be"),
    refused("a sample time in a text", made(dt="0.1"), "dt must be"),
    right("a data frame with nullable numbers", frame("y", nullable), hole),
    refused("a data frame with texts", frame("y", lambda c: [f"{v} m" for v in c]), "into the header"),
    refused("a data frame with complex numbers", frame("y", lambda c: c + 0j), "complex"),
    refused("a data frame with dates", frame("u", lambda _: STAMPS), "dates"),
    refused(
        "an array where a data frame is expected",
        lambda _: Trajectory.from_frame(U, inputs=["u"], outputs=["y"], dt=1.0),
        "data frame",
    ),
]
