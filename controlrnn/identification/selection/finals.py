"""Final fits of a search: the candidate that was best over left-out blocks, fitted to all that was measured.

Of short records the final model is the mean of several starts, each fitted to all records for the number of iterations
that was best over the left-out blocks. Of long ones it goes on from the trial, with more samples, for as long as the
left-out block gets better.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.linalg

from controlrnn.certification import (
    ContractionCertificate,
    certificate_from,
    certify_by_construction,
    certify_contraction,
)
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import CertificationError, ControlRnnError, FileFormatError, StorageError, TrainingError
from controlrnn.identification.linear.delays import with_delays
from controlrnn.identification.selection.candidates import Candidate, Family
from controlrnn.identification.selection.folds import Fold, error_of, output_scale, shortened
from controlrnn.identification.selection.linear import LinearStarts
from controlrnn.identification.selection.meter import Meter, Stop
from controlrnn.identification.selection.structure import Structure
from controlrnn.identification.selection.trials import Judged, Plan, Trial, fit
from controlrnn.identification.training.progress import Callback
from controlrnn.identification.training.result import FitResult
from controlrnn.identification.training.starts import average
from controlrnn.records import Part, Schema, Stored, Text, digest
from controlrnn.records.writing import exists, storage
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

_log = logging.getLogger(__name__)
_STARTS = 4  # of short records
_PART_ITERATIONS = 60  # of long ones with the samples of a trial,
_PLAY_OFF = 15  # these among them while candidates are compared
_OUTLIER = 1.5  # a start whose error is this many times the least is left out of the mean


@dataclass(frozen=True, eq=False)
class Final:
    """Final model of one candidate.

    Args:
        system: The model, with its dead times.
        error: Its error over left-out blocks.
        contraction: Its certificate; None where none was made.
        what: Family and size in words.
    """

    system: LureSystem
    error: float
    contraction: ContractionCertificate | None
    what: str


@dataclass(frozen=True, eq=False)
class Job:
    """Data and results of a search that its final fits need."""

    every: Sequence[Fold]
    records: tuple[Trajectory, ...]
    structure: Structure
    plan: Plan
    meter: Meter
    seed: int
    listeners: tuple[Callback, ...]
    folder: Path | None
    mark: str  # digest of everything that the search depends on
    linear: LinearStarts


@dataclass(frozen=True, eq=False)
@typed()
class Piece(Stored):
    """Piece of a search as it is kept: a trial, and which fit belongs to it.

    Args:
        trial: The trial.
        key: Digest of everything that the piece depends on.
        fit: Digest of the fit's system, which has a file of its own; empty where there is none.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "search-piece", 1, meta={"key": Text(), "fit": Text()}, parts={"trial": Part(Trial, own=True)}
    )  # fmt: skip

    trial: Trial
    key: str
    fit: str


