"""Linear baselines of a search: the ARX and the subspace model that fit the left-out blocks best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.data import Trajectory
from controlrnn.errors import ControlRnnError, DataError
from controlrnn.identification.linear.arx import identify_arx
from controlrnn.identification.linear.subspace import identify_subspace
from controlrnn.identification.selection.folds import Fold, error_of, pooled, shortened
from controlrnn.identification.selection.structure import Structure
from controlrnn.systems import LureSystem

_log = logging.getLogger(__name__)
_ARX_ORDERS = (1, 2, 3, 4, 5, 6, 8, 10)
_ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
_HORIZONS = (None, 40, 80)  # the longer for lightly damped plants
_MOST = 20_000  # samples that subspace models are found from
_PIECES = 8  # records that their orders are found from: each has an initial state of its own to fit

_Fit = Callable[[Sequence[Trajectory]], LureSystem]


@dataclass(frozen=True, eq=False)
class Baseline:
    """A linear model of all estimation records.

    Args:
        name: ``"arx"`` or ``"subspace"``.
        system: The model.
        error: Root mean square error over the left-out blocks, in units of the outputs' standard deviation.
        order: Its order.
        horizon: Samples of past and future of a subspace model; None where that was left to it.
        others: Error over the left-out blocks by order, of the horizon that was chosen.
    """

    name: str
    system: LureSystem
    error: float
    order: int
    horizon: int | None
    others: dict[int, float]

    def orders(self) -> list[int]:
        """Orders worth trying for a network, the best first: it may need fewer states, or more, than a linear model."""
        low = self.error
        near = min((n for n, e in self.others.items() if e <= 1.1 * low), default=self.order)
        close = min((n for n, e in self.others.items() if e <= 1.5 * low), default=self.order)
        # What more states gain, neurons gain at less cost, unless it is one or two of them.
        return list(dict.fromkeys([near, close, min(self.order, near + 2)]))


def find_baselines(every: Sequence[Fold], records: Sequence[Trajectory], structure: Structure) -> list[Baseline]:
    """ARX and subspace model; one that the records do not allow is left out with a warning.

    Raises:
        DataError: They allow neither.
    """
    proper = not structure.feedthrough
    short = _Short(every, records, structure.skip)
    found = [_arx(every, records, structure), _subspace(short, proper)]
    kept = [b for b in found if b is not None]
    if not kept:
        raise DataError("the records allow neither an ARX nor a subspace model: check them with their plots")
    return kept


class _Short:
    """The folds and records that subspace models are found from; they are judged by the whole left-out blocks."""

    def __init__(self, every: Sequence[Fold], records: Sequence[Trajectory], skip: int) -> None:
        self.folds = [Fold(shortened(f.train, _MOST, pieces=_PIECES), f.validation) for f in every]
        self.records = shortened(records, _MOST)
        self.skip = skip


def _arx(every: Sequence[Fold], records: Sequence[Trajectory], structure: Structure) -> Baseline | None:
    """Best ARX model."""

    def fit(order: int) -> _Fit:
        return lambda some: identify_arx(some, order, order, strictly_proper=not structure.feedthrough).system

    most = structure.skip * records[0].ny
    errors = {n: _error(fit(n), every, structure.skip) for n in _ARX_ORDERS if n * records[0].ny <= most}
    return _best("arx", {(n, None): (e, fit(n)) for n, e in errors.items()}, records)


def _subspace(short: _Short, proper: bool) -> Baseline | None:
    """Best subspace model."""

    def fit(order: int, horizon: int | None) -> _Fit:
        return lambda some: identify_subspace(some, order, horizon=horizon, strictly_proper=proper).system

    trials: dict[tuple[int, int | None], tuple[float, _Fit]] = {}
    most = short.skip * short.records[0].ny
    for order in (n for n in _ORDERS if n <= most):
        trials[order, None] = _error(fit(order, None), short.folds, short.skip), fit(order, None)
    ranked = sorted(trials, key=lambda key: trials[key][0])
    for order in sorted({ranked[0][0], max(n for n in _ORDERS if n <= most)}):
        for horizon in _HORIZONS[1:]:
            trials[order, horizon] = _error(fit(order, horizon), short.folds, short.skip), fit(order, horizon)
    return _best("subspace", trials, short.records)


def _error(fit: _Fit, every: Sequence[Fold], skip: int) -> float:
    """Error of a linear method over the left-out blocks; infinite where it cannot be used on one."""
    try:
        errors = []
        for fold in every:
            scale = np.nanstd(np.concatenate([r.y for r in fold.train]), axis=0)
            errors.append(error_of(fit(fold.train), fold.validation, np.where(scale > 0, scale, 1.0), skip))
        return pooled(errors, every, skip)
    except ControlRnnError as failure:
        _log.debug("a linear model could not be fitted: %s", failure)
        return np.inf


def _best(
    name: str, trials: dict[tuple[int, int | None], tuple[float, _Fit]], records: Sequence[Trajectory]
) -> Baseline | None:
    """Model of all records with the order and horizon of the lowest error; None where none can be used."""
    for key in sorted(trials, key=lambda key: trials[key][0]):
        error, fit = trials[key]
        if not np.isfinite(error):
            break
        try:
            system = fit(records)
        except ControlRnnError:
            continue
        others = {order: e for (order, horizon), (e, _) in trials.items() if horizon == key[1] and np.isfinite(e)}
        _log.info("%s of order %d: error %.4g over the left-out blocks", name, key[0], error)
        return Baseline(name, system, error, key[0], key[1], others)
    _log.warning("no %s model has a finite free run over the left-out blocks", name)
    return None
