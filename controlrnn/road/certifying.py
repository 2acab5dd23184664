"""Certificates of the models of a search, and the choice of the one to control with."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

import mpc
from controlrnn.certification import ContractionCertificate, HorizonCertificate
from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.road.file.schema import RoadFile
from controlrnn.road.making import observer_of, predictor_of
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from controlrnn.identification import BestFit, Entry

_log = logging.getLogger(__name__)
_MOST_STEPS = 2000  # samples that a model may need to forget its start
_LOOSE = 0.5  # standard deviations of the outputs, above which a certified error leaves little to control with
_SIMPLE = 4  # largest order of the linear models that are tried then
_LEFT = 0.05  # of the settled error, that the unknown start may still add after these samples


@dataclass(frozen=True, eq=False)
class Certified:
    """A model with its certificates.

    Args:
        name: Name of the entry of the search.
        contraction: Proof that it forgets its start.
        horizon: Bounds on its prediction errors, with errors of inputs.
        initial: Likewise without errors of inputs; None where there are none.
        steps: Samples in which it forgets its start.
        seen: Largest certified error over the prediction, per output, output units, shape (ny,).
        error: Left-out error, in standard deviations of the outputs.
        relative: Largest certified error, likewise.
    """

    name: str
    system: LureSystem
    contraction: ContractionCertificate
    horizon: HorizonCertificate
    initial: HorizonCertificate | None
    steps: int
    seen: Array
    error: float
    relative: float


def contraction_of(file: RoadFile, system: LureSystem, data: Dataset) -> ContractionCertificate:
    """Certificate of contraction, a little slower than possible: at the best rate the metric is ill conditioned.

    Args:
        file: The road file.
        system: The model as it is predicted with.
        data: Data, for the sizes of the outputs.

    Raises:
        CertificationError: None was found.
    """
    from controlrnn.certification import certify_contraction

    ranges = np.array([i.upper - i.lower for i in file.inputs])
    sizes = spread(data)
    scales: dict[str, Any] = {"input_scale": 0.5 * ranges, "output_scale": sizes}
    best = certify_contraction(system, **scales)
    try:
        return certify_contraction(system, best.rate + file.certificate.room * (1 - best.rate), **scales)
    except CertificationError:  # the search for the best one took room already
        return best


def spread(data: Dataset) -> Array:
    """Standard deviation of each output of the training records, output units, shape (ny,)."""
    y = np.concatenate([r.y for r in data.train])
    sizes = np.nanstd(y, axis=0)
    return np.asarray(np.where(sizes > 0, sizes, 1.0))


def forgets(file: RoadFile, predictor: mpc.Predictor, contraction: ContractionCertificate) -> int:
    """Samples in which the model forgets its start: what is left adds little to what errors of inputs do anyway.

    Args:
        file: The road file.
        predictor: The model.
        contraction: Its certificate.
    """
    if file.observer.steps is not None:
        return file.observer.steps
    one = observer_of(file, predictor, contraction, 1)
    restart = one.restart
    assert restart is not None
    rate = float(contraction.rate)
    settled = float(np.dot(contraction.input_gain, one.input_error)) / (1 - rate)
    wanted = max(_LEFT * settled, 1e-3 * restart.radius)
    steps = math.ceil(math.log(wanted / restart.radius) / math.log(rate)) if restart.radius > wanted else 1
    return int(min(max(steps, 1), _MOST_STEPS))


def certify_entry(file: RoadFile, entry: Entry | Simple, data: Dataset) -> Certified:
    """Certificates of one model of the search.

    Args:
        file: The road file.
        entry: The model.
        data: Data, for the sizes of outputs.

    Raises:
        CertificationError: Something could not be proven.
        SettingError: The model has no steady state in the middle of the actuators' range.
    """
    predictor = predictor_of(file, entry.system)
    contraction = contraction_of(file, predictor.system, data)
    steps = forgets(file, predictor, contraction)
    observer = observer_of(file, predictor, contraction, steps)
    N, iterations = file.control.horizon, file.certificate.iterations
    horizon = mpc.certify_predictions(observer, N, iterations=iterations)
    initial = None
    if observer.prediction_input_error.any():
        initial = mpc.certify_predictions(observer, N, input_error=0.0, iterations=iterations)
    seen = np.asarray(horizon.bounds[horizon.horizon - N :]).max(axis=0)
    relative = float(np.max(seen / spread(data)))
    return Certified(
        entry.name, predictor.system, contraction, horizon, initial, steps, seen, float(entry.error), relative
    )


@dataclass(frozen=True, eq=False)
class Simple:
    """A linear model of low order, which can be certified where better ones cannot.

    Args:
        name: ``"linear 2"``, with its order.
        what: The same in words.
        system: The model.
        error: Error over the left-out blocks of the search, in standard deviations of the outputs.
    """

    name: str
    what: str
    system: LureSystem
    error: float


def simple_models(fit: BestFit, data: Dataset) -> list[Simple]:
    """Linear models of low orders, with their errors over the blocks that the search left out, too.

    Args:
        fit: The search, for what it found of dead times and feedthrough.
        data: Data; training and validation records are used.
    """
    from controlrnn.identification import identify_subspace, with_delays, without_delays

    def moved(records: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
        return tuple(without_delays(r, fit.delays) if any(fit.delays) else r for r in records)

    def model(records: Sequence[Trajectory], order: int) -> LureSystem:
        return identify_subspace(records, order, strictly_proper=not fit.feedthrough).system

    from controlrnn.identification.selection.folds import error_of, folds, pooled

    train, validation = moved(data.train), moved(data.validation)
    every = folds(train, validation, fit.skip)
    scales = [spread(Dataset(f.train)) for f in every]
    found = []
    for order in range(1, _SIMPLE + 1):
        try:
            errors = [
                error_of(model(f.train, order), f.validation, scale, fit.skip)
                for f, scale in zip(every, scales, strict=True)
            ]
            system = model(train + validation, order)
        except ControlRnnError as failure:
            _log.info("no linear model of order %d: %s", order, failure)
            continue
        what = f"linear, of order {order}"
        found.append(Simple(f"linear {order}", what, with_delays(system, fit.delays), pooled(errors, every, fit.skip)))
    return found


def certify_best(file: RoadFile, fit: BestFit, data: Dataset) -> tuple[Certified, list[str]]:
    """Certify the models of a search, and choose the one with the smallest sum of left-out and certified error.

    Args:
        file: The road file; ``identify.model`` names one, or leaves the choice.
        fit: The search.
        data: Data.

    Returns:
        The choice, and what happened, a sentence each.

    Raises:
        CertificationError: No model could be certified; the message says what was tried and what to do.
    """
    wanted = file.identify.model
    entries: list[Entry | Simple] = list(fit.entries) if wanted == "auto" else [fit.entry(wanted)]
    found: list[Certified] = []
    words: list[str] = []
    _certify_each(file, entries, data, found, words)
    if wanted == "auto" and all(c.relative > _LOOSE for c in found):
        words.append("none of these has a useful certificate: linear models of low order are tried, too")
        _certify_each(file, simple_models(fit, data), data, found, words)
    if not found:
        raise CertificationError(
            "no model could be certified, so that no bound holds and no controller is made:\n"
            + "\n".join(f"  {w}" for w in words)
            + '\nput "contracting" among identify.families (it has a certificate by construction), raise '
            "identify.budget, or set identify.model to a linear one; does the plant integrate or sustain oscillations?"
        )
    best = min(found, key=lambda c: c.error + c.relative)
    why = "the only one that was asked for" if wanted != "auto" else "lowest sum of left-out and certified error"
    words.append(f"controlled with {best.name}: {why}")
    if best.relative > _LOOSE:
        _log.warning(
            "the certified error of %s is %.3g standard deviations of the outputs: raise identify.budget",
            best.name,
            best.relative,
        )
    return best, words


def _certify_each(
    file: RoadFile, entries: Sequence[Entry | Simple], data: Dataset, found: list[Certified], words: list[str]
) -> None:
    """Add what can be certified to ``found``, and what happened to ``words``."""
    for entry in entries:
        _log.info("certifying %s (%s)", entry.name, entry.what)
        try:
            one = certify_entry(file, entry, data)
        except ControlRnnError as error:
            words.append(f"{entry.name} ({entry.what}): not certified: {error}")
            _log.info("%s", words[-1])
            continue
        found.append(one)
        shown = ", ".join(f"{s:.3g} {o.unit}".strip() for s, o in zip(one.seen, file.outputs, strict=True))
        words.append(
            f"{one.name} ({entry.what}): contracts at rate {one.contraction.rate:.5f}, forgets its start in "
            f"{one.steps} samples; certified error of a prediction at most {shown}; left-out error {entry.error:.3g} "
            "standard deviations"
        )
        _log.info("%s", words[-1])
