"""`identify_best`: a good model without options.

In this order: structure by tests (dead times, feedthrough), linear baselines, candidates of the families compared over
left-out blocks of the estimation records, final fits of the best of each family, scores. Test records are used for
scores only. Everything is fitted by Levenberg-Marquardt on whole records from a linear start, with initial states
estimated; see `controlrnn.identification.training` for the parts and `controlrnn.identification.selection` for theirs.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.arithmetic import arithmetic
from controlrnn.checks import checked_seed, count, items, positive
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import ControlRnnError
from controlrnn.identification.linear.delays import with_delays, without_delays
from controlrnn.identification.scores.free_run import score
from controlrnn.identification.selection.baselines import Baseline, find_baselines
from controlrnn.identification.selection.candidates import Candidate, Family
from controlrnn.identification.selection.finals import Contender, Final, Job, final
from controlrnn.identification.selection.folds import folds
from controlrnn.identification.selection.linear import LinearStarts
from controlrnn.identification.selection.meter import Clock, Meter, Phase, Work
from controlrnn.identification.selection.result import BestFit, Entry, ordered
from controlrnn.identification.selection.search import Found, judged, search, typical
from controlrnn.identification.selection.structure import Structure, find_structure
from controlrnn.identification.selection.trials import Plan
from controlrnn.identification.training.progress import Callback
from controlrnn.identification.training.settings import FitStatus
from controlrnn.records import digest
from controlrnn.records.writing import exists, storage
from controlrnn.typed import typed

_log = logging.getLogger(__name__)


@typed(unchecked=("data", "families", "clock"))
def identify_best(
    data: Dataset | Trajectory | Sequence[Trajectory],
    *,
    budget: float = 180.0,
    clock: Clock | str = Clock.WALL,
    families: Sequence[Family | str] = tuple(Family),
    skip: int | None = None,
    seed: int = 0,
    folder: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    work: Work | None = None,
) -> BestFit:
    """Find a good model of records without options: baselines, structure, families, sizes, refinement, choice.

    The order of all work is fixed by the seed; the clock decides only where it ends. So a longer budget goes further on
    the same road, and the same seed gives the same result for equal `BestFit.work`: pass it as ``work`` to repeat a
    result to its bits on the same processor and library, whatever the time it takes. (The samples that candidates are
    fitted to depend on ``budget``, too, so leave that as it was.)

    Args:
        data: Training records, as a `Dataset`, one record or several. Validation records belong to what models are
            chosen by, test records are scored only.
        budget: Seconds for everything [s]. Baselines are always computed, also where they take longer.
        clock: Whether these pass on the wall, or are computed by this process.
        families: Families to try. Refined linear models are tried before networks, also where only these are named;
            without any family the baselines remain.
        skip: Samples at the start of every record that scores leave out, and that initial states are estimated from;
            found from the lengths of the records when left out.
        seed: Seed of all starts.
        folder: Folder in which the search keeps what it has done; with the same data and settings it goes on there, and
            the seconds of the earlier run count. Without it nothing is kept.
        callbacks: Listeners, e.g. `TqdmProgress`; they get seconds for steps.
        work: Counts to stop at instead of the clock.

    Returns:
        All models with their errors, the choice and its reason.

    Raises:
        DataError: The records are too short to leave a part of them out, or allow no linear model either.
        SettingError: An argument is out of range.
        KeyboardInterrupt: Ctrl-C was pressed; with ``folder`` the search goes on from there.
    """
    dataset = _dataset(data)
    budget, seed, clock = positive("budget", budget), checked_seed(seed), Clock(clock)
    wanted = tuple(dict.fromkeys(Family(f) for f in items("families", families, object)))
    networks = tuple(f for f in wanted if f is not Family.LINEAR)
    if skip is not None:
        skip = count("skip", skip)
    settings = {"families": [str(f) for f in wanted], "skip": skip, "seed": seed, "budget": budget, "clock": str(clock)}
    mark = _mark(dataset, settings | ({} if work is None else {"work": work.digest}))
    place = None if folder is None else Path(folder)
    finished = _finished(place, mark)
    if finished is not None:
        return finished
    listeners = tuple(callbacks)
    meter = Meter(budget, clock, work)
    prepared = _prepared(dataset, skip)
    job = _job(prepared, meter, seed, listeners, place, mark)
    found = search(job, prepared.baselines[-1], networks) if wanted else Found(complete=True)
    finals = _finals(found, job)
    result = _result(dataset, prepared, found, finals, job)
    result = replace(result, budget=budget, clock=clock, seconds=meter.elapsed, seed=seed, mark=mark)
    for listener in listeners:
        listener.on_end(FitStatus.FINISHED if found.complete else FitStatus.STOPPED_EARLY)
    if place is not None:
        result.save(place / "best.npz")
    return result


@dataclass(frozen=True, eq=False)
class _Prepared:
    """Records without dead times, their folds, and the baselines."""

    records: tuple[Trajectory, ...]
    every: Any
    structure: Structure
    baselines: list[Baseline]
    short: bool


def _dataset(data: Dataset | Trajectory | Sequence[Trajectory]) -> Dataset:
    """The data as a dataset."""
    if isinstance(data, Dataset):
        return data
    records = (data,) if isinstance(data, Trajectory) else items("data", data, Trajectory)
    return Dataset(tuple(records))


def _mark(dataset: Dataset, settings: dict[str, Any]) -> str:
    """Digest of everything that the order of the work depends on."""
    parts = ("train", "validation", "test")
    arrays = {f"{p}/{i}/{n}": getattr(r, n) for p in parts for i, r in enumerate(getattr(dataset, p)) for n in "uy"}
    timing = [str(r.timing) for r in dataset.all]
    return digest(arrays, {"dt": dataset.dt, "timing": timing, "settings": settings, "arithmetic": arithmetic()})


def _finished(folder: Path | None, mark: str) -> BestFit | None:
    """Result of an earlier run that came to its end; None where there is none of these data and settings."""
    if folder is None:
        return None
    path = folder / "best.npz"
    with storage("write", path):
        folder.mkdir(parents=True, exist_ok=True)
    if not exists(path):
        return None
    try:
        found = BestFit.load(path)
    except ControlRnnError as error:
        _log.warning("%s cannot be used (%s): the search starts anew", path, error)
        return None
    if found.mark != mark:
        _log.warning("%s is the result of other data or settings: it will be replaced", path)
        return None
    return found


def _prepared(dataset: Dataset, skip: int | None) -> _Prepared:
    """Structure, folds and baselines."""
    pool = dataset.train + dataset.validation
    structure = find_structure(pool, skip)
    for reason in structure.reasons:
        _log.info("%s", reason)
    delays = structure.delays

    def moved(records: Sequence[Trajectory]) -> tuple[Trajectory, ...]:
        return tuple(without_delays(r, delays) for r in records) if any(delays) else tuple(records)

    train, validation = moved(dataset.train), moved(dataset.validation)
    every = folds(train, validation, structure.skip)
    baselines = find_baselines(every, train + validation, structure)
    return _Prepared(train + validation, every, structure, baselines, len(every) > 1)


def _job(
    prepared: _Prepared, meter: Meter, seed: int, listeners: tuple[Callback, ...], folder: Path | None, mark: str
) -> Job:
    """The search, with the sizes that its budget allows."""
    last = prepared.baselines[-1]  # the subspace model, where there is one: ARX needs more states for the same
    meter.short = prepared.short
    usual = replace(typical(Family.FREE, last.orders()[0], prepared.short), nv=8)
    plan = Plan.of(meter.seconds, prepared.every, usual, Candidate(Family.LINEAR, last.order, 0), last.horizons)
    records, structure = prepared.records, prepared.structure

    def judge(candidate: Candidate) -> Any:
        return judged(candidate, job)

    linear = LinearStarts(judge, prepared.every, records, structure, plan, meter, listeners)
    job = Job(prepared.every, records, structure, plan, meter, seed, listeners, folder, mark, linear)
    return job


def _finals(found: Found, job: Job) -> dict[Family, Final]:
    """Final fits of the best candidate of each family, the better family first."""
    finals: dict[Family, Final] = {}
    if job.linear.trials:
        best = final([Contender(job.linear.best)], job)
        finals |= {} if best is None else {Family.LINEAR: best}
    for phase, family in zip((Phase.FIRST, Phase.SECOND), found.ranked, strict=False):
        job.meter.phase = phase
        if not np.isfinite(found.best[family].error):
            continue
        _log.info("final fit of %s", found.best[family].candidate.label)
        one = final(found.contenders[family], job)
        if one is not None:
            finals[family] = one
    return finals


def _result(dataset: Dataset, prepared: _Prepared, found: Found, finals: dict[Family, Final], job: Job) -> BestFit:
    """Entries with their scores, and the choice."""
    structure = prepared.structure
    entries = [
        _entry(dataset, structure, b.name, b.what, with_delays(b.system, structure.delays), b.error, None)
        for b in prepared.baselines
    ]
    for family, one in finals.items():
        try:
            entries.append(_entry(dataset, structure, str(family), one.what, one.system, one.error, one.contraction))
        except ControlRnnError as failure:
            _log.warning("%s: the final model cannot be used (%s)", one.what, failure)
    entries = list(ordered(entries))
    chosen, networks = entries[0], [str(family) for family in finals if family is not Family.LINEAR]
    baseline = next(e for e in entries if e.name not in networks)
    for e in entries:
        if e.name in networks and e.error > baseline.error:
            _log.warning("%s (%s) is worse than the %s model over left-out blocks", e.name, e.what, baseline.name)
    errors = ", ".join(f"{e.name} {e.error:.4g}" for e in entries[1:])
    why = (
        f"{chosen.name} ({chosen.what}) has the lowest free-run error over {len(prepared.every)} left-out block(s): "
        f"{chosen.error:.4g} of the outputs' standard deviation" + (f"; {errors}" if errors else "")
    )
    if not networks:
        why += "; no network came to a final fit: raise the budget"
    elif not found.complete:
        why += f"; the budget ended the search after {len(found.trials)} candidates"
    return BestFit(
        entries=tuple(entries),
        chosen=chosen.name,
        reason=why,
        notes=structure.reasons,
        trials=(*job.linear.trials, *found.trials),
        work=job.meter.work,
        skip=structure.skip,
        feedthrough=structure.feedthrough,
        delays=structure.delays,
        budget=1.0,
        clock=Clock.WALL,
        seconds=0.0,
        seed=0,
        mark="",
    )


def _entry(
    dataset: Dataset, structure: Structure, name: str, what: str, system: Any, error: float, contraction: Any
) -> Entry:
    """Entry with its scores.

    Raises:
        DataError: A free run is not finite.
    """
    pool = [r for r in dataset.train + dataset.validation if len(r) > structure.skip]
    train = score(system, pool, skip=structure.skip, estimate=True)
    test = score(system, dataset.test, skip=structure.skip, estimate=True) if dataset.test else None
    return Entry(name, what, system, error, contraction, train, test)
