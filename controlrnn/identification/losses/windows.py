"""Random windows from several records of any lengths, with every position equally likely."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from controlrnn.checks import Array
from controlrnn.data import Scaler, Trajectory
from controlrnn.errors import DataError
from controlrnn.identification.losses.base import Batch


class Windows:
    """Source of random batches: holds the scaled records and the initial states of windows.

    Args:
        records: Training records, physical units.
        length: Samples per window.
        inputs: Scaler of u.
        outputs: Scaler of y.
        nx: Number of states.
        dtype: Precision of the tensors.

    Raises:
        DataError: A record is shorter than a window.
    """

    def __init__(
        self, records: Sequence[Trajectory], length: int, inputs: Scaler, outputs: Scaler, nx: int, dtype: torch.dtype
    ) -> None:
        short = [f"{i} ({r.name!r}, {len(r)} samples)" for i, r in enumerate(records) if len(r) < length]
        if short:
            raise DataError(
                f"every training record must hold a window of {length} samples, got shorter record(s) "
                f"{', '.join(short)}: lower window or drop them"
            )
        self._u = torch.as_tensor(np.concatenate([inputs.apply(r.u) for r in records]), dtype=dtype)
        self._y = torch.as_tensor(np.concatenate([outputs.apply_measured(r.y) for r in records]), dtype=dtype)
        # All records in one array; a window may start wherever it ends within the same record.
        offsets = np.cumsum([0, *(len(r) for r in records)])[:-1]
        starts = [np.arange(len(r) - length + 1) + a for r, a in zip(records, offsets, strict=True)]
        self._starts = torch.as_tensor(np.concatenate(starts))
        self._span = torch.arange(length)
        self._x = self._u.new_zeros(len(self._u), nx)

    def carry(self, states: Sequence[Array]) -> None:
        """Set the initial states of windows, zero before, to these states (T + 1, nx) of each record."""
        self._x = torch.as_tensor(np.concatenate([x[:-1] for x in states]), dtype=self._x.dtype)

    def draw(self, size: int, rng: torch.Generator, step: int) -> Batch:
        """Draw a batch of ``size`` windows with replacement."""
        start = self._starts[torch.randint(len(self._starts), (size,), generator=rng)]
        at = start[:, None] + self._span
        return Batch(self._u[at], self._y[at], self._x[start], step)
