"""Data sets: whole trajectories, split by what they are used for, so that no record serves two purposes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from controlrnn.checks import as_array, checked_seed, count, items
from controlrnn.data.copies import shared_stretches
from controlrnn.data.sampling import same_dt
from controlrnn.data.trajectory import Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.printing import brief
from controlrnn.typed import typed

_log = logging.getLogger(__name__)
_PARTS = ("train", "validation", "test", "calibration")


def belong_together(records: Sequence[Trajectory]) -> None:
    """Raise ShapeError or DataError unless all records have the same channels, sample time and timing.

    Args:
        records: The records.
    """
    first = records[0]
    for record in records:
        if (record.nu, record.ny) != (first.nu, first.ny):
            raise ShapeError(
                f"all records must have nu, ny = {first.nu}, {first.ny}, got {record.nu}, {record.ny} "
                f"in record {record.name!r}: split the data by plant"
            )
        if not same_dt(record.dt, first.dt):
            raise DataError(
                f"all records must have dt = {first.dt} s, got {record.dt} s in record {record.name!r}: resample it"
            )
        if record.timing is not first.timing:
            raise DataError(
                f"all records must have timing {str(first.timing)!r}, got {str(record.timing)!r} in record "
                f"{record.name!r}: convert it, see Trajectory.measured_first"
            )


@dataclass(frozen=True, eq=False)
class Dataset:
    """Trajectories for training, validation, test and calibration, with the same channels and sample time.

    Args:
        train: Records that the parameters are fitted to; at least one.
        validation: Records on which the best parameters are chosen.
        test: Records that only the final scores use.
        calibration: Records that only the model-error bound uses (`mpc.calibrate`).

    Raises:
        DataError: No training record, records that do not belong together, or two with samples in common: a copy, or
            windows that overlap (`controlrnn.data.copies`). Test records may overlap each other.
    """

    train: tuple[Trajectory, ...]
    validation: tuple[Trajectory, ...] = ()
    test: tuple[Trajectory, ...] = ()
    calibration: tuple[Trajectory, ...] = ()

    __repr__ = brief

    def __post_init__(self) -> None:
        for part in _PARTS:
            value = getattr(self, part)
            records = (value,) if isinstance(value, Trajectory) else items(part, value, Trajectory)
            object.__setattr__(self, part, records)
        if not self.train:
            raise DataError("a dataset needs at least one training trajectory, got none: check the split")
        belong_together(self.all)
        if len({id(record) for record in self.all}) != len(self.all):
            raise DataError("a record stands in two parts of the dataset: each may serve one purpose only")
        self._check_copies()

    def _check_copies(self) -> None:
        """Refuse records of two parts, or of the calibration, that share measurements; log copies in training."""
        part = [name for name in _PARTS for _ in getattr(self, name)]
        for shared in shared_stretches(self.all):
            one, two = (self.all[k].name for k in (shared.first, shared.second))
            a, b = part[shared.first], part[shared.second]
            said = f"records {one!r} ({a}) and {two!r} ({b}) have {shared.samples} samples in common"
            if a != b or a == "calibration":
                raise DataError(f"{said}: each sample may serve one purpose only; leave out copies and overlaps")
            if a != "test":  # a part of a test record may be scored on its own
                _log.warning("%s: they count twice", said)

    @property
    def all(self) -> tuple[Trajectory, ...]:
        """Every record, in the order train, validation, test, calibration."""
        return self.train + self.validation + self.test + self.calibration

    @property
    def nu(self) -> int:
        """Number of inputs."""
        return self.train[0].nu

    @property
    def ny(self) -> int:
        """Number of outputs."""
        return self.train[0].ny

    @property
    def dt(self) -> float:
        """Sample time [s]."""
        return self.train[0].dt

    @classmethod
    def split(cls, records: Iterable[Trajectory], counts: Sequence[int], *, seed: int) -> Dataset:
        """Deal whole trajectories at random to (train, validation, test, calibration).

        Args:
            records: The experiments; their number must be the sum of ``counts``.
            counts: Number of records for each part, up to four numbers in the order of the fields.
            seed: Seed of the shuffle.
        """
        pool = items("records", records, Trajectory)
        sizes = [count("counts", n, least=0) for n in items("counts", counts, object)]
        if len(sizes) > 4 or sum(sizes) != len(pool):
            raise DataError(f"counts must be up to 4 numbers that add up to {len(pool)} records, got {tuple(counts)}")
        order = np.random.default_rng(checked_seed(seed)).permutation(len(pool))
        cuts = np.cumsum([0, *sizes])
        return cls(*(tuple(pool[i] for i in order[a:b]) for a, b in pairwise(cuts)))

    @classmethod
    @typed()
    def from_record(cls, record: Trajectory, fractions: Sequence[float], *, gap: int, pieces: int = 1) -> Dataset:
        """Cut one long record into contiguous parts for training, validation, test and calibration, in this order.

        Between two parts ``gap`` samples are left out, so that what one part holds says nothing of the next: take as
        many as the plant and its disturbances remember, some of the largest time constants. The calibration part is cut
        into ``pieces`` in the same way, because a probability needs several. Pieces of one record are no independent
        experiments, however long the gap; what is calibrated on them says so.

        Args:
            record: The record.
            fractions: Share of each part, up to four numbers >= 0 with sum 1 in the order of the fields; the first > 0.
            gap: Samples left out between two parts.
            pieces: Number of calibration records.

        Raises:
            DataError: Parts and gaps do not fit into the record.
            SettingError: The fractions are no shares of a whole.
        """
        shares = as_array("fractions", fractions, ("parts",))
        if len(shares) > 4 or (shares < 0).any() or not shares[:1].sum() > 0 or not math.isclose(shares.sum(), 1.0):
            raise SettingError(f"fractions must be up to 4 numbers >= 0 with sum 1, the first > 0, got {fractions}")
        gap, pieces = count("gap", gap, least=0), count("pieces", pieces)
        each = [1, 1, 1, pieces][: len(shares)]
        gaps = sum(n for n, share in zip(each, shares, strict=True) if share > 0) - 1
        usable = len(record) - gap * gaps
        lengths = [int(share * max(usable, 0) / n) for n, share in zip(each, shares, strict=True)]
        if any(share > 0 and n < 2 for n, share in zip(lengths, shares, strict=True)):
            raise DataError(
                f"{gaps} gaps of {gap} samples leave {usable} of {len(record)} for parts of {shares.tolist()}: record "
                "for longer, or take fewer pieces or a shorter gap"
            )
        parts, at = [], 0
        for n, length in zip(each, lengths, strict=True):
            part = []
            for _ in range(n if length else 0):
                part.append(record[at : at + length])
                at += length + gap
            parts.append(tuple(part))
        return cls(*parts)
