"""The whole road on a small tank: what is made is verified, kept, redone where it must be, and opened again."""

import re
import subprocess
import sys

import numpy as np
import pytest
from small_road import DONE, drive, set_fields

import controlrnn
import mpc
from controlrnn.certification import certify_contraction
from controlrnn.errors import (
    CertificationError,
    DataError,
    FileFormatError,
    InfeasibleError,
    MissingDataError,
    SettingError,
    StorageError,
)
from controlrnn.identification.scores.free_run import free_run, initial_states
from controlrnn.road import Stage, certifying, open_road, small_models, verify_folder
from controlrnn.road.keys import settings_of


def test_what_is_made_holds(finished):
    verdicts = verify_folder(finished / "road")
    assert len(verdicts) == 8
    assert all(v.holds for v in verdicts), verdicts


def test_a_folder_opens_as_objects(finished):
    road = controlrnn.open(finished / "road")
    assert road.certificate.verify(road.system) > 0
    assert road.contraction.verify(road.system) > 0
    assert road.tightening.verified
    assert road.fit.entry("arx").system.nx > 0
    np.testing.assert_allclose(
        road.tightening.total,
        road.model_error.bounds + road.certificate.bounds[-len(road.model_error.bounds) :],
        rtol=1e-9,
    )
    # Limits, channels and horizon are those of the file.
    given = road.file.outputs[0]
    assert [(s.name, s.unit, s.lower, s.upper) for s in road.predictor.outputs] == [
        ("level", "cm", given.lower, given.upper)
    ]
    assert road.controller().horizon == 8
    assert len(road.loops.results) == len(road.nominal_loops.results) == 2
    assert road.loops.results[0].steps == 12 * len(given.reference)
    np.testing.assert_allclose(road.loops.results[0].bounds, road.tightening.total)
    assert not road.nominal_loops.results[0].bounds.any()
    assert road.data.train[0].inputs[0].label == "pump [L/min]"
    assert "5 of 6 stages" in repr(road)


def test_tightened_loops_keep_limits_that_others_leave(finished):
    road = open_road(finished / "road")
    assert road.loops.runs_with_violation == 0
    assert road.nominal_loops.runs_with_violation > 0
    assert all(r.certified.all() for r in road.loops.results)
    # The reference is the limit itself for a quarter of the time.
    assert max(r.reference.max() for r in road.loops.results) == road.file.outputs[0].upper


def test_a_controller_of_the_folder_steps(finished):
    controller = open_road(finished / "road").controller()
    step = controller.step(np.array([10.0]), [12.0])
    assert np.isfinite(step.u).all()


def test_nothing_is_done_twice(place):
    seen = drive(place)
    assert seen.made == []
    assert seen.kept == DONE
    assert drive(place, until=Stage.TIGHTEN, redo=True).made == [Stage.TIGHTEN]
    # The same came out again, so that the loops after it are as they were.
    assert drive(place).made == []


def test_only_what_changed_is_redone(place):
    set_fields(place / "road.toml", loops=1)
    assert drive(place).made == [Stage.SIMULATE]
    set_fields(place / "road.toml", coverage=0.7)
    assert drive(place).made == [Stage.TIGHTEN, Stage.SIMULATE]
    set_fields(place / "road.toml", move_weight=0.02)
    assert drive(place).made == [Stage.SIMULATE]
    with (place / "road.toml").open("a") as file:
        file.write("# another comment\n")
    assert drive(place).made == []


def test_a_new_limit_starts_no_new_search(place):
    road = open_road(place / "road")
    old = road.file.outputs[0]
    text = (place / "road.toml").read_text()
    assert text.count(f"upper = {old.upper} ") == 1
    (place / "road.toml").write_text(text.replace(f"upper = {old.upper} ", f"upper = {old.upper - 0.5} "))
    seen = drive(place, until=Stage.TIGHTEN)
    assert seen.kept == [Stage.CHECK, Stage.IDENTIFY]
    assert open_road(place / "road").predictor.outputs[0].upper == old.upper - 0.5


def test_new_data_are_noticed(place):
    with (place / "tank.csv").open("a") as file:
        file.write("6000,2.0,10.0\n")
    assert drive(place, until=Stage.CHECK).made == [Stage.CHECK]


def test_a_file_that_was_changed_is_made_anew(place):
    (place / "road" / "model_error.npz").unlink()
    assert not verify_folder(place / "road")[0].holds
    assert drive(place).made == [Stage.TIGHTEN]
    assert all(v.holds for v in verify_folder(place / "road"))


def test_interrupted_stages_leave_the_others(place, monkeypatch):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(mpc, "calibrate", stop)
    with pytest.raises(KeyboardInterrupt):
        drive(place, until=Stage.TIGHTEN, redo=True)
    monkeypatch.undo()
    assert drive(place).made == []  # what was there before is there still


