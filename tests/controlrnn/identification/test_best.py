"""`identify_best`: structure by tests, baselines in every result, a choice with its reason, work that repeats."""

import logging
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from wiener_records import record

from controlrnn.data import Dataset, Timing
from controlrnn.errors import DataError, SettingError
from controlrnn.identification import BestFit, Clock, Family, Work, identify_best
from controlrnn.identification.selection import meter as meters
from controlrnn.identification.selection.candidates import Candidate, moves
from controlrnn.identification.selection.folds import LONG, error_of, folds, shortened
from controlrnn.identification.selection.meter import Meter, Phase, Stop
from controlrnn.identification.selection.structure import find_structure
from controlrnn.identification.training.progress import Progress

SHORT = Work(search=200, first=30, second=30)  # iterations; five candidates


@pytest.fixture(scope="module")
def data():
    return Dataset((record(240, 0), record(200, 1)), (), (record(200, 2),))


@pytest.fixture(scope="module")
def fit(data, tmp_path_factory):
    return identify_best(data, budget=0.5, work=SHORT, folder=tmp_path_factory.mktemp("search"))


def test_a_network_beats_the_baselines_where_the_plant_bends(fit, data):
    assert {"arx", "subspace", "linear"} <= {e.name for e in fit.entries}
    assert fit.chosen in {"free", "contracting"}
    errors = {e.name: e.error for e in fit.entries}
    assert fit.entry(fit.chosen).error == min(errors.values())
    assert errors[fit.chosen] < 0.7 * min(errors["arx"], errors["subspace"])
    test = {e.name: e.test.rmse[0] for e in fit.entries}
    assert test[fit.chosen] < 0.7 * min(test["arx"], test["subspace"])
    run = fit.simulate(data.test[0])
    assert np.sqrt(np.mean((run - data.test[0].y)[fit.skip :] ** 2)) == pytest.approx(test[fit.chosen])


def test_the_certified_model_has_a_certificate_that_verifies(fit):
    entry = fit.certified
    assert entry.name == "contracting"
    assert entry.contraction.verify(entry.system) > 0
    assert entry.contraction.rate < 1


def test_it_says_why_and_prints_on_one_screen(fit, data):
    text = str(fit)
    assert len(text.splitlines()) <= 20
    assert all(e.name in text for e in fit.entries)
    assert f"{fit.chosen} (" in fit.reason
    assert "left-out" in fit.reason
    assert len(fit.notes) == 3
    assert len(fit.plot(data.test[0]).axes) == 2
    assert len(fit.plot_search().axes) == 1
    with pytest.raises(SettingError, match="must be one of"):
        fit.entry("lstm")


def test_results_are_stored(fit, tmp_path):
    fit.save(tmp_path / "best.npz")
    again = BestFit.load(tmp_path / "best.npz")
    assert again.digest == fit.digest
    assert again.system.digest == fit.system.digest
    assert [t.candidate for t in again.trials] == [t.candidate for t in fit.trials]


def test_the_same_work_gives_the_same_models(fit, data):
    again = identify_best(data, budget=0.5, work=fit.work)
    assert [(e.name, e.system.digest) for e in again.entries] == [(e.name, e.system.digest) for e in fit.entries]
    assert again.work == fit.work


class Interrupted:
    """Ctrl-C after some iterations."""

    def __init__(self, after):
        self.left = after

    def on_step(self, progress):  # noqa: ARG002  # a callback's signature
        self.left -= 1
        if not self.left:
            raise KeyboardInterrupt

    def on_end(self, status):
        pass


def test_a_search_goes_on_where_it_was_stopped(fit, data, tmp_path, caplog):
    with pytest.raises(KeyboardInterrupt):
        identify_best(data, budget=0.5, work=SHORT, folder=tmp_path, callbacks=[Interrupted(150)])
    kept = list(tmp_path.glob("trial_*.npz"))
    assert kept
    with caplog.at_level(logging.INFO, "controlrnn"):
        again = identify_best(data, budget=0.5, work=SHORT, folder=tmp_path)
    assert caplog.text.count("from the earlier run") == len(kept)
    assert [e.system.digest for e in again.entries] == [e.system.digest for e in fit.entries]
    with caplog.at_level(logging.INFO, "controlrnn"):
        caplog.clear()
        assert identify_best(data, budget=0.5, work=SHORT, folder=tmp_path).digest == again.digest
    assert "final fit" not in caplog.text  # the result was taken as it is
    kept[0].write_bytes(b"damaged")
    (tmp_path / "best.npz").unlink()
    assert identify_best(data, budget=0.5, work=SHORT, folder=tmp_path).system.digest == again.system.digest
    assert "cannot be used" in caplog.text


