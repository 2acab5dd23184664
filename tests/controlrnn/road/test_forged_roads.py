"""Roads that somebody altered, checksums and all: what is claimed of them has to fail."""

import hashlib
import json
import re
from dataclasses import replace

import numpy as np
import pytest
from small_road import drive, set_fields

import mpc
from controlrnn.errors import FileFormatError
from controlrnn.road import Stage, open_road, verify_folder

FRESH = "each stage was made from this road file and from what is here"


def failing(verdicts):
    """Claims that fail, but for the one that notices every file that is another one than the stages after it read."""
    return [v.claim for v in verdicts if not v.holds and v.claim != FRESH]


def forged(place, stage, name, change):
    """Change a result and its checksums, as someone could who wants it to look right."""
    road = open_road(place / "road")
    path = place / "road" / name
    change(road).save(path)
    ledger = json.loads((place / "road" / "road.json").read_text())
    ledger["stages"][stage]["files"][name] = hashlib.sha256(path.read_bytes()).hexdigest()
    (place / "road" / "road.json").write_text(json.dumps(ledger))
    return verify_folder(place / "road")


def smaller(result, name):
    return replace(result, **{name: 0.9 * np.asarray(getattr(result, name))})


@pytest.mark.parametrize(
    ("stage", "name", "change", "fails"),
    [
        ("tighten", "model_error.npz", lambda r: smaller(r.model_error, "bounds"), "model error follows"),
        ("tighten", "tightening.npz", lambda r: smaller(r.tightening, "model_error"), "tightening is the sum"),
        ("certify", "horizon.npz", lambda r: smaller(r.certificate, "bounds"), "prediction errors"),
        ("certify", "contraction.npz", lambda r: smaller(r.contraction, "rate"), "forgets its start"),
    ],
)
def test_what_was_forged_fails(place, stage, name, change, fails):
    verdicts = forged(place, stage, name, change)
    assert verdicts[0].holds  # its checksum is right
    wrong = [v for v in verdicts if not v.holds]
    assert any(fails in v.claim for v in wrong), verdicts


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("starts", 10**6),
        ("length", 10**6),
        ("sources", None),
        ("washout", 0),
        ("unit", "step"),
        ("confidence", 0.999),
        ("loop", "closed"),
        ("method", "set_membership"),
        ("missing", 0.5),
        ("measured", 0.5),
        ("premises", None),
        ("observer_digest", "0" * 64),
    ],
)
def test_no_promise_is_larger_than_the_records_give(place, field, value):
    """The bounds are right, and the tightening is the sum of its parts: only what is promised of them is not."""
    old = open_road(place / "road")
    assert getattr(old.model_error, field) != value
    forged(place, "tighten", "model_error.npz", lambda r: replace(r.model_error, **{field: value}))
    verdicts = forged(
        place,
        "tighten",
        "tightening.npz",
        lambda r: mpc.tighten(r.model_error, r.certificate, observer=r.observer, initial_only=r.initial_certificate),
    )
    assert failing(verdicts) == ["the model error follows from the calibration records"]


def with_loops(change):
    """Change of every loop."""
    return lambda r: mpc.MonteCarloResult(tuple(change(one) for one in r.loops.results))


def short_bounds(loop):
    """A loop whose plans had no steps, so that it says nothing of the tightening."""
    return replace(loop, bounds=loop.bounds[:1], predicted=loop.predicted[:, :1], errors=loop.errors[:, :1])


@pytest.mark.parametrize(
    "change",
    [
        with_loops(lambda one: replace(one, upper=one.upper + 9.0)),
        with_loops(lambda one: replace(one, lower=np.full_like(one.lower, -np.inf))),
        with_loops(lambda one: replace(one, bounds=0.9 * one.bounds)),
        with_loops(short_bounds),
        with_loops(lambda one: replace(one, reference=np.full_like(one.reference, 9.0))),
        with_loops(lambda one: replace(one, dt=1.0)),
        lambda r: mpc.MonteCarloResult(r.loops.results[:1]),
        lambda r: mpc.MonteCarloResult(r.loops.results[:1] * 2),
        lambda r: r.nominal_loops,
    ],
)
def test_loops_are_those_of_the_road_file(place, change):
    verdicts = forged(place, "simulate", "loops_tightened.npz", change)
    assert failing(verdicts) == ["the loops ran with this tightening"]


def test_the_loops_beside_them_are_those_of_the_road_file(place):
    """Loops in wider limits make those without tightening look as if they did as well."""
    wider = [replace(one, upper=one.upper + 9.0) for one in open_road(place / "road").nominal_loops.results]
    verdicts = forged(place, "simulate", "loops_nominal.npz", lambda _: mpc.MonteCarloResult(tuple(wider)))
    assert failing(verdicts) == ["the loops ran with this tightening"]