class Kept:
    """Files of one piece of a search in its folder: a trial and its fit, which a search that was stopped takes up.

    They are stored when the piece came to its end, and found again under the same search, sizes and candidate alone.

    Args:
        job: The search; without a folder nothing is kept.
        candidate: The candidate.
        what: Everything else that the piece depends on.
    """

    def __init__(self, job: Job, candidate: Candidate, what: Mapping[str, object]) -> None:
        key = {"mark": job.mark, "plan": asdict(job.plan), "candidate": candidate.digest, **what}
        self._job = job
        self._candidate = candidate
        self._key = digest({}, key)

    def _path(self, what: str) -> Path | None:
        """File in the folder of the search."""
        return None if self._job.folder is None else self._job.folder / f"{what}_{self._key[:16]}.npz"

    @property
    def checkpoint(self) -> Path | None:
        """File of a fit that has not come to its end."""
        return self._path("checkpoint")

    def load(self) -> Judged | None:
        """Trial and fits of an earlier run, whose iterations and seconds are counted; None where there are none."""
        path, fitted, job = self._path("trial"), self._path("fit"), self._job
        if path is None or fitted is None or not exists(path):
            return None
        try:
            piece, fits = Piece.load(path), []
            if piece.key != self._key:
                raise FileFormatError("it is a piece of another search")
            if piece.fit:
                if not exists(fitted):
                    raise FileFormatError(f"its fit {fitted} is missing")
                record = job.records[0]
                model = self._candidate.build(record.nu, record.ny, job.structure.feedthrough, job.seed)
                fits = [FitResult.load(fitted, model)]
                if fits[0].system.digest != piece.fit:
                    raise FileFormatError(f"{fitted} is the fit of another piece")
        except ControlRnnError as error:
            _log.warning("%s cannot be used (%s): it is computed anew", path, error)
            return None
        job.meter.counts[job.meter.phase] += piece.trial.iterations
        job.meter.credit(piece.trial.seconds)
        _log.info("%s: error %.4g, from the earlier run", self._candidate.label, piece.trial.error)
        return piece.trial, tuple(fits)

    def save(self, trial: Trial, fits: Sequence[FitResult]) -> None:
        """Store a trial and its fits, of which there is one at most."""
        path, fitted, checkpoint = self._path("trial"), self._path("fit"), self.checkpoint
        if path is None or fitted is None or checkpoint is None:
            return
        for one in fits:
            one.save(fitted)
        # Last: where it is, its fit is.
        Piece(trial, self._key, fits[0].system.digest if fits else "").save(path)
        with suppress(OSError):  # one that stays is not looked at any more
            checkpoint.unlink()

    def resumed(self, attempt: Callable[[], FitResult]) -> FitResult:
        """Result of a fit with `checkpoint`, which begins anew where that is damaged or another fit's."""
        try:
            return attempt()
        except (FileFormatError, TrainingError) as failure:
            path = self.checkpoint
            if path is None or not exists(path):
                raise
            _log.warning("%s: the fit begins anew", failure)
            with storage("write", path):
                path.unlink()
        return attempt()


@dataclass(frozen=True, eq=False)
class Contender:
    """Trial of a candidate that may become the final model.

    Args:
        trial: The trial.
        known: Its fit; None where the records are short, or where it is not known any more.
    """

    trial: Trial
    known: FitResult | None = None


def final(contenders: Sequence[Contender], job: Job) -> Final | None:
    """Fit the best of a family to all that was measured; None where no fit came to an end.

    Args:
        contenders: Trials of one family that are nearly as good as each other, the best one first.
        job: The search.
    """
    trial = contenders[0].trial
    if trial.candidate.family is Family.LINEAR:
        linear = job.linear.whole(trial.candidate.nx)
        fits = [] if linear is None else [linear]
    elif job.plan.short:
        fits = _starts(trial, job)
    else:
        trial, fits = refined(contenders, job)
    if not fits:
        return None
    system = average([f.system for f in fits]) if len(fits) > 1 else fits[0].system
    error = trial.error
    if not job.plan.short:
        # Scales of trials are those of the samples that they were fitted to: compared are errors in the same units.
        (fold,) = job.every
        error = error_of(system, fold.validation, output_scale(fold.train), job.structure.skip)
    what = trial.candidate.label + (f", mean of {len(fits)} starts" if len(fits) > 1 else "")
    proof = None if trial.candidate.family is Family.FREE else _certificate(system, fits)
    if any(job.structure.delays):
        system = with_delays(system, job.structure.delays)
        proof = None if proof is None else _searched(system)
    return Final(system, error, proof, what)


def _starts(trial: Trial, job: Job) -> list[FitResult]:
    """Fits of several starts to all records, without those that went astray."""
    found: list[FitResult] = []
    for k in range(_STARTS):
        stop = Stop(job.meter, job.listeners, trial.error)
        try:
            one = fit(
                trial.candidate,
                Dataset(job.records),
                job.structure,
                horizon=job.plan.horizon(trial.candidate.nx),
                seed=job.seed + k,
                iterations=trial.length,
                stop=stop,
                model=job.linear.of_all(trial.candidate, job.seed + k),
                keep="last",
            )
        except ControlRnnError as failure:
            _log.info("%s, start %d: cannot be fitted (%s)", trial.candidate.label, k, failure)
            continue
        if stop.stopped and found:  # a start that was cut short is worse than one less
            break
        found.append(one)
        if stop.stopped:
            break
    errors = [f.history["validation"][-1] for f in found]
    return [f for f, e in zip(found, errors, strict=True) if e <= _OUTLIER * min(errors)]


