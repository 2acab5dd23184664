"""MPC with an online-adapted tightening (adaptive conformal inference): a bound on the average share of misses.

Conformal inference for arbitrary sequences (Gibbs & Candes, NeurIPS 2021), in the form of a tracked quantile
(Angelopoulos, Candes & Tibshirani, "Conformal PID control", NeurIPS 2023). The score s[t] is the largest ratio, over
outputs, of the error of the last one-step prediction to the tightening at step 1. A miss is s[t] > q[t], and

    q[t+1] = q[t] + h ( miss[t] - a ),      a = 1 - coverage, h the gain, q[1] = 1 .

**Theorem.** If no score exceeds b >= 1, then for every T and every sequence |misses / T - a| <= (b + h) / (h T).

*Proof.* q[t] > b makes no miss, so that q falls; q[t] < 0 is a miss, so that q rises. Hence
-h a <= q[t] <= b + h (1 - a). Summing the recursion, misses - a T = (q[T+1] - q[1]) / h, which is at most (b + h) / h
in size. []

The theorem needs neither a probability nor a distribution, and holds on any plant, also a drifting one. But it is about
an average over time: nothing is promised for a single sample, and misses come before the factor has grown. Limits are
tightened by max(q[t], 0) times the tightening, at most so far that some of their range is left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, positive, read_only
from controlrnn.errors import SettingError
from controlrnn.typed import typed
from mpc.control.controller import TightenedMPC
from mpc.control.step import MpcStep
from mpc.problem.settings import Mode
from mpc.problem.solver_options import Status

_LEFT = 0.02  # share of an output's range that is never tightened away


@dataclass(frozen=True, kw_only=True)
@typed()
class Adaptation:
    """Parameters of the adaptation of the factor on the tightening.

    Args:
        coverage: Share of one-step predictions to be inside in the long run, in (0, 1).
        gain: Step size h, in multiples of the tightening. Large gains react fast and oscillate.
    """

    coverage: float = 0.9
    gain: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < positive("coverage", self.coverage) < 1:
            raise SettingError(f"coverage must lie in (0, 1), got {self.coverage!r}")
        positive("gain", self.gain)

    def promise(self, steps: int, largest: float) -> float:
        """Bound on the distance of the share of misses from 1 - coverage, by the theorem.

        Args:
            steps: Samples T.
            largest: Largest score b over all of them; values below 1 count as 1.
        """
        return (max(largest, 1.0) + self.gain) / (self.gain * steps)


class AdaptiveFactor:
    """Factor q on the tightening, with the number of misses and scores.

    Args:
        adaptation: Parameters.
    """

    def __init__(self, adaptation: Adaptation) -> None:
        self.adaptation = adaptation
        self.reset()

    def reset(self) -> None:
        """Start again with factor 1."""
        self.value = 1.0
        self.misses = 0
        self.seen = 0
        self.largest = 0.0

    def update(self, score: float) -> bool:
        """Update the factor with one score; returns whether it was a miss.

        Args:
            score: Error over bound, >= 0.
        """
        miss = bool(score > self.value)
        self.value += self.adaptation.gain * (miss - (1 - self.adaptation.coverage))
        self.misses += miss
        self.seen += 1
        self.largest = max(self.largest, score)
        return miss


class AdaptiveMPC(TightenedMPC):
    """`TightenedMPC` in practical mode with an adapted tightening; see the module docstring for the theorem.

    Args:
        adaptation: Parameters of the adaptation.

    All other arguments as `TightenedMPC`.

    Raises:
        SettingError: Guaranteed mode, a terminal set or an error memory, whose theorems need the tightening as it was
            proven; or a tightening that is zero at step 1.
    """

    def __init__(self, *args: Any, adaptation: Adaptation, **kwargs: Any) -> None:
        self.factor = AdaptiveFactor(adaptation)
        self._last: MpcStep | None = None
        super().__init__(*args, **kwargs)
        if self.mode is not Mode.PRACTICAL or self.terminal is not None or self.learnt_errors is not None:
            raise SettingError("adaptation is for the practical mode: guaranteed limits rest on a fixed tightening")
        self._bounds = self.tightening.total[: self.horizon + 1]
        if not self._bounds[1].any():
            raise SettingError("adaptation scales the tightening, got one that is zero at step 1: start with back_off")
        self._ends = tuple(np.array([getattr(s, side) for s in self.predictor.outputs]) for side in ("lower", "upper"))
        # Largest factor that leaves the share _LEFT of every output's range at all steps.
        width = (1 - _LEFT) * (self._ends[1] - self._ends[0])
        with np.errstate(divide="ignore"):
            self._most = float(np.min(width / (2 * self._bounds.max(axis=0))))

    @property
    def recalls(self) -> bool:
        """True: error bounds change from step to step, so that results store them for each step."""
        return True

    def reset(self) -> None:
        """Forget all samples and start again with factor 1; see `TightenedMPC.reset`."""
        super().reset()
        self.factor.reset()
        self._last = None

    def record(self, y: ArrayLike, u: ArrayLike) -> None:
        """Take in a sample without a control step; the factor stays. See `TightenedMPC.record`."""
        super().record(y, u)
        self._last = None

    def step(
        self,
        y: ArrayLike,
        reference: ArrayLike,
        forecast: ArrayLike | None = None,
        *,
        applied: ArrayLike | None = None,
        time: float | None = None,
    ) -> MpcStep:
        """Update the factor by the last prediction's error and choose the next input; see `TightenedMPC.step`."""
        seen = self._measurement(y)
        if self._last is not None:
            # Outputs without a tightening have no bound, and no score.
            away = np.abs(seen - self._last.y_predicted[1])[self._bounds[1] > 0]
            ratios = away / self._bounds[1][self._bounds[1] > 0]
            # A sample without any reading gives no score.
            if not np.isnan(ratios).all():
                self.factor.update(float(np.nanmax(ratios)))
        used = self._used
        self._lower = read_only(self._ends[0] + used * self._bounds)
        self._upper = read_only(self._ends[1] - used * self._bounds)
        taken = super().step(y, reference, forecast, applied=applied, time=time)
        self._last = None if taken.status is Status.WARMING_UP else taken
        return taken

    @property
    def _used(self) -> float:
        """Factor that limits are tightened by: q within its range."""
        return min(max(self.factor.value, 0.0), self._most)

    def _error_interval(self) -> Array:
        bounds = self._used * self._bounds
        return read_only(np.stack([-bounds, bounds]))