def edited(place, change):
    """Change the ledger of a road."""
    path = place / "road" / "road.json"
    content = json.loads(path.read_text())
    change(content["stages"])
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("key", 3),
        ("files", []),
        ("files", {"a": 3}),
        ("words", "abc"),
        ("words", [1]),
        ("figures", None),
        ("figures", [1]),
        ("seconds", float("nan")),
        ("made", None),
        ("version", 1),
        ("more", 1),
    ],
)
def test_what_is_no_ledger_is_refused(place, field, value):
    edited(place, lambda stages: stages["certify"].update({field: value}))
    with pytest.raises(FileFormatError, match=r"is no ledger of a road .*delete it"):
        verify_folder(place / "road")


def test_a_ledger_that_is_nested_without_end_is_refused(place):
    (place / "road" / "road.json").write_text("[" * 100_000)
    with pytest.raises(FileFormatError, match="is no ledger of a road"):
        verify_folder(place / "road")


@pytest.mark.parametrize(
    "name", ["../kept.txt", "data/../../kept.txt", "..\\kept.txt", "C:\\kept.txt", "C:kept.txt", "", "."]
)
def test_a_ledger_names_no_file_outside_of_its_folder(place, name):
    """A stage that runs again removes what it no longer writes: a folder from elsewhere must not remove more."""
    kept = place / "kept.txt"
    kept.write_text("mine")
    edited(place, lambda stages: stages["tighten"]["files"].update({name: "0" * 64}))
    with pytest.raises(FileFormatError, match="paths in the folder"):
        drive(place, until=Stage.TIGHTEN, redo=True)
    assert kept.read_text() == "mine"


def test_a_ledger_without_steps_is_no_error_of_ours(place):
    edited(place, lambda stages: stages["certify"]["figures"].pop("steps"))
    verdicts = verify_folder(place / "road")
    assert any("whole number of steps" in v.words for v in verdicts if not v.holds)


@pytest.mark.parametrize(
    ("fields", "stages"),
    [
        ({"dt": 5.0}, ["check"]),
        ({"timing": '"input_first"'}, ["check"]),
        ({"budget": 99.0}, ["identify", "certify"]),
        ({"iterations": 3}, ["certify"]),
        ({"coverage": 0.5}, ["tighten", "simulate"]),
        ({"soft": "false"}, ["simulate"]),
        ({"move_limit": 0.1}, ["simulate"]),
        ({"loops": 7}, ["simulate"]),
        ({"hold": 13}, ["simulate"]),
    ],
)
def test_results_of_another_road_file_are_none_of_this_one(place, fields, stages):
    """A run that fails or is interrupted leaves the new road file beside what was made from the old one."""
    set_fields(place / "road" / "road.toml", **fields)
    (verdict,) = [v for v in verify_folder(place / "road") if v.claim == FRESH]
    assert not verdict.holds
    assert re.findall(r"(\w+) from another road file", verdict.words) == stages


def test_limits_that_nothing_was_made_for_are_noticed(place):
    old = open_road(place / "road").file.outputs[0].upper
    path = place / "road" / "road.toml"
    text = path.read_text()
    assert text.count(f"upper = {old} ") == 1
    path.write_text(text.replace(f"upper = {old} ", f"upper = {old - 0.5} "))
    assert [v.claim for v in verify_folder(place / "road") if not v.holds] == [
        FRESH,
        "the loops ran with this tightening",
    ]


@pytest.mark.parametrize("stage", ["check", "identify", "certify", "tighten"])
def test_a_stage_that_is_missing_is_noticed(place, stage):
    """That no model saw the calibration records is known only of a search whose records are here."""
    edited(place, lambda stages: stages.pop(stage))
    (verdict,) = [v for v in verify_folder(place / "road") if v.claim == FRESH]
    assert "simulate from other results" in verdict.words
    assert not verdict.holds


def test_an_interrupted_run_leaves_no_claim_that_holds(place, monkeypatch):
    """Data were dealt out anew, and the search for a model of them was interrupted."""
    import controlrnn.identification as identification

    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(identification, "identify_best", stop)
    set_fields(place / "road.toml", gap=2)
    with pytest.raises(KeyboardInterrupt):
        drive(place, until=Stage.REPORT)
    (verdict,) = [v for v in verify_folder(place / "road") if v.claim == FRESH]
    assert "identify from other results" in verdict.words
    assert not verdict.holds


def test_another_report_changes_no_claim(place):
    drive(place, until=Stage.REPORT)
    edited(place, lambda stages: stages["report"].update(key="0" * 64))
    assert all(v.holds for v in verify_folder(place / "road"))


def test_settings_of_another_version_are_not_compared_and_that_is_said(place):
    edited(place, lambda stages: stages["tighten"].update(key="0" * 64, version="0.0.9"))
    verdicts = verify_folder(place / "road")
    assert all(v.holds for v in verdicts)
    assert any("settings of version 0.0.9 are not compared" in v.words for v in verdicts)
