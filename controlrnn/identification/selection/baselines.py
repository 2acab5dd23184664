"""Linear baselines of a search: the ARX and the subspace model that fit the left-out blocks best."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import ControlRnnError, DataError
from controlrnn.identification.linear.arx import identify_arx
from controlrnn.identification.linear.subspace import identify_subspace, subspace_models
from controlrnn.identification.selection.folds import Fold, error_of, output_scale, pooled, shortened
from controlrnn.identification.selection.structure import Structure
from controlrnn.systems import LureSystem

_log = logging.getLogger(__name__)
_ARX_ORDERS = (1, 2, 3, 4, 5, 6, 8, 10)
_ORDERS = (1, 2, 3, 4, 5, 6, 8, 10, 12)
_HORIZONS = (40, 80, 160, 320)  # tried beside `identify_subspace`'s own, those beyond _USUAL for slow oscillations
_USUAL = 80
_NEAR = (1.5, 1.1, 1.02)  # errors relative to the lowest, of the orders that are worth refining
_DECAYED = 0.1  # share of an oscillation that is left after the longest horizon
_ROWS = 1300  # of the Hankel matrices: their factorisation takes the square of it
_MOST = 20_000  # samples that subspace models are found from
_PIECES = 8  # records that their orders are found from: each has an initial state of its own to fit

_Fit = Callable[[Sequence[Trajectory]], LureSystem]
_Trials = dict[tuple[int, int | None], tuple[float, _Fit]]


@dataclass(frozen=True, eq=False)
class Baseline:
    """A linear model of all estimation records.

    Args:
        name: ``"arx"`` or ``"subspace"``.
        system: The model.
        error: Root mean square error over the left-out blocks, in units of the outputs' standard deviation.
        order: Its order.
        horizon: Samples of past and future of a subspace model; None where that was left to it.
        others: Error over the left-out blocks by order, with the best horizon of each.
        horizons: Horizon of the lowest error by order.
    """

    name: str
    system: LureSystem
    error: float
    order: int
    horizon: int | None
    others: dict[int, float]
    horizons: dict[int, int | None]

    @property
    def what(self) -> str:
        """Its size in words."""
        return f"order {self.order}" + ("" if self.horizon is None else f", horizon {self.horizon}")

    def orders(self) -> list[int]:
        """Orders worth refining, the most promising first: what is nearly as good, one or two states more, or fewer."""
        hopeful, fair, near = (
            min((n for n, e in self.others.items() if e <= f * self.error), default=self.order) for f in _NEAR
        )
        return list(dict.fromkeys([near, fair, min(near + 2, self.order), hopeful]))


def find_baselines(every: Sequence[Fold], records: Sequence[Trajectory], structure: Structure) -> list[Baseline]:
    """ARX and subspace model; one that the records do not allow is left out with a warning.

    Raises:
        DataError: They allow neither.
    """
    proper = not structure.feedthrough
    arx = _arx(every, records, structure)
    horizons = _horizons(every, settling_oscillation(arx.system) if arx else 0)
    found = [arx, _subspace(_Short(every, records, structure.skip), horizons, proper)]
    kept = [b for b in found if b is not None]
    if not kept:
        raise DataError("the records allow neither an ARX nor a subspace model: check them with their plots")
    return kept


class _Short:
    """The folds and records that subspace models are found from; they are judged by the whole left-out blocks."""

    def __init__(self, every: Sequence[Fold], records: Sequence[Trajectory], skip: int) -> None:
        self.scales = [output_scale(f.train) for f in every]
        self.folds = [Fold(shortened(f.train, _MOST, pieces=_PIECES), f.validation) for f in every]
        self.records = shortened(records, _MOST)
        self.skip = skip


def settling_oscillation(system: LureSystem) -> int:
    """Samples in which the slowest oscillation that settles in a linear system decays to a tenth; 0 without any."""
    poles = np.linalg.eigvals(system.A)
    radii = np.abs(poles[(np.abs(poles.imag) > 0) & (np.abs(poles) < 1)])
    return 0 if not len(radii) else int(min(np.log(_DECAYED) / np.log(max(radii.max(), 1e-300)), 1e6))


def _horizons(every: Sequence[Fold], reach: int) -> list[int]:
    """Horizons worth trying: up to the usual one, or the first beyond ``reach``, as far as the folds allow."""
    channels = every[0].train[0].nu + every[0].train[0].ny
    windows = min(sum(map(len, fold.train)) for fold in every)
    longest = next((h for h in _HORIZONS if h >= reach), _HORIZONS[-1])
    rows = min(_ROWS, windows // 2)
    return [h for h in _HORIZONS if h <= max(_USUAL, longest) and 1 + 2 * h * channels <= rows]


def _arx(every: Sequence[Fold], records: Sequence[Trajectory], structure: Structure) -> Baseline | None:
    """Best ARX model."""

    def fit(order: int) -> _Fit:
        return lambda some: identify_arx(some, order, order, strictly_proper=not structure.feedthrough).system

    scales = [output_scale(fold.train) for fold in every]
    orders = [n for n in _ARX_ORDERS if n <= structure.skip]
    trials: _Trials = {(n, None): (_error(fit(n), every, scales, structure.skip), fit(n)) for n in orders}
    return _best("arx", trials, records)


def _subspace(short: _Short, horizons: Sequence[int], proper: bool) -> Baseline | None:
    """Best subspace model, over all orders and horizons: one that is too short hides what is lightly damped."""

    def fit(order: int, horizon: int | None) -> _Fit:
        return lambda some: identify_subspace(some, order, horizon=horizon, strictly_proper=proper).system

    ny, judges = short.records[0].ny, (short.folds, short.scales, short.skip)
    orders = [n for n in _ORDERS if n <= short.skip * ny]
    trials: _Trials = {(n, None): (_error(fit(n, None), *judges), fit(n, None)) for n in orders}
    for horizon in horizons:
        some = [n for n in orders if n <= (horizon - 1) * ny]

        def models(records: Sequence[Trajectory], some: list[int] = some, horizon: int = horizon) -> _Systems:
            return (model.system for model in subspace_models(records, some, horizon, proper))

        errors = _errors(models, len(some), *judges)
        trials |= {(n, horizon): (e, fit(n, horizon)) for n, e in zip(some, errors, strict=True)}
    return _best("subspace", trials, short.records)


_Systems = Iterable[LureSystem]


def _error(fit: _Fit, every: Sequence[Fold], scales: Sequence[Array], skip: int) -> float:
    """Error over the left-out blocks of the model that a linear method finds; infinite where it fails."""
    return _errors(lambda some: [fit(some)], 1, every, scales, skip)[0]


def _errors(
    fit: Callable[[Sequence[Trajectory]], _Systems],
    count: int,
    every: Sequence[Fold],
    scales: Sequence[Array],
    skip: int,
) -> list[float]:
    """Errors over the left-out blocks of the ``count`` models that a linear method finds; infinite where it fails."""
    try:
        errors = [
            [error_of(system, fold.validation, scale, skip) for system in fit(fold.train)]
            for fold, scale in zip(every, scales, strict=True)
        ]
        return [pooled(column, every, skip) for column in zip(*errors, strict=True)]
    except ControlRnnError as failure:
        _log.debug("a linear model could not be fitted: %s", failure)
        return [np.inf] * count


def _best(name: str, trials: _Trials, records: Sequence[Trajectory]) -> Baseline | None:
    """Model of all records with the order and horizon of the lowest error; None where none can be used."""
    for key in sorted(trials, key=lambda key: trials[key][0]):
        error, fit = trials[key]
        if not np.isfinite(error):
            break
        try:
            system = fit(records)
        except ControlRnnError:
            continue
        of = {n: min((k for k in trials if k[0] == n), key=lambda k: trials[k][0]) for n, _ in trials}
        others = {n: trials[k][0] for n, k in of.items() if np.isfinite(trials[k][0])}
        found = Baseline(name, system, error, key[0], key[1], others, {n: of[n][1] for n in others})
        _log.info("%s of %s: error %.4g over the left-out blocks", name, found.what, error)
        return found
    _log.warning("no %s model has a finite free run over the left-out blocks", name)
    return None