def test_linear_data_keep_a_linear_model_or_one_as_good(caplog):
    data = Dataset((record(300, 0, bend=0.0, noise=0.1),), (), (record(200, 5, bend=0.0, noise=0.1),))
    with caplog.at_level(logging.WARNING, "controlrnn"):
        found = identify_best(data, budget=0.5, work=Work(search=90, first=20, second=20))
    best = min(found.entries[0].error, *(e.error for e in found.entries))
    assert found.entry(found.chosen).error == best
    linear = min(e.error for e in found.entries if e.name in ("arx", "subspace", "linear"))
    worse = [e for e in found.entries if e.name in ("free", "contracting") and e.error > linear]
    assert len(worse) == caplog.text.count("worse than the")
    test = {e.name: e.test.rmse[0] for e in found.entries}
    assert test[found.chosen] < 1.1 * min(test["arx"], test["subspace"])


def test_without_families_there_are_linear_models_only(data):
    found = identify_best(data, budget=5, families=())
    assert {e.name for e in found.entries} == {"arx", "subspace"}
    assert "raise the budget" in found.reason
    assert found.certified is None


def test_one_family_may_be_the_linear_one(data):
    found = identify_best(data, budget=5, families=["linear"])
    assert {e.name for e in found.entries} == {"arx", "subspace", "linear"}
    assert {t.candidate.family for t in found.trials} == {Family.LINEAR}
    entry = found.entry("linear")
    assert entry.contraction.verify(entry.system) > 0
    assert entry.error == pytest.approx(min(t.error for t in found.trials))
    assert "raise the budget" in found.reason


@pytest.mark.parametrize(("through", "expected"), [(0.0, False), (0.5, True)])
def test_feedthrough_is_decided_by_a_test(through, expected):
    one = record(400, 3, through=through, timing=Timing.INPUT_FIRST)
    assert find_structure([one], None).feedthrough is expected
    first = replace(one, timing=Timing.MEASURED_FIRST)
    assert find_structure([first], None).feedthrough is False


def test_dead_times_are_found_and_become_part_of_the_system():
    assert find_structure([record(400, 3)], None).delays == (0,)
    pieces = Dataset((record(400, 3, delay=6, bend=0.0),), (), (record(300, 4, delay=6, bend=0.0),))
    structure = find_structure(pieces.train, None)
    assert structure.delays[0] in (5, 6, 7)
    found = identify_best(pieces, budget=10, families=())
    assert found.delays == structure.delays
    assert found.entry("arx").system.nx > structure.delays[0]
    assert found.entry("subspace").test.fit_percent[0] > 80


def test_folds_leave_out_blocks_and_never_the_first():
    whole = [record(300, k) for k in range(3)]
    every = folds(whole[:2], whole[2:], 20)
    assert len(every) == 4
    seen = []
    for fold in every:
        left = np.concatenate([r.y for r in fold.validation])
        kept = np.concatenate([r.y for r in fold.train])
        assert not set(left[:, 0]) & set(kept[:, 0])
        assert whole[0].y[0, 0] in kept
        seen += left[:, 0].tolist()
    assert len(seen) == len(set(seen)) >= 0.7 * 900
    with pytest.raises(DataError, match="lower skip"):
        folds([record(60, 0)], [], 50)


def test_long_records_have_one_fold():
    long = record(LONG + 500, 0)
    (fold,) = folds([long], [record(500, 1)], 20)
    assert [len(r) for r in fold.train + fold.validation] == [LONG + 500, 500]
    (fold,) = folds([long], [], 20)
    assert len(fold.validation[0]) == pytest.approx(0.2 * len(long), abs=2)
    np.testing.assert_array_equal(fold.train[0].y, long.y[: len(fold.train[0])])


def test_a_part_of_each_long_record_is_taken_rather_than_few_records():
    long = [record(6000, k) for k in range(3)]
    assert [len(r) for r in shortened(long, 6000)] == [2000] * 3
    assert [len(r) for r in shortened(long, 3000)] == [3000]


