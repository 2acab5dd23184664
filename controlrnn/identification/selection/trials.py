"""Trials of a search: one candidate, fitted without each left-out block in turn and judged by it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from controlrnn.checks import Array, read_only
from controlrnn.data import Dataset
from controlrnn.errors import ControlRnnError, TrainingError
from controlrnn.identification.selection.candidates import Candidate, Family
from controlrnn.identification.selection.folds import Fold, output_scale, pooled, shortened
from controlrnn.identification.selection.meter import Meter, Stop
from controlrnn.identification.selection.structure import Structure
from controlrnn.identification.training.identify import identify
from controlrnn.identification.training.progress import Callback
from controlrnn.identification.training.result import FitResult
from controlrnn.identification.training.settings import FitStatus
from controlrnn.models import Model
from controlrnn.records import Count, Number, Numbers, Part, Schema, Stored
from controlrnn.typed import typed

_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
@typed(infinite=("curve",))
class Trial(Stored):
    """One candidate and its errors over the left-out blocks.

    Args:
        candidate: The candidate.
        curve: Error after 0, 1, ... iterations of Levenberg-Marquardt: root mean square of the free run over all
            left-out blocks, in units of the outputs' standard deviation, shape (n,).
        iterations: Iterations done, over all blocks.
        seconds: Time that it took [s].
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "search-trial", 1, arrays={"curve": Numbers("n", infinite=True)},
        meta={"iterations": Count(), "seconds": Number(least=0.0)}, parts={"candidate": Part(Candidate, own=True)},
    )  # fmt: skip

    candidate: Candidate
    curve: Array
    iterations: int
    seconds: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "curve", read_only(self.curve))

    @property
    def error(self) -> float:
        """Lowest error of the curve."""
        return float(np.min(self.curve))

    @property
    def length(self) -> int:
        """Iterations after which the error is lowest."""
        return int(np.argmin(self.curve))


Judged = tuple[Trial, tuple[FitResult, ...]]  # a trial, and its fits where it keeps any


