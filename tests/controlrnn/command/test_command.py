"""The command: help, exit codes, JSON, exports, and plants to start from."""

import json
import logging
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from small_road import QUICK, set_fields, write_csv

import mpc
from controlrnn import errors
from controlrnn.command.app import app, main
from controlrnn.command.exits import WORDS, Exit, exit_of

COMMANDS = (
    "init",
    "check",
    "identify",
    "certify",
    "tighten",
    "simulate",
    "report",
    "run",
    "verify",
    "export",
    "new-plant",
)


def call(*arguments):
    """Exit code of a call in this process."""
    with pytest.raises(SystemExit) as end:
        main([str(a) for a in arguments])
    return end.value.code or 0


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    place = tmp_path_factory.mktemp("command")
    write_csv(place / "tank.csv")
    assert call("init", place / "tank.csv", "--file", place / "road.toml", "--quiet") == 0
    set_fields(place / "road.toml", **QUICK)
    assert call("run", "--file", place / "road.toml", "--quiet") == 0
    return place


@pytest.fixture
def place(finished, tmp_path, monkeypatch):
    shutil.copytree(finished, tmp_path / "copy")
    monkeypatch.chdir(tmp_path / "copy")
    return tmp_path / "copy"


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time; from controlrnn.command.app import main\ntry:\n  main(['--help'])\nexcept SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'casadi', 'numba', 'pydantic', 'mpc', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\nprint(time.process_time())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    # A quarter of a second of processor time where this was written.
    assert float(done.stdout.splitlines()[-1]) < 2.0
    for name in COMMANDS:
        assert re.search(rf"\b{name}\b", done.stdout), name


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_help_with_an_example(name, capsys):
    assert call(name, "--help") == 0
    assert f"controlrnn {name}" in " ".join(capsys.readouterr().out.split()).replace("Usage: controlrnn", "", 1)


def test_every_command_is_known():
    names = [c.name or c.callback.__name__ for c in app.registered_commands]
    assert sorted(names) == sorted(COMMANDS)


def test_a_run_ends_with_everything(finished, capsys):
    assert call("run", "--file", finished / "road.toml", "--json") == 0
    out, err = capsys.readouterr()
    value = json.loads(out)
    assert list(value["stages"]) == ["check", "identify", "certify", "tighten", "simulate", "report"]
    assert value["stages"]["simulate"]["figures"]["tightened"]["loops_that_left_limits"] == 0
    assert err.count("unchanged") == 6
    assert [v["holds"] for v in value["verdicts"]] == [True] * 8
    page = (finished / "road" / "report.html").read_text()
    assert page.startswith("<!doctype html>") or page.startswith("<!DOCTYPE html>")
    assert "level" in page


def test_verify_says_what_fails(place, capsys):
    assert call("verify", "road", "--json") == 0
    assert all(v["holds"] for v in json.loads(capsys.readouterr().out))
    (place / "road" / "tightening.npz").unlink()
    assert call("verify", "road") == Exit.NOT_PROVEN
    assert "FAILS: the tightening" in capsys.readouterr().out
    assert call("verify", "nowhere", "--json") == Exit.DATA
    assert json.loads(capsys.readouterr().out)["error"] == "MissingDataError"


def test_exit_codes_of_faults(place, capsys):
    assert call("init", "tank.csv") == Exit.USAGE  # road.toml is there
    assert "--force" in capsys.readouterr().err
    assert call("init", "nothing.csv", "--file", "new.toml") == Exit.DATA
    assert call("run", "--file", "nowhere.toml") == Exit.DATA
    assert call("tighten", "--nonsense") == Exit.USAGE
    set_fields(place / "road.toml", washout='"long"')
    assert call("tighten") == Exit.USAGE
    err = capsys.readouterr().err
    assert re.search(r"error: road\.toml, line \d+, promise\.washout: expected a whole number, got 'long'", err)


def test_each_kind_of_error_has_its_code():
    for kind, code in (
        (errors.CertificationError, Exit.NOT_PROVEN), (errors.InfeasibleError, Exit.NO_ROOM),
        (errors.DataError, Exit.DATA), (errors.StorageError, Exit.DATA), (errors.SettingError, Exit.USAGE),
        (errors.TrainingError, Exit.USAGE),
    ):  # fmt: skip
        assert exit_of(kind("no")) == code
    assert set(WORDS) == set(Exit)


def test_no_room_ends_with_its_code(place, capsys):
    text = (place / "road.toml").read_text()
    upper = float(re.findall(r"^upper = (\S+)", text, re.MULTILINE)[1])
    lower = re.findall(r"^lower = (\S+)", text, re.MULTILINE)[1]
    (place / "road.toml").write_text(text.replace(f"lower = {lower} ", f"lower = {upper - 1.0} "))
    assert call("tighten", "--json") == Exit.NO_ROOM
    assert "model error" in json.loads(capsys.readouterr().out)["message"]