@pytest.mark.parametrize(("count", "length", "most"), [(1, 500, 100), (30, 100, 1000), (4, 100, 350), (3, 50, 1000)])
def test_shortened_records_keep_to_the_number_and_spread(count, length, most):
    records = [record(length, k) for k in range(count)]
    few = shortened(records, most)
    assert sum(map(len, few)) <= most + length
    assert len(few) <= 20
    assert all(any(np.shares_memory(r.y, o.y) or (r.y == o.y[: len(r)]).all() for o in records) for r in few)


def test_the_clock_ends_phases_and_counts_do_so_too(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(meters.time, "perf_counter", lambda: now[0])
    meter = Meter(100.0, Clock.WALL, None)
    stop = Stop(meter)

    def step(n):
        return Progress(n, 9, 0.1, 0.1, 0.1, 0.1)

    stop.on_step(step(1))
    now[0] = 51.0
    meter.short = True
    stop.on_step(step(2))
    meter.short = False
    with pytest.raises(KeyboardInterrupt):
        stop.on_step(step(3))
    assert stop.stopped
    assert meter.work == Work(search=2)
    meter.phase = Phase.FIRST
    assert not meter.over
    meter.credit(30.0)
    assert meter.elapsed == pytest.approx(81.0)
    assert meter.over
    counted = Stop(Meter(100.0, Clock.WALL, Work(search=1)))
    counted.on_step(step(1))
    with pytest.raises(KeyboardInterrupt):
        counted.on_step(step(2))
    resumed = Meter(100.0, Clock.WALL, Work(search=8))
    Stop(resumed).on_step(step(7))  # from a checkpoint after six iterations
    assert resumed.work == Work(search=7)


@pytest.mark.slow
@pytest.mark.parametrize("long", [False, True])
def test_the_budget_is_kept(data, long):
    given = Dataset((record(9000, 0), record(9000, 1)), (), (record(500, 2),)) if long else data
    for seconds in (15.0, 25.0):
        found = identify_best(given, budget=seconds, clock="processor")
        assert found.seconds <= 1.1 * seconds
        assert found.trials


def test_moves_visit_neighbours():
    start = Candidate(Family.FREE, 2, 6, ridge=1e-3)
    every = [move(start) for move in moves([2, 4], ridge=True)]
    assert every[0] == start
    assert {c.nx for c in every} == {2, 3, 4}
    assert {c.ridge for c in every} == {1e-4, 1e-3, 1e-2}
    assert {c.refined for c in every} == {False, True}
    assert all(a != b for a, b in pairwise(every) if a != start)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"budget": -1}, SettingError, "budget"),
        ({"families": ["lstm"]}, SettingError, "lstm"),
        ({"clock": "sun"}, SettingError, "sun"),
        ({"skip": 0}, SettingError, "skip"),
        ({"skip": 10**6}, DataError, "lower skip"),
    ],
)
def test_bad_arguments_are_refused(data, arguments, error, words):
    with pytest.raises(error, match=words):
        identify_best(data, **({"budget": 5} | arguments))


def test_one_record_or_several_will_do_and_anything_else_is_refused():
    one = record(300, 0)
    for given in (one, [one]):
        assert identify_best(given, budget=5, families=()).entry("arx").test is None
    with pytest.raises((SettingError, DataError), match="data"):
        identify_best([one, "two"], budget=5)


def test_errors_are_in_units_of_the_scale(data):
    found = identify_best(data, budget=5, families=())
    system = found.entry("subspace").system
    one = error_of(system, data.test, np.ones(1), found.skip)
    assert error_of(system, data.test, np.full(1, 2.0), found.skip) == pytest.approx(one / 2)


def test_missing_outputs_are_no_data(data):
    """A tenth of the outputs at random, and a stretch that tells nothing: placeholders in their place would ruin it."""
    rng = np.random.default_rng(5)

    def holed(record):
        y = record.y.copy()
        y[rng.random(len(y)) < 0.1] = np.nan
        y[60:75] = np.nan
        return replace(record, y=y)

    few = Dataset(tuple(holed(r) for r in data.train), (), data.test)
    fit = identify_best(few, budget=0.5, work=Work(search=60, first=20, second=20))
    assert {"arx", "subspace"} <= {e.name for e in fit.entries}
    assert all(np.isfinite([e.error, *e.train.rmse, *e.test.rmse]).all() for e in fit.entries)
    networks = [e for e in fit.entries if e.name in ("free", "contracting")]
    assert networks
    # The test record is complete: its noise is 0.02, its range 2.
    assert min(e.test.rmse[0] for e in networks) < 0.1
