"""Evidence against a promised probability while the plant runs, stretch by stretch.

A stretch of operation as long as a calibration record is inside with probability at least c, if the plant still is as
it was calibrated. Each stretch multiplies the evidence against that by q / a where it was not inside and by
(1 - q) / (1 - a) where it was, with a = 1 - c and q = min(3 a, (1 + a) / 2): the likelihood ratio of three times the
misses. It never falls below 1, so that good years do not hide a drift that comes late (Page's CUSUM, Biometrika 1954).

If each stretch is inside with probability at least c whatever went before, the factor's mean is at most 1, and the mean
number of stretches to a false alarm is at least ``patience``, the evidence that alarms (Lorden, Annals of Mathematical
Statistics 1971; Shin, Ramdas & Rinaldo, "E-detectors", 2023, for dependent stretches). Only readings are looked at, not
all predictions, so that what is counted as inside may have been outside: alarms may come late, not too often.

What has not been read is *unseen*, not inside. A stretch of which the share s of readings was there multiplies the
evidence by 1 + s (factor - 1): its mean is at most 1 as well, provided that readings are not missing more often where
they would be inside. A stretch without any reading says nothing, and is not counted as one.
"""

from __future__ import annotations

from dataclasses import dataclass

from controlrnn.checks import Array, count, positive
from controlrnn.errors import SettingError
from controlrnn.typed import typed
from mpc.c_tables import CoverageTable
from mpc.promises.promise import LoopTarget

_WORSE = 3.0  # times the promised share of misses that is found soonest


@dataclass(frozen=True, kw_only=True)
@typed()
class CoveragePromise:
    """Probability that a calibration promises, which `mpc.Watching` compares with what happens in operation.

    Args:
        coverage: Probability that a stretch is inside, in (0, 1): of `ModelError` or `ClosedLoopCalibration`.
        stretch: Samples of a stretch: predictions of a calibration record, or steps of a calibration loop.
        target: What is to be inside: readings the tightening about their prediction, or the outputs their limits.
        patience: Stretches to a false alarm, on average and at least.

    Raises:
        SettingError: A number is out of its range.
    """

    coverage: float
    stretch: int
    target: LoopTarget = LoopTarget.PREDICTIONS
    patience: float = 1000.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "target", LoopTarget(self.target))
        if not 0 < positive("coverage", self.coverage) < 1:
            raise SettingError(f"coverage must lie in (0, 1), got {self.coverage!r}")
        count("stretch", self.stretch)
        if not positive("patience", self.patience) > 1:
            raise SettingError(f"patience must exceed 1, got {self.patience!r}: stretches to a false alarm")


class CoverageRun:
    """Evidence of one operation against a promise.

    Args:
        promise: What was promised.
    """

    def __init__(self, promise: CoveragePromise) -> None:
        self.promise = promise
        miss = 1.0 - promise.coverage
        worse = min(_WORSE * miss, 0.5 * (1.0 + miss))
        self._factors = ((1.0 - worse) / (1.0 - miss), worse / miss)
        self.reset()

    def reset(self) -> None:
        """Forget all stretches."""
        self.evidence = 1.0
        self.stretches = 0
        self.missed = 0
        self.unseen = 0
        self._steps = 0
        self._outside = False
        self._seen = 0.0

    def c_table(self, lower: Array, upper: Array) -> CoverageTable:
        """Numbers that C code needs of the count.

        Args:
            lower: Lower ends of what counts as inside, shape (ny,).
            upper: Upper ends.
        """
        inside, outside = self._factors
        return CoverageTable(
            lower=lower,
            upper=upper,
            inside=inside,
            outside=outside,
            patience=self.promise.patience,
        )

    def update(self, inside: bool, seen: float = 1.0) -> None:
        """Take in one sample.

        Args:
            inside: Whether none of the sample's readings was outside.
            seen: Share of its readings that were there.
        """
        self._steps += 1
        self._outside = self._outside or not inside
        self._seen += seen
        if self._steps < self.promise.stretch:
            return
        factor = 1.0 + self._seen / self._steps * (self._factors[self._outside] - 1.0)
        # More evidence than that says nothing new, and would take as long to forget.
        self.evidence = min(max(self.evidence, 1.0) * factor, 10.0 * self.promise.patience)
        if self._seen > 0:
            self.stretches += 1
            self.missed += self._outside
        else:
            self.unseen += 1
        self._steps = 0
        self._outside = False
        self._seen = 0.0

    @property
    def words(self) -> str:
        """Text of what contradicts the promise; empty where nothing does."""
        if self.evidence < self.promise.patience:
            return ""
        unseen = f" ({self.unseen} more were not seen)" if self.unseen else ""
        return (
            f"{self.missed} of {self.stretches} stretches of {self.promise.stretch} samples were outside{unseen}, "
            f"promised are {1 - self.promise.coverage:.3g} of them: evidence {self.evidence:.3g} of "
            f"{self.promise.patience:g}"
        )
