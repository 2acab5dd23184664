"""Data sets: whole trajectories, split by what they are used for, so that no record serves two purposes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from controlrnn.checks import checked_seed, count, items
from controlrnn.data.sampling import same_dt
from controlrnn.data.trajectory import Trajectory
from controlrnn.errors import DataError, ShapeError


@dataclass(frozen=True, eq=False)
class Dataset:
    """Trajectories for training, validation, test and calibration, with the same channels and sample time.

    Args:
        train: Records that the parameters are fitted to; at least one.
        validation: Records on which the best parameters are chosen.
        test: Records that only the final scores use.
        calibration: Records that only the model-error bound uses (`mpc.calibrate`).

    Raises:
        DataError: No training record, the same record twice, or records that do not belong together.
    """

    train: tuple[Trajectory, ...]
    validation: tuple[Trajectory, ...] = ()
    test: tuple[Trajectory, ...] = ()
    calibration: tuple[Trajectory, ...] = ()

    def __post_init__(self) -> None:
        for part in ("train", "validation", "test", "calibration"):
            value = getattr(self, part)
            records = (value,) if isinstance(value, Trajectory) else items(part, value, Trajectory)
            object.__setattr__(self, part, records)
        if not self.train:
            raise DataError("a dataset needs at least one training trajectory, got none: check the split")
        first = self.train[0]
        for record in self.all:
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
        # The same object twice; equal records would be found only by comparing all samples.
        if len({id(record) for record in self.all}) != len(self.all):
            raise DataError("a record stands in two parts of the dataset: each may serve one purpose only")

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