def refined(contenders: Sequence[Contender], job: Job) -> tuple[Trial, list[FitResult]]:
    """The fit of a trial, continued and from other starts until the budget of the phase ends.

    First with the samples of the trial, then with more of them: an iteration takes as long as it has samples, and far
    from the end a part of them shows the way as well. Candidates that were nearly as good as each other after the few
    iterations of a trial may part later: all of them are gone on with first, and then the best one alone.
    """
    few = (job.plan.samples, _PART_ITERATIONS)
    many = (job.plan.final_samples, job.plan.final_iterations)
    reached, stopped = [one.known for one in contenders], False
    for i, one in enumerate(contenders if len(contenders) > 1 else ()):
        further, stopped = _further(one.trial, one.known, (job.plan.samples, _PLAY_OFF), job, 0, f"tie_{i}")
        reached[i] = _better(one.known, further)
        if stopped:
            break
    errors = [np.inf if one is None else one.best_validation for one in reached]
    first = int(np.argmin(errors))
    trial, best = contenders[first].trial, reached[first]
    for k in range(_STARTS):
        now = None if k else best
        for name, size in (("part", few), ("whole", many)):
            if stopped:
                break
            further, stopped = _further(trial, now, size, job, k, name)
            now = _better(now, further)
        best = _better(best, now)
    return trial, [] if best is None else [best]


def _better(one: FitResult | None, other: FitResult | None) -> FitResult | None:
    """The fit with the lower error on the left-out block, the first one of equals; either may be missing."""
    if one is None or (other is not None and other.best_validation < one.best_validation):
        return other
    return one


def _further(
    trial: Trial, known: FitResult | None, size: tuple[int, int], job: Job, k: int, name: str
) -> tuple[FitResult | None, bool]:
    """One fit of a candidate, from a known one or its k-th start, to so many samples for at most so many iterations.

    Returns:
        The fit, None where there is none, and whether the budget of the phase ended it.
    """
    (fold,), (samples, iterations) = job.every, size
    origin = None if known is None else known.system.digest
    kept = Kept(job, trial.candidate, {"name": name, "size": list(size), "start": k, "from": origin})
    earlier = kept.load()
    if earlier is not None:
        return next(iter(earlier[1]), None), False
    began, stop = job.meter.elapsed, Stop(job.meter, job.listeners, trial.error)
    found, errors = None, np.array([np.inf])

    def attempt() -> FitResult:
        return fit(
            trial.candidate,
            Dataset(shortened(fold.train, samples), fold.validation),
            job.structure,
            horizon=job.plan.horizon(trial.candidate.nx),
            seed=job.seed + k,
            iterations=iterations,
            stop=stop,
            patience=30 if name == "whole" else 10,
            checkpoint=kept.checkpoint,
            model=job.linear.of_all(trial.candidate, job.seed + k) if known is None else known.model,
        )

    try:
        found = kept.resumed(attempt)
        errors = found.history["validation"]
        if not stop.stopped:  # a fit that had come to its end when it was killed does not tell its steps again
            stop.reach(int(found.history["step"][-1]))
    except StorageError:
        raise
    except ControlRnnError as failure:
        _log.info("%s, start %d: cannot be fitted (%s)", trial.candidate.label, k, failure)
    if not stop.stopped:
        done = Trial(trial.candidate, errors, stop.iterations, max(job.meter.elapsed - began, 0.0))
        kept.save(done, [] if found is None else [found])
    return found, stop.stopped


def _certificate(system: LureSystem, fits: Sequence[FitResult]) -> ContractionCertificate | None:
    """Certificate by construction of one model, or of the mean of several, whose metrics stand side by side."""
    try:
        parts = [certify_by_construction(f.model).contraction for f in fits if f.model is not None]
        if len(parts) == 1:
            return parts[0]
        metric = np.asarray(scipy.linalg.block_diag(*(p.metric for p in parts)))
        return certificate_from(system, metric, np.concatenate([p.multipliers for p in parts]))
    except CertificationError as failure:
        _log.warning("the guarantee by construction could not be proven (%s): looking for another proof", failure)
        return _searched(system)


def _searched(system: LureSystem) -> ContractionCertificate | None:
    """Certificate of contraction that is looked for; None where none was found."""
    try:
        return certify_contraction(system)
    except CertificationError as failure:
        _log.warning("no certificate of contraction was found (%s)", failure)
        return None
