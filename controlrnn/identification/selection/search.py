"""Search over candidates: families side by side, one move after the other from the best that each has found."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from controlrnn.errors import ControlRnnError
from controlrnn.identification.selection.baselines import Baseline
from controlrnn.identification.selection.candidates import Candidate, Family, moves
from controlrnn.identification.selection.finals import Job
from controlrnn.identification.selection.trials import Trial, judge
from controlrnn.identification.training.result import FitResult
from controlrnn.records import digest
from controlrnn.records.writing import exists

_log = logging.getLogger(__name__)
_MOST_UNKNOWNS = 1500  # of a candidate
_NEURONS = 6
_RIDGE = 1e-3  # of short records


@dataclass
class Found:
    """What a search has found so far."""

    trials: list[Trial] = field(default_factory=list)
    best: dict[Family, Trial] = field(default_factory=dict)
    fits: dict[Family, FitResult | None] = field(default_factory=dict)
    complete: bool = False

    @property
    def ranked(self) -> list[Family]:
        """Families by the error of their best candidate, the lowest first."""
        return sorted(self.best, key=lambda family: self.best[family].error)


def typical(baselines: Sequence[Baseline], family: Family, short: bool) -> Candidate:
    """Candidate that the search of a family starts from."""
    linear = baselines[-1]  # the subspace model, where there is one: ARX needs more states for the same
    return Candidate(family, linear.orders()[0], _NEURONS, ridge=_RIDGE if short else 0.0)


def search(job: Job, baselines: Sequence[Baseline], families: Sequence[Family], mark: str) -> Found:
    """Try candidates until none is left or the budget of the phase ends."""
    found, tried = Found(), set()
    nu, ny = job.records[0].nu, job.records[0].ny
    for move in moves(baselines[-1].orders(), ridge=job.plan.short):
        for family in families:
            known = found.best.get(family)
            candidate = move(typical(baselines, family, job.plan.short) if known is None else known.candidate)
            unknowns = candidate.build(nu, ny, job.structure.feedthrough, 0).n_parameters
            if candidate in tried or candidate.nx > job.structure.skip * ny or unknowns > _MOST_UNKNOWNS:
                continue
            tried.add(candidate)
            answer = _judged(candidate, job, found, mark)
            if answer is None:
                return found
            trial, fit = answer
            found.trials.append(trial)
            if known is None or trial.error < known.error:
                found.best[family], found.fits[family] = trial, fit
    found.complete = True
    return found


def _judged(candidate: Candidate, job: Job, found: Found, mark: str) -> tuple[Trial, FitResult | None] | None:
    """Trial of one candidate, from the folder where an earlier run left it; None where the budget ended first."""
    plan = asdict(job.plan)
    key = digest({}, {"mark": mark, "plan": plan, "candidate": candidate.digest, "folds": len(job.every)})[:16]
    kept = None if job.folder is None else job.folder / f"trial_{key}.npz"
    fitted = None if job.folder is None else job.folder / f"fit_{key}.npz"
    if kept is not None and exists(kept):
        try:
            return _known(kept, fitted, candidate, job)
        except ControlRnnError as error:
            _log.warning("%s cannot be used (%s): it is computed anew", kept, error)
    best = min((t.error for t in found.trials), default=float("inf"))
    answer = judge(
        candidate, job.every, job.structure, job.plan, job.meter, seed=job.seed, listeners=job.listeners, best=best
    )
    if answer is not None and kept is not None and fitted is not None:
        trial, fit = answer
        if fit is not None:
            fit.save(fitted)
        trial.save(kept)  # last: where it is, the fit is
    return answer


def _known(kept: Path, fitted: Path | None, candidate: Candidate, job: Job) -> tuple[Trial, FitResult | None]:
    """Trial of an earlier run, with its fit where there is one."""
    trial = Trial.load(kept)
    model = candidate.build(job.records[0].nu, job.records[0].ny, job.structure.feedthrough, job.seed)
    fit = FitResult.load(fitted, model) if fitted is not None and exists(fitted) else None
    job.meter.counts[job.meter.phase] += trial.iterations
    job.meter.credit(trial.seconds)
    _log.info("%s: error %.4g, from the earlier run", candidate.label, trial.error)
    return trial, fit