def test_verifying_needs_neither_torch_nor_a_solver(finished):
    heavy = {"torch", "cvxpy", "clarabel", "daqp", "do_mpc", "osqp", "scs", "highspy", "matplotlib"}
    code = (
        f"import sys; from controlrnn.command.app import main\ntry:\n  main(['verify', {str(finished / 'road')!r}])\n"
        f"except SystemExit as end:\n  assert not end.code, end\nprint(sorted({heavy} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "[]"
    assert done.stdout.count("holds: ") == 8


def test_no_room_is_said_with_advice(place):
    old = open_road(place / "road").file.outputs[0]
    text = (place / "road.toml").read_text().replace(f"lower = {old.lower} ", f"lower = {old.upper - 1.0} ")
    (place / "road.toml").write_text(text)
    with pytest.raises(InfeasibleError, match=r"leaves nothing of output 'level'(.|\n)*largest is the model error"):
        drive(place, until=Stage.TIGHTEN)


def test_too_much_coverage_is_refused(place):
    set_fields(place / "road.toml", coverage=0.99)
    with pytest.raises(DataError, match="99"):
        drive(place, until=Stage.TIGHTEN)


def test_no_certificate_is_said_with_advice(place, monkeypatch):
    import controlrnn.certification as certification

    def none(*arguments, **options):
        raise CertificationError("the system cannot be shown to contract")

    monkeypatch.setattr(certification, "certify_contraction", none)
    set_fields(place / "road.toml", slower=0.2)
    with pytest.raises(CertificationError, match=r"no model could be certified(.|\n)*cannot be shown(.|\n)*families"):
        drive(place, until=Stage.CERTIFY)
    assert str(Stage.IDENTIFY) in open_road(place / "road").ledger.entries


def test_small_models_stand_in(place, monkeypatch):
    """Where nothing of the search can be certified usefully, they are tried, and the report knows them."""
    whole = certifying.certify_entry

    def picky(file, entry, data, **options):
        if isinstance(entry, certifying.Small):
            return whole(file, entry, data, **options)
        raise CertificationError("no")

    monkeypatch.setattr(certifying, "certify_entry", picky)
    set_fields(place / "road.toml", slower=0.2)
    drive(place, until=Stage.REPORT)
    road = open_road(place / "road")
    entry = road.entry(Stage.CERTIFY)
    assert re.fullmatch(r"(linear|contracting) [1-4]", entry.figures["model"])
    assert any("low order are tried" in w for w in entry.words)
    assert road.system.digest not in {e.system.digest for e in road.fit.entries}
    assert road.system.nx == int(entry.figures["model"].split()[1])
    assert all(v.holds for v in verify_folder(place / "road"))
    page = (place / "road" / "report.html").read_text()
    assert entry.figures["model"] in page
    assert "not tried: no model of this report" not in page
    assert "reached by attack" in page
    assert "the bound is broken" not in page


@pytest.mark.parametrize("families", [["free"], ["free", "contracting"]])
def test_networks_stand_in_only_where_their_family_is_asked_for(finished, monkeypatch, families):
    whole = certifying.certify_entry

    def picky(file, entry, data, **options):
        if isinstance(entry, certifying.Small):
            return whole(file, entry, data, **options)
        raise CertificationError("no")

    monkeypatch.setattr(certifying, "certify_entry", picky)
    road = open_road(finished / "road")
    file = road.file.model_copy(update={"identify": road.file.identify.model_copy(update={"families": families})})
    _, words = certifying.certify_best(file, road.fit, road.data)
    assert any(w.startswith("linear 2 ") for w in words)
    assert any(w.startswith("contracting 2 ") for w in words) == ("contracting" in families)


def test_what_certifying_is_made_from(finished):
    """The seed counts, of which networks are made; a washout of the promise leaves the choice alone."""
    file = open_road(finished / "road").file
    other = file.model_copy(update={"seed": file.seed + 1})
    longer = file.model_copy(update={"promise": file.promise.model_copy(update={"washout": file.promise.washout + 1})})
    made = [settings_of(Stage.CERTIFY, f) for f in (file, other, longer)]
    assert made[0] != made[1]
    assert made[0] == made[2]


def certifiable(road, entry):
    """Whether a model has certificates that leave room: how far a short search comes depends on the machine."""
    try:
        found = certifying.certify_entry(road.file, entry, road.data, skip=road.fit.skip)
        return found.relative < 0.5  # standard deviations of the outputs
    except CertificationError:
        return False


def test_the_report_is_about_the_model_that_controls(place):
    before = open_road(place / "road")
    fit = before.fit
    other = next(e.name for e in fit.entries if e.name != fit.chosen and certifiable(before, e))
    set_fields(place / "road.toml", model=f'"{other}"')
    drive(place, until=Stage.REPORT)
    road = open_road(place / "road")
    assert road.system.digest == road.fit.entry(other).system.digest
    page = (place / "road" / "report.html").read_text()
    assert f"{other}: error of the free run" in page
    assert f"the search itself chose {fit.chosen}" in page


def test_low_orders_are_judged_as_the_search_judges(finished):
    road = open_road(finished / "road")
    models = small_models.linear_models(road.fit, road.data)
    assert [m.system.nx for m in models] == [1, 2, 3, 4]
    # The best of them is about as good as the subspace model that the search chose among more orders.
    assert min(m.error for m in models) == pytest.approx(road.fit.entry("subspace").error, rel=0.3)


def test_networks_forget_as_fast_as_the_linear_models_beside_them(finished):
    road = open_road(finished / "road")
    linear = small_models.linear_models(road.fit, road.data)[1]
    (paced,) = small_models.paced_networks(road.fit, road.data, {linear: 0.85}, seed=0)
    assert (paced.name, paced.system.nx) == ("contracting 2", 2)
    assert paced.system.nv > 0
    assert certify_contraction(paced.system, 0.85 + 1e-6).verify(paced.system) > 0
    assert paced.error < 1.5 * linear.error


def test_the_model_that_promises_the_least_tightening_is_chosen(finished):
    """By the largest error to expect, which is measured here, and by what is certified."""
    road = open_road(finished / "road")
    fit, words = certifying.certify_best(road.file, road.fit, road.data)
    assert "lowest sum of the largest error to expect" in words[-1]
    records, skip = road.data.train + road.data.validation, road.fit.skip
    runs, _ = free_run(fit.system, records, initial_states(fit.system, records, skip))
    errors = np.concatenate([(r.y - y)[skip:] for r, y in zip(records, runs, strict=True)])
    reach = np.abs(errors).max() / np.sqrt(np.mean(errors**2))  # one output: its unit cancels
    assert 1 < reach == pytest.approx(fit.largest / fit.error, rel=1e-6)


def test_faults_in_the_data_stop_the_road(place):
    lines = (place / "tank.csv").read_text().splitlines()
    still = [lines[0], *(",".join([*line.split(",")[:2], "7.5"]) for line in lines[1:])]
    (place / "tank.csv").write_text("\n".join(still) + "\n")
    with pytest.raises(DataError, match=r"level(.|\n)*never moves(.|\n)*faults = \"accept\""):
        drive(place, until=Stage.CHECK)


def test_a_plant_of_ones_own(place):
    (place / "my_tank.py").write_text(
        "from plants import MultiTank\n\ndef tank():\n    return MultiTank(1, dt=10.0, level_limit=20.0)\n"
    )
    set_fields(place / "road.toml", plant='"my_tank:tank"', loops=1)
    with pytest.raises(SettingError, match=r"pump|input"):  # its channels are called otherwise
        drive(place)
    signals = "Signal('pump', 'L/min', 0.0, 6.0)", "Signal('level', 'cm', 0.0, 60.0)"
    (place / "my_tank.py").write_text(
        "from dataclasses import dataclass\nfrom plants import MultiTank, Signal\n\nclass Tank(MultiTank):\n"
        f"    inputs = property(lambda self: ({signals[0]},))\n    outputs = property(lambda self: ({signals[1]},))\n\n"
        "def tank():\n    return Tank(1, dt=10.0, level_limit=20.0)\n"
    )
    sys.modules.pop("my_tank", None)
    assert drive(place).made == [Stage.SIMULATE]
    (loop,) = open_road(place / "road").loops.results
    assert (loop.readings != loop.y[:-1]).any()  # noise, from the data
    for name, said in (
        ("nowhere:tank", "cannot import"),
        ("my_tank:pond", "pond"),
        ("json:dumps", "without arguments"),
    ):
        set_fields(place / "road.toml", plant=f'"{name}"')
        with pytest.raises(SettingError, match=said):
            drive(place)


def test_two_processes_do_not_share_a_folder(place):
    fcntl = pytest.importorskip("fcntl", reason="files are locked otherwise on Windows")
    before = (place / "road" / "road.toml").read_bytes()
    set_fields(place / "road.toml", loops=1)
    with (place / "road" / ".running").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(StorageError, match="another process"):
            drive(place)
    assert (place / "road" / "road.toml").read_bytes() == before  # the other one's
    assert drive(place).made == [Stage.SIMULATE]
    assert open_road(place / "road").file.simulate.loops == 1


def test_what_is_no_road(place, tmp_path):
    with pytest.raises(MissingDataError, match="controlrnn run"):
        open_road(tmp_path)
    (place / "road" / "road.json").write_text('{"format": 1, "stages": [1]}')
    with pytest.raises(FileFormatError, match="no ledger"):
        drive(place)
    (place / "road" / "road.json").write_text('{"format": 7, "stages": {}}')
    with pytest.raises(FileFormatError, match="format 7"):
        drive(place)
    (place / "road" / "road.json").unlink()
    with pytest.raises(MissingDataError, match="certify"):
        _ = open_road(place / "road").system