@dataclass(frozen=True)
class Plan:
    """Sizes of a search, from its budget in seconds alone, so that they do not depend on the machine.

    Args:
        samples: Samples that a trial is fitted to.
        iterations: Iterations of a trial, for each left-out block.
        final_samples: Samples that the final model is fitted to.
        final_iterations: Most iterations of the final fit.
        linear_samples: Samples that a linear model is refined on.
        linear_iterations: Iterations of its refinement, for each left-out block.
        horizons: Samples of past and of future that linear starts of an order are identified from, by order.
        short: Whether the records are short: final models are then fitted to all of them, for the number of iterations
            that the trials found.
    """

    samples: int
    iterations: int
    final_samples: int
    final_iterations: int
    linear_samples: int
    linear_iterations: int
    horizons: Mapping[str, int | None]
    short: bool

    @classmethod
    def of(
        cls,
        seconds: float,
        every: Sequence[Fold],
        candidate: Candidate,
        linear: Candidate,
        horizons: Mapping[int, int | None],
    ) -> Plan:
        """Plan for records and a budget; ``candidate`` is a typical one, ``linear`` the largest linear one."""
        nu, ny = every[0].train[0].nu, every[0].train[0].ny
        total, short = max(sum(map(len, fold.train)) for fold in every), len(every) > 1
        named = {str(order): horizon for order, horizon in horizons.items()}
        # A linear model shall be refined in a twentieth of the budget.
        one = linear.cost(nu, ny) / _SPEED
        many = total if short else min(total, int(np.clip(_LINEAR * seconds / (40 * one), _LEAST, _MOST)))
        rounds = int(np.clip(_LINEAR * seconds / (len(every) * (many * one + _OVERHEAD)), 4, 40))
        per_sample = candidate.cost(nu, ny) / _SPEED
        # A final fit of sixty iterations shall take a quarter of the budget, a trial a tenth of that.
        final = int(np.clip(0.25 * seconds / (60 * per_sample), _LEAST, _MOST))
        if short or final >= total:
            each = len(every) * (total * per_sample + _OVERHEAD)
            iterations = int(np.clip(0.03 * seconds / each, 10, 60)) if short else 20
            few = total if short else min(total, max(_LEAST, final // 3))
            return cls(few, iterations, total, 200, many, rounds, named, short)
        return cls(max(_LEAST, final // 3), 20, final, 200, many, rounds, named, short)

    def horizon(self, nx: int) -> int | None:
        """Horizon of a linear start of order ``nx``; None leaves it to `identify_subspace`."""
        return self.horizons.get(str(nx))

    def size(self, family: Family) -> tuple[int, int]:
        """Samples and iterations of a trial."""
        if family is Family.LINEAR:
            return self.linear_samples, self.linear_iterations
        return self.samples, self.iterations


_SPEED = 2.5e9  # multiplications a second, of one core that is not alone
_LINEAR = 0.05  # share of the budget of one linear model
_PATIENCE = 8  # iterations without a gain that end the trial of a long record
_OVERHEAD = 0.02  # of an iteration, for whatever records [s]
_LEAST, _MOST = 4000, 40_000  # samples


def fit(
    candidate: Candidate,
    data: Dataset,
    structure: Structure,
    *,
    horizon: int | None,
    seed: int,
    iterations: int,
    stop: Callback,
    model: Model | None = None,
    **options: Any,
) -> FitResult:
    """Fit one candidate by Levenberg-Marquardt from its linear start, or from the parameters of ``model``."""
    other = "linear" if candidate.family is Family.LINEAR else "auto"  # of no use from anywhere else
    options["start"] = other if model is None else "continue"
    model = candidate.build(data.nu, data.ny, structure.feedthrough, seed) if model is None else model
    try:
        found: FitResult = identify(
            model,
            data,
            loss=candidate.loss(),
            steps=0,
            batch_size=1,
            window=max(2, min(map(len, data.train))),
            skip=structure.skip,
            initial_state="estimated",
            start_horizon=horizon,
            refine="levenberg_marquardt",
            refine_steps=max(1, iterations),
            seed=seed,
            callbacks=[stop],
            **options,
        )
    except KeyboardInterrupt:
        if getattr(stop, "stopped", False):
            raise TrainingError("the budget ended before a validation gave a finite error: raise it") from None
        raise
    if found.status is FitStatus.INTERRUPTED and not getattr(stop, "stopped", False):
        raise KeyboardInterrupt
    return found


def judge(
    candidate: Candidate,
    every: Sequence[Fold],
    structure: Structure,
    plan: Plan,
    meter: Meter,
    *,
    seed: int,
    listeners: tuple[Callback, ...],
    best: float,
    started: Callable[[Candidate, int], Model | None],
) -> Judged | None:
    """Fit a candidate without each left-out block; None where the budget ended first.

    Args:
        candidate: The candidate.
        every: The folds.
        structure: What was found before.
        plan: Sizes of the trial.
        meter: The budget.
        seed: Seed of the candidate.
        listeners: Listeners to the search.
        best: Lowest error of the search so far.
        started: Function that builds a candidate at its start, for a fold by number; None leaves that to `fit`.

    Returns:
        The trial, and the fits of all folds; none where one of them failed.
    """
    began, curves, done, fits = meter.elapsed, [], 0, []
    before, (samples, iterations) = meter.counts[meter.phase], plan.size(candidate.family)
    for k, fold in enumerate(every):
        stop = Stop(meter, listeners, best)
        try:
            one = fit(
                candidate,
                Dataset(shortened(fold.train, samples), fold.validation),
                structure,
                horizon=plan.horizon(candidate.nx),
                seed=seed,
                iterations=iterations,
                stop=stop,
                model=started(candidate, k),
                patience=None if plan.short else _PATIENCE,
            )
            curve = one.history["validation"] * _unit(one, fold)
            fits.append(one)
        except ControlRnnError as failure:
            _log.info("%s: cannot be fitted (%s)", candidate.label, failure)
            curve = np.array([np.inf])
        done += stop.iterations
        if stop.stopped:
            meter.counts[meter.phase] = before
            return None
        curves.append(curve)
        if not np.isfinite(curve).any():
            break
    if len(curves) < len(every):
        curves += [np.array([np.inf])] * (len(every) - len(curves))
    n = max(map(len, curves))
    padded = np.stack([np.concatenate([c, np.full(n - len(c), c[-1])]) for c in curves])
    curve = np.array([pooled(list(column), every, structure.skip) for column in padded.T])
    trial = Trial(candidate, curve, done, max(meter.elapsed - began, 0.0))
    _log.info("%s: error %.4g after %d iterations", candidate.label, trial.error, trial.length)
    return trial, tuple(fits) if len(fits) == len(every) else ()


def _unit(one: FitResult, fold: Fold) -> float:
    """Unit of a fit's own errors, in units of the outputs' spread in its fold: it may have seen a part of that."""
    assert one.model is not None
    return float(np.sqrt(np.mean(np.square(one.model.output_scaler.scale / output_scale(fold.train)))))
