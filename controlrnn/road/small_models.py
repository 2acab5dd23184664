"""Small models, which can be certified where better ones cannot: linear ones, and networks that forget as fast.

The certified error of a prediction grows with how long a model remembers errors of its inputs. A network that fits best
may remember for thousands of samples; one that has to forget as fast as a linear model of its order fits a little worse
and is bounded far better.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import ControlRnnError
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from controlrnn.identification import BestFit

_log = logging.getLogger(__name__)
_ORDER = 4  # largest number of states
_ITERATIONS = 30  # of Levenberg-Marquardt
_SAMPLES = 4000  # that networks are fitted to, at most
_RIDGE = 1e-4

Fit = Callable[[Sequence[Trajectory]], LureSystem]


@dataclass(frozen=True, eq=False)
class Small:
    """A model with few states.

    Args:
        name: ``"linear 2"`` or ``"contracting 2"``, with its number of states.
        what: The same in words.
        system: The model.
        error: Error over the left-out blocks of the search, in standard deviations of the outputs.
    """

    name: str
    what: str
    system: LureSystem
    error: float


def spread(data: Dataset) -> Array:
    """Standard deviation of each output of the training records, output units, shape (ny,)."""
    y = np.concatenate([r.y for r in data.train])
    sizes = np.nanstd(y, axis=0)
    return np.asarray(np.where(sizes > 0, sizes, 1.0))


def linear_models(fit: BestFit, data: Dataset) -> list[Small]:
    """Linear models of low orders.

    Args:
        fit: The search, for what it found of dead times and feedthrough.
        data: Data; training and validation records are used.
    """
    from controlrnn.identification import identify_subspace

    def of(order: int) -> Fit:
        return lambda records: identify_subspace(records, order, strictly_proper=not fit.feedthrough).system

    orders = range(1, _ORDER + 1)
    return _fitted(fit, data, [(f"linear {n}", f"linear, of order {n}", of(n)) for n in orders])


def paced_networks(fit: BestFit, data: Dataset, linear: Mapping[Small, float], *, seed: int) -> list[Small]:
    """Contracting networks beside linear models: as many states, and a rate by construction that is theirs.

    Args:
        fit: The search, for what it found of dead times and feedthrough.
        data: Data; training and validation records are used.
        linear: Linear models, each with its contraction rate.
        seed: Seed of the networks.
    """
    from controlrnn.identification import L2, SimulationError, identify
    from controlrnn.identification.selection.folds import shortened
    from controlrnn.models import ContractingR2DN

    def of(nx: int, rate: float) -> Fit:
        def fitted(records: Sequence[Trajectory]) -> LureSystem:
            model = ContractingR2DN(
                nu=data.nu,
                ny=data.ny,
                nx=nx,
                nv=max(2, nx),
                layers=(max(4, 2 * nx),),
                rate=rate,
                feedthrough=fit.feedthrough,
                seed=seed,
            )
            return identify(
                model,
                Dataset(shortened(records, _SAMPLES)),
                loss=SimulationError() + _RIDGE * L2(),
                steps=0,
                skip=fit.skip,
                initial_state="estimated",
                refine="levenberg_marquardt",
                refine_steps=_ITERATIONS,
                seed=seed,
            ).system

        return fitted

    cases = []
    for model, rate in linear.items():
        n = model.system.nx - sum(fit.delays)
        what = f"contracting, {n} states, as fast as {model.name}"
        cases.append((f"contracting {n}", what, of(n, rate)))
    return _fitted(fit, data, cases)


def _fitted(fit: BestFit, data: Dataset, cases: Sequence[tuple[str, str, Fit]]) -> list[Small]:
    """Models of all records, with their errors over the blocks that the search left out, too."""
    from controlrnn.identification import with_delays, without_delays
    from controlrnn.identification.selection.folds import error_of, folds, pooled

    def moved(records: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
        return tuple(without_delays(r, fit.delays) if any(fit.delays) else r for r in records)

    train, validation = moved(data.train), moved(data.validation)
    every = folds(train, validation, fit.skip)
    scales = [spread(Dataset(f.train)) for f in every]
    found = []
    for name, what, model in cases:
        try:
            errors = [
                error_of(model(f.train), f.validation, scale, fit.skip) for f, scale in zip(every, scales, strict=True)
            ]
            system = model(train + validation)
        except ControlRnnError as failure:
            _log.info("no model that is %s: %s", what, failure)
            continue
        found.append(Small(name, what, with_delays(system, fit.delays), pooled(errors, every, fit.skip)))
    return found