def test_loops_that_leave_their_limits_end_with_their_code(place, capsys):
    """On a plant that is not what was declared: its pump delivers a third more than it is told."""
    (place / "stronger.py").write_text(
        "from plants import MultiTank, Signal\n\nclass Stronger(MultiTank):\n"
        "    inputs = property(lambda self: (Signal('pump', 'L/min', 0.0, 6.0),))\n"
        "    outputs = property(lambda self: (Signal('level', 'cm', 0.0, 60.0),))\n"
        "    def dynamics(self, x, u, ops=None, w=None):\n        return super().dynamics(x, 2.0 * u, ops, w)\n\n"
        "plant = Stronger(1, dt=10.0)\n"
    )
    text = (place / "road.toml").read_text().replace('plant = "model"', 'plant = "stronger:plant"')
    (place / "road.toml").write_text(text)
    code = call("simulate")
    # The plant's own limits are wider than those of the road file, which are the ones that count.
    assert code == Exit.LIMITS
    assert "left them" in capsys.readouterr().err
    # A whole run is reported and verified nevertheless.
    assert call("run") == Exit.LIMITS
    out, err = capsys.readouterr()
    assert out.count("holds: ") == 8
    assert "report: done" in err


@pytest.mark.parametrize("to", ["c", "casadi", "onnx", "fmu"])
def test_exports(place, to, capsys):
    if to == "onnx":
        pytest.importorskip("onnx", reason="the extra onnx is not installed")
    code = call("export", "--to", to, "--json")
    value = json.loads(capsys.readouterr().out)
    assert code == 0
    assert all(Path(f).stat().st_size for f in value["files"])
    if to == "fmu":
        names = zipfile.ZipFile(value["files"][0]).read("modelDescription.xml").decode()
        assert "pump" in names
        assert "level" in names
    if to == "casadi":
        import casadi

        from controlrnn.road import open_road

        road = open_road("road")
        step = casadi.Function.deserialize(Path(value["files"][0]).read_text())
        x, u = np.full(road.system.nx, 0.1), np.array([2.0])
        np.testing.assert_allclose(np.array(step(x, u)).ravel(), road.system.step(x, u), rtol=1e-12)
    if to == "c" and shutil.which("cc"):
        made = subprocess.run(
            ["cc", "-std=c99", "-DCONTROLLER_SELF_TEST", "controller.c", "-lm", "-o", "test"],
            cwd=place / "road" / "export",
            capture_output=True,
            text=True,
            check=False,
        )
        assert made.returncode == 0, made.stderr
        assert subprocess.run([place / "road" / "export" / "test"], check=False).returncode == 0


def test_a_new_plant_passes_its_test(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call("new-plant", "MixingVessel", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert value == {"plant": "mixing_vessel:MixingVessel", "files": ["mixing_vessel.py", "test_mixing_vessel.py"]}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[3]), str(tmp_path)])}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_mixing_vessel.py"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
    assert call("new-plant", "MixingVessel") == Exit.DATA  # nothing is written over
    for name in ("mixing", "Mpc", "class", "A b", "../X"):
        assert call("new-plant", name) == Exit.USAGE


def test_stages_stand_alone(place, capsys):
    assert call("check") == 0
    assert "linear order" in capsys.readouterr().out
    assert call("tighten", "--redo", "--json") == 0
    value = json.loads(capsys.readouterr().out)
    assert list(value["stages"]) == ["tighten"]
    assert value["stages"]["tighten"]["figures"]["sources"] == 1


def test_the_shell_can_complete():
    environment = os.environ | {
        "_CONTROLRNN_COMPLETE": "complete_bash", "COMP_WORDS": "controlrnn ver", "COMP_CWORD": "1",
        "PYTHONPATH": str(Path(__file__).parents[3]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "controlrnn"], env=environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == ["verify"], done.stderr


def test_the_version_is_said(capsys):
    assert call("--version") == 0
    assert re.fullmatch(r"controlrnn \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_loggers_are_left_as_they_were(place, capsys):
    """Whoever calls the command from Python keeps its own log."""
    loggers = [logging.getLogger(name) for name in ("controlrnn", "mpc", "plants")]
    before = [(logger.level, list(logger.handlers)) for logger in loggers]
    assert call("check", "--redo", "-v") == 0
    assert "stage check" in capsys.readouterr().err
    assert call("check", "-q") == 0
    assert capsys.readouterr().err == ""
    assert [(logger.level, list(logger.handlers)) for logger in loggers] == before


def test_interrupts_end_with_their_code(place, monkeypatch, capsys):
    def stop(*arguments, **options):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mpc, "calibrate", stop)
        assert call("tighten", "--redo") == Exit.INTERRUPTED
    assert "goes on from there" in capsys.readouterr().err
    assert call("verify", "road", "-q") == 0
