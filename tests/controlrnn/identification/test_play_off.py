"""Candidates of a search that tie after a trial: which of them becomes the final model."""

from types import SimpleNamespace

import numpy as np
import pytest

from controlrnn.errors import DataError
from controlrnn.identification.selection import finals
from controlrnn.identification.selection.candidates import Candidate, Family
from controlrnn.identification.selection.finals import Contender
from controlrnn.identification.selection.search import Found
from controlrnn.identification.selection.trials import Plan, Trial


def trial(error, nx=2, family=Family.FREE):
    return Trial(Candidate(family, nx, 4), np.array([1.0, error]), 1, 0.1)


def test_only_what_is_nearly_as_good_as_the_best_stays_a_contender():
    found = Found()
    for nx, error in enumerate((0.5, 0.42, 0.3, 0.31, 0.325, 0.9), start=1):
        found.add(trial(error, nx), None)
    assert [one.trial.candidate.nx for one in found.contenders[Family.FREE]] == [3, 4]
    assert found.best[Family.FREE].error == 0.3
    assert len(found.trials) == 6
    found.add(trial(0.2, 7), None)
    assert [one.trial.candidate.nx for one in found.contenders[Family.FREE]] == [7]


def test_a_failed_trial_is_the_only_contender_there_is():
    found = Found()
    found.add(trial(np.inf), None)
    found.add(trial(np.inf, 3), None)
    assert found.contenders[Family.FREE][0].trial.candidate.nx == 2


@pytest.fixture
def job(monkeypatch):
    """A search whose fits only say how good they are: ``job.errors[nx]``, one after the other."""
    made = SimpleNamespace(
        every=[SimpleNamespace(train=(), validation=())],
        structure=None,
        meter=SimpleNamespace(elapsed=0.0, counts={"first": 0}, phase="first"),
        listeners=(),
        folder=None,
        mark="",
        seed=0,
        plan=Plan(10, 20, 30, 200, 10, 4, {}, short=False),
        linear=SimpleNamespace(of_all=lambda _candidate, _seed: None),
        calls=[],
        stops_at=None,
    )

    def fit(candidate, data, structure, *, stop, iterations, model, **others):
        made.calls.append((candidate.nx, iterations, model))
        stop.stopped = len(made.calls) == made.stops_at
        error = made.errors[candidate.nx].pop(0)
        if error is None:
            raise DataError("astray")
        return found(candidate.nx, error)

    monkeypatch.setattr(finals, "fit", fit)
    monkeypatch.setattr(finals, "shortened", lambda records, _samples: records)
    monkeypatch.setattr(finals, "Dataset", lambda *parts: parts)
    return made


def found(nx, error):
    name = f"{nx}: {error}"
    history = {"validation": np.array([error]), "step": np.array([0])}
    return SimpleNamespace(best_validation=error, history=history, model=name, system=SimpleNamespace(digest=name))


def contender(nx, error):
    return Contender(trial(error, nx), found(nx, error))


def test_the_one_that_gets_better_later_is_taken(job):
    """The second of the trials is the better one after some more iterations; it alone is gone on with."""
    job.errors, job.stops_at = {2: [0.30], 3: [0.20, 0.15, 0.10, 0.5]}, 5
    taken, (best,) = finals.refined([contender(2, 0.31), contender(3, 0.32)], job)
    assert (taken.candidate.nx, best.best_validation) == (3, 0.10)
    assert job.calls[:2] == [(2, 15, "2: 0.31"), (3, 15, "3: 0.32")]
    assert job.calls[2:4] == [(3, 60, "3: 0.2"), (3, 200, "3: 0.15")]
    assert job.calls[4] == (3, 60, None)  # another start, which ended with the budget


def test_the_first_stays_where_the_budget_ends_or_the_other_goes_astray(job):
    job.errors, job.stops_at = {2: [0.30]}, 1
    taken, (best,) = finals.refined([contender(2, 0.31), contender(3, 0.32)], job)
    assert (taken.candidate.nx, best.best_validation, len(job.calls)) == (2, 0.30, 1)
    job.calls.clear()
    job.errors, job.stops_at = {2: [0.30, 0.29], 3: [None]}, 3
    taken, (best,) = finals.refined([contender(2, 0.31), contender(3, 0.32)], job)
    assert (taken.candidate.nx, best.best_validation) == (2, 0.29)


def test_a_longer_fit_that_is_worse_is_not_taken(job):
    job.errors, job.stops_at = {2: [0.4, 0.5, 0.35]}, 3
    _, (best,) = finals.refined([contender(2, 0.31)], job)
    assert best.best_validation == 0.31
    assert job.calls[0][1] == 60  # alone, all iterations of the part are its own
