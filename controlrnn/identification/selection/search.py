"""Search over candidates: families side by side, one move after the other from the best that each has found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from controlrnn.identification.selection.baselines import Baseline
from controlrnn.identification.selection.candidates import Candidate, Family, moves
from controlrnn.identification.selection.finals import Contender, Job, Kept
from controlrnn.identification.selection.trials import Judged, Trial, judge
from controlrnn.identification.training.result import FitResult
from controlrnn.models import Model

_MOST_UNKNOWNS = 1500  # of a candidate
_NEURONS = 6
_CONTENDERS, _TIE = 2, 1.1  # candidates of a family that the final fit decides between, and how far apart they may be
_RIDGE = 1e-3  # of short records


@dataclass
class Found:
    """What a search has found so far."""

    trials: list[Trial] = field(default_factory=list)
    contenders: dict[Family, list[Contender]] = field(default_factory=dict)
    complete: bool = False

    @property
    def best(self) -> dict[Family, Trial]:
        """Best candidate of each family."""
        return {family: of_family[0].trial for family, of_family in self.contenders.items()}

    @property
    def ranked(self) -> list[Family]:
        """Families by the error of their best candidate, the lowest first."""
        best = self.best
        return sorted(best, key=lambda family: best[family].error)

    def add(self, trial: Trial, known: FitResult | None) -> None:
        """Add a trial and its fit, where that will be gone on with."""
        self.trials.append(trial)
        family = trial.candidate.family
        ranked = sorted([*self.contenders.get(family, ()), Contender(trial, known)], key=lambda one: one.trial.error)
        near = [one for one in ranked if one.trial.error <= _TIE * ranked[0].trial.error]
        self.contenders[family] = near[:_CONTENDERS] or ranked[:1]


def typical(family: Family, nx: int, short: bool) -> Candidate:
    """Candidate that the search of a family starts from."""
    return Candidate(family, nx, _NEURONS, ridge=_RIDGE if short else 0.0, refined=not short)


def search(job: Job, baseline: Baseline, families: Sequence[Family]) -> Found:
    """Refine linear models, then try candidates until none is left or the budget of the phase ends.

    Args:
        job: The search.
        baseline: The subspace model where there is one, else the ARX model.
        families: Families of networks.
    """
    found, tried = Found(), set()
    nu, ny = job.records[0].nu, job.records[0].ny
    for n in baseline.orders():
        if job.meter.more_orders:
            job.linear.add(n)
            job.meter.orders += 1
    orders = job.linear.orders(baseline.order)
    for move in moves(orders, ridge=job.plan.short):
        for family in families:
            known = found.best.get(family)
            candidate = move(typical(family, orders[0], job.plan.short) if known is None else known.candidate)
            unknowns = candidate.build(nu, ny, job.structure.feedthrough, 0).n_parameters
            if candidate in tried or candidate.nx > job.structure.skip * ny or unknowns > _MOST_UNKNOWNS:
                continue
            tried.add(candidate)
            best = min((t.error for t in found.trials), default=job.linear.best.error)
            answer = judged(candidate, job, best)
            if answer is None:
                return found
            trial, fits = answer
            found.add(trial, fits[0] if fits else None)
    found.complete = True
    return found


def judged(candidate: Candidate, job: Job, best: float = float("inf")) -> Judged | None:
    """Trial of one candidate, from the folder where an earlier run left it; None where the budget ended first.

    Fits of short records are not among what it returns: they are not gone on with.
    """
    if candidate.refined and candidate.family is not Family.LINEAR:
        job.linear.add(candidate.nx)  # an entry of its own, also where the network's trial is known
    kept = Kept(job, candidate, {"folds": len(job.every)})
    known = kept.load()
    if known is not None:
        return known

    def started(one: Candidate, k: int) -> Model | None:
        return job.linear.of_fold(one, k, job.seed) if one.refined else None

    answer = judge(
        candidate,
        job.every,
        job.structure,
        job.plan,
        job.meter,
        seed=job.seed,
        listeners=job.listeners,
        best=best,
        started=started,
    )
    if answer is None:
        return None
    trial, fits = answer[0], () if job.plan.short else answer[1]
    kept.save(trial, fits)
    return trial, fits
