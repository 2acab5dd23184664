"""Certificates of the models of a search, and the choice of the one to control with."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

import mpc
from controlrnn.certification import ContractionCertificate, HorizonCertificate
from controlrnn.checks import Array
from controlrnn.data import Dataset
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.road.file.schema import RoadFile
from controlrnn.road.making import observer_of, predictor_of
from controlrnn.road.small_models import Small, linear_models, paced_networks, spread
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from controlrnn.identification import BestFit, Entry

_log = logging.getLogger(__name__)
_MOST_STEPS = 2000  # samples that a model may need to forget its start
_LOOSE = 0.5  # standard deviations of the outputs, above which a certified error leaves little to control with
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
        error: Left-out error (root mean square), in standard deviations of the outputs.
        largest: Largest error to expect of it: as many times as large as over the records that it was fitted to.
        relative: Largest certified error, likewise in standard deviations.
    """

    name: str
    system: LureSystem
    contraction: ContractionCertificate
    horizon: HorizonCertificate
    initial: HorizonCertificate | None
    steps: int
    seen: Array
    error: float
    largest: float
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
    return certify_contraction(system, slower=file.certificate.slower, input_scale=0.5 * ranges, output_scale=sizes)


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


def certify_entry(file: RoadFile, entry: Entry | Small, data: Dataset, *, skip: int) -> Certified:
    """Certificates of one model of the search.

    Args:
        file: The road file.
        entry: The model.
        data: Data, for the sizes of outputs and of errors.
        skip: Samples at the start of a record that its errors leave out, as in the search.

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
    sizes = spread(data)
    largest = float(entry.error) * _reach(entry.system, data, sizes, skip)
    return Certified(
        entry.name,
        predictor.system,
        contraction,
        horizon,
        initial,
        steps,
        seen,
        float(entry.error),
        largest,
        float(np.max(seen / sizes)),
    )


def _reach(system: LureSystem, data: Dataset, sizes: Array, skip: int) -> float:
    """How many times its root mean square the largest error of the free run is, over what was fitted to."""
    from controlrnn.identification.selection.folds import errors_of, root_mean_square

    errors = errors_of(system, data.train + data.validation, sizes, skip)
    rms = root_mean_square(errors)
    if not 0 < rms < math.inf:
        return 1.0 if rms == 0 else math.inf
    return float(np.abs(errors).max()) / rms


def certify_best(file: RoadFile, fit: BestFit, data: Dataset) -> tuple[Certified, list[str]]:
    """Certify the models of a search, and choose the one that is expected to need the least tightening.

    Limits will be tightened by the largest error of whole records and by the certified bound. The first is not known
    before calibration, whose records may not choose the model; it is expected from the left-out error.

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
    entries: list[Entry | Small] = list(fit.entries) if wanted == "auto" else [fit.entry(wanted)]
    found: list[Certified] = []
    words: list[str] = []
    certify = partial(_certify_each, file, data=data, skip=fit.skip, found=found, words=words)
    certify(entries)
    if wanted == "auto" and all(c.relative > _LOOSE for c in found):
        words.append("none of these has a useful certificate: linear models of low order are tried, too")
        linear = linear_models(fit, data)
        certify(linear)
        if "contracting" in file.identify.families:
            words.append("and networks that forget as fast as these")
            rates = {c.name: float(c.contraction.rate) for c in found}
            known = {model: rates[model.name] for model in linear if model.name in rates}
            certify(paced_networks(fit, data, known, seed=file.seed))
    if not found:
        raise CertificationError(
            "no model could be certified, so that no bound holds and no controller is made:\n"
            + "\n".join(f"  {w}" for w in words)
            + '\nput "contracting" among identify.families (it has a certificate by construction), raise '
            "identify.budget, or set identify.model to a linear one; does the plant integrate or sustain oscillations?"
        )
    best = min(found, key=lambda c: c.largest + c.relative)
    why = (
        "the only one that was asked for"
        if wanted != "auto"
        else f"lowest sum of the largest error to expect ({best.largest:.3g} standard deviations) and the certified one"
    )
    words.append(f"controlled with {best.name}: {why}")
    if best.relative > _LOOSE:
        _log.warning(
            "the certified error of %s is %.3g standard deviations of the outputs: raise identify.budget",
            best.name,
            best.relative,
        )
    return best, words


def _certify_each(
    file: RoadFile,
    entries: Sequence[Entry | Small],
    *,
    data: Dataset,
    skip: int,
    found: list[Certified],
    words: list[str],
) -> None:
    """Add what can be certified to ``found``, and what happened to ``words``."""
    for entry in entries:
        _log.info("certifying %s (%s)", entry.name, entry.what)
        try:
            one = certify_entry(file, entry, data, skip=skip)
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
