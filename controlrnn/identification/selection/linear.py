"""Refined linear models: entries of a search in their own right, and what its networks start at.

Subspace methods minimise no error of a free run; Levenberg-Marquardt on whole records does, from where they end.
(Schoukens & Ljung, "Nonlinear system identification: a user-oriented road map", IEEE Control Systems 2019: nonlinear
models start at the best linear approximation.) One model an order, fitted when it is first asked for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import ControlRnnError
from controlrnn.identification.selection.candidates import Candidate, Family
from controlrnn.identification.selection.folds import Fold
from controlrnn.identification.selection.meter import Meter, Phase, Stop
from controlrnn.identification.selection.structure import Structure
from controlrnn.identification.selection.trials import Judged, Plan, Trial, fit
from controlrnn.identification.training.progress import Callback
from controlrnn.identification.training.result import FitResult
from controlrnn.models import Model
from controlrnn.models.parts.contracting_linear import largest_pole

_log = logging.getLogger(__name__)
_NEAR = 1.02  # a smaller order is preferred up to this factor of the lowest error

Judge = Callable[[Candidate], Judged | None]


class LinearStarts:
    """Refined linear models of a search, by order.

    Args:
        judge: Function that makes the trial of a candidate.
        every: The folds.
        records: All estimation records.
        structure: What was found before.
        plan: Sizes of the search.
        meter: The budget; linear models are refined outside of it, by the plan's iterations.
        listeners: Listeners to the search.
    """

    def __init__(
        self,
        judge: Judge,
        every: Sequence[Fold],
        records: Sequence[Trajectory],
        structure: Structure,
        plan: Plan,
        meter: Meter,
        listeners: tuple[Callback, ...],
    ) -> None:
        self._judge = judge
        self._folds = tuple(every)
        self._records = tuple(records)
        self._structure = structure
        self._plan = plan
        self._meter = meter
        self._listeners = listeners
        self._found: dict[int, Judged] = {}
        self._again: dict[tuple[int, int | None], FitResult | None] = {}

    @property
    def trials(self) -> list[Trial]:
        """Trials so far, in order."""
        return [trial for trial, _ in self._found.values()]

    @property
    def best(self) -> Trial:
        """Trial of the smallest order whose error is nearly the lowest."""
        least = min(trial.error for trial in self.trials)
        return min((t for t in self.trials if t.error <= _NEAR * least), key=lambda t: t.candidate.nx)

    def orders(self, most: int) -> list[int]:
        """Orders for networks: that of `best`, one of two states more up to ``most``, the others so far."""
        best = self.best.candidate.nx
        return list(dict.fromkeys([best, max(best, min(best + 2, most)), *self._found]))

    def add(self, nx: int) -> None:
        """Refine the linear models of one order, unless that was done before."""
        if nx not in self._found:
            with self._meter.during(Phase.LINEAR):
                answer = self._judge(Candidate(Family.LINEAR, nx, 0))
            assert answer is not None  # this phase does not end by the clock
            self._found[nx] = answer

    def whole(self, nx: int) -> FitResult | None:
        """Linear model of all records; None where there is none."""
        return self._model(nx, self._records, None)

    def of_fold(self, candidate: Candidate, k: int, seed: int) -> Model | None:
        """Network at the refined linear model of its order, without the left-out block ``k``; None where it cannot."""
        return self._started(candidate, self._model(candidate.nx, self._folds[k].train, k), seed)

    def of_all(self, candidate: Candidate, seed: int) -> Model | None:
        """Network that starts at the linear model of its order and all records; None where it cannot, or does not."""
        return self._started(candidate, self.whole(candidate.nx), seed) if candidate.refined else None

    def _model(self, nx: int, records: Sequence[Trajectory], k: int | None) -> FitResult | None:
        """Linear model of some records, of a fold where ``k`` is its number."""
        self.add(nx)
        fits = self._found[nx][1]
        return self._refitted(nx, records, k) if self._plan.short else next(iter(fits), None)

    def _refitted(self, nx: int, records: Sequence[Trajectory], k: int | None) -> FitResult | None:
        """Linear model after the number of iterations that was best over all left-out blocks.

        The trial's own fit without a block is the best for just that block: what starts at it would know the block.
        """
        if (nx, k) not in self._again:
            trial = self._found[nx][0]
            stop = Stop(self._meter, self._listeners, trial.error)
            try:
                with self._meter.during(Phase.LINEAR):
                    self._again[nx, k] = fit(
                        trial.candidate,
                        Dataset(tuple(records)),
                        self._structure,
                        horizon=self._plan.horizon(nx),
                        seed=0,
                        iterations=trial.length,
                        stop=stop,
                        keep="last",
                    )
            except ControlRnnError as failure:
                _log.info("%s: cannot be fitted again (%s)", trial.candidate.label, failure)
                self._again[nx, k] = None
        return self._again[nx, k]

    def _started(self, candidate: Candidate, linear: FitResult | None, seed: int) -> Model | None:
        """Candidate that starts at a linear model; None where there is none or it cannot."""
        if linear is None:
            return None
        record = self._records[0]
        model = candidate.build(record.nu, record.ny, self._structure.feedthrough, seed)
        assert linear.model is not None
        try:
            start_at(model, linear.model)
        except ControlRnnError as failure:
            _log.info("%s cannot start at the refined linear model (%s)", candidate.label, failure)
            return None
        return model


@torch.no_grad()
def start_at(model: Model, linear: Model) -> None:
    """Set ``model``, whose network has no effect yet, to a trained linear model with its units.

    Raises:
        SettingError: The model cannot be that linear one.
    """
    model.set_units(linear.input_scaler, linear.output_scaler, linear.dt)
    at = linear.system()
    A, B, C, D, bx, by = (getattr(at, n).double().numpy() for n in ("A", "B2", "C2", "D22", "bx", "by"))
    # An offset of the state is one of the output, too, and that does not depend on the coordinates of the state.
    offset = by + C @ np.linalg.solve(np.eye(len(A)) - A, bx)
    radius = float(np.abs(np.linalg.eigvals(A)).max(initial=0.0))
    A = A * min(1.0, largest_pole(1.0) / max(radius, 1e-300))
    model.start_linear(A, B, C, D)  # type: ignore[operator]
    model.by.copy_(torch.as_tensor(offset))  # type: ignore[operator]
