"""Records of the files, and what each of their samples is for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from controlrnn.data import Dataset, Reading, Signal, Timing, Trajectory, read_records
from controlrnn.errors import DataError
from controlrnn.road.file.schema import RoadFile, Split

_log = logging.getLogger(__name__)
PARTS: tuple[Literal["train", "validation", "test", "calibration"], ...] = (
    "train", "validation", "test", "calibration",
)  # fmt: skip
Given = list[tuple[Trajectory, str | None]]


def signals_of(file: RoadFile) -> tuple[tuple[Signal, ...], tuple[Signal, ...]]:
    """Inputs and outputs of a road file with their limits.

    Args:
        file: The road file.
    """
    inputs = tuple(Signal(i.name, i.unit, i.lower, i.upper) for i in file.inputs)
    ends = [(-np.inf if o.lower is None else o.lower, np.inf if o.upper is None else o.upper) for o in file.outputs]
    outputs = tuple(Signal(o.name, o.unit, low, high) for o, (low, high) in zip(file.outputs, ends, strict=True))
    return inputs, outputs


def records_of(file: RoadFile, base: Path) -> Given:
    """Records of all files in the timing of a controller, each with the part that its file names.

    The channels of a record have names and units; their limits are no property of data.

    Args:
        file: The road file.
        base: Folder that paths are relative to.

    Raises:
        DataError: A file is not what it has to be; `read_records` says what.
    """
    inputs, outputs = (tuple(Signal(s.name, s.unit) for s in some) for some in signals_of(file))
    options: dict[str, Any] = file.data.reading.model_dump()
    found: Given = []
    for source in file.data.sources:
        records = read_records(
            base / source.path,
            inputs=inputs,
            outputs=outputs,
            time=file.data.time,
            dt=file.data.dt,
            timing=Timing(file.data.timing),
            reading=Reading(**options),
        )
        found += [(r.measured_first(), source.part) for r in records]
    # A file's header may name units that the road file leaves out: those of the road file count everywhere after.
    return [(replace(r, inputs=inputs, outputs=outputs), part) for r, part in found]


def split(records: Given, plan: Split, *, seed: int, needed: int) -> Dataset:
    """Deal out records: those with a part to that part, the others as the split says.

    Args:
        records: Records, with the part that each is for or None.
        plan: The split.
        seed: Seed of the order in which whole records are dealt out.
        needed: Samples that a calibration record needs.

    Raises:
        DataError: Parts do not fit into the records, or a calibration record is too short.
    """
    parts: dict[str, list[Trajectory]] = {p: [] for p in PARTS}
    for record, part in records:
        if part is not None:
            parts[part].append(record)
    free = [r for r, part in records if part is None]
    for cut in _dealt(free, plan, seed):
        for part in PARTS:
            parts[part] += getattr(cut, part)
    short = [r for r in parts["calibration"] if len(r) < needed]
    if short:
        raise DataError(
            f"calibration records must have at least {needed} samples (promise.washout + control.horizon + 1), got one "
            f"of {min(map(len, short))}: lower split.pieces, or raise split.calibration"
        )
    return Dataset(*(tuple(parts[p]) for p in PARTS))


def _dealt(free: Sequence[Trajectory], plan: Split, seed: int) -> list[Dataset]:
    """Data sets that the records without a part are cut or dealt into."""
    if not free:
        return []
    if plan.by == "time":
        return [Dataset.from_record(r, plan.shares, gap=plan.gap, pieces=plan.pieces) for r in free]
    counts = dealt_counts(len(free), plan)
    return [Dataset.split(free, counts, seed=seed)]


def dealt_counts(n: int, plan: Split) -> list[int]:
    """Number of whole records of each part: the shares, rounded so that they add up and none with a share is empty.

    Args:
        n: Number of records.
        plan: The split.

    Raises:
        DataError: There are fewer records than parts.
    """
    wanted = np.array(plan.shares)
    if n < (wanted > 0).sum():
        raise DataError(
            f'by = "record" needs a record for each of the {int((wanted > 0).sum())} parts, got {n}: by = "time"'
        )
    counts = np.maximum(np.floor(wanted * n).astype(int), wanted > 0)
    while counts.sum() != n:
        gap = wanted * n - counts
        if counts.sum() < n:
            counts[int(np.argmax(gap))] += 1
        else:
            counts[int(np.argmin(np.where(counts > 1, gap, np.inf)))] -= 1
    return [int(c) for c in counts]
